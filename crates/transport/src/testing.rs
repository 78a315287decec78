//! Connections for the tests of this crate.

use crate::{Socket, Stream};
use std::io::{self, IoSlice};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// The two ends of a connection of each kind, within this machine.
pub(crate) async fn pairs() -> [(Stream, Stream); 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (one, other) = UnixStream::pair().unwrap();
    [(connected.unwrap().into(), accepted.unwrap().0.into()), (one.into(), other.into())]
}

/// Sends all of it.
pub(crate) async fn write_all(stream: &Stream, bytes: &[u8]) {
    let mut left = bytes;
    while !left.is_empty() {
        stream.writable().await.unwrap();
        match stream.try_write_vectored(&[IoSlice::new(left)]) {
            Ok(written) => left = &left[written..],
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
}
