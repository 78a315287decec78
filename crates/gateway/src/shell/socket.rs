//! A client's socket: TCP or Unix, in plain text or encrypted, as one type.

use bytes::{Buf, BytesMut};
use quoin_tls::{Session, TlsError};
use quoin_transport::{Socket, Stream};
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is read at once where encrypted bytes come.
const CIPHER_READ_BYTES: usize = 64 * 1024;

/// A client's socket. It begins in plain text, and may go on encrypted.
pub(super) struct ClientSocket {
    plain: Stream,
    tls: OnceCell<RefCell<Tls>>,
}

/// The encrypted layer, and what has come of it.
struct Tls {
    session: Session,
    incoming: BytesMut,
    has_ended: bool,
}

/// Why an encrypted session could not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsStartError {
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Who is at the other end, as logs name it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    /// A process of this machine, with its pid and user id where the system tells them.
    Unix(Option<(i32, u32)>),
}

impl Peer {
    /// The machine that it is on; none if that is this one for certain.
    pub(super) fn machine(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(Some((pid, user))) => write!(f, "process {pid} of user {user}"),
            Self::Unix(None) => f.write_str("a process of this machine"),
        }
    }
}

impl From<Stream> for ClientSocket {
    fn from(plain: Stream) -> Self {
        Self { plain, tls: OnceCell::new() }
    }
}

impl ClientSocket {
    /// Sets it up: no delay for small answers, and an end for a peer that is gone without a word.
    pub(super) fn prepare(&self, peer_timeout: Duration, congestion_control: Option<&str>) -> io::Result<()> {
        self.plain.prepare(congestion_control)?;
        self.plain.end_when_silent(peer_timeout)
    }

    /// Whether it is for processes of this machine, as far as the permissions of its file let them.
    pub(super) fn is_local(&self) -> bool {
        self.plain.is_unix()
    }

    /// Waits for bytes and reads what is there, at most about `room` of it; 0 at the end.
    pub(super) async fn fill(&self, input: &mut BytesMut, room: usize) -> io::Result<usize> {
        loop {
            self.plain.readable().await?;
            let read = match self.tls.get() {
                None => {
                    input.reserve(room);
                    self.plain.try_read(input)
                }
                Some(tls) => tls.borrow_mut().read(&self.plain, input),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits for bytes and reads those that are there and have room, straight to there; 0 at the end. In plain text only.
    pub(super) async fn fill_into(&self, room: &mut [u8]) -> io::Result<usize> {
        assert!(!self.is_encrypted(), "what comes is to be decrypted first");
        loop {
            self.plain.readable().await?;
            match self.plain.try_read_into(room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Whether TLS has begun.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.get().is_some()
    }

    /// Goes on encrypted: runs the handshake of TLS. What the client says behind it is put into `input`.
    pub(super) async fn start_tls(
        &self,
        session: Session,
        input: &mut BytesMut,
    ) -> Result<(), TlsStartError> {
        let mut tls = Tls { session, incoming: BytesMut::new(), has_ended: false };
        while tls.session.is_handshaking() {
            self.plain.readable().await?;
            tls.incoming.reserve(CIPHER_READ_BYTES);
            match self.plain.try_read(&mut tls.incoming) {
                Ok(0) => return Err(TlsError::Left.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            let received = tls.session.receive(&mut tls.incoming, input);
            // Also after an error: it tells the client what was wrong.
            while !tls.flush(&self.plain)? {
                self.plain.writable().await?;
            }
            tls.has_ended = received?;
        }
        assert!(self.tls.set(RefCell::new(tls)).is_ok(), "a connection is encrypted once");
        Ok(())
    }
}

impl Tls {
    fn read(&mut self, plain: &Stream, input: &mut BytesMut) -> io::Result<usize> {
        if self.has_ended {
            return Ok(0);
        }
        self.incoming.reserve(CIPHER_READ_BYTES);
        if plain.try_read(&mut self.incoming)? == 0 {
            return Ok(0);
        }
        let before = input.len();
        let received = self.session.receive(&mut self.incoming, input);
        // A full socket keeps the rest for the next write.
        self.flush(plain)?;
        self.has_ended = received.map_err(io::Error::other)?;
        match input.len() - before {
            0 if !self.has_ended => Err(io::ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes),
        }
    }

    fn write(&mut self, plain: &Stream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(plain)?;
        let taken = self.session.send(slices).map_err(io::Error::other)?;
        self.flush(plain)?;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Sends what is encrypted, as far as the socket takes it. `true`: all of it.
    fn flush(&mut self, plain: &Stream) -> io::Result<bool> {
        let output = self.session.output();
        while !output.is_empty() {
            match plain.try_write_vectored(&[IoSlice::new(output)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => output.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Socket for ClientSocket {
    async fn writable(&self) -> io::Result<()> {
        self.plain.writable().await
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tls.get() {
            None => self.plain.try_write_vectored(slices),
            Some(tls) => tls.borrow_mut().write(&self.plain, slices),
        }
    }

    fn try_flush(&self) -> io::Result<bool> {
        match self.tls.get() {
            None => Ok(true),
            Some(tls) => tls.borrow_mut().flush(&self.plain),
        }
    }
}
