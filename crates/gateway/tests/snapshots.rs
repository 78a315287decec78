//! Snapshots of a volume of several segments, with storage nodes that are played by the test: what is durable when (rule N2).

use quoin_gateway::core::{Attachment, Core, Output, VolumeSpec};
use quoin_replication::Timing;
use quoin_replication::writer::VoterConfig;
use quoin_types::{
    Durability, Epoch, Generation, InstanceId, Moment, NodeId, ReplicaId, ReplicaRole, Seq, SnapshotId,
    VolumeId,
};
use quoin_wire::{Message, OpenReply, Position, Positions, ReplicaReport, StartEpochReply};
use std::time::Duration;

const VOLUME: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(1);
const NOW: Moment = Moment::from_nanos(1_000_000_000);
const SEGMENT_BYTES: u64 = 1 << 20;

/// Two segments: replicas 11 to 13 of the first one on nodes 1 to 3, and 24 to 26 of the second one on nodes 4 to 6.
struct Gateway {
    core: Core,
    /// What each replica was sent a snapshot under.
    placed: Vec<(ReplicaId, SnapshotId, Seq)>,
}

fn replica(segment: u64, node: u64) -> ReplicaId {
    ReplicaId((segment + 1) * 10 + node)
}

impl Gateway {
    fn new() -> Self {
        let voter = |segment: u64, node: u64| VoterConfig {
            node: NodeId(node),
            name: format!("node-{node}"),
            address: node.to_string(),
            replica: replica(segment, node),
            role: ReplicaRole::Voter,
        };
        let voters = |segment: u64| (1..=3).map(|node| voter(segment, 3 * segment + node)).collect();
        let spec = VolumeSpec {
            id: VOLUME,
            size_bytes: 2 * SEGMENT_BYTES,
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Flush,
            segments: (0..2).map(|segment| (Generation(1), voters(segment))).collect(),
        };
        let core = Core::new(InstanceId([1; 16]), 1 << 20, Timing::default());
        let mut gateway = Self { core, placed: Vec::new() };
        let attachment =
            Attachment { epoch: EPOCH, unbroken_since: EPOCH, void: None, steward: false, revision: 1 };
        gateway.core.attach(spec, attachment, NOW);
        for node in 1..=6 {
            gateway.core.on_session_up(NodeId(node), false, NOW);
        }
        gateway.settle();
        gateway
    }

    /// Answers what the storage nodes are asked, but for what they have: that the test tells.
    fn settle(&mut self) {
        loop {
            let outputs = self.core.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                let Output::Send(node, message) = output else { continue };
                match message {
                    Message::Open(open) => {
                        let report = ReplicaReport {
                            history: Vec::new(),
                            last: Seq::ZERO,
                            lease_remainder: Duration::ZERO,
                            mixed: false,
                            shaken: false,
                        };
                        let (replica, epoch) = (open.replica, open.epoch);
                        let reply = OpenReply { replica, epoch, result: Ok(report) };
                        self.core.on_message(node, Message::OpenReply(reply), NOW);
                    }
                    Message::StartEpoch(start) => {
                        let (replica, epoch) = (start.replica, start.epoch);
                        let reply = StartEpochReply { replica, epoch, result: Ok(()) };
                        self.core.on_message(node, Message::StartEpochReply(reply), NOW);
                    }
                    Message::Snapshot(sent) => self.placed.push((sent.replica, sent.snapshot, sent.seq)),
                    _ => {}
                }
            }
        }
    }

    /// A replica tells how far it is.
    fn told(&mut self, segment: u64, node: u64, accepted: u64, durable: u64) {
        let node = 3 * segment + node;
        let position = Position {
            replica: replica(segment, node),
            epoch: EPOCH,
            accepted: Seq(accepted),
            durable: Seq(durable),
        };
        let positions = Positions { credit: 100, replicas: vec![position], ..Positions::default() };
        self.core.on_message(NodeId(node), Message::Positions(positions), NOW);
        self.settle();
    }

    fn durable(&self) -> Vec<SnapshotId> {
        self.core.reports().into_iter().flat_map(|report| report.snapshots).collect()
    }
}

/// What the cluster manager hears is what it commits: not a word before every segment has a majority that would bring the
/// record back after a loss of power.
#[test]
fn a_snapshot_is_told_when_a_majority_of_every_segment_has_it_durably() {
    let mut gateway = Gateway::new();
    let id = SnapshotId(7);
    gateway.core.place_snapshots(VOLUME, &[id], NOW);
    gateway.settle();
    let placed: Vec<ReplicaId> = gateway.placed.iter().map(|(replica, ..)| *replica).collect();
    assert_eq!(placed.len(), 6, "in all segments, to all voters: {placed:?}");
    assert!(gateway.placed.iter().all(|(_, snapshot, seq)| (*snapshot, *seq) == (id, Seq(1))));
    for node in 1..=3 {
        gateway.told(0, node, 1, 1);
    }
    assert_eq!(gateway.durable(), [], "the other segment has not said anything");
    for node in 1..=3 {
        gateway.told(1, node, 1, 0);
    }
    assert_eq!(gateway.durable(), [], "accepted everywhere, durable nowhere");
    gateway.told(1, 2, 1, 1);
    assert_eq!(gateway.durable(), [], "on one of three");
    gateway.told(1, 3, 1, 1);
    assert_eq!(gateway.durable(), [id]);
}

/// The other order, and a voter that tells it on a session that ended: what it had told as durable stays true.
#[test]
fn the_segments_come_to_it_in_any_order() {
    let mut gateway = Gateway::new();
    gateway.core.place_snapshots(VOLUME, &[SnapshotId(7), SnapshotId(8)], NOW);
    gateway.settle();
    for node in 1..=2 {
        gateway.told(1, node, 2, 2);
        gateway.told(0, node, 2, 1);
    }
    assert_eq!(gateway.durable(), [SnapshotId(7)], "the first segment has the later one only accepted");
    gateway.core.on_session_down(NodeId(1), NOW);
    gateway.settle();
    assert_eq!(gateway.durable(), [SnapshotId(7)]);
    gateway.told(0, 2, 2, 2);
    assert_eq!(gateway.durable(), [SnapshotId(7)], "of two that are left one has it");
    gateway.told(0, 3, 2, 2);
    assert_eq!(gateway.durable(), [SnapshotId(7), SnapshotId(8)]);
}
