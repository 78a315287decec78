//! The admin ports: just enough HTTP, and Prometheus figures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// The status code and the body of a GET.
///
/// # Errors
/// In words, if nothing that speaks HTTP answers.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: quoin\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("http://{address}{path}: {error}"))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("http://{address}{path}: {answer}"))?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(|| format!("http://{address}{path}: {head}"))?, body.to_owned()))
}

/// One figure of `/metrics`, by its whole name, without labels.
///
/// # Errors
/// In words, if nobody answers or there is no such figure.
pub fn metric(address: SocketAddr, name: &str) -> Result<f64, String> {
    let (_, body) = get(address, "/metrics")?;
    let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.ok_or_else(|| format!("no figure {name} at http://{address}/metrics"))
}
