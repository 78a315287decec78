//! Snapshots of the state.

use super::{
    CodecError, cluster, disk, durability, health, instance_bytes, optional_instance, random_16, segment,
    snapshot,
};
use crate::command::{Outcome, Previous, RequestId};
use crate::health::{Absence, ClusterTime, Health};
use crate::index::Index;
use crate::requests::AnsweredRequests;
use crate::state::{Counters, Node, State};
use crate::volume::{Attachment, Run, Volume};
use prost::Message as _;
use quoin_api::v1;
use quoin_types::{Epoch, NodeId, SnapshotId, VolumeId};

pub use super::segment::replica_state;

/// The format written. A snapshot with a higher number is refused.
pub const FORMAT: u32 = 4;
/// The oldest format read. In it nodes have no health, and count as online; before 3 no volume had a snapshot, a steward or
/// a change of its replicas; before 4 it was not known for how long a gateway had had a volume without a break.
const FORMAT_MIN: u32 = 1;

pub(crate) fn to_message(state: &State) -> v1::StateSnapshot {
    let managers = state.managers.iter();
    v1::StateSnapshot {
        format: FORMAT,
        revision: state.revision,
        cluster_id: state.cluster_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        next_volume: state.counters.volume,
        next_replica: state.counters.replica,
        next_node: state.counters.node,
        next_snapshot: state.counters.snapshot,
        managers: managers
            .map(|(id, address)| v1::StateManager { id: *id, address: address.clone() })
            .collect(),
        nodes: state.nodes.values().map(node_to_message).collect(),
        volumes: state.volumes.values().map(volume_to_message).collect(),
        retired_disks: state
            .retired_disks
            .iter()
            .map(|(disk, node)| v1::RetiredDisk { disk: disk.0.to_vec(), node: node.0 })
            .collect(),
        answered: state.answered.iter().map(answered_to_message).collect(),
        cluster_time_ms: state.time.as_millis(),
    }
}

pub(crate) fn from_bytes(bytes: &[u8]) -> Result<State, CodecError> {
    let message = v1::StateSnapshot::decode(bytes)?;
    if !(FORMAT_MIN..=FORMAT).contains(&message.format) {
        return Err(CodecError::Unknown("format of the snapshot"));
    }
    let mut state = State {
        revision: message.revision,
        cluster_id: if message.cluster_id.is_empty() { None } else { Some(cluster(&message.cluster_id)?) },
        counters: Counters {
            volume: message.next_volume,
            replica: message.next_replica,
            node: message.next_node,
            snapshot: message.next_snapshot,
        },
        time: ClusterTime::from_millis(message.cluster_time_ms),
        managers: message.managers.into_iter().map(|manager| (manager.id, manager.address)).collect(),
        ..State::default()
    };
    for node in message.nodes {
        state.nodes.insert(NodeId(node.id), node_from_message(node)?);
    }
    for volume in message.volumes {
        state.volumes.insert(VolumeId(volume.id), volume_from_message(volume)?);
    }
    for retired in message.retired_disks {
        state.retired_disks.insert(disk(&retired.disk)?, NodeId(retired.node));
    }
    let mut answered = AnsweredRequests::default();
    for request in message.answered {
        let (id, outcome) = answered_from_message(&request)?;
        answered.insert(id, outcome);
    }
    state.answered = answered;
    state.index = Index::build(&state.volumes, state.revision);
    Ok(state)
}

fn node_to_message(node: &Node) -> v1::StateNode {
    v1::StateNode {
        id: node.id.0,
        name: node.name.clone(),
        disk: node.disk.0.to_vec(),
        start_count: node.start_count,
        instance: instance_bytes(node.instance),
        data_address: node.data_address.clone(),
        admin_address: node.admin_address.clone(),
        zone: node.zone.clone(),
        capacity_bytes: node.capacity_bytes,
        version: node.version.clone(),
        health: health::to_message(node.health.cause()).into(),
        unreachable_since_ms: node.health.absence().map_or(0, |absence| absence.since.as_millis()),
    }
}

fn node_from_message(m: v1::StateNode) -> Result<Node, CodecError> {
    let since = ClusterTime::from_millis(m.unreachable_since_ms);
    let absence = health::from_message(m.health)?.map(|cause| Absence { cause, since });
    Ok(Node {
        id: NodeId(m.id),
        name: m.name,
        disk: disk(&m.disk)?,
        start_count: m.start_count,
        instance: optional_instance(&m.instance)?,
        data_address: m.data_address,
        admin_address: m.admin_address,
        zone: m.zone,
        capacity_bytes: m.capacity_bytes,
        version: m.version,
        health: absence.map_or(Health::Online, Health::Unreachable),
    })
}

