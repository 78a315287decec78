//! What a cluster manager is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Another member of the manager, or this one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its raft id, from 1.
    pub id: u64,
    /// Where the others and the clients reach it: `host:port`.
    pub address: String,
}

/// What a cluster manager is told at its start. Checked by the binary before it gets here.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's raft id, from 1.
    pub id: u64,
    /// Where the raft log and state are kept.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub admin_listen: SocketAddr,
    /// All members of the first configuration, this one included. Ignored once the data directory has a configuration.
    pub peers: Vec<Peer>,
    /// One raft tick. A leader that is silent for 10 to 20 of them is replaced; it sends heartbeats every 2.
    pub tick: Duration,
    /// How often storage nodes and gateways report; three missed reports make them unreachable.
    pub heartbeat_interval: Duration,
}
