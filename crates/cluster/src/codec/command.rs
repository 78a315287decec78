//! Entries of the log.

use super::{
    CodecError, change, cluster, disk, durability, health, instance, instance_bytes, optional_instance,
    random_16,
};
use crate::command::{Candidate, Command, Proposal, RegisterNode, RequestId};
use crate::health::{ClusterTime, HealthChange};
use prost::Message as _;
use quoin_api::v1;
use quoin_api::v1::proposal::Command as Message;
use quoin_types::{Epoch, GatewayId, NodeId, ReplicaId, SnapshotId, VolumeId};

impl Proposal {
    /// The proposal as an entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let command = Some(to_message(&self.command));
        v1::Proposal { request_id: self.request.0.to_vec(), command }.encode_to_vec()
    }

    /// A proposal from an entry's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let message = v1::Proposal::decode(bytes)?;
        let request = RequestId(random_16(&message.request_id, "request_id")?);
        let command = from_message(message.command.ok_or(CodecError::Unknown("command"))?)?;
        Ok(Self { request, command })
    }
}

fn to_message(command: &Command) -> Message {
    match command {
        Command::InitCluster { cluster_id, managers } => {
            let managers =
                managers.iter().map(|(id, address)| v1::StateManager { id: *id, address: address.clone() });
            Message::InitCluster(v1::InitClusterCommand {
                cluster_id: cluster_id.0.to_vec(),
                managers: managers.collect(),
            })
        }
        Command::RegisterNode(node) => Message::RegisterNode(register_to_message(node)),
        Command::ReportReplicas { node, disk, created, dropped } => {
            Message::ReportReplicas(v1::ReportReplicasCommand {
                node: node.0,
                disk: disk.0.to_vec(),
                created: created.iter().map(|id| id.0).collect(),
                dropped: dropped.iter().map(|id| id.0).collect(),
            })
        }
        Command::CreateVolume {
            name,
            size_bytes,
            segment_bytes,
            replicas,
            min_replicas,
            durability,
            candidates,
        } => Message::CreateVolume(v1::CreateVolumeCommand {
            name: name.clone(),
            size_bytes: *size_bytes,
            segment_bytes: *segment_bytes,
            replicas: *replicas,
            min_replicas: min_replicas.unwrap_or(0),
            durability: v1::Durability::from(*durability).into(),
            candidates: candidates_to_message(candidates),
        }),
        Command::DeleteVolume { name, expected_epoch } => Message::DeleteVolume(v1::DeleteVolumeCommand {
            name: name.clone(),
            expected_epoch: expected_epoch.map(|epoch| epoch.0),
        }),
        Command::ResizeVolume { name, size_bytes, candidates } => {
            Message::ResizeVolume(v1::ResizeVolumeCommand {
                name: name.clone(),
                size_bytes: *size_bytes,
                candidates: candidates_to_message(candidates),
            })
        }
        Command::Attach { volume, gateway, instance, expected_epoch } => Message::Attach(v1::AttachCommand {
            volume: volume.clone(),
            gateway: gateway.0.clone(),
            instance: instance.0.to_vec(),
            expected_epoch: expected_epoch.0,
        }),
        Command::Detach { volume, gateway, epoch, clean } => Message::Detach(v1::DetachCommand {
            volume: volume.clone(),
            gateway: gateway.0.clone(),
            epoch: epoch.0,
            clean: *clean,
        }),
        Command::AssignSteward { volume, gateway, instance, expected_epoch } => {
            Message::AssignSteward(v1::AssignStewardCommand {
                volume: volume.0,
                gateway: gateway.0.clone(),
                instance: instance.0.to_vec(),
                expected_epoch: expected_epoch.0,
            })
        }
        Command::MarkLossy { volume, epoch } => {
            Message::MarkLossy(v1::MarkLossyCommand { volume: volume.0, epoch: epoch.0 })
        }
        Command::BeginChange { volume, epoch, replicas, segments } => {
            Message::BeginChange(v1::BeginChangeCommand {
                volume: volume.0,
                epoch: epoch.0,
                replicas: replicas.unwrap_or(0),
                segments: segments.iter().map(change::to_message).collect(),
            })
        }
        Command::EnterJoint { volume, epoch, segments } => {
            Message::EnterJoint(change::step_to_message(*volume, *epoch, segments))
        }
        Command::FinishChange { volume, epoch, segments } => {
            Message::FinishChange(change::step_to_message(*volume, *epoch, segments))
        }
        Command::AbortChange { volume, epoch, segments } => {
            Message::AbortChange(change::step_to_message(*volume, *epoch, segments))
        }
        Command::Shrink { volume, epoch, segment, remove } => Message::Shrink(v1::ShrinkCommand {
            volume: volume.0,
            epoch: epoch.0,
            segment: Some(change::at_to_message(*segment)),
            remove: remove.0,
        }),
        Command::BeginSnapshot { volume, name } => {
            Message::BeginSnapshot(v1::BeginSnapshotCommand { volume: volume.clone(), name: name.clone() })
        }
        Command::CommitSnapshot { volume, snapshot, epoch } => {
            Message::CommitSnapshot(v1::CommitSnapshotCommand {
                volume: volume.0,
                snapshot: snapshot.0,
                epoch: epoch.0,
            })
        }
        Command::DeleteSnapshot { volume, name } => {
            Message::DeleteSnapshot(v1::DeleteSnapshotCommand { volume: volume.clone(), name: name.clone() })
        }
        Command::ChangeHealth { at, changes } => Message::ChangeHealth(v1::ChangeHealthCommand {
            cluster_time_ms: at.as_millis(),
            changes: changes.iter().map(change_to_message).collect(),
        }),
    }
}

