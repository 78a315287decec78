//! Whole sessions in memory, with rustls and s2n-tls as clients, in pieces of every size.

use bytes::{Buf, BytesMut};
use quoin_tls::{ClientCertificates, OUTPUT_BYTES_MAX, Server, Session, TlsError, read_keys};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use s2n_tls::connection::Builder;
use std::io::{IoSlice, Read, Write};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0);
        (certificate.unwrap().pem(), key.serialize_pem())
    }
}

fn client(
    authority: &Authority,
    own: Option<(String, String)>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    ClientConnection::new(Arc::new(config), "gateway.test".try_into().unwrap()).unwrap()
}

/// Moves bytes both ways, in pieces, until nothing moves. Gives what the server was told, and what the client heard.
fn settle(
    client: &mut ClientConnection,
    server: &mut Session,
    piece: usize,
) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let (mut plain, mut heard) = (BytesMut::new(), Vec::new());
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut moved = !bytes.is_empty();
        for piece in bytes.chunks(piece) {
            server.receive(&mut BytesMut::from(piece), &mut plain)?;
        }
        let output = server.output().split();
        moved |= !output.is_empty();
        let mut output: &[u8] = &output;
        while !output.is_empty() {
            client.read_tls(&mut output).unwrap();
            if client.process_new_packets().is_err() {
                return Err(TlsError::Session("the client is not content".to_owned()));
            }
            // Nothing more to read is `WouldBlock`, and what was read until then is kept.
            let _ = client.reader().read_to_end(&mut heard);
        }
        if !moved {
            return Ok((plain.to_vec(), heard));
        }
    }
}

#[test]
fn what_one_side_says_the_other_one_hears_in_pieces_of_any_size() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("gateway.test");
    let server =
        Server::with_certificate(certificate.as_bytes(), key.as_bytes(), ClientCertificates::Off, None);
    let server = server.unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for piece in [1, 7, 1000, 100_000] {
            let (mut client, mut session) = (client(&authority, None, version), server.session().unwrap());
            assert!(session.is_handshaking());
            assert!(settle(&mut client, &mut session, piece).unwrap().0.is_empty());
            assert!(!session.is_handshaking());
            client.writer().write_all(b"from the client").unwrap();
            assert_eq!(settle(&mut client, &mut session, piece).unwrap().0, b"from the client");
            let (head, data) = ([1; 20], vec![2; 50_000]);
            assert_eq!(session.send(&[IoSlice::new(&head), IoSlice::new(&data)]).unwrap(), 50_020);
            let (_, heard) = settle(&mut client, &mut session, piece).unwrap();
            assert_eq!(heard.len(), 50_020);
            assert!(heard[..20] == head && heard[20..] == data);
            client.send_close_notify();
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            assert!(session.receive(&mut BytesMut::from(&bytes[..]), &mut BytesMut::new()).unwrap());
        }
    }
}

#[test]
fn a_client_is_let_in_by_its_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("gateway.test");
    let try_with = |asked, own: Option<(String, String)>| {
        let ca = authority.pem();
        let server =
            Server::with_certificate(certificate.as_bytes(), key.as_bytes(), asked, Some(ca.as_bytes()));
        let mut client = client(&authority, own, &rustls::version::TLS13);
        settle(&mut client, &mut server.unwrap().session().unwrap(), 1000).is_ok()
    };
    let (good, bad) = (authority.sign("client.test"), stranger.sign("client.test"));
    assert!(try_with(ClientCertificates::Required, Some(good.clone())));
    assert!(!try_with(ClientCertificates::Required, None));
    assert!(!try_with(ClientCertificates::Required, Some(bad.clone())));
    assert!(try_with(ClientCertificates::Optional, None));
    assert!(try_with(ClientCertificates::Optional, Some(good)));
    assert!(!try_with(ClientCertificates::Optional, Some(bad)), "one that is shown must be good");
}

#[test]
fn output_is_bounded_until_it_is_sent() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("gateway.test");
    let server =
        Server::with_certificate(certificate.as_bytes(), key.as_bytes(), ClientCertificates::Off, None);
    let (mut client, mut session) =
        (client(&authority, None, &rustls::version::TLS13), server.unwrap().session().unwrap());
    settle(&mut client, &mut session, 1000).unwrap();
    let data = vec![3; 4 << 20];
    let mut sent = 0;
    loop {
        let count = session.send(&[IoSlice::new(&data[sent..])]).unwrap();
        if count == 0 {
            break;
        }
        sent += count;
    }
    let held = session.output().len();
    assert!((OUTPUT_BYTES_MAX..3 * OUTPUT_BYTES_MAX).contains(&held), "{held}");
    session.output().advance(held);
    assert!(session.send(&[IoSlice::new(&data[sent..])]).unwrap() > 0);
}

