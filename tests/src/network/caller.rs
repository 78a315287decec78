//! Whose a connection is.

use super::Rules;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A process may connect before the test has said its name.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOKS: u32 = 500;

/// The name of the process that made this connection; `None` if it is gone again, or nobody's.
pub(super) async fn of(stream: &TcpStream, rules: &watch::Sender<Rules>) -> Option<String> {
    let (caller, own) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    for _ in 0..LOOKS {
        // Once it has closed its end no process has it any more.
        let socket = format!("socket:[{}]", inode(caller, own)?);
        let callers = rules.borrow().callers.clone();
        if let Some((_, name)) = callers.into_iter().find(|(pid, _)| has(*pid, &socket)) {
            return Some(name);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    None
}

/// The inode of the socket with these addresses. The columns of `/proc/net/tcp`: slot, local and remote address in hex, …,
/// and the inode as the tenth; see proc(5).
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let hex = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
        }
        std::net::IpAddr::V6(_) => String::new(),
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == local && words.next()? == remote).then(|| words.nth(6)?.parse().ok())?
    });
    inode.filter(|inode| *inode != 0)
}

fn has(pid: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    files
        .into_iter()
        .flatten()
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}
