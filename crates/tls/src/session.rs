//! One connection's TLS, whichever kind it is.

use crate::TlsError;
use crate::certificates::{self, ClientCertificates};
use crate::keys::{Keyed, Keys, PresharedKey};
use bytes::{Buf, BufMut, BytesMut};
use rustls::{ServerConfig, ServerConnection};
use std::io::{BufRead, IoSlice, Write};
use std::sync::Arc;

/// How much encrypted output a session makes ahead of its socket, in bytes, give or take a record.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What makes sessions. Cheap to clone.
#[derive(Clone)]
pub struct Server(Kind);

#[derive(Clone)]
enum Kind {
    Certificates(Arc<ServerConfig>),
    Keys(Keyed),
}

impl Server {
    /// A server with a certificate. All texts are PEM; the chain begins with the server's own certificate.
    ///
    /// # Errors
    /// [`TlsError::Credentials`] says which one is not good.
    pub fn with_certificate(
        chain: &[u8],
        key: &[u8],
        clients: ClientCertificates,
        client_ca: Option<&[u8]>,
    ) -> Result<Self, TlsError> {
        certificates::configure(chain, key, clients, client_ca).map(|config| Self(Kind::Certificates(config)))
    }

    /// A server that shares a key with each of its clients, and has no certificate.
    ///
    /// # Errors
    /// A key cannot be used.
    pub fn with_keys(keys: &[PresharedKey]) -> Result<Self, TlsError> {
        Ok(Self(Kind::Keys(Keyed::new(keys)?)))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// There is no memory for one.
    pub fn session(&self) -> Result<Session, TlsError> {
        let engine = match &self.0 {
            Kind::Certificates(config) => {
                let mut connection = ServerConnection::new(config.clone())?;
                connection.set_buffer_limit(Some(OUTPUT_BYTES_MAX));
                Engine::Certificates(Box::new(connection))
            }
            Kind::Keys(keyed) => Engine::Keys(keyed.session()),
        };
        Ok(Session { engine, output: BytesMut::new() })
    }
}

/// The server's side of one session.
///
/// Give [`receive`](Self::receive) what comes from the socket, and send what [`output`](Self::output) holds, after every call. Once
/// [`is_handshaking`](Self::is_handshaking) says no, [`send`](Self::send) encrypts. After an error send the output, which may say to the
/// other side what was wrong, and close the connection.
pub struct Session {
    engine: Engine,
    output: BytesMut,
}

enum Engine {
    Certificates(Box<ServerConnection>),
    Keys(Keys),
}

impl Session {
    /// Whether nothing can be sent yet.
    pub fn is_handshaking(&self) -> bool {
        match &self.engine {
            Engine::Certificates(connection) => connection.is_handshaking(),
            Engine::Keys(keys) => keys.is_handshaking(),
        }
    }

    /// Takes all bytes that have come, and appends to `plain` what they say. `true`: the other side says that it ends.
    ///
    /// # Errors
    /// The other side broke TLS, or is not let in.
    pub fn receive(&mut self, bytes: &mut BytesMut, plain: &mut BytesMut) -> Result<bool, TlsError> {
        let result = match &mut self.engine {
            Engine::Certificates(connection) => receive(connection, bytes, plain),
            Engine::Keys(keys) => keys.receive(bytes, plain),
        };
        self.collect();
        result
    }

    /// Encrypts; gives how many bytes of the slices it has taken: none if [`OUTPUT_BYTES_MAX`] wait to be sent.
    ///
    /// # Errors
    /// The session has failed, or has not begun.
    pub fn send(&mut self, slices: &[IoSlice<'_>]) -> Result<usize, TlsError> {
        let mut taken = 0;
        while taken == 0 && self.output.len() < OUTPUT_BYTES_MAX {
            taken = match &mut self.engine {
                Engine::Certificates(connection) => connection
                    .writer()
                    .write_vectored(slices)
                    .map_err(|error| TlsError::Session(error.to_string()))?,
                Engine::Keys(keys) => send_each(keys, slices)?,
            };
            self.collect();
            if taken == 0 {
                break;
            }
        }
        Ok(taken)
    }

    /// What is to be sent: remove what has been.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    fn collect(&mut self) {
        match &mut self.engine {
            Engine::Certificates(connection) => {
                while connection.wants_write() {
                    connection.write_tls(&mut (&mut self.output).writer()).expect("memory takes all bytes");
                }
            }
            Engine::Keys(keys) => keys.take_output(&mut self.output),
        }
    }
}

fn send_each(keys: &mut Keys, slices: &[IoSlice<'_>]) -> Result<usize, TlsError> {
    let mut taken = 0;
    for slice in slices {
        let mut rest: &[u8] = slice;
        while !rest.is_empty() {
            let count = keys.send(rest)?;
            taken += count;
            rest.advance(count);
            if count == 0 || taken >= OUTPUT_BYTES_MAX {
                return Ok(taken);
            }
        }
    }
    Ok(taken)
}

fn receive(
    connection: &mut ServerConnection,
    bytes: &mut BytesMut,
    plain: &mut BytesMut,
) -> Result<bool, TlsError> {
    let mut has_ended = false;
    while !bytes.is_empty() && !has_ended {
        let taken =
            connection.read_tls(&mut bytes.as_ref()).map_err(|error| TlsError::Session(error.to_string()))?;
        bytes.advance(taken);
        has_ended = connection.process_new_packets()?.peer_has_closed();
        let mut reader = connection.reader();
        while let Ok(piece) = reader.fill_buf()
            && !piece.is_empty()
        {
            plain.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
    }
    Ok(has_ended)
}
