//! The state, joined with what is live, as people and tools see it. Time is a parameter.

use crate::live::{Live, Presence};
use quoin_api::v1;
use quoin_cluster::codec::snapshot;
use quoin_cluster::codec::state::replica_state;
use quoin_cluster::{
    Attachment, Cause, Change, ChangeStage, Node, Replica, ReplicaState, Segment, State, Volume, VolumeStage,
};
use quoin_types::{DiskId, GatewayId, Moment, NodeId, ReplicaRole};
use std::collections::BTreeSet;

/// What a view is made from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) live: &'a Live,
    pub(crate) now: Moment,
}

impl View<'_> {
    /// How a node stands.
    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        // Replicas are on nodes that the state knows, and it forgets none.
        let node = self.state.nodes().get(&node);
        node.map_or(Presence::Unreachable, |node| self.live.node_presence(node, self.now))
    }

    /// A volume with the health of its replicas and of its attachment.
    pub(crate) fn volume(&self, volume: &Volume) -> v1::Volume {
        let mut message = stored_volume(volume, &volume.segments);
        let report = self.live.attachment_report(volume);
        for segment in &mut message.segments {
            for replica in &mut segment.replicas {
                self.fill_health(replica, volume, report);
            }
        }
        if let (Some(attachment), Some(stored)) = (&mut message.attachment, &volume.attachment) {
            self.fill_attachment(attachment, stored, report);
        }
        message
    }

    fn fill_health(&self, replica: &mut v1::Replica, volume: &Volume, report: Option<&v1::AttachmentReport>) {
        let node = NodeId(replica.node);
        let reported = report.and_then(|report| report.replicas.iter().find(|r| r.replica == replica.id));
        if replica.state() == v1::ReplicaState::Dropping {
            replica.set_health(v1::ReplicaHealth::Unknown);
            replica.detail = format!("it is no copy any more: {} is to drop it", self.node_name(node));
        } else if self.presence(node) == Presence::Unreachable {
            replica.set_health(v1::ReplicaHealth::Missing);
            replica.detail = format!("{} {}", self.node_name(node), self.absence(node));
        } else if replica.state() == v1::ReplicaState::Creating {
            replica.set_health(v1::ReplicaHealth::Unknown);
            replica.detail = format!("{} has not created it yet", self.node_name(node));
        } else if let Some(reported) = reported {
            replica.set_health(reported.health());
            replica.resync_done_bytes = reported.resync_done_bytes;
            replica.resync_total_bytes = reported.resync_total_bytes;
            replica.resync_bytes_per_second = reported.resync_bytes_per_second;
            replica.detail.clone_from(&reported.detail);
        } else {
            replica.set_health(v1::ReplicaHealth::Unknown);
            replica.detail = match &volume.attachment {
                None => {
                    "the volume is detached: its storage node is online, no gateway compares it".to_owned()
                }
                Some(at) => format!("gateway {} has not reported on it yet", at.gateway),
            };
        }
    }

    fn fill_attachment(
        &self,
        message: &mut v1::Attachment,
        stored: &Attachment,
        report: Option<&v1::AttachmentReport>,
    ) {
        let gateway = &stored.gateway;
        match (self.live.gateway_presence(gateway, self.now), report) {
            (Presence::Unreachable, _) => {
                message.detail = format!("gateway {gateway} does not report any more");
            }
            (_, Some(report)) => {
                message.clients = report.clients;
                message.lossy |= report.lossy;
                message.available = report.available;
                message.detail.clone_from(&report.detail);
            }
            // A gateway that has just attached, or a leader that has just taken over: no reason to worry yet.
            (_, None) => {
                message.available = true;
                message.detail = format!("gateway {gateway} has not reported on it yet");
            }
        }
    }

    /// A storage node.
    pub(crate) fn node(&self, node: &Node) -> v1::Node {
        let presence = self.live.node_presence(node, self.now);
        let report = self.live.node_report(node);
        let silence = self.live.node_silence(node, self.now);
        let (health, detail) = match (self.live.refusal_of(node), presence) {
            (Some(why), _) => (v1::NodeHealth::Refused, why.to_owned()),
            (None, Presence::Online) => (v1::NodeHealth::Online, String::new()),
            (None, Presence::Unknown) if report.is_none() => {
                (v1::NodeHealth::Online, "not heard of since the manager's leader changed".to_owned())
            }
            (None, Presence::Unknown) => (v1::NodeHealth::Online, self.absence(node.id)),
            (None, Presence::Unreachable) => (v1::NodeHealth::Unreachable, self.absence(node.id)),
        };
        v1::Node {
            id: node.id.0,
            name: node.name.clone(),
            data_address: node.data_address.clone(),
            admin_address: node.admin_address.clone(),
            zone: node.zone.clone(),
            disk: node.disk.0.to_vec(),
            start_count: node.start_count,
            health: health.into(),
            detail,
            capacity_bytes: report.map_or(node.capacity_bytes, |report| report.capacity_bytes),
            used_bytes: report.map_or(0, |report| report.used_bytes),
            replicas: u32::try_from(self.state.replica_count_on(node.id)).unwrap_or(u32::MAX),
            last_heartbeat_age_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            version: node.version.clone(),
            damaged_extents: report.map_or(0, |report| report.damaged_extents),
        }
    }

    /// All gateways that reported lately.
    pub(crate) fn gateways(&self) -> Vec<v1::Gateway> {
        let gateway = |(id, report): (&GatewayId, &crate::live::GatewayReport)| v1::Gateway {
            id: id.0.clone(),
            instance: report.instance.0.to_vec(),
            online: self.live.gateway_presence(id, self.now) != Presence::Unreachable,
            nbd_address: report.nbd_address.clone(),
            attached_volumes: u32::try_from(self.state.volumes_attached_to(id).count()).unwrap_or(u32::MAX),
            clients: report.attachments.values().map(|attachment| attachment.clients).sum(),
            version: report.version.clone(),
        };
        self.live.gateways().iter().map(gateway).collect()
    }

    /// All volumes, tombstones included.
    pub(crate) fn volumes(&self) -> Vec<v1::Volume> {
        self.state.volumes().values().map(|volume| self.volume(volume)).collect()
    }

    /// All storage nodes.
    pub(crate) fn nodes(&self) -> Vec<v1::Node> {
        self.state.nodes().values().map(|node| self.node(node)).collect()
    }

    /// A node's name, or its id if it has none.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        self.state.nodes().get(&node).map_or_else(|| format!("node {node}"), |node| node.name.clone())
    }

    /// Why a node is not there, in words that follow its name.
    fn absence(&self, node: NodeId) -> String {
        let Some(node) = self.state.nodes().get(&node) else { return "is not known".to_owned() };
        let seconds = self.live.node_silence(node, self.now).as_secs();
        match node.health.cause() {
            Some(Cause::Left) => format!("was stopped, and is silent for {seconds} s"),
            Some(Cause::Silent) | None => format!("has not reported for {seconds} s"),
        }
    }
}

