//! What a gateway is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a gateway is told at its start. Checked by the binary before it gets here.
#[derive(Clone, Debug)]
pub struct Config {
    /// The operator's name for it, unique in the cluster.
    pub id: String,
    /// A directory on the machine's own disk for the lock that proves a former process gone (rule R2).
    pub data_dir: PathBuf,
    /// Where NBD is served.
    pub nbd_listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub admin_listen: SocketAddr,
    /// The cluster managers, `host:port` each.
    pub managers: Vec<String>,
    /// The most client connections at once.
    pub connections_max: usize,
    /// The most request bytes in flight on one volume before its clients have to wait.
    pub in_flight_bytes_max: usize,
    /// The most request bytes in flight on one connection, with answers that its client has not fetched.
    pub client_in_flight_bytes_max: usize,
    /// The most requests in flight on one connection.
    pub client_requests_max: usize,
    /// The most request bytes in flight in all.
    pub total_in_flight_bytes_max: usize,
    /// The most bytes kept in memory per segment for replicas that come back.
    pub retained_bytes_max: usize,
    /// How often to report to the managers.
    pub heartbeat_interval: Duration,
}
