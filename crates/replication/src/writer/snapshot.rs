//! Snapshots: a record in the stream of writes (rules N1–N3).

use super::{Links, Operation, Phase, Segment};
use quoin_types::{Moment, Seq, SnapshotId};

impl Segment {
    /// Whether the epoch's start is decided, so that the next seq is known: a snapshot can be placed.
    pub fn can_place_snapshot(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    /// Gives a snapshot the next seq and sends it on, waiting for nothing: it takes no space that is counted (rule W5), and
    /// what clients have asked for and has no seq yet comes behind it. The caller places each snapshot once in an attachment
    /// (rule N1). It is durable once [`Segment::is_durable`] says so of the seq; `None` before the epoch's start is decided.
    pub fn place_snapshot(&mut self, id: SnapshotId, now: Moment, links: &mut dyn Links) -> Option<Seq> {
        if !self.can_place_snapshot() {
            return None;
        }
        let seq = self.log.push(Operation::Snapshot(id));
        for index in 0..self.voters.len() {
            self.pump(index, now, links);
        }
        Some(seq)
    }

    /// Whether everything to this seq is durable on a majority.
    pub fn is_durable(&self, seq: Seq) -> bool {
        seq <= self.durable
    }
}
