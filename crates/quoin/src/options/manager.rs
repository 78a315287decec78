//! The options of `quoin cluster-manager`.

use super::setting::{HostPort, List, LogFilter, Setting, Value};
use super::{Logging, options};
use crate::failure::Failure;
use crate::units::duration::Period;
use quoin_cluster_manager::{Config, Peer};
use quoin_service::logging::LogFormat;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

options! { ManagerOptions, ManagerSettings {
    /// This manager's number, from 1; one of `peers`
    id: u64 = "QUOIN_ID", "N";
    /// Where the raft log and the state are kept
    data_dir: PathBuf = "QUOIN_DATA_DIR", "DIR";
    /// Where the managers' gRPC is served
    listen: SocketAddr = "QUOIN_LISTEN", "IP:PORT", default "127.0.0.1:7400";
    /// Where /healthz, /readyz and /metrics are served
    admin_listen: SocketAddr = "QUOIN_ADMIN_LISTEN", "IP:PORT", default "127.0.0.1:7401";
    /// All managers of the first configuration, this one too: 1=HOST:PORT,2=HOST:PORT,…
    peers: List<PeerAddress> = "QUOIN_PEERS", "LIST";
    /// One tick of raft: a leader silent for 10 to 20 of them is replaced
    tick: Period = "QUOIN_TICK", "DURATION", default "100ms";
    /// How often storage nodes and gateways report; three missed reports make them unreachable
    heartbeat_interval: Period = "QUOIN_HEARTBEAT_INTERVAL", "DURATION", default "1s";
    /// What is logged, for example info,quoin_cluster=debug; else RUST_LOG, else info
    log: LogFilter = "QUOIN_LOG", "FILTER";
    /// How log lines look: text or json
    log_format: LogFormat = "QUOIN_LOG_FORMAT", "FORMAT", default "text";
} }

/// `N=HOST:PORT`.
#[derive(Clone, Debug)]
pub(crate) struct PeerAddress(Peer);

impl Value for PeerAddress {
    const HINT: &'static str = "write for example 1=manager-1:7400,2=manager-2:7400,3=manager-3:7400";

    fn read(text: &str) -> Result<Self, String> {
        let (id, address) = text.split_once('=').ok_or("it is not of the form N=HOST:PORT")?;
        let id = id.trim().parse().map_err(|_| format!("`{id}` is no number"))?;
        let HostPort(address) = HostPort::read(address.trim())?;
        Ok(PeerAddress(Peer { id, address }))
    }
}

impl ManagerSettings {
    /// The role's configuration, and how it logs. Refuses bad values by name.
    pub(crate) fn resolve(&self) -> Result<(Config, Logging), Failure> {
        let id = self.id.get_if(|id| *id > 0, "managers are numbered from 1")?;
        let peers: Vec<Peer> = self.peers.get()?.0.into_iter().map(|PeerAddress(peer)| peer).collect();
        check_peers(&self.peers, id, &peers)?;
        let config = Config {
            id,
            data_dir: self.data_dir.get()?,
            listen: self.listen.get()?,
            admin_listen: self.admin_listen.get()?,
            peers,
            tick: self.tick.get_if(is_tick, "a tick is 5ms to 5s")?.0,
            heartbeat_interval: heartbeat(&self.heartbeat_interval)?,
        };
        Ok((config, Logging::of(&self.log, &self.log_format)?))
    }
}

fn is_tick(tick: &Period) -> bool {
    (Duration::from_millis(5)..=Duration::from_secs(5)).contains(&tick.0)
}

/// The interval of the heartbeats, which all roles must have alike.
pub(super) fn heartbeat(setting: &Setting<Period>) -> Result<Duration, Failure> {
    let is_good = |period: &Period| (Duration::from_millis(50)..=Duration::from_secs(60)).contains(&period.0);
    Ok(setting.get_if(is_good, "a heartbeat interval is 50ms to 60s, the same for all roles")?.0)
}

fn check_peers(setting: &Setting<List<PeerAddress>>, id: u64, peers: &[Peer]) -> Result<(), Failure> {
    let ids: BTreeSet<u64> = peers.iter().map(|peer| peer.id).collect();
    let addresses: BTreeSet<&str> = peers.iter().map(|peer| peer.address.as_str()).collect();
    if ids.len() < peers.len() || addresses.len() < peers.len() {
        return Err(setting.refusal("a number or an address occurs twice").hint(PeerAddress::HINT));
    }
    if ids.contains(&0) {
        return Err(setting.refusal("managers are numbered from 1").hint(PeerAddress::HINT));
    }
    if !ids.contains(&id) {
        let reason = format!("this manager, {id}, is not among them");
        return Err(setting.refusal(reason).hint("add it, or correct `id`"));
    }
    Ok(())
}