/// A volume as it is stored, with the given segments; live figures are left out.
fn stored_volume(volume: &Volume, segments: &[Segment]) -> v1::Volume {
    let state = match volume.stage() {
        VolumeStage::Creating => v1::VolumeState::Creating,
        VolumeStage::Ready => v1::VolumeState::Ready,
        VolumeStage::Deleting => v1::VolumeState::Deleting,
    };
    let indices = 0..;
    v1::Volume {
        id: volume.id.0,
        name: volume.name.clone(),
        size_bytes: volume.size_bytes,
        segment_bytes: volume.segment_bytes,
        replicas: volume.replicas,
        durability: v1::Durability::from(volume.durability).into(),
        state: state.into(),
        segments: indices.zip(segments).map(|(index, segment)| stored_segment(index, segment)).collect(),
        epoch: volume.epoch.0,
        attachment: volume.attachment.as_ref().map(|attachment| v1::Attachment {
            gateway: attachment.gateway.0.clone(),
            instance: attachment.instance.0.to_vec(),
            epoch: attachment.epoch.0,
            lossy: attachment.lossy,
            steward: attachment.steward,
            unbroken_since: volume.unbroken_since().map_or(0, |epoch| epoch.0),
            ..v1::Attachment::default()
        }),
        revision: volume.revision,
        snapshots: volume.snapshots.iter().map(snapshot::to_message).collect(),
        min_replicas: volume.min_replicas.unwrap_or(0),
    }
}

