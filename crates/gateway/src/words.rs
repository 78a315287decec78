//! The cluster manager's words for what the gateway knows, and the gateway's for it.

use crate::core::{ReplicaStatus, SegmentStatus, View, ViewedVolume, VolumeReport, VolumeSpec};
use quoin_api::v1;
use quoin_replication::writer::{VoterConfig, VoterHealth};
use quoin_types::limits::MEMBERS_MAX;
use quoin_types::{Epoch, Generation, InstanceId, NodeId, ReplicaId, ReplicaRole, SnapshotId, VolumeId};

/// From the cluster manager's words. `None` if they make no sense.
pub fn spec(volume: &v1::Volume, nodes: &[v1::NodeAddress]) -> Option<VolumeSpec> {
    let node = |id: u64| nodes.iter().find(|node| node.node == id);
    let member = |replica: &v1::Replica| {
        let node = node(replica.node)?;
        Some(VoterConfig {
            node: NodeId(replica.node),
            name: node.name.clone(),
            address: node.data_address.clone(),
            replica: ReplicaId(replica.id),
            role: role(replica.role()),
        })
    };
    let segments: Option<Vec<_>> = volume
        .segments
        .iter()
        .map(|segment| {
            let members: Option<Vec<VoterConfig>> = segment.replicas.iter().map(member).collect();
            let members = members.filter(|members| (1..=MEMBERS_MAX).contains(&members.len()))?;
            Some((Generation(segment.generation), members))
        })
        .collect();
    let segments = segments?;
    let fits = volume.segment_bytes > 0
        && volume.segment_bytes.is_multiple_of(quoin_types::EXTENT_BYTES)
        && volume.size_bytes <= volume.segment_bytes.checked_mul(segments.len() as u64)?;
    fits.then(|| VolumeSpec {
        id: VolumeId(volume.id),
        size_bytes: volume.size_bytes,
        segment_bytes: volume.segment_bytes,
        durability: volume.durability().or_default(),
        segments,
    })
}

/// Since which epoch an attachment is unbroken; its own, if the cluster manager does not say.
pub fn unbroken_since(attachment: &v1::Attachment) -> Epoch {
    let known = Some(attachment.unbroken_since).filter(|since| (1..=attachment.epoch).contains(since));
    Epoch(known.unwrap_or(attachment.epoch))
}

fn role(role: v1::ReplicaRole) -> ReplicaRole {
    match role {
        v1::ReplicaRole::Unspecified | v1::ReplicaRole::Voter => ReplicaRole::Voter,
        v1::ReplicaRole::Learner => ReplicaRole::Learner,
        v1::ReplicaRole::Incoming => ReplicaRole::Incoming,
        v1::ReplicaRole::Outgoing => ReplicaRole::Outgoing,
    }
}

/// What a view of the cluster manager's state shows; what makes no sense in it is left out.
pub fn view(view: &v1::GatewayView) -> View {
    let volume = |volume: &v1::Volume| {
        let attachment = volume.attachment.as_ref()?;
        let is_taking = |snapshot: &&v1::Snapshot| {
            snapshot.state() == v1::SnapshotState::Taking && snapshot.epoch == attachment.epoch
        };
        Some(ViewedVolume {
            spec: spec(volume, &view.nodes)?,
            epoch: Epoch(attachment.epoch),
            instance: InstanceId::from_slice(&attachment.instance)?,
            steward: attachment.steward,
            lossy: attachment.lossy,
            taking: volume
                .snapshots
                .iter()
                .filter(is_taking)
                .map(|snapshot| SnapshotId(snapshot.id))
                .collect(),
        })
    };
    View {
        revision: view.revision,
        volumes: view.volumes.iter().filter_map(volume).collect(),
        nodes: view.nodes.iter().map(|node| (NodeId(node.node), node.data_address.clone())).collect(),
    }
}

/// How an attachment does, of which so many clients make use.
pub fn attachment_report(report: &VolumeReport, clients: u32) -> v1::AttachmentReport {
    v1::AttachmentReport {
        volume: report.volume.0,
        epoch: report.epoch.0,
        clients,
        lossy: report.lossy,
        available: report.available,
        detail: report.detail.clone(),
        replicas: report.replicas.iter().map(replica_report).collect(),
        segments: (0..).zip(&report.segments).map(segment_report).collect(),
        snapshots: report.snapshots.iter().map(|id| id.0).collect(),
    }
}

fn segment_report((index, status): (u32, &SegmentStatus)) -> v1::SegmentReport {
    v1::SegmentReport { index, generation: status.generation.0, settled: status.settled }
}

fn replica_report(status: &ReplicaStatus) -> v1::ReplicaReport {
    let (replica, whole) = (status.replica.0, status.whole);
    let mut report = v1::ReplicaReport { replica, whole, ..v1::ReplicaReport::default() };
    match &status.health {
        VoterHealth::InSync => report.set_health(v1::ReplicaHealth::InSync),
        VoterHealth::CatchingUp { done_bytes, total_bytes, bytes_per_second } => {
            report.set_health(v1::ReplicaHealth::CatchingUp);
            report.resync_done_bytes = *done_bytes;
            report.resync_total_bytes = *total_bytes;
            report.resync_bytes_per_second = *bytes_per_second;
        }
        VoterHealth::Missing => {
            report.set_health(v1::ReplicaHealth::Missing);
            report.detail = format!("{} cannot be reached by the gateway", status.node);
        }
        VoterHealth::Failed(reason) => {
            report.set_health(v1::ReplicaHealth::Failed);
            report.detail.clone_from(reason);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_is_unbroken_since_itself_where_nobody_says_more() {
        let since = |told| {
            let attachment = v1::Attachment { epoch: 5, unbroken_since: told, ..v1::Attachment::default() };
            unbroken_since(&attachment).0
        };
        assert_eq!([0, 1, 3, 5, 6].map(since), [5, 1, 3, 5, 5]);
    }
}