fn from_message(message: Message) -> Result<Command, CodecError> {
    Ok(match message {
        Message::InitCluster(m) => Command::InitCluster {
            cluster_id: cluster(&m.cluster_id)?,
            managers: m.managers.into_iter().map(|manager| (manager.id, manager.address)).collect(),
        },
        Message::RegisterNode(m) => Command::RegisterNode(register_from_message(m)?),
        Message::ReportReplicas(m) => Command::ReportReplicas {
            node: NodeId(m.node),
            disk: disk(&m.disk)?,
            created: m.created.into_iter().map(ReplicaId).collect(),
            dropped: m.dropped.into_iter().map(ReplicaId).collect(),
        },
        Message::CreateVolume(m) => Command::CreateVolume {
            name: m.name,
            size_bytes: m.size_bytes,
            segment_bytes: m.segment_bytes,
            replicas: m.replicas,
            min_replicas: Some(m.min_replicas).filter(|min| *min > 0),
            durability: durability(m.durability)?,
            candidates: candidates_from_message(&m.candidates),
        },
        Message::DeleteVolume(m) => {
            Command::DeleteVolume { name: m.name, expected_epoch: m.expected_epoch.map(Epoch) }
        }
        Message::ResizeVolume(m) => Command::ResizeVolume {
            name: m.name,
            size_bytes: m.size_bytes,
            candidates: candidates_from_message(&m.candidates),
        },
        Message::Attach(m) => Command::Attach {
            volume: m.volume,
            gateway: GatewayId(m.gateway),
            instance: instance(&m.instance)?,
            expected_epoch: Epoch(m.expected_epoch),
        },
        Message::Detach(m) => Command::Detach {
            volume: m.volume,
            gateway: GatewayId(m.gateway),
            epoch: Epoch(m.epoch),
            clean: m.clean,
        },
        Message::AssignSteward(m) => Command::AssignSteward {
            volume: VolumeId(m.volume),
            gateway: GatewayId(m.gateway),
            instance: instance(&m.instance)?,
            expected_epoch: Epoch(m.expected_epoch),
        },
        Message::BeginChange(m) => Command::BeginChange {
            volume: VolumeId(m.volume),
            epoch: Epoch(m.epoch),
            replicas: Some(m.replicas).filter(|replicas| *replicas > 0),
            segments: m.segments.into_iter().map(change::from_message).collect::<Result<_, _>>()?,
        },
        Message::EnterJoint(m) => {
            let (volume, epoch, segments) = change::step_from_message(&m);
            Command::EnterJoint { volume, epoch, segments }
        }
        Message::FinishChange(m) => {
            let (volume, epoch, segments) = change::step_from_message(&m);
            Command::FinishChange { volume, epoch, segments }
        }
        Message::AbortChange(m) => {
            let (volume, epoch, segments) = change::step_from_message(&m);
            Command::AbortChange { volume, epoch, segments }
        }
        Message::Shrink(m) => Command::Shrink {
            volume: VolumeId(m.volume),
            epoch: Epoch(m.epoch),
            segment: change::at_from_message(&m.segment.ok_or(CodecError::Field("segment"))?),
            remove: ReplicaId(m.remove),
        },
        Message::BeginSnapshot(m) => Command::BeginSnapshot { volume: m.volume, name: m.name },
        Message::CommitSnapshot(m) => Command::CommitSnapshot {
            volume: VolumeId(m.volume),
            snapshot: SnapshotId(m.snapshot),
            epoch: Epoch(m.epoch),
        },
        Message::DeleteSnapshot(m) => Command::DeleteSnapshot { volume: m.volume, name: m.name },
        Message::MarkLossy(m) => Command::MarkLossy { volume: VolumeId(m.volume), epoch: Epoch(m.epoch) },
        Message::ChangeHealth(m) => Command::ChangeHealth {
            at: ClusterTime::from_millis(m.cluster_time_ms),
            changes: m.changes.iter().map(change_from_message).collect::<Result<_, _>>()?,
        },
    })
}

