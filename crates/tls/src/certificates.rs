//! Servers that have a certificate: rustls, TLS 1.2 and 1.3.

use crate::TlsError;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::sync::Arc;

/// What is asked of clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientCertificates {
    /// Nothing: whoever reaches the server is served, encrypted.
    #[default]
    Off,
    /// A certificate that is shown must be good; none need be shown.
    Optional,
    /// Each client must show a good one.
    Required,
}

/// Makes a server's configuration from PEM texts.
///
/// # Errors
/// [`TlsError::Credentials`] if a text holds no certificate or key, or if they do not fit each other.
pub(crate) fn configure(
    chain: &[u8],
    key: &[u8],
    clients: ClientCertificates,
    client_ca: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(credentials("TLS"))?;
    let builder = match (clients, client_ca) {
        (ClientCertificates::Off, _) => builder.with_no_client_auth(),
        (_, None) => return Err(missing("the clients' CA")),
        (clients, Some(ca)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("the clients' CA", ca)? {
                roots.add(certificate).map_err(credentials("the clients' CA"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if clients == ClientCertificates::Optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(credentials("the clients' CA"))?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(credentials("the key"))?;
    let chain = certificates("the certificate", chain)?;
    Ok(Arc::new(builder.with_single_cert(chain, key).map_err(credentials("the certificate and its key"))?))
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let list = list.map_err(credentials(what))?;
    if list.is_empty() { Err(missing(what)) } else { Ok(list) }
}

fn missing(what: &'static str) -> TlsError {
    TlsError::Credentials { what, reason: "the file holds no certificate in PEM".to_owned() }
}

fn credentials<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError::Credentials { what, reason: error.to_string() }
}
