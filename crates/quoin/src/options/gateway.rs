//! The options of `quoin gateway`.

use super::manager::heartbeat;
use super::setting::{HostPort, List, LogFilter, Name, Setting};
use super::{Logging, options};
use crate::failure::Failure;
use crate::units::duration::Period;
use crate::units::size::Size;
use quoin_gateway::Config;
use quoin_service::logging::LogFormat;
use std::net::SocketAddr;
use std::path::PathBuf;

options! { GatewayOptions, GatewaySettings {
    /// This gateway's name, unique in the cluster
    name: Name = "QUOIN_NAME", "NAME";
    /// A directory on this machine's own disk, for the lock that proves a former process gone
    data_dir: PathBuf = "QUOIN_DATA_DIR", "DIR";
    /// Where NBD is served
    nbd_listen: SocketAddr = "QUOIN_NBD_LISTEN", "IP:PORT", default "127.0.0.1:10809";
    /// Where /healthz, /readyz and /metrics are served
    admin_listen: SocketAddr = "QUOIN_ADMIN_LISTEN", "IP:PORT", default "127.0.0.1:7421";
    /// The cluster managers: HOST:PORT,HOST:PORT,…
    managers: List<HostPort> = "QUOIN_MANAGERS", "LIST";
    /// The most client connections at once
    connections_max: u32 = "QUOIN_CONNECTIONS_MAX", "N", default "1024";
    /// The most request bytes in flight on one volume before its clients have to wait
    in_flight_max: Size = "QUOIN_IN_FLIGHT_MAX", "SIZE", default "64MiB";
    /// The most request bytes in flight on one connection, with answers not fetched yet, before it has to wait
    client_in_flight_max: Size = "QUOIN_CLIENT_IN_FLIGHT_MAX", "SIZE", default "64MiB";
    /// The most requests in flight on one connection before it has to wait
    client_requests_max: u32 = "QUOIN_CLIENT_REQUESTS_MAX", "N", default "1024";
    /// The most request bytes in flight in all; each connection may have one request more
    total_in_flight_max: Size = "QUOIN_TOTAL_IN_FLIGHT_MAX", "SIZE", default "1GiB";
    /// The most memory per segment for writes that a replica may need again when it comes back
    retained_max: Size = "QUOIN_RETAINED_MAX", "SIZE", default "64MiB";
    /// How often to report to the managers; the same for all roles
    heartbeat_interval: Period = "QUOIN_HEARTBEAT_INTERVAL", "DURATION", default "1s";
    /// What is logged, for example info,quoin_gateway=debug; else RUST_LOG, else info
    log: LogFilter = "QUOIN_LOG", "FILTER";
    /// How log lines look: text or json
    log_format: LogFormat = "QUOIN_LOG_FORMAT", "FORMAT", default "text";
} }

/// The least memory that lets the largest request through several times over.
const MEMORY_BYTES_MIN: u64 = 4 << 20;

impl GatewaySettings {
    /// The role's configuration, and how it logs. Refuses bad values by name.
    pub(crate) fn resolve(&self) -> Result<(Config, Logging), Failure> {
        let connections_max = self.connections_max.get_if(|max| *max > 0, "at least 1")?;
        let requests_max = self.client_requests_max.get_if(|max| *max > 0, "at least 1")?;
        let config = Config {
            id: self.name.get()?.0,
            data_dir: self.data_dir.get()?,
            nbd_listen: self.nbd_listen.get()?,
            admin_listen: self.admin_listen.get()?,
            managers: self.managers.get()?.0.into_iter().map(|address| address.0).collect(),
            connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
            in_flight_bytes_max: memory(&self.in_flight_max)?,
            client_in_flight_bytes_max: memory(&self.client_in_flight_max)?,
            client_requests_max: usize::try_from(requests_max).unwrap_or(usize::MAX),
            total_in_flight_bytes_max: memory(&self.total_in_flight_max)?,
            retained_bytes_max: memory(&self.retained_max)?,
            heartbeat_interval: heartbeat(&self.heartbeat_interval)?,
        };
        Ok((config, Logging::of(&self.log, &self.log_format)?))
    }
}

fn memory(setting: &Setting<Size>) -> Result<usize, Failure> {
    let size = setting.get_if(|size| size.0 >= MEMORY_BYTES_MIN, "at least 4MiB")?;
    usize::try_from(size.0).map_err(|_| setting.refusal("more than this machine can address"))
}
