//! What conversations with a segment begin with. Node and replica `n` have the same number.

use quoin_replication::Timing;
use quoin_replication::writer::{Credit, Links, SegmentConfig, VoterConfig};
use quoin_types::*;
use quoin_wire::{EpochStart, Message, ReplicaReport};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a segment has sent, in order, which nodes have no room, and what others have granted, in extents; the rest have granted
/// more than is asked for.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) messages: Vec<(NodeId, Message)>,
    pub(crate) full: Vec<NodeId>,
    pub(crate) granted: BTreeMap<NodeId, u64>,
}

impl Links for Sent {
    fn send(&mut self, node: NodeId, message: Message) {
        self.messages.push((node, message));
    }
    fn credit(&self, node: NodeId, extents: u64) -> Credit {
        if extents > 0 && self.full.contains(&node) {
            Credit::Full
        } else if self.granted.get(&node).is_some_and(|granted| *granted < extents) {
            Credit::Later
        } else {
            Credit::Enough
        }
    }
    fn spend(&mut self, node: NodeId, extents: u64) {
        self.granted.entry(node).and_modify(|granted| *granted = granted.saturating_sub(extents));
    }
    fn cut(&mut self, _node: NodeId, _reason: &'static str) {}
}

pub(crate) fn member(number: u64, role: ReplicaRole) -> VoterConfig {
    VoterConfig {
        node: NodeId(number),
        name: format!("n{number}"),
        address: String::new(),
        replica: ReplicaId(number),
        role,
    }
}

/// An attachment in the first generation, which acknowledges what is accepted.
pub(crate) fn config(epoch: u64, voters: Vec<VoterConfig>, retained_bytes_max: usize) -> SegmentConfig {
    SegmentConfig {
        id: SegmentId::default(),
        generation: Generation(1),
        voters,
        durability: Durability::Flush,
        epoch: Epoch(epoch),
        instance: InstanceId([1; 16]),
        void: None,
        records_loss: false,
        retained_bytes_max,
        timing: Timing::default(),
    }
}

/// The report of a replica that is well: its history as (epoch, first seq), and its last write.
pub(crate) fn report(history: &[(u64, u64)], last: u64) -> ReplicaReport {
    let start = |(epoch, first): &(u64, u64)| EpochStart { epoch: Epoch(*epoch), first: Seq(*first) };
    let history = history.iter().map(start).collect();
    ReplicaReport { history, last: Seq(last), lease_remainder: Duration::ZERO, mixed: false, shaken: false }
}
