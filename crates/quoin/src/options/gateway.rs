//! The options of `quoin gateway`.

use super::manager::heartbeat;
use super::setting::{
    ClientCertificatesMode, CongestionControl, FileMode, HostPort, List, LogFilter, Name, Setting, TlsMode,
};
use super::{Logging, busy_poll, options};
use crate::failure::Failure;
use crate::units::duration::Period;
use crate::units::size::Size;
use quoin_gateway::{ClientCertificates, ClientLimits, Config, ListenAddress, Tls, TlsCredentials};
use quoin_service::logging::LogFormat;
use quoin_transport::LocalSockets;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

options! { GatewayOptions, GatewaySettings {
    /// This gateway's name, unique in the cluster
    name: Name = "QUOIN_NAME", "NAME";
    /// A directory on this machine's own disk, for the lock that proves a former process gone
    data_dir: PathBuf = "QUOIN_DATA_DIR", "DIR";
    /// Where NBD is served: tcp://IP:PORT,unix:///PATH,…
    listen: List<ListenAddress> = "QUOIN_LISTEN", "LIST", default "tcp://127.0.0.1:10809";
    /// The permissions of Unix sockets, in octal: who may write to one may use every volume
    socket_mode: FileMode = "QUOIN_SOCKET_MODE", "MODE", default "0660";
    /// Where /healthz, /readyz and /metrics are served
    admin_listen: SocketAddr = "QUOIN_ADMIN_LISTEN", "IP:PORT", default "127.0.0.1:7421";
    /// The cluster managers: HOST:PORT,HOST:PORT,…
    managers: List<HostPort> = "QUOIN_MANAGERS", "LIST";
    /// TLS for NBD clients: off, available, or required (of TCP clients: Unix sockets have their permissions)
    tls: TlsMode = "QUOIN_TLS", "MODE", default "off";
    /// The certificate, and those that lead from it to its CA, in PEM. Read again when it changes
    tls_certificate: PathBuf = "QUOIN_TLS_CERTIFICATE", "FILE";
    /// The certificate's key, in PEM
    tls_key: PathBuf = "QUOIN_TLS_KEY", "FILE";
    /// The CA that signs the certificates of clients, in PEM
    tls_client_ca: PathBuf = "QUOIN_TLS_CLIENT_CA", "FILE";
    /// Whether clients show certificates: off, optional, required [default: required if there is a tls_client_ca]
    tls_client_certificates: ClientCertificatesMode = "QUOIN_TLS_CLIENT_CERTIFICATES", "MODE";
    /// Keys shared with clients, instead of certificates: NAME:HEXKEY lines, as psktool writes them. Read again when it changes
    tls_psk_file: PathBuf = "QUOIN_TLS_PSK_FILE", "FILE";
    /// The most client connections at once
    connections_max: u32 = "QUOIN_CONNECTIONS_MAX", "N", default "1024";
    /// The most of them from one IP address [default: as many]
    connections_per_address_max: u32 = "QUOIN_CONNECTIONS_PER_ADDRESS_MAX", "N";
    /// How long a client may take to choose an export
    handshake_timeout: Period = "QUOIN_HANDSHAKE_TIMEOUT", "DURATION", default "30s";
    /// How long a TCP client's machine may be silent, or take nothing of what is sent, before it counts as gone
    peer_timeout: Period = "QUOIN_PEER_TIMEOUT", "DURATION", default "60s";
    /// The most memory for one client's answers, until it fetches them, and for requests that have not come whole
    client_memory_max: Size = "QUOIN_CLIENT_MEMORY_MAX", "SIZE", default "64MiB";
    /// The same for all clients together
    clients_memory_max: Size = "QUOIN_CLIENTS_MEMORY_MAX", "SIZE", default "1GiB";
    /// The most request bytes in flight on one volume before its clients have to wait
    in_flight_max: Size = "QUOIN_IN_FLIGHT_MAX", "SIZE", default "64MiB";
    /// The most requests in flight on one connection before it has to wait
    client_requests_max: u32 = "QUOIN_CLIENT_REQUESTS_MAX", "N", default "1024";
    /// The most memory per segment for writes that a replica may need again when it comes back
    retained_max: Size = "QUOIN_RETAINED_MAX", "SIZE", default "64MiB";
    /// Where the storage nodes of this machine leave their Unix sockets: no network for those
    local_sockets: PathBuf = "QUOIN_LOCAL_SOCKETS", "DIR";
    /// TCP's congestion control between machines, for example cubic; else the kernel's default
    tcp_congestion_control: CongestionControl = "QUOIN_TCP_CONGESTION_CONTROL", "NAME";
    /// How long to look for more work before sleeping, while requests come one after the other; 0s for not at all
    busy_poll: Period = "QUOIN_BUSY_POLL", "DURATION", default "400us";
    /// How often to report to the managers; the same for all roles
    heartbeat_interval: Period = "QUOIN_HEARTBEAT_INTERVAL", "DURATION", default "1s";
    /// What is logged, for example info,quoin_gateway=debug; else RUST_LOG, else info
    log: LogFilter = "QUOIN_LOG", "FILTER";
    /// How log lines look: text or json
    log_format: LogFormat = "QUOIN_LOG_FORMAT", "FORMAT", default "text";
} }

