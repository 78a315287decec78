//! Snapshots: allotted, taken by an attachment, kept.

use super::living;
use crate::command::Outcome;
use crate::refusal::Refusal;
use crate::rules;
use crate::state::State;
use crate::volume::{Snapshot, SnapshotState, VolumeStage};
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{Epoch, SnapshotId, VolumeId};

/// The present attachment takes it, or, if the volume has none, the next one: the leader gives it a steward for that.
pub(super) fn begin(state: &mut State, volume: &str, name: &str) -> Result<Outcome, Refusal> {
    rules::check_snapshot_name(name)?;
    let found = state.volume_named(volume).ok_or_else(|| Refusal::VolumeUnknown(volume.to_owned()))?;
    if found.stage() != VolumeStage::Ready {
        return Err(Refusal::VolumeNotReady(volume.to_owned()));
    }
    if found.snapshot_named(name).is_some() {
        return Err(Refusal::SnapshotExists { volume: volume.to_owned(), name: name.to_owned() });
    }
    if found.snapshots.len() >= SNAPSHOTS_MAX {
        return Err(Refusal::TooManySnapshots(volume.to_owned()));
    }
    let (volume, size_bytes) = (found.id, found.size_bytes);
    let epoch = found.attachment.as_ref().map(|attachment| attachment.epoch);
    let id = state.next_snapshot();
    let name = name.to_owned();
    state.change_volume(volume, |volume| {
        volume.snapshots.push(Snapshot { id, name, state: SnapshotState::Taking, epoch, size_bytes });
    });
    Ok(Outcome::Snapshot(id))
}

/// Idempotent. Under any other epoch than the one that took it, it is gone.
pub(super) fn commit(
    state: &mut State,
    volume: VolumeId,
    id: SnapshotId,
    epoch: Epoch,
) -> Result<Outcome, Refusal> {
    let found = living(state, volume)?;
    let snapshot = found.snapshots.iter().find(|snapshot| snapshot.id == id);
    let known = snapshot.filter(|snapshot| snapshot.epoch == Some(epoch)).ok_or(Refusal::SnapshotEnded)?;
    if known.state == SnapshotState::Taking {
        state.change_volume(volume, |volume| {
            let taken = volume.snapshots.iter_mut().filter(|snapshot| snapshot.id == id);
            taken.for_each(|snapshot| snapshot.state = SnapshotState::Ready);
        });
    }
    Ok(Outcome::Snapshot(id))
}

pub(super) fn delete(state: &mut State, volume: &str, name: &str) -> Result<Outcome, Refusal> {
    let found = state.volume_named(volume).ok_or_else(|| Refusal::VolumeUnknown(volume.to_owned()))?;
    let unknown = || Refusal::SnapshotUnknown { volume: volume.to_owned(), name: name.to_owned() };
    let (id, snapshot) = (found.id, found.snapshot_named(name).ok_or_else(unknown)?.id);
    state.change_volume(id, |volume| volume.snapshots.retain(|known| known.id != snapshot));
    Ok(Outcome::Snapshot(snapshot))
}
