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

use bytes::BytesMut;
use rustix::net::sockopt;
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The unit of the kernel's probes.
const SECOND: Duration = Duration::from_secs(1);

/// What a connection within one machine uses, the first that the kernel lets us have. There is no network to probe, and the
/// pacing of bbr, the default of some distributions, costs as much CPU time as all the rest.
const CONGESTION_CONTROL_LOCAL: [&str; 2] = ["cubic", "reno"];

/// Sets a data connection up: no delay for small frames, no pacing within the machine, and through a network the congestion
/// control that is asked for, else the kernel's default.
///
/// # Errors
/// The socket is gone already.
pub fn prepare(stream: &TcpStream, congestion_control: Option<&str>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let wanted = if is_local(stream) { &CONGESTION_CONTROL_LOCAL[..] } else { congestion_control.as_slice() };
    // None of them is no failure: the kernel's default works.
    let _ = wanted.iter().find(|name| sockopt::set_tcp_congestion(stream, name).is_ok());
    Ok(())
}

/// Whether both ends have the same address: no network in between.
pub fn is_local(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own.ip() == peer.ip())
}

/// Reads what is there into the buffer's spare room, which there must be.
///
/// # Errors
/// As [`TcpStream::try_read_buf`]: [`io::ErrorKind::WouldBlock`] if nothing is there.
pub fn try_read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    let room = buffer.capacity() - buffer.len();
    try_read_with(stream, room, || stream.try_read_buf(buffer))
}

/// Reads what is there and has room, which there must be.
fn try_read_into(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    try_read_with(stream, room.len(), || stream.try_read(room))
}

fn try_read_with(
    stream: &TcpStream,
    room: usize,
    mut read: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
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
    let emptied: io::Result<()> = stream.try_io(Interest::READABLE, read);
    match emptied {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => result,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// A connection within this machine.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (connected, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (connected.unwrap(), accepted.unwrap().0)
    }

    async fn read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            stream.readable().await?;
            match try_read(stream, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    #[tokio::test]
    async fn an_emptied_socket_is_waited_for_and_nothing_is_missed() {
        let (mut writer, reader) = pair().await;
        let mut buffer = BytesMut::new();
        for round in 1..=3 {
            writer.write_all(&[round; 100]).await.unwrap();
            let mut got = 0;
            while got < 100 {
                buffer.reserve(64);
                got += read(&reader, &mut buffer).await.unwrap();
            }
            assert_eq!(try_read(&reader, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(buffer.len(), 300);
        writer.write_all(b"last").await.unwrap();
        drop(writer);
        buffer.reserve(64);
        assert_eq!(read(&reader, &mut buffer).await.unwrap(), 4);
        assert_eq!(read(&reader, &mut buffer).await.unwrap(), 0, "the end of the connection");
    }

    #[tokio::test]
    async fn within_the_machine_nothing_is_paced() {
        let (one, other) = pair().await;
        for stream in [&one, &other] {
            prepare(stream, None).unwrap();
            assert!(is_local(stream) && stream.nodelay().unwrap());
            assert_ne!(sockopt::tcp_congestion(stream).unwrap(), "bbr");
        }
    }
}