fn stored_segment(index: u32, segment: &Segment) -> v1::Segment {
    let replica = |replica: &Replica| v1::Replica {
        id: replica.id.0,
        node: replica.node.0,
        disk: replica.disk.0.to_vec(),
        state: replica_state(replica.state).into(),
        role: segment.role(replica).map_or(v1::ReplicaRole::Unspecified, role).into(),
        ..v1::Replica::default()
    };
    v1::Segment {
        index,
        generation: segment.generation.0,
        replicas: segment.replicas.iter().map(replica).collect(),
        change: segment.change.as_ref().map(stored_change),
    }
}

fn stored_change(change: &Change) -> v1::ReplicaChange {
    v1::ReplicaChange {
        add: change.add.iter().map(|id| id.0).collect(),
        remove: change.remove.iter().map(|id| id.0).collect(),
        joint: change.stage == ChangeStage::Joint,
    }
}

fn role(role: ReplicaRole) -> v1::ReplicaRole {
    match role {
        ReplicaRole::Voter => v1::ReplicaRole::Voter,
        ReplicaRole::Learner => v1::ReplicaRole::Learner,
        ReplicaRole::Incoming => v1::ReplicaRole::Incoming,
        ReplicaRole::Outgoing => v1::ReplicaRole::Outgoing,
    }
}

/// A volume as its gateway must know it: the segments that hold its present size, each with the members of its
/// configuration. What is only still to be dropped is the storage nodes' business.
pub(crate) fn gateway_volume(volume: &Volume) -> v1::Volume {
    let mut message = stored_volume(volume, volume.served_segments());
    for segment in &mut message.segments {
        segment.replicas.retain(|replica| replica.state() != v1::ReplicaState::Dropping);
    }
    message
}

/// The addresses of the nodes that hold these volumes.
pub(crate) fn node_addresses<'a>(
    state: &State,
    volumes: impl Iterator<Item = &'a Volume>,
) -> Vec<v1::NodeAddress> {
    let members = volumes.flat_map(|volume| volume.segments.iter().flat_map(Segment::members));
    let used: BTreeSet<NodeId> = members.map(|(replica, _)| replica.node).collect();
    let known = used.iter().filter_map(|id| state.nodes().get(id));
    known
        .map(|node| v1::NodeAddress {
            node: node.id.0,
            name: node.name.clone(),
            data_address: node.data_address.clone(),
        })
        .collect()
}

/// What a gateway watches.
pub(crate) fn gateway_view(state: &State, gateway: &GatewayId) -> v1::GatewayView {
    v1::GatewayView {
        revision: state.revision(),
        volumes: state.volumes_attached_to(gateway).map(gateway_volume).collect(),
        nodes: node_addresses(state, state.volumes_attached_to(gateway)),
        cluster_id: state.cluster_id().map(|id| id.0.to_vec()).unwrap_or_default(),
    }
}

/// What a storage node watches: what belongs on that very disk. Of the snapshots of a volume, those of its list are kept; any
/// other id that has been given by now is of a snapshot that was deleted, or that ended before it was ready.
pub(crate) fn replica_assignments(state: &State, node: NodeId, disk: DiskId) -> v1::ReplicaAssignments {
    let here = state.replicas_on(node).filter(|(.., replica)| replica.disk == disk);
    let replicas = here.map(|(volume, segment, generation, replica)| v1::ReplicaAssignment {
        replica: replica.id.0,
        volume: volume.id.0,
        segment: segment.index,
        generation: generation.0,
        segment_bytes: volume.segment_bytes,
        state: replica_state(replica.state).into(),
        snapshots: volume.snapshots.iter().map(|snapshot| snapshot.id.0).collect(),
        snapshots_to: state.counters().snapshot,
    });
    v1::ReplicaAssignments { revision: state.revision(), replicas: replicas.collect() }
}

/// How many replicas of a volume do not exist yet, with the nodes they are awaited from.
pub(crate) fn awaited(volume: &Volume) -> (usize, BTreeSet<NodeId>) {
    let creating = volume.replicas().filter(|(.., replica)| replica.state == ReplicaState::Creating);
    let nodes: Vec<NodeId> = creating.map(|(.., replica)| replica.node).collect();
    (nodes.len(), nodes.into_iter().collect())
}
