//! Segments, as snapshots of the state have them.

use super::{CodecError, disk};
use crate::segment::{Change, ChangeStage, Replica, ReplicaState, Segment};
use quoin_api::v1;
use quoin_types::{Generation, NodeId, ReplicaId};

pub(super) fn to_message(segment: &Segment) -> v1::StateSegment {
    let replica = |replica: &Replica| v1::StateReplica {
        id: replica.id.0,
        node: replica.node.0,
        disk: replica.disk.0.to_vec(),
        state: replica_state(replica.state).into(),
    };
    v1::StateSegment {
        generation: segment.generation.0,
        replicas: segment.replicas.iter().map(replica).collect(),
        change: segment.change.as_ref().map(change_to_message),
    }
}

pub(super) fn from_message(m: &v1::StateSegment) -> Result<Segment, CodecError> {
    let replica = |m: &v1::StateReplica| {
        Ok(Replica {
            id: ReplicaId(m.id),
            node: NodeId(m.node),
            disk: disk(&m.disk)?,
            state: match v1::ReplicaState::try_from(m.state) {
                Ok(v1::ReplicaState::Creating) => ReplicaState::Creating,
                Ok(v1::ReplicaState::Ready) => ReplicaState::Ready,
                Ok(v1::ReplicaState::Dropping) => ReplicaState::Dropping,
                Ok(v1::ReplicaState::Unspecified) => return Err(CodecError::Field("state of a replica")),
                Err(_) => return Err(CodecError::Unknown("state of a replica")),
            },
        })
    };
    Ok(Segment {
        generation: Generation(m.generation),
        replicas: m.replicas.iter().map(replica).collect::<Result<_, CodecError>>()?,
        change: m.change.as_ref().map(change_from_message).transpose()?,
    })
}

fn change_to_message(change: &Change) -> v1::StateChange {
    let stage = match change.stage {
        ChangeStage::Filling => v1::ChangeStage::Filling,
        ChangeStage::Joint => v1::ChangeStage::Joint,
    };
    v1::StateChange {
        add: change.add.iter().map(|id| id.0).collect(),
        remove: change.remove.iter().map(|id| id.0).collect(),
        stage: stage.into(),
    }
}

fn change_from_message(m: &v1::StateChange) -> Result<Change, CodecError> {
    Ok(Change {
        add: m.add.iter().copied().map(ReplicaId).collect(),
        remove: m.remove.iter().copied().map(ReplicaId).collect(),
        stage: match v1::ChangeStage::try_from(m.stage) {
            Ok(v1::ChangeStage::Filling) => ChangeStage::Filling,
            Ok(v1::ChangeStage::Joint) => ChangeStage::Joint,
            Ok(v1::ChangeStage::Unspecified) => return Err(CodecError::Field("stage of a change")),
            Err(_) => return Err(CodecError::Unknown("stage of a change")),
        },
    })
}

/// A replica's state as every message has it.
pub fn replica_state(state: ReplicaState) -> v1::ReplicaState {
    match state {
        ReplicaState::Creating => v1::ReplicaState::Creating,
        ReplicaState::Ready => v1::ReplicaState::Ready,
        ReplicaState::Dropping => v1::ReplicaState::Dropping,
    }
}
