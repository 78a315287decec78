//! A volume: what clients see, who may write, and its snapshots.

use crate::command::SegmentAt;
use crate::segment::{Replica, Segment};
use quoin_types::{
    Durability, Epoch, GatewayId, Generation, InstanceId, SegmentId, SnapshotId, VolumeId, quorum,
};

/// Who may write to a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The gateway, by its operator's name for it.
    pub gateway: GatewayId,
    /// The one process of it that may use the epoch (rule W4).
    pub instance: InstanceId,
    /// The number of this attachment.
    pub epoch: Epoch,
    /// Whether accepted but never flushed writes may be missing (rule A2).
    pub lossy: bool,
    /// Given by the managers on their own, to repair a detached volume: without clients and leases, it yields to any other
    /// attachment (rule C4).
    pub steward: bool,
}

/// Attachments of one gateway, one after the other, by which it served its clients: no other gateway had the volume for
/// clients in between, and nothing that was accepted was lost. Caches that clients began to fill within it are true to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The gateway, by its operator's name for it.
    pub gateway: GatewayId,
    /// The first of them.
    pub since: Epoch,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotState {
    /// Its records are to be placed, or are not durable everywhere yet. It ends with the attachment that takes it.
    Taking,
    /// Durable on a majority of every segment.
    Ready,
}

/// A snapshot of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Never reused.
    pub id: SnapshotId,
    /// Unique among the volume's.
    pub name: String,
    /// How far it has come.
    pub state: SnapshotState,
    /// The attachment that takes it, or took it; `None` until the volume has one.
    pub epoch: Option<Epoch>,
    /// The volume's size when it was asked for.
    pub size_bytes: u64,
}

/// How far a volume has come. It follows from the states of its replicas and is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeStage {
    /// Some replicas of the segments that are served do not exist yet.
    Creating,
    /// May be attached.
    Ready,
    /// A tombstone, kept until each replica is confirmed dropped or its disk is gone.
    Deleting,
}

/// A virtual block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Never reused.
    pub id: VolumeId,
    /// Unique among the volumes that are not being deleted.
    pub name: String,
    /// What clients see. A multiple of 4096.
    pub size_bytes: u64,
    /// The size of each segment; the last one may be used in part.
    pub segment_bytes: u64,
    /// Copies wanted of each segment. While that is being changed, the number to come.
    pub replicas: u32,
    /// The fewest copies to go on with, if its owner has said so (rule C3).
    pub min_replicas: Option<u32>,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Whether this is a tombstone.
    pub deleting: bool,
    /// The size it takes on as soon as the new segments' replicas exist.
    pub growing_to_bytes: Option<u64>,
    /// The last epoch given. Never falls, whoever detaches.
    pub epoch: Epoch,
    /// Who may write.
    pub attachment: Option<Attachment>,
    /// Who last had it for clients, and since when without a break. It outlives the attachment: a gateway that is upgraded
    /// detaches, and goes on.
    pub run: Option<Run>,
    /// Whether its last attachment ended without saying that every replica has everything: a steward has to look.
    pub dirty: bool,
    /// The slices, in order; while growing also those not yet served.
    pub segments: Vec<Segment>,
    /// By id.
    pub snapshots: Vec<Snapshot>,
    /// The state's revision at the last change.
    pub revision: u64,
}

impl Volume {
    /// How far the volume has come.
    pub fn stage(&self) -> VolumeStage {
        if self.deleting {
            VolumeStage::Deleting
        } else if self.served_segments().iter().all(Segment::voters_exist) {
            VolumeStage::Ready
        } else {
            VolumeStage::Creating
        }
    }

    /// The segments that hold `size_bytes`: all but those still being created for a larger size.
    pub fn served_segments(&self) -> &[Segment] {
        let served = segment_count(self.size_bytes, self.segment_bytes);
        let served = usize::try_from(served).unwrap_or(usize::MAX).min(self.segments.len());
        &self.segments[..served]
    }

    /// The segments that somebody may have written to: none while the volume is being created.
    pub fn usable_segments(&self) -> &[Segment] {
        match self.stage() {
            VolumeStage::Ready => self.served_segments(),
            VolumeStage::Creating => &[],
            VolumeStage::Deleting => &self.segments,
        }
    }

