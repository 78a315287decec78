//! Prometheus metrics of a storage node.

use crate::node::Node;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quoin_service::admin::Ready;
use quoin_service::busy_poll::BusyPoll;
use quoin_transport::Loans;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

type Read = fn(&Node) -> u64;

/// Counters: name, help, and where the figure is.
const COUNTERS: [(&str, &str, Read); 18] = [
    ("writes", "Writes taken", |node| node.counters().writes),
    ("write_bytes", "Bytes of volumes written", |node| node.counters().write_bytes),
    ("reads", "Reads served to gateways", |node| node.counters().reads),
    ("read_bytes", "Bytes of volumes read by gateways", |node| node.counters().read_bytes),
    ("damaged_blocks", "Blocks and map entries that did not match their checksum, each time", |node| {
        node.counters().damaged
    }),
    ("damage_found", "Extents found damaged", |node| node.counters().damage_found),
    ("repaired_extents", "Damaged extents fetched anew from a peer", |node| node.counters().repaired),
    ("scrubbed_bytes", "Bytes of map and data that scrub looked at", |node| {
        node.engine().statistics().scrubbed_bytes
    }),
    ("scrub_laps", "Times that scrub looked at everything", |node| node.scrub_laps().0),
    ("refused_requests", "Requests refused: fenced, behind, out of order or out of space", |node| {
        node.counters().refused
    }),
    ("resync_pulled_bytes", "Bytes pulled from peers", |node| node.counters().pulled_bytes),
    ("resync_served_bytes", "Bytes that peers pulled", |node| node.counters().served_bytes),
    ("journal_bytes", "Bytes written to the journal", |node| node.engine().statistics().journal_bytes),
    ("data_bytes", "Bytes written in place", |node| node.engine().statistics().data_bytes),
    ("journal_batches", "Batches written to the journal", |node| node.engine().statistics().batches),
    ("syncs", "Syncs of the journal", |node| node.engine().statistics().syncs),
    ("checkpoints", "Checkpoints", |node| node.engine().statistics().checkpoints),
    ("journal_full", "Times that a full journal made writes wait for a checkpoint", |node| {
        node.engine().statistics().journal_full
    }),
];

/// Gauges: name, help, and where the figure is.
const GAUGES: [(&str, &str, Read); 7] = [
    ("capacity_bytes", "The disk's capacity", |node| node.engine().space().capacity_bytes),
    ("used_bytes", "What of it is used", |node| node.engine().space().used_bytes),
    ("filesystem_full", "1 while the filesystem lacks room for the disk's capacity", |node| {
        u64::from(node.engine().space().filesystem_full)
    }),
    ("replicas", "Replicas on the disk", |node| node.replica_counts().0 as u64),
    ("damaged_extents", "Damaged extents that are not repaired", |node| node.damaged_extents() as u64),
    ("scrub_lap_age_seconds", "Time since scrub last looked at everything, or since the start", |node| {
        node.scrub_laps().1.as_secs()
    }),
    ("replicas_catching_up", "Replicas that are catching up", |node| node.replica_counts().1 as u64),
];

pub(super) struct Metrics {
    registry: Arc<Registry>,
    counters: Vec<Counter<u64, AtomicU64>>,
    gauges: Vec<Gauge>,
    ready: Arc<AtomicBool>,
}

impl Metrics {
    pub(super) fn new(busy_poll: &BusyPoll, loans: &Loans) -> Self {
        let mut registry = Registry::with_prefix("quoin_storage_node");
        busy_poll.register(&mut registry);
        loans.register(&mut registry);
        let counters = COUNTERS
            .iter()
            .map(|(name, help, _)| {
                let counter = Counter::default();
                registry.register(*name, *help, counter.clone());
                counter
            })
            .collect();
        let gauges = GAUGES
            .iter()
            .map(|(name, help, _)| {
                let gauge = Gauge::default();
                registry.register(*name, *help, gauge.clone());
                gauge
            })
            .collect();
        Self { registry: Arc::new(registry), counters, gauges, ready: Arc::default() }
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
                Err("not registered with a cluster manager yet".into())
            }
        })
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    pub(super) fn update(&self, node: &Node) {
        for (counter, (_, _, read)) in self.counters.iter().zip(COUNTERS) {
            counter.inner().store(read(node), Ordering::Relaxed);
        }
        for (gauge, (_, _, read)) in self.gauges.iter().zip(GAUGES) {
            gauge.set(i64::try_from(read(node)).unwrap_or(i64::MAX));
        }
    }
}