#[test]
fn credentials_that_are_none_are_refused_by_name() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("gateway.test");
    let (_, other) = authority.sign("gateway.test");
    let make = |certificate: &str, key: &str, asked, ca: Option<&str>| {
        let ca = ca.map(str::as_bytes);
        Server::with_certificate(certificate.as_bytes(), key.as_bytes(), asked, ca)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(make(&certificate, &key, ClientCertificates::Off, None), None);
    for (refusal, what) in [
        (make("", &key, ClientCertificates::Off, None), "the certificate"),
        (make(&certificate, "", ClientCertificates::Off, None), "the key"),
        (make(&certificate, &other, ClientCertificates::Off, None), "the certificate and its key"),
        (make(&certificate, &key, ClientCertificates::Required, None), "the clients' CA"),
        (make(&certificate, &key, ClientCertificates::Required, Some("")), "the clients' CA"),
    ] {
        let refusal = refusal.expect("refused");
        assert!(refusal.starts_with(what), "{refusal}");
    }
}

#[test]
fn garbage_is_an_error_and_never_more() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("gateway.test");
    let certified =
        Server::with_certificate(certificate.as_bytes(), key.as_bytes(), ClientCertificates::Off, None);
    let keyed = Server::with_keys(&read_keys(KEYS).unwrap());
    for server in [certified.unwrap(), keyed.unwrap()] {
        let mut state = 1_u32;
        for round in 0..200 {
            let mut session = server.session().unwrap();
            let mut bytes = BytesMut::new();
            for _ in 0..400 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes.extend_from_slice(&[(state >> 24) as u8]);
            }
            if round % 2 == 0 {
                // The head of a record of a handshake, so that more than the head is looked at.
                bytes[..5].copy_from_slice(&[22, 3, 1, 1, 0]);
            }
            let mut plain = BytesMut::new();
            let result = session.receive(&mut bytes, &mut plain);
            assert!(result.is_err() || session.is_handshaking());
            assert!(plain.is_empty());
        }
    }
}

const KEYS: &str = "bob:ffeeddccbbaa99887766554433221100\nalice:00112233445566778899aabbccddeeff\n";

/// A client with one key.
#[derive(Clone)]
struct WithKey(s2n_tls::config::Config, &'static str, [u8; 16]);

impl Builder for WithKey {
    type Output = s2n_tls::connection::Connection;

    fn build_connection(&self, mode: s2n_tls::enums::Mode) -> Result<Self::Output, s2n_tls::error::Error> {
        let mut connection = self.0.build_connection(mode)?;
        let mut key = s2n_tls::psk::Psk::builder()?;
        key.set_identity(self.1.as_bytes())?
            .set_secret(&self.2)?
            .set_hmac(s2n_tls::enums::PskHmac::SHA256)?;
        connection.append_psk(&key.build()?)?;
        Ok(connection)
    }
}

/// Serves one end of a pipe: repeats what it is told, until the other end leaves.
async fn echo(mut session: Session, mut end: DuplexStream) -> Result<(), TlsError> {
    let mut plain = BytesMut::new();
    loop {
        let mut bytes = BytesMut::new();
        if end.read_buf(&mut bytes).await.unwrap() == 0 {
            return Ok(());
        }
        let has_ended = session.receive(&mut bytes, &mut plain)?;
        while !plain.is_empty() {
            let count = session.send(&[IoSlice::new(&plain)])?;
            plain.advance(count);
            let output = session.output().split();
            end.write_all(&output).await.unwrap();
        }
        let output = session.output().split();
        end.write_all(&output).await.unwrap();
        if has_ended {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_client_is_let_in_by_the_key_that_it_shares() {
    let server = Server::with_keys(&read_keys(KEYS).unwrap()).unwrap();
    let mut config = s2n_tls::config::Builder::new();
    config.set_security_policy(&s2n_tls::security::DEFAULT_TLS13).unwrap();
    config.set_max_blinding_delay(0).unwrap();
    let config = config.build().unwrap();
    let alice: [u8; 16] = std::array::from_fn(|n| n as u8 * 0x11);
    for (identity, key, good) in [("alice", alice, true), ("alice", [1; 16], false), ("carol", alice, false)]
    {
        let (near, far) = tokio::io::duplex(1000);
        let connector = s2n_tls_tokio::TlsConnector::new(WithKey(config.clone(), identity, key));
        let talk = async {
            let mut stream = connector.connect("gateway.test", near).await?;
            let data = vec![5; 100_000];
            let (mut reader, mut writer) = tokio::io::split(&mut stream);
            let mut back = vec![0; data.len()];
            let (wrote, read) = tokio::join!(writer.write_all(&data), reader.read_exact(&mut back));
            wrote.and(read.map(drop)).unwrap();
            assert!(back == data);
            stream.shutdown().await.unwrap();
            Ok::<(), s2n_tls::error::Error>(())
        };
        let (client, server) = tokio::join!(talk, echo(server.session().unwrap(), far));
        assert_eq!((client.is_ok(), server.is_ok()), (good, good), "{identity}: {server:?}");
    }
}
