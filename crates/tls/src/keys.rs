//! Servers that share keys with their clients: s2n-tls, TLS 1.3.

use crate::TlsError;
use bytes::{Buf, BytesMut};
use s2n_tls::config::Config;
use s2n_tls::connection::{Builder, Connection};
use s2n_tls::enums::{Mode, PskHmac};
use s2n_tls::error::Error;
use s2n_tls::psk::Psk;
use s2n_tls::security::DEFAULT_TLS13;
use s2n_tls_tokio::{TlsAcceptor, TlsStream};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The shortest key that is taken, in bytes (RFC 9257, section 6).
const KEY_BYTES_MIN: usize = 16;
/// The most keys: each costs every handshake some work.
const KEYS_MAX: usize = 1024;
/// What is decrypted at once.
const READ_BYTES: usize = 16 * 1024;

/// A client's name and the key that it shares with the server.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey {
    /// The name, which the client sends in the clear.
    pub identity: String,
    secret: Vec<u8>,
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresharedKey").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A file of keys is not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyFileError {
    /// A line is not `name:key` with the key in hexadecimal digits.
    #[error("line {0} is not NAME:KEY with the key in hexadecimal digits")]
    Line(usize),
    /// A key is too short to be one.
    #[error("the key in line {0} has less than {KEY_BYTES_MIN} bytes")]
    Short(usize),
    /// A name is there twice.
    #[error("line {0} has a name that is there already")]
    Twice(usize),
    /// There is none.
    #[error("there is no key")]
    Empty,
    /// There are too many.
    #[error("there are more than {KEYS_MAX} keys")]
    Many,
}

/// Reads a file of keys as GnuTLS's `psktool` writes it: a line `name:key` for each client, the key in hexadecimal digits.
/// Empty lines and those that begin with `#` are passed over.
///
/// # Errors
/// [`KeyFileError`], with the number of the line and nothing of the key.
pub fn read_keys(text: &str) -> Result<Vec<PresharedKey>, KeyFileError> {
    let mut keys: Vec<PresharedKey> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (identity, key) = line.rsplit_once(':').ok_or(KeyFileError::Line(number))?;
        let secret = hexadecimal(key).filter(|_| !identity.is_empty()).ok_or(KeyFileError::Line(number))?;
        if secret.len() < KEY_BYTES_MIN {
            return Err(KeyFileError::Short(number));
        }
        if keys.iter().any(|key| key.identity == identity) {
            return Err(KeyFileError::Twice(number));
        }
        keys.push(PresharedKey { identity: identity.to_owned(), secret });
    }
    match keys.len() {
        0 => Err(KeyFileError::Empty),
        count if count > KEYS_MAX => Err(KeyFileError::Many),
        _ => Ok(keys),
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Makes connections that know all keys.
#[derive(Clone)]
pub(crate) struct Keyed {
    config: Config,
    keys: Rc<[Psk]>,
}

impl Keyed {
    pub(crate) fn new(keys: &[PresharedKey]) -> Result<Self, TlsError> {
        let mut config = s2n_tls::config::Builder::new();
        config.set_security_policy(&DEFAULT_TLS13)?;
        // The delay after an error hides the timing of TLS 1.2's block ciphers. Without a certificate there is only TLS 1.3.
        config.set_max_blinding_delay(0)?;
        let keys: Result<Vec<Psk>, Error> = keys.iter().map(psk).collect();
        Ok(Self { config: config.build()?, keys: keys?.into() })
    }

    pub(crate) fn session(&self) -> Keys {
        let pipe = Pipe::default();
        let (acceptor, end) = (TlsAcceptor::new(self.clone()), pipe.clone());
        let accepting = Box::pin(async move { acceptor.accept(end).await });
        Keys { pipe, state: State::Accepting(accepting) }
    }
}

fn psk(key: &PresharedKey) -> Result<Psk, Error> {
    let mut psk = Psk::builder()?;
    psk.set_identity(key.identity.as_bytes())?.set_secret(&key.secret)?.set_hmac(PskHmac::SHA256)?;
    psk.build()
}

impl Builder for Keyed {
    type Output = Connection;

    fn build_connection(&self, mode: Mode) -> Result<Connection, Error> {
        let mut connection = self.config.build_connection(mode)?;
        self.keys.iter().try_for_each(|key| connection.append_psk(key))?;
        Ok(connection)
    }
}

/// A session with pre-shared keys.
pub(crate) struct Keys {
    pipe: Pipe,
    state: State,
}

type Accepting = Pin<Box<dyn Future<Output = Result<TlsStream<Pipe>, Error>>>>;

enum State {
    Accepting(Accepting),
    Open(Box<TlsStream<Pipe>>),
    Failed,
}

impl Keys {
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Accepting(_))
    }

    /// Takes what has come; gives what it says. `true`: the other side has said that it ends.
    pub(crate) fn receive(&mut self, bytes: &mut BytesMut, plain: &mut BytesMut) -> Result<bool, TlsError> {
        self.pipe.0.borrow_mut().incoming.unsplit(bytes.split());
        let mut context = Context::from_waker(Waker::noop());
        if let State::Accepting(accepting) = &mut self.state {
            match accepting.as_mut().poll(&mut context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(stream)) => self.state = State::Open(Box::new(stream)),
                Poll::Ready(Err(error)) => {
                    self.state = State::Failed;
                    return Err(error.into());
                }
            }
        }
        let State::Open(stream) = &mut self.state else { return Err(failed()) };
        loop {
            let mut piece = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut **stream).poll_read(&mut context, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Ok(true),
                Poll::Ready(Ok(())) => plain.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => return Err(TlsError::Session(error.to_string())),
            }
        }
    }

    /// Encrypts; gives how many bytes.
    pub(crate) fn send(&mut self, plain: &[u8]) -> Result<usize, TlsError> {
        let State::Open(stream) = &mut self.state else { return Err(failed()) };
        match Pin::new(&mut **stream).poll_write(&mut Context::from_waker(Waker::noop()), plain) {
            Poll::Ready(Ok(count)) => Ok(count),
            Poll::Ready(Err(error)) => Err(TlsError::Session(error.to_string())),
            Poll::Pending => Ok(0),
        }
    }

    /// Takes what is to be sent.
    pub(crate) fn take_output(&mut self, output: &mut BytesMut) {
        output.unsplit(self.pipe.0.borrow_mut().outgoing.split());
    }
}

