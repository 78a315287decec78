//! The figures at `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Which volumes a figure counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub(crate) state: &'static str,
}

/// All figures. Cheap to clone; clones are the same figures.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) term: Gauge,
    pub(crate) is_leader: Gauge,
    pub(crate) has_leader: Gauge,
    pub(crate) applied_index: Gauge,
    pub(crate) commit_index: Gauge,
    pub(crate) proposals: Counter,
    pub(crate) snapshots: Counter,
    pub(crate) snapshots_received: Counter,
    pub(crate) messages_dropped: Counter,
    pub(crate) commit_seconds: Histogram,
}

impl Metrics {
    /// The figures, and the registry that shows them.
    pub(crate) fn new() -> (Self, Registry) {
        let metrics = Self {
            term: Gauge::default(),
            is_leader: Gauge::default(),
            has_leader: Gauge::default(),
            applied_index: Gauge::default(),
            commit_index: Gauge::default(),
            proposals: Counter::default(),
            snapshots: Counter::default(),
            snapshots_received: Counter::default(),
            messages_dropped: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
        };
        let mut registry = Registry::with_prefix("quoin_manager");
        let m = metrics.clone();
        registry.register("raft_term", "Raft's term", m.term);
        registry.register("raft_is_leader", "1 if this member leads", m.is_leader);
        registry.register("raft_has_leader", "1 if this member knows a leader", m.has_leader);
        registry.register("raft_applied_index", "The last entry applied", m.applied_index);
        registry.register("raft_commit_index", "The last entry committed", m.commit_index);
        registry.register("proposals", "Commands proposed by this member", m.proposals);
        registry.register("snapshots", "Snapshots taken of the state", m.snapshots);
        registry.register("snapshots_received", "Snapshots taken over from a leader", m.snapshots_received);
        registry.register(
            "raft_messages_dropped",
            "Raft messages that a full queue dropped",
            m.messages_dropped,
        );
        registry.register(
            "commit_seconds",
            "From proposing a command to its being applied",
            m.commit_seconds,
        );
        (metrics, registry)
    }
}
