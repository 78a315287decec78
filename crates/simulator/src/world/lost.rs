//! Disks that are lost with all that was on them, and an operator who has their copies made anew elsewhere (rule C2).

use super::gateway::EXPORT;
use super::{Event, Process, World};
use crate::queue::{MILLISECOND, Nanos};
use quoin_api::v1;
use quoin_cluster::{Replica, Segment};
use quoin_cluster_manager::member::Request;
use quoin_types::{DiskId, ReplicaRole};

/// How often the operator looks after a node whose disk is lost.
pub(super) const LOOK_AGAIN: Nanos = 300 * MILLISECOND;

impl World {
    /// The node's process ends, and comes back under its old name with an empty disk: unless a segment could not be
    /// recovered from what is left, or has nowhere to go.
    pub(crate) fn wipe(&mut self, index: usize, away: Nanos) {
        if !self.may_lose_disk(index) {
            return;
        }
        self.trace.line(self.now, || format!("the disk of node {index} is lost"));
        self.kill(Process::Node(index), away);
        self.lose_disk(index);
    }

    /// The node, whose process has ended, gets an empty disk.
    pub(super) fn lose_disk(&mut self, index: usize) {
        let process = &mut self.nodes[index];
        process.disk = process.disk.wiped();
        self.lost_disks.extend(process.disk_id.take());
        self.queue.push(self.now + LOOK_AGAIN, Event::Replace { node: index });
    }

    /// The operator moves what the node had, segment by segment, until the managers accept its new disk. What nobody has
    /// written to yet needs no operator.
    pub(super) fn replace_lost(&mut self, index: usize) {
        if self.nodes[index].node.is_some() {
            return;
        }
        self.queue.push(self.now + LOOK_AGAIN, Event::Replace { node: index });
        let Some(volume) = self.managers.volume() else { return };
        // A copy that was to be made on a disk that is lost is never filled: it is made elsewhere, or two such nodes wait for
        // each other.
        let is_lost = |(replica, role): (&Replica, ReplicaRole)| {
            role == ReplicaRole::Learner && self.lost_disks.contains(&replica.disk)
        };
        if volume.segments.iter().any(|segment| segment.members().any(is_lost)) {
            return self.operate(Request::AbortChange(v1::AbortChangeRequest { volume: EXPORT.into() }));
        }
        let node = self.nodes[index].id();
        let is_here = |replica: &Replica| replica.node == node && self.lost_disks.contains(&replica.disk);
        let lacks = |segment: &Segment| segment.change.is_none() && segment.voters().any(is_here);
        // A learner dies with its disk, and the change with it: nobody relies on it.
        let is_free = !volume.usable_segments().iter().any(|segment| segment.voters().any(is_here));
        let lacking: Vec<u32> = (0..)
            .zip(volume.usable_segments())
            .filter(|(_, segment)| lacks(segment))
            .map(|(at, _)| at)
            .collect();
        // Refused though it is sound: what a disk before it had asked came late, and was taken for another replacement.
        let own = self.nodes[index].disk_id.filter(|_| self.nodes[index].refused);
        let is_useless = |disk: DiskId| {
            volume
                .usable_segments()
                .iter()
                .all(|segment| segment.members().all(|(replica, _)| replica.disk != disk))
        };
        let useless = own.filter(|disk| is_useless(*disk));
        for segment in lacking {
            self.operate(Request::MoveReplica(v1::MoveReplicaRequest {
                volume: EXPORT.into(),
                segment: Some(segment),
                from: self.nodes[index].name.clone(),
                to: String::new(),
            }));
        }
        if is_free {
            self.wipe_restored(index);
        }
        if let Some(disk) = useless {
            self.wipe_refused(index, disk);
        }
    }

    /// The operator does what the managers' refusal says.
    fn wipe_refused(&mut self, index: usize, disk: DiskId) {
        self.trace.line(self.now, || format!("the refused disk of node {index} is wiped"));
        self.kill(Process::Node(index), LOOK_AGAIN);
        let process = &mut self.nodes[index];
        process.disk = process.disk.wiped();
        process.disk_id = None;
        process.refused = false;
        self.lost_disks.insert(disk);
    }

    /// Whether, without this disk and those that are lost already, a majority is left of each segment's voters, of the present
    /// ones and of the next, and there is a node to make another copy on.
    pub(super) fn may_lose_disk(&self, index: usize) -> bool {
        let (Some(volume), Some(disk)) = (self.managers.volume(), self.nodes[index].disk_id) else {
            return false;
        };
        let is_left = |replica: &&Replica| replica.disk != disk && !self.lost_disks.contains(&replica.disk);
        let is_recoverable = |segment: &Segment| {
            let (voters, next) = (segment.voters().count(), segment.next_voters().count());
            let of_voters = segment.voters().filter(is_left).count();
            2 * of_voters > voters && 2 * segment.next_voters().filter(is_left).count() > next
        };
        // As many as the segment lacks: a node whose disk is lost is back only when all that it had is elsewhere.
        let has_spares = |segment: &Segment| {
            let spares = self.nodes.iter().enumerate().filter(|(other, process)| {
                let beside = segment.replicas.iter().all(|replica| replica.node != process.id());
                *other != index && process.disk_id.is_some() && beside
            });
            spares.count() >= segment.voters().filter(|replica| !is_left(replica)).count()
        };
        volume.segments.iter().all(|segment| is_recoverable(segment) && has_spares(segment))
    }
}

/// Disks that are gone for good.
pub(super) type LostDisks = std::collections::BTreeSet<DiskId>;
