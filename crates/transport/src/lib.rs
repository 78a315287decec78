//! Frames over TCP or a Unix socket (and whatever else is a [`Socket`]), for one thread: reading without copying payloads, and writing many frames with one system call.
//!
//! A connection is used from one task set on one thread. Whoever handles an event queues frames in the [`Outbox`]es it
//! likes and flushes them once at the end: in the usual case the bytes leave with one vectored write, in the same task,
//! without waking anyone. Only a full socket hands the rest to the connection's writer task.

mod inbox;
mod outbox;
mod routes;
mod sharing;
mod socket;
mod stream;
#[cfg(test)]
mod testing;
mod unix;

pub use inbox::{Inbox, ReadError};
pub use outbox::{Outbox, Queue};
pub use routes::Routes;
use sharing::Side;
pub use sharing::{Loans, SharedMemory};
pub use socket::Socket;
pub use stream::Stream;
pub use unix::{LocalSockets, SocketFile, short_socket_path};

/// From this size on, data is large: it arrives in memory of its own, from where it is lent or taken by a device. Less is copied
/// sooner than that.
pub const LARGE_BYTES_MIN: usize = 64 * 1024;
