//! A volume, its segments and their replicas.

use quoin_types::{
    DiskId, Durability, Epoch, GatewayId, Generation, InstanceId, NodeId, ReplicaId, SegmentId, VolumeId,
};

/// How far a replica has come. Only ever moves forward (rule C2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ReplicaState {
    /// The storage node is to create it. Nobody has written to it.
    Creating,
    /// It exists on its disk, and is never created again under this id.
    Ready,
    /// The storage node is to drop it.
    Dropping,
}

/// One copy of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Never reused.
    pub id: ReplicaId,
    /// The node it was placed on.
    pub node: NodeId,
    /// The very disk it was placed on: another disk in the same node never answers for it.
    pub disk: DiskId,
    /// How far it has come.
    pub state: ReplicaState,
}

/// A slice of a volume, with its voters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The number of this configuration.
    pub generation: Generation,
    /// The voters.
    pub replicas: Vec<Replica>,
}

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
    /// Copies wanted of each segment.
    pub replicas: u32,
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
    /// The slices, in order; while growing also those not yet served.
    pub segments: Vec<Segment>,
    /// The state's revision at the last change.
    pub revision: u64,
}

impl Volume {
    /// How far the volume has come.
    pub fn stage(&self) -> VolumeStage {
        let all_ready = |segment: &Segment| segment.replicas.iter().all(|r| r.state == ReplicaState::Ready);
        if self.deleting {
            VolumeStage::Deleting
        } else if self.served_segments().iter().all(all_ready) {
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

    /// Whether the volume needs more segments than it has to be of this size.
    pub fn lacks_segments_for(&self, size_bytes: u64) -> bool {
        segment_count(size_bytes, self.segment_bytes) > self.segments.len() as u64
    }

    /// Every replica, with the segment it is a copy of.
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
}

/// How many segments of the given size hold a volume.
pub fn segment_count(size_bytes: u64, segment_bytes: u64) -> u64 {
    size_bytes.div_ceil(segment_bytes)
}
