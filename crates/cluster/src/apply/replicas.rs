//! What storage nodes report about their replicas.

use crate::command::Outcome;
use crate::refusal::Refusal;
use crate::segment::{Replica, ReplicaState, Segment};
use crate::state::State;
use crate::volume::Volume;
use quoin_types::{DiskId, NodeId, ReplicaId, VolumeId};
use std::collections::BTreeSet;

/// Takes note of replicas that were created or dropped. Idempotent: what does not fit the replica's state (a drop that
/// nobody asked for, a creation reported twice, a replica long gone) changes nothing.
pub(super) fn report(
    state: &mut State,
    node: NodeId,
    disk: DiskId,
    created: &[ReplicaId],
    dropped: &[ReplicaId],
) -> Result<Outcome, Refusal> {
    let known = state.nodes.get(&node).ok_or(Refusal::NodeUnknown(node))?.disk;
    if known != disk {
        return Err(Refusal::DiskMismatch { node, disk, known });
    }
    let created: BTreeSet<_> = created.iter().copied().collect();
    let dropped: BTreeSet<_> = dropped.iter().copied().collect();
    let on_disk = |replica: &Replica| replica.node == node && replica.disk == disk;
    let is_new = |replica: &Replica| {
        on_disk(replica) && replica.state == ReplicaState::Creating && created.contains(&replica.id)
    };
    let is_gone = |replica: &Replica| {
        on_disk(replica) && replica.state == ReplicaState::Dropping && dropped.contains(&replica.id)
    };
    let touched: BTreeSet<VolumeId> = state
        .replicas_on(node)
        .filter(|(.., replica)| is_new(replica) || is_gone(replica))
        .map(|(volume, ..)| volume.id)
        .collect();
    for volume in touched {
        state.change_volume(volume, |volume| {
            for segment in &mut volume.segments {
                segment.replicas.retain(|replica| !is_gone(replica));
            }
            volume.replicas_mut().filter(|replica| is_new(replica)).for_each(|replica| {
                replica.state = ReplicaState::Ready;
            });
            finish_growing(volume);
        });
    }
    Ok(Outcome::Done)
}

/// The larger size counts once every voter of the new segments exists.
fn finish_growing(volume: &mut Volume) {
    if !volume.deleting
        && volume.segments.iter().all(Segment::voters_exist)
        && let Some(size_bytes) = volume.growing_to_bytes.take()
    {
        volume.size_bytes = size_bytes;
    }
}
