//! Changes of configurations, as commands have them.

use super::CodecError;
use crate::command::{SegmentAt, SegmentChange};
use quoin_api::v1;
use quoin_types::{Epoch, Generation, NodeId, ReplicaId, VolumeId};

pub(super) fn at_to_message(at: SegmentAt) -> v1::SegmentAt {
    v1::SegmentAt { index: at.index, generation: at.generation.0 }
}

pub(super) fn at_from_message(m: &v1::SegmentAt) -> SegmentAt {
    SegmentAt { index: m.index, generation: Generation(m.generation) }
}

pub(super) fn to_message(change: &SegmentChange) -> v1::SegmentChange {
    v1::SegmentChange {
        at: Some(at_to_message(change.at)),
        add: change.add.iter().map(|node| node.0).collect(),
        remove: change.remove.iter().map(|replica| replica.0).collect(),
    }
}

pub(super) fn from_message(m: v1::SegmentChange) -> Result<SegmentChange, CodecError> {
    Ok(SegmentChange {
        at: at_from_message(&m.at.ok_or(CodecError::Field("segment"))?),
        add: m.add.into_iter().map(NodeId).collect(),
        remove: m.remove.into_iter().map(ReplicaId).collect(),
    })
}

pub(super) fn step_to_message(volume: VolumeId, epoch: Epoch, segments: &[SegmentAt]) -> v1::StepCommand {
    let segments = segments.iter().map(|at| at_to_message(*at)).collect();
    v1::StepCommand { volume: volume.0, epoch: epoch.0, segments }
}

pub(super) fn step_from_message(m: &v1::StepCommand) -> (VolumeId, Epoch, Vec<SegmentAt>) {
    (VolumeId(m.volume), Epoch(m.epoch), m.segments.iter().map(at_from_message).collect())
}
