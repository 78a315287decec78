//! TLS for clients: its credentials, read from files, and read again when those have changed.
//!
//! Looked at when a client begins TLS, so that a renewed certificate is used by the next client, without a signal or a restart. Files
//! that are not good, or half replaced, change nothing: the former credentials go on, and a figure says so.

use super::metrics::Metrics;
use crate::config::{Tls, TlsCredentials};
use quoin_tls::{Server, Session, TlsError};
use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The credentials that are in use.
pub(super) struct Credentials {
    source: TlsCredentials,
    loaded: RefCell<Loaded>,
}

struct Loaded {
    server: Server,
    /// What the files were when they were last looked at, good or not.
    stamps: Vec<Stamp>,
}

/// By which a file's other content is told: device, inode, size, and the time of its last change in seconds and nanoseconds.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("cannot read {0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0} is no UTF-8")]
    Text(PathBuf),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}: {1}")]
    Keys(PathBuf, quoin_tls::KeyFileError),
}

impl Credentials {
    /// Reads the files.
    pub(super) fn load(tls: &Tls) -> Result<Self, CredentialsError> {
        let source = tls.credentials.clone();
        // Looked at before they are read: a change in between is seen the next time.
        let stamps = stamps(&source);
        let loaded = RefCell::new(Loaded { server: read(&source)?, stamps });
        Ok(Self { source, loaded })
    }

    /// Begins a session with the credentials of this moment.
    pub(super) fn session(&self, metrics: &Metrics) -> Result<Session, TlsError> {
        let stamps = stamps(&self.source);
        let mut loaded = self.loaded.borrow_mut();
        if stamps != loaded.stamps {
            loaded.stamps = stamps;
            match read(&self.source) {
                Ok(server) => {
                    loaded.server = server;
                    metrics.tls_reloaded(true);
                    tracing::info!("the TLS credentials have changed; the next clients get the new ones");
                }
                Err(error) => {
                    metrics.tls_reloaded(false);
                    tracing::warn!(%error, "the TLS credentials have changed and cannot be used; the former ones stay");
                }
            }
        }
        loaded.server.session()
    }
}

fn stamps(source: &TlsCredentials) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    source.files().into_iter().map(stamp).collect()
}

fn read(source: &TlsCredentials) -> Result<Server, CredentialsError> {
    let bytes = |path: &Path| fs::read(path).map_err(|error| CredentialsError::File(path.to_owned(), error));
    match source {
        TlsCredentials::Certificate { certificate, key, clients, client_ca } => {
            let client_ca = client_ca.as_deref().map(bytes).transpose()?;
            let (certificate, key) = (bytes(certificate)?, bytes(key)?);
            Ok(Server::with_certificate(&certificate, &key, *clients, client_ca.as_deref())?)
        }
        TlsCredentials::Keys(path) => {
            let text = String::from_utf8(bytes(path)?).map_err(|_| CredentialsError::Text(path.clone()))?;
            let keys =
                quoin_tls::read_keys(&text).map_err(|error| CredentialsError::Keys(path.clone(), error))?;
            Ok(Server::with_keys(&keys)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "alice:00112233445566778899aabbccddeeff\n";

    #[test]
    fn changed_files_are_read_again_and_bad_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.psk");
        fs::write(&path, KEY).unwrap();
        let tls = Tls { required: true, credentials: TlsCredentials::Keys(path.clone()) };
        let credentials = Credentials::load(&tls).unwrap();
        let metrics = Metrics::new(
            &quoin_service::busy_poll::BusyPoll::new(std::time::Duration::ZERO),
            &quoin_transport::Loans::default(),
        );
        credentials.session(&metrics).unwrap();
        assert_eq!(metrics.tls_reloads(), (0, 0));
        fs::write(&path, "alice:").unwrap();
        credentials.session(&metrics).unwrap();
        credentials.session(&metrics).unwrap();
        assert_eq!(metrics.tls_reloads(), (0, 1), "once for each change");
        fs::remove_file(&path).unwrap();
        credentials.session(&metrics).unwrap();
        assert_eq!(metrics.tls_reloads(), (0, 2));
        fs::write(&path, KEY).unwrap();
        credentials.session(&metrics).unwrap();
        assert_eq!(metrics.tls_reloads(), (1, 2));
    }

    #[test]
    fn a_start_with_bad_files_says_which_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, empty) = (dir.path().join("missing.pem"), dir.path().join("empty.pem"));
        fs::write(&empty, "").unwrap();
        let load = |certificate: &Path, key: &Path| {
            let (certificate, key) = (certificate.to_owned(), key.to_owned());
            let clients = quoin_tls::ClientCertificates::Off;
            let credentials = TlsCredentials::Certificate { certificate, key, clients, client_ca: None };
            Credentials::load(&Tls { required: true, credentials }).err().unwrap().to_string()
        };
        assert!(load(&missing, &empty).contains("missing.pem"));
        assert!(load(&empty, &empty).contains("the key"));
        let keys = Tls { required: false, credentials: TlsCredentials::Keys(empty) };
        assert!(Credentials::load(&keys).err().unwrap().to_string().contains("there is no key"));
    }
}
