//! What a storage node is told at its start.

use crate::node::Limits;
use quoin_transport::LocalSockets;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a storage node is told at its start. Checked by the binary before it gets here.
#[derive(Clone, Debug)]
pub struct Config {
    /// The operator's name for it, unique in the cluster.
    pub name: String,
    /// The directory that is its disk.
    pub data_dir: PathBuf,
    /// Where the data plane is served.
    pub listen: SocketAddr,
    /// Where gateways and peers reach the data plane, `host:port`; `listen` where nothing else is said.
    pub advertise: Option<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub admin_listen: SocketAddr,
    /// The cluster managers, `host:port` each.
    pub managers: Vec<String>,
    /// The failure domain above the machine.
    pub zone: String,
    /// How much of the disk may be used; the free space of its filesystem at the first start where nothing is said.
    pub capacity_bytes: Option<u64>,
    /// The size of one journal file.
    pub journal_file_bytes: u64,
    /// How many journal files there are.
    pub journal_files: u32,
    /// What work in the background may take.
    pub limits: Limits,
    /// Where storage nodes have sockets for the processes of their machine; none if there is no such place.
    pub local_sockets: Option<LocalSockets>,
    /// The congestion control of data connections through a network; the kernel's default where nothing is said.
    pub tcp_congestion_control: Option<String>,
    /// How long its thread looks for more work before it sleeps; zero for not at all.
    pub busy_poll: Duration,
    /// How often to report to the managers.
    pub heartbeat_interval: Duration,
}
