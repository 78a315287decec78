//! Frames over TCP, for one thread: reading without copying payloads, and writing many frames with one system call.
//!
//! A connection is used from one task set on one thread. Whoever handles an event queues frames in the [`Outbox`]es it
//! likes and flushes them once at the end: in the usual case the bytes leave with one vectored write, in the same task,
//! without waking anyone. Only a full socket hands the rest to the connection's writer task.

mod inbox;
mod outbox;

pub use inbox::{Inbox, ReadError};
pub use outbox::{Outbox, Queue};

use std::io;
use tokio::net::TcpStream;

/// Sets a data connection up: no delay for small frames.
///
/// # Errors
/// The socket is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}
