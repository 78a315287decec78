//! Whether a process answers: its admin port, and its NBD export.

use std::io::{self, Error, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one question may take. The NBD one includes the attachment of the volume.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);
const NBD_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 4096;

// NBD proto.md, "Newstyle negotiation" and "Option haggling".
const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE_NO_ZEROES: u16 = 0b11;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
// "Transmission phase".
const REQUEST_MAGIC: u32 = 0x2560_9513;
const CMD_DISC: u16 = 2;

/// Asks an admin port for `/healthz` or `/readyz`. The error says why not, in the process's own words if it gave any.
pub(crate) async fn http(address: SocketAddr, path: &str) -> Result<(), String> {
    let answer = match timeout(HTTP_TIMEOUT, get(address, path)).await {
        Ok(answer) => answer.map_err(|error| format!("{address} does not answer: {error}"))?,
        Err(_) => return Err(format!("{address} does not answer")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ if body.trim().is_empty() => Err(head.lines().next().unwrap_or("an empty answer").to_owned()),
        _ => Err(body.trim().to_owned()),
    }
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Opens an export as a client would, up to the point where it could read and write, and leaves again.
pub(crate) async fn nbd(address: SocketAddr, export: &str) -> Result<(), String> {
    match timeout(NBD_TIMEOUT, open_and_leave(address, export)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the export {export} does not open")),
    }
}

async fn open_and_leave(address: SocketAddr, export: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    if stream.read_u64().await? != NBD_MAGIC || stream.read_u64().await? != OPTION_MAGIC {
        return Err(Error::new(ErrorKind::InvalidData, "this is no NBD server"));
    }
    let flags = stream.read_u16().await? & FIXED_NEWSTYLE_NO_ZEROES;
    let mut request = Vec::new();
    request.extend_from_slice(&u32::from(flags).to_be_bytes());
    request.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    request.extend_from_slice(&OPT_GO.to_be_bytes());
    let name_bytes = u32::try_from(export.len()).map_err(Error::other)?;
    request.extend_from_slice(&(4 + name_bytes + 2).to_be_bytes());
    request.extend_from_slice(&name_bytes.to_be_bytes());
    request.extend_from_slice(export.as_bytes());
    request.extend_from_slice(&0_u16.to_be_bytes());
    stream.write_all(&request).await?;
    while read_reply(&mut stream).await? != REP_ACK {}
    let mut leave = Vec::new();
    leave.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
    leave.extend_from_slice(&0_u16.to_be_bytes());
    leave.extend_from_slice(&CMD_DISC.to_be_bytes());
    leave.extend_from_slice(&[0; 8 + 8 + 4]);
    stream.write_all(&leave).await?;
    stream.shutdown().await
}

/// Reads one option reply; an error reply is an error.
async fn read_reply(stream: &mut TcpStream) -> io::Result<u32> {
    let magic = stream.read_u64().await?;
    let _option = stream.read_u32().await?;
    let kind = stream.read_u32().await?;
    let length = u64::from(stream.read_u32().await?);
    if magic != REPLY_MAGIC || length > ANSWER_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "not an NBD option reply"));
    }
    let mut data = Vec::new();
    stream.take(length).read_to_end(&mut data).await?;
    match kind {
        REP_ACK | REP_INFO => Ok(kind),
        _ if data.is_empty() => Err(Error::other(format!("the export is refused (NBD error {kind:#x})"))),
        _ => Err(Error::other(String::from_utf8_lossy(&data).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn serve_once(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            stream.write_all(&answer).await.unwrap();
            while stream.read(&mut request).await.unwrap() > 0 {}
        });
        address
    }

    fn greeting(replies: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = [NBD_MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
        bytes.extend_from_slice(&3_u16.to_be_bytes());
        for (kind, data) in replies {
            bytes.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
            bytes.extend_from_slice(&OPT_GO.to_be_bytes());
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }

    #[tokio::test]
    async fn an_export_that_opens_is_told_from_one_that_does_not() {
        let good = serve_once(greeting(&[(REP_INFO, &[0; 12]), (REP_ACK, &[])])).await;
        assert_eq!(nbd(good, "vol1").await, Ok(()));
        let bad = serve_once(greeting(&[(1 << 31 | 6, b"no such volume")])).await;
        assert_eq!(nbd(bad, "vol1").await, Err("no such volume".to_owned()));
        let foreign = serve_once(b"HTTP/1.1 400 Bad Request\r\n".to_vec()).await;
        assert!(nbd(foreign, "vol1").await.is_err());
    }

    #[tokio::test]
    async fn readiness_comes_with_its_reason() {
        use std::sync::Arc;
        let shutdown = tokio_util::sync::CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ready: quoin_service::admin::Ready = Arc::new(|| Err("no leader yet".to_owned()));
        tokio::spawn(quoin_service::admin::serve_on(listener, Arc::default(), ready, shutdown));
        assert_eq!(http(address, "/healthz").await, Ok(()));
        assert_eq!(http(address, "/readyz").await, Err("no leader yet".to_owned()));
    }
}
