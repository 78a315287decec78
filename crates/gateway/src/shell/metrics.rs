//! Prometheus metrics of a gateway.

use crate::core::VolumeReport;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quoin_replication::writer::{Statistics, VoterHealth};
use quoin_service::admin::Ready;
use quoin_service::busy_poll::BusyPoll;
use quoin_transport::Loans;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why a connection was refused, or ended by the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
pub(super) enum TurnedAway {
    /// Refused: `connections_max` clients are connected.
    Full,
    /// Refused: `connections_per_address_max` clients are connected from its address.
    AddressFull,
    /// Had not chosen an export when a newer connection needed its place.
    Displaced,
    /// Had not chosen an export in time.
    Handshake,
    /// Held memory and did not move while that was short.
    Stalled,
    /// Did not speak NBD.
    Protocol,
    /// Broke TLS, or was not let in by it.
    Tls,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Reason {
    reason: TurnedAway,
}

impl TurnedAway {
    const ALL: [Self; 7] = [
        Self::Full,
        Self::AddressFull,
        Self::Displaced,
        Self::Handshake,
        Self::Stalled,
        Self::Protocol,
        Self::Tls,
    ];
}

pub(super) struct Metrics {
    registry: Arc<Registry>,
    read_seconds: Histogram,
    write_seconds: Histogram,
    failed: Counter,
    turned_away: Family<Reason, Counter>,
    tls_reloads: Counter,
    tls_reloads_failed: Counter,
    client_memory: Gauge,
    clients: Gauge,
    volumes: Gauge,
    unavailable: Gauge,
    retained: Gauge,
    catching_up: Gauge,
    missing: Gauge,
    hedged: Gauge,
    damaged: Gauge,
    resends: Gauge,
    resyncs: Gauge,
    ready: Arc<AtomicBool>,
}

impl Metrics {
    pub(super) fn new(busy_poll: &BusyPoll, loans: &Loans) -> Self {
        let mut registry = Registry::with_prefix("quoin_gateway");
        busy_poll.register(&mut registry);
        loans.register(&mut registry);
        // 16 µs to 4 s.
        let latencies = || Histogram::new(exponential_buckets(16e-6, 2.0, 19));
        let (read_seconds, write_seconds) = (latencies(), latencies());
        registry.register("read_seconds", "Time from a read's arrival to its answer", read_seconds.clone());
        registry.register(
            "write_seconds",
            "Time from the arrival of a write, flush, trim or write-zeroes to its answer",
            write_seconds.clone(),
        );
        let failed = Counter::default();
        registry.register("failed_requests", "Requests answered with an error", failed.clone());
        let turned_away = Family::<Reason, Counter>::default();
        for reason in TurnedAway::ALL {
            // A figure that is there from the start is a figure that one can watch.
            let _ = turned_away.get_or_create(&Reason { reason });
        }
        registry.register(
            "turned_away_connections",
            "Connections refused, or ended by the gateway, by reason",
            turned_away.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let tls_reloads = counter("tls_reloads", "Times that changed TLS credentials were taken");
        let tls_reloads_failed =
            counter("tls_reloads_failed", "Times that changed TLS credentials could not be used");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let client_memory = gauge(
            "client_memory_bytes",
            "Bytes held for clients: requests that have not come whole, answers under way or not fetched",
        );
        let clients = gauge("clients", "Client connections");
        let volumes = gauge("volumes", "Attached volumes");
        let unavailable = gauge("volumes_unavailable", "Attached volumes without a majority somewhere");
        let retained =
            gauge("retained_bytes", "Writes kept in memory until they are durable on a majority, in bytes");
        let catching_up = gauge("replicas_catching_up", "Replicas of attached volumes that are catching up");
        let missing =
            gauge("replicas_missing", "Replicas of attached volumes that cannot be reached or failed");
        let hedged = gauge("hedged_reads", "Reads of attached volumes sent to a second replica");
        let damaged = gauge("damaged_reads", "Reads of attached volumes that met a damaged block");
        let resends = gauge("replica_resends", "Replicas of attached volumes brought back from memory");
        let resyncs = gauge("replica_resyncs", "Replicas of attached volumes brought back from a peer");
        Self {
            registry: Arc::new(registry),
            read_seconds,
            write_seconds,
            failed,
            turned_away,
            tls_reloads,
            tls_reloads_failed,
            client_memory,
            clients,
            volumes,
            unavailable,
            retained,
            catching_up,
            missing,
            hedged,
            damaged,
            resends,
            resyncs,
            ready: Arc::default(),
        }
    }

    pub(super) fn registry(&self) -> Arc<Registry> {
        self.registry.clone()
    }

    pub(super) fn ready(&self) -> Ready {
        let ready = self.ready.clone();
        Arc::new(move || {
            if ready.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("no cluster manager has answered yet".into())
            }
        })
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, is_read: bool, took: Duration, ok: bool) {
        let histogram = if is_read { &self.read_seconds } else { &self.write_seconds };
        histogram.observe(took.as_secs_f64());
        if !ok {
            self.failed.inc();
        }
    }

    pub(super) fn turned_away(&self, reason: TurnedAway) {
        self.turned_away.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn tls_reloaded(&self, good: bool) {
        if good {
            self.tls_reloads.inc()
        } else {
            self.tls_reloads_failed.inc()
        };
    }

    /// How often TLS credentials were read again: with success, and without.
    #[cfg(test)]
    pub(super) fn tls_reloads(&self) -> (u64, u64) {
        (self.tls_reloads.get(), self.tls_reloads_failed.get())
    }

    pub(super) fn update(&self, reports: &[VolumeReport], clients: usize, client_memory_bytes: usize) {
        let count = |health: fn(&VoterHealth) -> bool| {
            reports
                .iter()
                .flat_map(|report| &report.replicas)
                .filter(|replica| health(&replica.health))
                .count() as i64
        };
        let sum = |figure: fn(&Statistics) -> u64| {
            reports.iter().map(|report| figure(&report.statistics)).sum::<u64>() as i64
        };
        self.clients.set(clients as i64);
        self.client_memory.set(client_memory_bytes as i64);
        self.volumes.set(reports.len() as i64);
        self.unavailable.set(reports.iter().filter(|report| !report.available).count() as i64);
        self.retained.set(reports.iter().map(|report| report.retained_bytes as i64).sum());
        self.catching_up.set(count(|health| matches!(health, VoterHealth::CatchingUp { .. })));
        self.missing.set(count(|health| matches!(health, VoterHealth::Missing | VoterHealth::Failed(_))));
        self.hedged.set(sum(|statistics| statistics.hedged_reads));
        self.damaged.set(sum(|statistics| statistics.damaged_reads));
        self.resends.set(sum(|statistics| statistics.resends));
        self.resyncs.set(sum(|statistics| statistics.resyncs));
    }
}
