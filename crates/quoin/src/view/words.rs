//! The names of states, for JSON (snake_case) and, with blanks for underscores, for people.

use quoin_api::v1::{NodeHealth, ReplicaHealth, ReplicaRole, ReplicaState, SnapshotState, VolumeState};

pub(crate) const fn volume_state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Unspecified => "unknown",
        VolumeState::Creating => "creating",
        VolumeState::Ready => "ready",
        VolumeState::Deleting => "deleting",
    }
}

pub(crate) const fn replica_state(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Unspecified => "unknown",
        ReplicaState::Creating => "creating",
        ReplicaState::Ready => "ready",
        ReplicaState::Dropping => "dropping",
    }
}

pub(crate) const fn replica_health(health: ReplicaHealth) -> &'static str {
    match health {
        ReplicaHealth::Unspecified | ReplicaHealth::Unknown => "unknown",
        ReplicaHealth::InSync => "in_sync",
        ReplicaHealth::CatchingUp => "catching_up",
        ReplicaHealth::Missing => "missing",
        ReplicaHealth::Failed => "failed",
    }
}

/// What a replica is in its segment's configuration. One that is only to be dropped is nothing.
pub(crate) const fn replica_role(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Unspecified => "none",
        ReplicaRole::Voter => "voter",
        ReplicaRole::Learner => "learner",
        ReplicaRole::Incoming => "incoming",
        ReplicaRole::Outgoing => "outgoing",
    }
}

pub(crate) const fn snapshot_state(state: SnapshotState) -> &'static str {
    match state {
        SnapshotState::Unspecified => "unknown",
        SnapshotState::Taking => "taking",
        SnapshotState::Ready => "ready",
    }
}

pub(crate) const fn node_health(health: NodeHealth) -> &'static str {
    match health {
        NodeHealth::Unspecified => "unknown",
        NodeHealth::Online => "online",
        NodeHealth::Unreachable => "unreachable",
        NodeHealth::Refused => "refused",
    }
}

/// `1 copy`, `2 copies`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
pub(crate) mod tests {
    use quoin_api::v1;

    /// `vol1`: one segment on the nodes 1 (in sync), 2 (catching up) and 3 (missing).
    pub(crate) fn a_volume() -> v1::Volume {
        let replica = |node: u64, health: v1::ReplicaHealth, done, detail: &str| v1::Replica {
            id: 10 + node,
            node,
            disk: vec![node as u8; 16],
            state: v1::ReplicaState::Ready.into(),
            health: health.into(),
            resync_done_bytes: done,
            resync_total_bytes: 100 << 20,
            resync_bytes_per_second: 19 << 20,
            detail: detail.to_owned(),
            role: v1::ReplicaRole::Voter.into(),
        };
        let replicas = vec![
            replica(1, v1::ReplicaHealth::InSync, 0, ""),
            replica(2, v1::ReplicaHealth::CatchingUp, 43 << 20, ""),
            replica(3, v1::ReplicaHealth::Missing, 0, "connection refused"),
        ];
        v1::Volume {
            id: 5,
            name: "vol1".to_owned(),
            size_bytes: 4 << 30,
            segment_bytes: 16 << 30,
            replicas: 3,
            durability: v1::Durability::WriteThrough.into(),
            state: v1::VolumeState::Ready.into(),
            segments: vec![v1::Segment { index: 0, generation: 1, replicas, change: None }],
            epoch: 2,
            attachment: Some(v1::Attachment {
                gateway: "gateway-1".to_owned(),
                instance: vec![7; 16],
                epoch: 2,
                clients: 1,
                available: true,
                ..v1::Attachment::default()
            }),
            revision: 9,
            snapshots: vec![v1::Snapshot {
                id: 6,
                name: "monday".to_owned(),
                state: v1::SnapshotState::Ready.into(),
                epoch: 1,
                size_bytes: 4 << 30,
            }],
            ..v1::Volume::default()
        }
    }

    /// `vol1` while its copy on node 3 moves to node 4: a quarter of it is there.
    pub(crate) fn a_changing_volume() -> v1::Volume {
        let mut volume = a_volume();
        let segment = &mut volume.segments[0];
        segment.generation = 2;
        segment.change = Some(v1::ReplicaChange { add: vec![14], remove: vec![13], joint: false });
        segment.replicas.push(v1::Replica {
            id: 14,
            node: 4,
            resync_done_bytes: 25 << 20,
            role: v1::ReplicaRole::Learner.into(),
            ..segment.replicas[1].clone()
        });
        volume
    }

    /// The online storage node `node-<id>`.
    pub(crate) fn a_node(id: u64) -> v1::Node {
        v1::Node {
            id,
            name: format!("node-{id}"),
            data_address: format!("127.0.0.1:710{id}"),
            disk: vec![id as u8; 16],
            health: v1::NodeHealth::Online.into(),
            capacity_bytes: 10 << 30,
            used_bytes: 1 << 30,
            replicas: 1,
            ..v1::Node::default()
        }
    }

    /// A cluster with node 3 gone.
    pub(crate) fn a_status() -> v1::ClusterStatus {
        let mut nodes: Vec<v1::Node> = (1..=3).map(a_node).collect();
        nodes[2].set_health(v1::NodeHealth::Unreachable);
        nodes[2].last_heartbeat_age_ms = 12_000;
        let manager = |id, leader| v1::Manager {
            id,
            address: format!("127.0.0.1:740{id}"),
            leader,
            reachable: true,
            applied_index: 33,
        };
        v1::ClusterStatus {
            cluster_id: vec![1; 16],
            managers: vec![manager(1, true), manager(2, false)],
            nodes,
            gateways: vec![v1::Gateway {
                id: "gateway-1".to_owned(),
                online: true,
                nbd_address: "127.0.0.1:10809".to_owned(),
                attached_volumes: 1,
                clients: 1,
                ..v1::Gateway::default()
            }],
            volumes: vec![a_volume()],
            healthy: false,
            problems: vec!["node-3 is unreachable".to_owned()],
            raft_term: 4,
        }
    }
}
