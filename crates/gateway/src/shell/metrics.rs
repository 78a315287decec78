//! Prometheus metrics of a gateway.

use crate::core::VolumeReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quoin_replication::writer::{Statistics, VoterHealth};
use quoin_service::admin::Ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) struct Metrics {
    registry: Arc<Registry>,
    read_seconds: Histogram,
    write_seconds: Histogram,
    failed: Counter,
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
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("quoin_gateway");
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
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
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

    pub(super) fn update(&self, reports: &[VolumeReport], clients: usize) {
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
