//! Frames over TCP (and whatever else is a [`Socket`]), for one thread: reading without copying payloads, and writing many frames with one system call.
//!
//! A connection is used from one task set on one thread. Whoever handles an event queues frames in the [`Outbox`]es it
//! likes and flushes them once at the end: in the usual case the bytes leave with one vectored write, in the same task,
//! without waking anyone. Only a full socket hands the rest to the connection's writer task.

mod inbox;
mod outbox;
mod socket;

pub use inbox::{Inbox, ReadError};
pub use outbox::{Outbox, Queue};
pub use socket::Socket;

use rustix::net::sockopt;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// The unit of the kernel's probes.
const SECOND: Duration = Duration::from_secs(1);

/// Sets a data connection up: no delay for small frames.
///
/// # Errors
/// The socket is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// Ends the connection when the other side's machine has answered nothing for this long: it is probed while the connection
/// is idle, and what was sent must be taken. A peer that is there and has nothing to say is not ended.
///
/// # Errors
/// The socket is gone already.
pub fn end_when_silent(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let probes = 3;
    sockopt::set_tcp_keepidle(stream, (timeout / 2).max(SECOND))?;
    sockopt::set_tcp_keepintvl(stream, (timeout / (2 * probes)).max(SECOND))?;
    sockopt::set_tcp_keepcnt(stream, probes)?;
    sockopt::set_socket_keepalive(stream, true)?;
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(stream, timeout_ms)?)
}
