//! What the cluster manager wants of a storage node.

use quoin_storage_node::node::{Assignment, KeptSnapshots, Wanted};
use quoin_types::{EXTENT_BYTES, Generation, ReplicaId, SegmentId, VolumeId};

/// A replica to be created, of a segment of so many extents: the first of the volume of the same number.
pub(crate) fn assignment(replica: ReplicaId, extents: u64) -> Assignment {
    Assignment {
        replica,
        segment: SegmentId { volume: VolumeId(replica.0), index: 0 },
        generation: Generation(1),
        segment_bytes: extents * EXTENT_BYTES,
        wanted: Wanted::Created,
        snapshots: KeptSnapshots::default(),
    }
}
