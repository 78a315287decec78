//! Attachments, runs of them, and snapshots of volumes, as snapshots of the state have them.

use super::{CodecError, instance};
use crate::volume::{Attachment, Run, Snapshot, SnapshotState};
use quoin_api::v1;
use quoin_types::{Epoch, GatewayId, SnapshotId};

pub(super) fn attachment_to_message(attachment: &Attachment) -> v1::StateAttachment {
    v1::StateAttachment {
        gateway: attachment.gateway.0.clone(),
        instance: attachment.instance.0.to_vec(),
        epoch: attachment.epoch.0,
        lossy: attachment.lossy,
        steward: attachment.steward,
    }
}

pub(super) fn attachment_from_message(m: v1::StateAttachment) -> Result<Attachment, CodecError> {
    Ok(Attachment {
        gateway: GatewayId(m.gateway),
        instance: instance(&m.instance)?,
        epoch: Epoch(m.epoch),
        lossy: m.lossy,
        steward: m.steward,
    })
}

pub(super) fn run_to_message(run: &Run) -> v1::StateRun {
    v1::StateRun { gateway: run.gateway.0.clone(), since: run.since.0 }
}

pub(super) fn run_from_message(m: v1::StateRun) -> Run {
    Run { gateway: GatewayId(m.gateway), since: Epoch(m.since) }
}

/// A snapshot as every message has it.
pub fn to_message(snapshot: &Snapshot) -> v1::Snapshot {
    v1::Snapshot {
        id: snapshot.id.0,
        name: snapshot.name.clone(),
        state: state(snapshot.state).into(),
        epoch: snapshot.epoch.map_or(0, |epoch| epoch.0),
        size_bytes: snapshot.size_bytes,
    }
}

pub(super) fn from_message(m: v1::Snapshot) -> Result<Snapshot, CodecError> {
    Ok(Snapshot {
        id: SnapshotId(m.id),
        state: match v1::SnapshotState::try_from(m.state) {
            Ok(v1::SnapshotState::Taking) => SnapshotState::Taking,
            Ok(v1::SnapshotState::Ready) => SnapshotState::Ready,
            Ok(v1::SnapshotState::Unspecified) => return Err(CodecError::Field("state of a snapshot")),
            Err(_) => return Err(CodecError::Unknown("state of a snapshot")),
        },
        name: m.name,
        epoch: Some(Epoch(m.epoch)).filter(|epoch| *epoch != Epoch::ZERO),
        size_bytes: m.size_bytes,
    })
}

fn state(state: SnapshotState) -> v1::SnapshotState {
    match state {
        SnapshotState::Taking => v1::SnapshotState::Taking,
        SnapshotState::Ready => v1::SnapshotState::Ready,
    }
}