fn volume_to_message(volume: &Volume) -> v1::StateVolume {
    v1::StateVolume {
        id: volume.id.0,
        name: volume.name.clone(),
        size_bytes: volume.size_bytes,
        segment_bytes: volume.segment_bytes,
        replicas: volume.replicas,
        durability: v1::Durability::from(volume.durability).into(),
        deleting: volume.deleting,
        growing_to_bytes: volume.growing_to_bytes.unwrap_or(0),
        epoch: volume.epoch.0,
        attachment: volume.attachment.as_ref().map(snapshot::attachment_to_message),
        segments: volume.segments.iter().map(segment::to_message).collect(),
        revision: volume.revision,
        snapshots: volume.snapshots.iter().map(snapshot::to_message).collect(),
        dirty: volume.dirty,
        min_replicas: volume.min_replicas.unwrap_or(0),
        run: volume.run.as_ref().map(snapshot::run_to_message),
    }
}

fn volume_from_message(m: v1::StateVolume) -> Result<Volume, CodecError> {
    if m.segment_bytes == 0 {
        return Err(CodecError::Field("segment_bytes"));
    }
    let attachment = m.attachment.map(snapshot::attachment_from_message).transpose()?;
    let run = m.run.map(snapshot::run_from_message).or_else(|| attachment.as_ref().and_then(begun_run));
    Ok(Volume {
        id: VolumeId(m.id),
        name: m.name,
        size_bytes: m.size_bytes,
        segment_bytes: m.segment_bytes,
        replicas: m.replicas,
        min_replicas: Some(m.min_replicas).filter(|min| *min > 0),
        durability: durability(m.durability)?,
        deleting: m.deleting,
        growing_to_bytes: Some(m.growing_to_bytes).filter(|bytes| *bytes > 0),
        epoch: Epoch(m.epoch),
        attachment,
        run,
        dirty: m.dirty,
        segments: m.segments.iter().map(segment::from_message).collect::<Result<_, _>>()?,
        snapshots: m.snapshots.into_iter().map(snapshot::from_message).collect::<Result<_, _>>()?,
        revision: m.revision,
    })
}

/// What was before an attachment is not known before format 4: its run begins with it.
fn begun_run(attachment: &Attachment) -> Option<Run> {
    let (gateway, since) = (attachment.gateway.clone(), attachment.epoch);
    (!attachment.steward).then_some(Run { gateway, since })
}

fn answered_to_message((request, outcome): (RequestId, Outcome)) -> v1::AnsweredRequest {
    use v1::answered_request::Outcome as Message;
    let outcome = match outcome {
        Outcome::Done => Message::Done(v1::DoneOutcome {}),
        Outcome::Node(node) => Message::Node(v1::NodeOutcome { node: node.0 }),
        Outcome::Volume(volume) => Message::Volume(v1::VolumeOutcome { volume: volume.0 }),
        Outcome::Snapshot(snapshot) => Message::Snapshot(v1::SnapshotOutcome { snapshot: snapshot.0 }),
        Outcome::Attached { volume, epoch, previous } => Message::Attached(v1::AttachedOutcome {
            volume: volume.0,
            epoch: epoch.0,
            previous_epoch: previous.map_or(0, |previous| previous.epoch.0),
            previous_instance: instance_bytes(previous.map(|previous| previous.instance)),
        }),
    };
    v1::AnsweredRequest { request_id: request.0.to_vec(), outcome: Some(outcome) }
}

fn answered_from_message(m: &v1::AnsweredRequest) -> Result<(RequestId, Outcome), CodecError> {
    use v1::answered_request::Outcome as Message;
    let request = RequestId(random_16(&m.request_id, "request_id")?);
    let outcome = match m.outcome.as_ref().ok_or(CodecError::Unknown("outcome of a request"))? {
        Message::Done(_) => Outcome::Done,
        Message::Node(m) => Outcome::Node(NodeId(m.node)),
        Message::Volume(m) => Outcome::Volume(VolumeId(m.volume)),
        Message::Snapshot(m) => Outcome::Snapshot(SnapshotId(m.snapshot)),
        Message::Attached(m) => Outcome::Attached {
            volume: VolumeId(m.volume),
            epoch: Epoch(m.epoch),
            previous: optional_instance(&m.previous_instance)?
                .map(|instance| Previous { epoch: Epoch(m.previous_epoch), instance }),
        },
    };
    Ok((request, outcome))
}
