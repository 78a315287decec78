//! A connection of the data plane: TCP, or a Unix socket within the machine.

use crate::sharing::{SharedMemory, Sharing, Side};
use crate::{Queue, Socket};
use bytes::BytesMut;
use rustix::net::sockopt;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// The unit of the kernel's probes.
const SECOND: Duration = Duration::from_secs(1);

/// What a connection within one machine uses, the first that the kernel lets us have. There is no network to probe, and the
/// pacing of bbr, the default of some distributions, costs as much CPU time as all the rest.
const CONGESTION_CONTROL_LOCAL: [&str; 2] = ["cubic", "reno"];

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    /// Memory shared with the peer.
    sharing: Option<Rc<Sharing>>,
}

#[derive(Debug)]
enum Kind {
    /// Through a network, or through the loopback device.
    Tcp(TcpStream),
    /// To a process of this machine.
    Unix(UnixStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self { kind: Kind::Tcp(stream), sharing: None }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self { kind: Kind::Unix(stream), sharing: None }
    }
}

impl Stream {
    /// Sets a data connection up: no delay for small frames, no pacing within the machine, and through a network the congestion
    /// control that is asked for, else the kernel's default.
    ///
    /// # Errors
    /// The socket is gone already.
    pub fn prepare(&self, congestion_control: Option<&str>) -> io::Result<()> {
        let Kind::Tcp(stream) = &self.kind else { return Ok(()) };
        stream.set_nodelay(true)?;
        let wanted =
            if self.is_local() { &CONGESTION_CONTROL_LOCAL[..] } else { congestion_control.as_slice() };
        // None of them is no failure: the kernel's default works.
        let _ = wanted.iter().find(|name| sockopt::set_tcp_congestion(stream, name).is_ok());
        Ok(())
    }

    /// Shares memory with the peer, if that is a process of this machine: it must do the same. Before the first frame.
    ///
    /// # Errors
    /// The peer does not, or the socket failed.
    pub(crate) async fn share(&mut self, memory: &Rc<SharedMemory>, side: Side) -> io::Result<()> {
        if let Kind::Unix(stream) = &self.kind {
            self.sharing = Some(Rc::new(Sharing::begin(stream, memory, side).await?));
        }
        Ok(())
    }

    /// The memory shared with the peer, if there is some.
    pub(crate) fn sharing(&self) -> Option<&Rc<Sharing>> {
        self.sharing.as_ref()
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.kind, Kind::Unix(_))
    }

    /// Whether there is no network in between: a Unix socket, or both ends have the same address.
    pub fn is_local(&self) -> bool {
        match &self.kind {
            Kind::Tcp(stream) => {
                matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own.ip() == peer.ip())
            }
            Kind::Unix(_) => true,
        }
    }

    /// Who is at the other end, for logs.
    pub fn peer(&self) -> String {
        match &self.kind {
            Kind::Tcp(stream) => {
                stream.peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string())
            }
            Kind::Unix(_) => "a process of this machine".to_owned(),
        }
    }

    /// Ends the connection when the other side's machine has answered nothing for this long: it is probed while the connection
    /// is idle, and what was sent must be taken. A peer that is there and has nothing to say is not ended, and neither is one on
    /// this machine, whose end shows by itself.
    ///
    /// # Errors
    /// The socket is gone already.
    pub fn end_when_silent(&self, timeout: Duration) -> io::Result<()> {
        let Kind::Tcp(stream) = &self.kind else { return Ok(()) };
        let probes = 3;
        sockopt::set_tcp_keepidle(stream, (timeout / 2).max(SECOND))?;
        sockopt::set_tcp_keepintvl(stream, (timeout / (2 * probes)).max(SECOND))?;
        sockopt::set_tcp_keepcnt(stream, probes)?;
        sockopt::set_socket_keepalive(stream, true)?;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Ok(sockopt::set_tcp_user_timeout(stream, timeout_ms)?)
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.readable().await,
            Kind::Unix(stream) => stream.readable().await,
        }
    }

    /// Reads what is there into the buffer's spare room, which there must be.
    ///
    /// # Errors
    /// As [`TcpStream::try_read_buf`]: [`io::ErrorKind::WouldBlock`] if nothing is there.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        self.try_read_with(room, || match &self.kind {
            Kind::Tcp(stream) => stream.try_read_buf(buffer),
            Kind::Unix(stream) => stream.try_read_buf(buffer),
        })
    }

    /// Reads what is there and has room, which there must be.
    ///
    /// # Errors
    /// As [`Stream::try_read`].
    pub fn try_read_into(&self, room: &mut [u8]) -> io::Result<usize> {
        self.try_read_with(room.len(), || match &self.kind {
            Kind::Tcp(stream) => stream.try_read(room),
            Kind::Unix(stream) => stream.try_read(room),
        })
    }

    fn try_read_with(&self, room: usize, mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let mut result = Err(io::ErrorKind::WouldBlock.into());
        let read = || {
            result = read();
            match result {
                // The socket is empty now. To say so is to wait for its next event, not for a read that finds nothing: a
                // system call saved for each message.
                Ok(read) if 0 < read && read < room => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        };
        let emptied: io::Result<()> = match &self.kind {
            Kind::Tcp(stream) => stream.try_io(Interest::READABLE, read),
            Kind::Unix(stream) => stream.try_io(Interest::READABLE, read),
        };
        match emptied {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => result,
        }
    }
}

impl Socket for Stream {
    async fn writable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => Socket::writable(stream).await,
            Kind::Unix(stream) => Socket::writable(stream).await,
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Tcp(stream) => Socket::try_write_vectored(stream, slices),
            Kind::Unix(stream) => Socket::try_write_vectored(stream, slices),
        }
    }

    fn before_write(&self, queue: &mut Queue) {
        if let Some(sharing) = &self.sharing {
            sharing.return_with(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pairs, write_all};

    async fn read(stream: &Stream, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            stream.readable().await?;
            match stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    #[tokio::test]
    async fn an_emptied_socket_is_waited_for_and_nothing_is_missed() {
        for (writer, reader) in pairs().await {
            let mut buffer = BytesMut::new();
            for round in 1..=3 {
                write_all(&writer, &[round; 100]).await;
                let mut got = 0;
                while got < 100 {
                    buffer.reserve(64);
                    got += read(&reader, &mut buffer).await.unwrap();
                }
                assert_eq!(reader.try_read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            }
            assert_eq!(buffer.len(), 300);
            write_all(&writer, b"last").await;
            drop(writer);
            buffer.reserve(64);
            assert_eq!(read(&reader, &mut buffer).await.unwrap(), 4);
            assert_eq!(read(&reader, &mut buffer).await.unwrap(), 0, "the end of the connection");
        }
    }

    #[tokio::test]
    async fn within_the_machine_nothing_is_paced() {
        for (one, other) in pairs().await {
            for stream in [&one, &other] {
                stream.prepare(None).unwrap();
                stream.end_when_silent(Duration::from_secs(9)).unwrap();
                assert!(stream.is_local());
                if let Kind::Tcp(stream) = &stream.kind {
                    assert!(stream.nodelay().unwrap());
                    assert_ne!(sockopt::tcp_congestion(stream).unwrap(), "bbr");
                }
            }
        }
    }
}
