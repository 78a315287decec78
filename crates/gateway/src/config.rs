//! What a gateway is told at its start.

use crate::listen::ListenAddress;
use quoin_tls::ClientCertificates;
use quoin_transport::LocalSockets;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a gateway is told at its start. Checked by the binary before it gets here.
#[derive(Clone, Debug)]
pub struct Config {
    /// The operator's name for it, unique in the cluster.
    pub id: String,
    /// A directory on the machine's own disk for the lock that proves a former process gone (rule R2).
    pub data_dir: PathBuf,
    /// Where NBD is served; not empty.
    pub listen: Vec<ListenAddress>,
    /// The permissions of Unix sockets: who may write to one may connect.
    pub socket_mode: u32,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub admin_listen: SocketAddr,
    /// The cluster managers, `host:port` each.
    pub managers: Vec<String>,
    /// TLS for clients; none if it is not offered.
    pub tls: Option<Tls>,
    /// What clients can make it hold.
    pub limits: ClientLimits,
    /// The most request bytes in flight on one volume before its clients have to wait.
    pub in_flight_bytes_max: usize,
    /// The most bytes kept in memory per segment for replicas that come back.
    pub retained_bytes_max: usize,
    /// Where storage nodes of this machine have their sockets; none if there is no such place.
    pub local_sockets: Option<LocalSockets>,
    /// The congestion control of data connections through a network; the kernel's default where nothing is said.
    pub tcp_congestion_control: Option<String>,
    /// How long its thread looks for more work before it sleeps; zero for not at all.
    pub busy_poll: Duration,
    /// How often to report to the managers.
    pub heartbeat_interval: Duration,
}

/// What clients, and strangers, can make a gateway hold.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// The most client connections at once.
    pub connections_max: usize,
    /// The most of them from one IP address.
    pub connections_per_address_max: usize,
    /// How long a client may take to choose an export.
    pub handshake_timeout: Duration,
    /// How long the machine of a TCP client may be silent, or take nothing of what is sent.
    pub peer_timeout: Duration,
    /// The most requests in flight on one connection.
    pub client_requests_max: usize,
    /// The most bytes held for one client: answers to reads under way, answers not fetched, requests that have not come whole.
    pub client_memory_bytes_max: usize,
    /// The most for all clients together.
    pub clients_memory_bytes_max: usize,
}

/// TLS for clients.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whether TCP clients must use it. Those of Unix sockets, which are for whom their permissions let in, may.
    pub required: bool,
    /// Its files.
    pub credentials: TlsCredentials,
}

/// By what the gateway and its clients know each other.
#[derive(Clone, Debug)]
pub enum TlsCredentials {
    /// The gateway has a certificate, and clients may have some.
    Certificate {
        /// The gateway's certificate, and those that lead from it to a CA, in PEM.
        certificate: PathBuf,
        /// Its key, in PEM.
        key: PathBuf,
        /// What is asked of clients.
        clients: ClientCertificates,
        /// The CA that signs clients' certificates, in PEM.
        client_ca: Option<PathBuf>,
    },
    /// Keys shared with clients: a file as GnuTLS's `psktool` writes it.
    Keys(PathBuf),
}

impl TlsCredentials {
    /// All files.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::Certificate { certificate, key, client_ca, .. } => {
                [Some(certificate), Some(key), client_ca.as_ref()]
                    .into_iter()
                    .flatten()
                    .map(PathBuf::as_path)
                    .collect()
            }
            Self::Keys(path) => vec![path],
        }
    }
}