/// The least memory that lets the largest request through several times over.
const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// Twice the largest request that a client may send.
const CLIENTS_MEMORY_BYTES_MIN: u64 = 128 << 20;
/// What a time-out of a client may be.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl GatewaySettings {
    /// The role's configuration, and how it logs. Refuses bad values by name.
    pub(crate) fn resolve(&self) -> Result<(Config, Logging), Failure> {
        let config = Config {
            id: self.name.get()?.0,
            data_dir: self.data_dir.get()?,
            listen: self.listen.get()?.0,
            socket_mode: self.socket_mode.get()?.0,
            admin_listen: self.admin_listen.get()?,
            managers: self.managers.get()?.0.into_iter().map(|address| address.0).collect(),
            tls: self.tls()?,
            limits: self.limits()?,
            in_flight_bytes_max: memory(&self.in_flight_max)?,
            retained_bytes_max: memory(&self.retained_max)?,
            local_sockets: self.local_sockets.optional()?.map(LocalSockets::new),
            tcp_congestion_control: self.tcp_congestion_control.optional()?.map(|name| name.0),
            busy_poll: busy_poll(&self.busy_poll)?,
            heartbeat_interval: heartbeat(&self.heartbeat_interval)?,
        };
        Ok((config, Logging::of(&self.log, &self.log_format)?))
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let required = match self.tls.get()? {
            TlsMode::Off => return Ok(None),
            TlsMode::Available => false,
            TlsMode::Required => true,
        };
        let (certificate, keys) = (self.tls_certificate.optional()?, self.tls_psk_file.optional()?);
        let credentials = match (certificate, keys) {
            (Some(_), Some(_)) => {
                return Err(self.tls_psk_file.refusal("there is `tls_certificate`, too").hint(
                    "a gateway has either a certificate or shared keys; run two gateways to have both",
                ));
            }
            (None, Some(keys)) => TlsCredentials::Keys(keys),
            (None, None) => {
                return Err(self
                    .tls
                    .refusal("TLS needs credentials")
                    .hint("give `tls_certificate` and `tls_key`, or `tls_psk_file`"));
            }
            (Some(certificate), None) => {
                let client_ca = self.tls_client_ca.optional()?;
                let clients = match (self.tls_client_certificates.optional()?, &client_ca) {
                    (Some(mode), _) => mode.0,
                    (None, Some(_)) => ClientCertificates::Required,
                    (None, None) => ClientCertificates::Off,
                };
                if clients != ClientCertificates::Off && client_ca.is_none() {
                    return Err(self
                        .tls_client_certificates
                        .refusal("certificates need a CA to check them by")
                        .hint("give `tls_client_ca`"));
                }
                TlsCredentials::Certificate { certificate, key: self.tls_key.get()?, clients, client_ca }
            }
        };
        Ok(Some(Tls { required, credentials }))
    }

    fn limits(&self) -> Result<ClientLimits, Failure> {
        let count = |max: u32| usize::try_from(max).unwrap_or(usize::MAX);
        let connections_max = self.connections_max.get_if(|max| *max > 0, "at least 1")?;
        let requests_max = self.client_requests_max.get_if(|max| *max > 0, "at least 1")?;
        let per_address = match self.connections_per_address_max.optional()? {
            Some(0) => {
                return Err(self.connections_per_address_max.refusal("out of range").hint("at least 1"));
            }
            Some(max) => max,
            None => connections_max,
        };
        let patience = |setting: &Setting<Period>| {
            let is_sane = |period: &Period| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&period.0);
            setting.get_if(is_sane, "a time-out is 1s to 1h").map(|period| period.0)
        };
        let share = memory(&self.client_memory_max)?;
        let is_enough = |size: &Size| size.0 >= CLIENTS_MEMORY_BYTES_MIN;
        let total =
            self.clients_memory_max.get_if(is_enough, "at least 128MiB: twice the largest request")?;
        let total = usize::try_from(total.0).unwrap_or(usize::MAX);
        if total < share {
            return Err(self.clients_memory_max.refusal("less than `client_memory_max`"));
        }
        Ok(ClientLimits {
            connections_max: count(connections_max),
            connections_per_address_max: count(per_address),
            handshake_timeout: patience(&self.handshake_timeout)?,
            peer_timeout: patience(&self.peer_timeout)?,
            client_requests_max: count(requests_max),
            client_memory_bytes_max: share,
            clients_memory_bytes_max: total,
        })
    }
}

fn memory(setting: &Setting<Size>) -> Result<usize, Failure> {
    let size = setting.get_if(|size| size.0 >= MEMORY_BYTES_MIN, "at least 4MiB")?;
    usize::try_from(size.0).map_err(|_| setting.refusal("more than this machine can address"))
}
