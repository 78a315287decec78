//! The snapshots of one attached volume: placed in all its segments at one moment (rules N1, N2).

use super::links::LinkTable;
use quoin_replication::writer::Segment;
use quoin_types::{Moment, Seq, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};

/// What was asked for, and what was placed. Ids rise: the cluster manager gives each one once.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// To be placed, as soon as every segment can.
    due: BTreeSet<SnapshotId>,
    /// Placed, each with its seq in every segment that there was.
    placed: BTreeMap<SnapshotId, Vec<Seq>>,
    /// The last one placed: none up to it is placed again, whatever an old view of a cluster manager shows.
    placed_to: SnapshotId,
}

impl Snapshots {
    /// The cluster manager wants these taken in this attachment, and no others.
    pub(super) fn want(&mut self, taking: &[SnapshotId]) {
        self.due = taking.iter().copied().filter(|id| *id > self.placed_to).collect();
        // Whoever shows a newer one and no longer this one has settled it. What an older view lacks may yet be asked after.
        let newest = taking.iter().copied().max().unwrap_or_default();
        self.placed.retain(|id, _| *id >= newest || taking.contains(id));
    }

    /// Places what is due, once all segments can. N2: all of them in one go. Nothing else of the volume happens between,
    /// so a request that was answered before is in the snapshot with all its pieces, and one that is asked for later is
    /// not. Of one that is under way some pieces may be in it, as after a crash at this moment.
    pub(super) fn place(&mut self, segments: &mut [Segment], now: Moment, links: &mut LinkTable) {
        if self.due.is_empty() || !segments.iter().all(Segment::can_place_snapshot) {
            return;
        }
        for id in std::mem::take(&mut self.due) {
            let seqs =
                segments.iter_mut().filter_map(|segment| segment.place_snapshot(id, now, links)).collect();
            self.placed.insert(id, seqs);
            self.placed_to = id;
        }
    }

    /// Those that are durable on a majority of every segment that there was when they were placed.
    pub(super) fn durable(&self, segments: &[Segment]) -> Vec<SnapshotId> {
        let is_durable =
            |seqs: &[Seq]| segments.iter().zip(seqs).all(|(segment, seq)| segment.is_durable(*seq));
        self.placed.iter().filter(|(_, seqs)| is_durable(seqs)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<SnapshotId> {
        ids.iter().copied().map(SnapshotId).collect()
    }

    #[test]
    fn none_is_placed_twice_and_what_is_settled_is_forgotten() {
        let mut snapshots = Snapshots::default();
        let links = &mut LinkTable::default();
        snapshots.want(&ids(&[3, 5]));
        snapshots.place(&mut [], Moment::ZERO, links);
        assert_eq!(snapshots.durable(&[]), ids(&[3, 5]));
        // An older view shows less, or what was settled meanwhile.
        snapshots.want(&ids(&[3]));
        snapshots.want(&[]);
        snapshots.want(&ids(&[2, 3, 5]));
        assert!(snapshots.due.is_empty());
        assert_eq!(snapshots.durable(&[]), ids(&[3, 5]));
        snapshots.want(&ids(&[5, 6]));
        assert_eq!(snapshots.durable(&[]), ids(&[5]));
        assert_eq!(snapshots.due.len(), 1);
        // One that is given up before it is placed is not placed.
        snapshots.want(&ids(&[5]));
        snapshots.place(&mut [], Moment::ZERO, links);
        assert_eq!(snapshots.durable(&[]), ids(&[5]));
    }
}
