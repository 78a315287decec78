//! The cluster manager's words for what a storage node knows.

use crate::node::{Assignment, KeptSnapshots, Wanted};
use quoin_api::v1::{ReplicaAssignments, ReplicaState};
use quoin_types::{Generation, ReplicaId, SegmentId, SnapshotId, VolumeId};

/// What belongs on a disk. What makes no sense is left out.
pub fn assignments(assignments: &ReplicaAssignments) -> Vec<Assignment> {
    assignments
        .replicas
        .iter()
        .filter_map(|assignment| {
            let wanted = match assignment.state() {
                ReplicaState::Creating => Wanted::Created,
                ReplicaState::Ready => Wanted::Kept,
                ReplicaState::Dropping => Wanted::Dropped,
                ReplicaState::Unspecified => return None,
            };
            Some(Assignment {
                replica: ReplicaId(assignment.replica),
                segment: SegmentId { volume: VolumeId(assignment.volume), index: assignment.segment },
                generation: Generation(assignment.generation),
                segment_bytes: assignment.segment_bytes,
                wanted,
                snapshots: KeptSnapshots {
                    ids: assignment.snapshots.iter().copied().map(SnapshotId).collect(),
                    up_to: SnapshotId(assignment.snapshots_to),
                },
            })
        })
        .collect()
}