fn register_to_message(node: &RegisterNode) -> v1::RegisterNodeCommand {
    v1::RegisterNodeCommand {
        cluster_id: node.cluster_id.0.to_vec(),
        name: node.name.clone(),
        disk: node.disk.0.to_vec(),
        start_count: node.start_count,
        instance: instance_bytes(node.instance),
        data_address: node.data_address.clone(),
        admin_address: node.admin_address.clone(),
        zone: node.zone.clone(),
        capacity_bytes: node.capacity_bytes,
        version: node.version.clone(),
    }
}

fn register_from_message(m: v1::RegisterNodeCommand) -> Result<RegisterNode, CodecError> {
    Ok(RegisterNode {
        cluster_id: cluster(&m.cluster_id)?,
        name: m.name,
        disk: disk(&m.disk)?,
        start_count: m.start_count,
        instance: optional_instance(&m.instance)?,
        data_address: m.data_address,
        admin_address: m.admin_address,
        zone: m.zone,
        capacity_bytes: m.capacity_bytes,
        version: m.version,
    })
}

fn change_to_message(change: &HealthChange) -> v1::NodeHealthChange {
    v1::NodeHealthChange {
        node: change.node.0,
        disk: change.disk.0.to_vec(),
        start_count: change.start_count,
        known: health::to_message(change.known).into(),
        health: health::to_message(change.absent).into(),
    }
}

fn change_from_message(m: &v1::NodeHealthChange) -> Result<HealthChange, CodecError> {
    Ok(HealthChange {
        node: NodeId(m.node),
        disk: disk(&m.disk)?,
        start_count: m.start_count,
        known: health::from_message(m.known)?,
        absent: health::from_message(m.health)?,
    })
}

fn candidates_to_message(candidates: &[Candidate]) -> Vec<v1::PlacementCandidate> {
    candidates
        .iter()
        .map(|candidate| v1::PlacementCandidate { node: candidate.node.0, free_bytes: candidate.free_bytes })
        .collect()
}

fn candidates_from_message(candidates: &[v1::PlacementCandidate]) -> Vec<Candidate> {
    candidates
        .iter()
        .map(|candidate| Candidate { node: NodeId(candidate.node), free_bytes: candidate.free_bytes })
        .collect()
}