fn failed() -> TlsError {
    TlsError::Session("the session has failed".to_owned())
}

/// Both directions of a connection, in memory: what s2n-tls takes for its socket.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Whoever waits is asked again with the next bytes, not woken. That the waker is kept is what the contract of `poll` asks.
    reader: Option<Waker>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ends = self.0.borrow_mut();
        if ends.incoming.is_empty() {
            ends.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = ends.incoming.len().min(buffer.remaining());
        buffer.put_slice(&ends.incoming[..count]);
        ends.incoming.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_psktool_writes_them_are_read() {
        let text =
            "# clients\nalice:00112233445566778899aabbccddeeff\n\nbob:x:FFEEDDCCBBAA99887766554433221100ff\n";
        let keys = read_keys(text).unwrap();
        assert_eq!(keys[0].identity, "alice");
        assert_eq!(keys[0].secret[..3], [0, 0x11, 0x22]);
        assert_eq!((keys[1].identity.as_str(), keys[1].secret.len()), ("bob:x", 17));
        assert!(!format!("{keys:?}").contains("11"), "keys are not shown");
    }

    #[test]
    fn bad_lines_are_named_by_their_number() {
        let key = "00112233445566778899aabbccddeeff";
        for (text, error) in [
            (String::new(), KeyFileError::Empty),
            ("\n# nothing".to_owned(), KeyFileError::Empty),
            (key.to_owned(), KeyFileError::Line(1)),
            (format!("\n:{key}"), KeyFileError::Line(2)),
            (format!("a:{key}0"), KeyFileError::Line(1)),
            ("a:00zz2233445566778899aabbccddeeff".to_owned(), KeyFileError::Line(1)),
            ("a:0011".to_owned(), KeyFileError::Short(1)),
            (format!("a:{key}\na:{key}"), KeyFileError::Twice(2)),
        ] {
            assert_eq!(read_keys(&text).unwrap_err(), error, "{text}");
        }
        let many: String = (0..=KEYS_MAX).map(|n| format!("u{n}:{key}\n")).collect();
        assert_eq!(read_keys(&many).unwrap_err(), KeyFileError::Many);
    }
}
