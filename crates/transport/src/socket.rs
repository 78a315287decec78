//! What an [`Outbox`](crate::Outbox) writes to.

use crate::Queue;
use std::future::Future;
use std::io::{self, IoSlice};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket that is never waited for within a call, shared by the tasks of one thread.
pub trait Socket {
    /// Waits until the socket may take more.
    ///
    /// # Errors
    /// The socket failed.
    fn writable(&self) -> impl Future<Output = io::Result<()>>;

    /// Takes as many of the bytes as it can now; `WouldBlock` if none.
    ///
    /// # Errors
    /// `WouldBlock`, or the socket failed.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Queues what the connection itself has to say.
    fn before_write(&self, _queue: &mut Queue) {}

    /// Sends what the socket itself still holds of what it took: a plain one holds nothing, one that encrypts does.
    /// `Ok(true)`: nothing is left.
    ///
    /// # Errors
    /// The socket failed.
    fn try_flush(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Socket for TcpStream {
    async fn writable(&self) -> io::Result<()> {
        TcpStream::writable(self).await
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        TcpStream::try_write_vectored(self, slices)
    }
}

impl Socket for UnixStream {
    async fn writable(&self) -> io::Result<()> {
        UnixStream::writable(self).await
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        UnixStream::try_write_vectored(self, slices)
    }
}
