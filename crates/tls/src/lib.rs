//! TLS, the server's side, as a state machine: bytes in, bytes out.
//!
//! A [`Server`] is made once from certificates, or from pre-shared keys, and makes a [`Session`] for each connection. Certificates
//! are rustls's work. It knows no pre-shared keys from outside, so those are s2n-tls's. Both stand on one provider of
//! cryptography, aws-lc; see docs/decisions.
//!
//! This crate owns no socket and no file: the shell moves bytes, bounds how long a handshake may take, and says when a file
//! has changed.

mod certificates;
mod keys;
mod session;

pub use certificates::ClientCertificates;
pub use keys::{KeyFileError, PresharedKey, read_keys};
pub use session::{OUTPUT_BYTES_MAX, Server, Session};

/// Why credentials cannot be used, or a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate, or a key, is none.
    #[error("{what}: {reason}")]
    Credentials {
        /// Which one.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// The other side broke TLS, or is not let in.
    #[error("TLS: {0}")]
    Session(String),
    /// The other side has closed the connection within its handshake.
    #[error("TLS: the client left during the handshake")]
    Left,
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Session(error.to_string())
    }
}

impl From<s2n_tls::error::Error> for TlsError {
    fn from(error: s2n_tls::error::Error) -> Self {
        Self::Session(error.message().to_owned())
    }
}