    /// The segments that are served, each with the configuration that it is in.
    pub fn segments_at(&self) -> impl Iterator<Item = (SegmentAt, &Segment)> {
        let at = |index, segment: &Segment| SegmentAt { index, generation: segment.generation };
        (0..).zip(self.served_segments()).map(move |(index, segment)| (at(index, segment), segment))
    }

    /// Whether the volume needs more segments than it has to be of this size.
    pub fn lacks_segments_for(&self, size_bytes: u64) -> bool {
        segment_count(size_bytes, self.segment_bytes) > self.segments.len() as u64
    }

    /// The fewest copies to go on with: a majority of those wanted, unless its owner has said otherwise.
    pub fn fewest_replicas(&self) -> u32 {
        let majority = quorum::majority(usize::try_from(self.replicas).unwrap_or(usize::MAX));
        self.min_replicas.unwrap_or(u32::try_from(majority).unwrap_or(u32::MAX))
    }

    /// Whether a segment's voters are being changed.
    pub fn is_changing(&self) -> bool {
        self.segments.iter().any(|segment| segment.change.is_some())
    }

    /// Whether a snapshot is being taken, or waits for that.
    pub fn is_taking(&self) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.state == SnapshotState::Taking)
    }

    /// Whether a leader has something to do for it: a change or a snapshot to bring to its end, a steward to appoint or to
    /// relieve, or, when a node goes, one copy to go on with.
    pub(crate) fn is_tended(&self) -> bool {
        let steward = self.attachment.as_ref().is_some_and(|attachment| attachment.steward);
        let may_shrink = self.replicas > 1 && self.fewest_replicas() == 1;
        let has_work = steward || self.dirty || may_shrink || self.is_taking() || self.is_changing();
        !self.deleting && has_work
    }

    /// The snapshot of this name.
    pub fn snapshot_named(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    /// Every replica, with the segment it is a copy of; those that are to be dropped, too.
    pub fn replicas(&self) -> impl Iterator<Item = (SegmentId, Generation, &Replica)> {
        self.segments.iter().enumerate().flat_map(|(index, segment)| {
            let id = SegmentId { volume: self.id, index: u32::try_from(index).unwrap_or(u32::MAX) };
            segment.replicas.iter().map(move |replica| (id, segment.generation, replica))
        })
    }

    /// Every replica, to change.
    pub(crate) fn replicas_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.segments.iter_mut().flat_map(|segment| segment.replicas.iter_mut())
    }

    /// Since which epoch the gateway that it is attached to for clients has had it without a break.
    pub fn unbroken_since(&self) -> Option<Epoch> {
        let serving = self.attachment.as_ref().filter(|attachment| !attachment.steward)?;
        // There is always one: whoever attaches for clients begins it or goes on with it.
        Some(self.run.as_ref().map_or(serving.epoch, |run| run.since))
    }

    /// Puts another attachment, or none, in the place of the present one. A snapshot that was being taken ends with it, for
    /// its records are in the streams of that epoch alone; one that waited for an attachment is taken by the next.
    ///
    /// A steward (rule C4) breaks no run: it has no clients that could write.
    pub(crate) fn set_attachment(&mut self, next: Option<Attachment>) {
        self.snapshots.retain(|snapshot| snapshot.state == SnapshotState::Ready || snapshot.epoch.is_none());
        if let Some(next) = &next {
            self.epoch = next.epoch;
            let waiting = self.snapshots.iter_mut().filter(|snapshot| snapshot.epoch.is_none());
            waiting.for_each(|snapshot| snapshot.epoch = Some(next.epoch));
            let goes_on = next.steward || self.run.as_ref().is_some_and(|run| run.gateway == next.gateway);
            if !goes_on {
                self.run = Some(Run { gateway: next.gateway.clone(), since: next.epoch });
            }
        }
        self.attachment = next;
    }
}

/// How many segments of the given size hold a volume.
pub fn segment_count(size_bytes: u64, segment_bytes: u64) -> u64 {
    size_bytes.div_ceil(segment_bytes)
}
