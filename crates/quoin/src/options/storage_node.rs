//! The options of `quoin storage-node`.

use super::manager::heartbeat;
use super::setting::{CongestionControl, HostPort, List, LogFilter, Name};
use super::{Logging, busy_poll, options};
use crate::failure::Failure;
use crate::units::duration::Period;
use crate::units::size::Size;
use quoin_service::logging::LogFormat;
use quoin_storage_node::Config;
use quoin_storage_node::node::Limits;
use quoin_transport::LocalSockets;
use std::net::SocketAddr;
use std::path::PathBuf;

options! { StorageNodeOptions, StorageNodeSettings {
    /// This node's name, unique in the cluster
    name: Name = "QUOIN_NAME", "NAME";
    /// The directory that is this node's disk: one filesystem, one node
    data_dir: PathBuf = "QUOIN_DATA_DIR", "DIR";
    /// Where the data plane is served
    listen: SocketAddr = "QUOIN_LISTEN", "IP:PORT", default "127.0.0.1:7410";
    /// Where gateways and other nodes reach the data plane, if not at `listen`
    advertise: HostPort = "QUOIN_ADVERTISE", "HOST:PORT";
    /// Where /healthz, /readyz and /metrics are served
    admin_listen: SocketAddr = "QUOIN_ADMIN_LISTEN", "IP:PORT", default "127.0.0.1:7411";
    /// The cluster managers: HOST:PORT,HOST:PORT,…
    managers: List<HostPort> = "QUOIN_MANAGERS", "LIST";
    /// The failure domain above the machine: a rack, a room, a site
    zone: Name = "QUOIN_ZONE", "NAME", default "default";
    /// How much of the disk may be used; else what is free on its filesystem at the first start
    capacity: Size = "QUOIN_CAPACITY", "SIZE";
    /// The size of one journal file
    journal_file_size: Size = "QUOIN_JOURNAL_FILE_SIZE", "SIZE", default "64MiB";
    /// How many journal files there are
    journal_files: u32 = "QUOIN_JOURNAL_FILES", "N", default "8";
    /// The most that resync reads or writes in a second; without it there is no bound
    resync_rate: Size = "QUOIN_RESYNC_RATE", "SIZE";
    /// The most that scrub looks at in a second, less while clients work; 0 turns it off
    scrub_rate: Size = "QUOIN_SCRUB_RATE", "SIZE", default "32MiB";
    /// The least time from the beginning of one scrub of the whole disk to that of the next
    scrub_interval: Period = "QUOIN_SCRUB_INTERVAL", "DURATION", default "24h";
    /// Where to leave a Unix socket for gateways and nodes of this machine, and to look for theirs: no network among them
    local_sockets: PathBuf = "QUOIN_LOCAL_SOCKETS", "DIR";
    /// TCP's congestion control between machines, for example cubic; else the kernel's default
    tcp_congestion_control: CongestionControl = "QUOIN_TCP_CONGESTION_CONTROL", "NAME";
    /// How long to look for more work before sleeping, while requests come one after the other; 0s for not at all
    busy_poll: Period = "QUOIN_BUSY_POLL", "DURATION", default "400us";
    /// How often to report to the managers; the same for all roles
    heartbeat_interval: Period = "QUOIN_HEARTBEAT_INTERVAL", "DURATION", default "1s";
    /// What is logged, for example info,quoin_store=debug; else RUST_LOG, else info
    log: LogFilter = "QUOIN_LOG", "FILTER";
    /// How log lines look: text or json
    log_format: LogFormat = "QUOIN_LOG_FORMAT", "FORMAT", default "text";
} }

/// One extent in a second: less would never come round.
const SCRUB_RATE_MIN: u64 = 64 << 10;

/// The smallest journal file: room for a few of the largest writes.
const JOURNAL_FILE_BYTES_MIN: u64 = 4 << 20;

impl StorageNodeSettings {
    /// The role's configuration, and how it logs. Refuses bad values by name.
    pub(crate) fn resolve(&self) -> Result<(Config, Logging), Failure> {
        let is_journal_file = |size: &Size| size.0 >= JOURNAL_FILE_BYTES_MIN && size.0.is_multiple_of(4096);
        let is_capacity = |size: &Size| size.0 >= 64 << 20;
        let config = Config {
            name: self.name.get()?.0,
            data_dir: self.data_dir.get()?,
            listen: self.listen.get()?,
            advertise: self.advertised()?,
            admin_listen: self.admin_listen.get()?,
            managers: self.managers.get()?.0.into_iter().map(|address| address.0).collect(),
            zone: self.zone.get()?.0,
            capacity_bytes: match self.capacity.optional()? {
                Some(_) => Some(self.capacity.get_if(is_capacity, "a disk holds at least 64MiB")?.0),
                None => None,
            },
            journal_file_bytes: self
                .journal_file_size
                .get_if(is_journal_file, "a journal file has at least 4MiB, a multiple of 4KiB")?
                .0,
            journal_files: self
                .journal_files
                .get_if(|files| (2..=1024).contains(files), "a journal has 2 to 1024 files")?,
            limits: self.limits()?,
            local_sockets: self.local_sockets.optional()?.map(LocalSockets::new),
            tcp_congestion_control: self.tcp_congestion_control.optional()?.map(|name| name.0),
            busy_poll: busy_poll(&self.busy_poll)?,
            heartbeat_interval: heartbeat(&self.heartbeat_interval)?,
        };
        Ok((config, Logging::of(&self.log, &self.log_format)?))
    }

    /// What work in the background may take.
    fn limits(&self) -> Result<Limits, Failure> {
        let resync_bytes_per_second = match self.resync_rate.optional()? {
            Some(_) => Some(self.resync_rate.get_if(|rate| rate.0 > 0, "leave it out for no bound")?.0),
            None => None,
        };
        let is_rate = |rate: &Size| rate.0 == 0 || rate.0 >= SCRUB_RATE_MIN;
        let scrub_rate = self.scrub_rate.get_if(is_rate, "at least 64KiB, or 0 for no scrub")?.0;
        Ok(Limits {
            resync_bytes_per_second,
            scrub_bytes_per_second: (scrub_rate > 0).then_some(scrub_rate),
            scrub_interval: self.scrub_interval.get()?.0,
        })
    }

    /// The address that others are told. One that means "every interface" would send them nowhere.
    fn advertised(&self) -> Result<Option<String>, Failure> {
        let advertise = self.advertise.optional()?.map(|address| address.0);
        if advertise.is_none() && self.listen.get()?.ip().is_unspecified() {
            return Err(self
                .listen
                .refusal("it names no machine, so others cannot be told where this node is")
                .hint("give `advertise` too: the HOST:PORT where gateways reach this node"));
        }
        Ok(advertise)
    }
}
