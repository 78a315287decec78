//! The JSON of `--output json`: a contract, described in docs/operations/cli.md. Fields are added, never changed.

use super::words;
use quoin_api::v1;
use quoin_types::hex;
use serde::Serialize;

/// A volume, as `volume show` has it.
#[derive(Serialize)]
pub(crate) struct Volume {
    id: u64,
    name: String,
    size_bytes: u64,
    segment_bytes: u64,
    replicas: u32,
    min_replicas: Option<u32>,
    durability: &'static str,
    state: &'static str,
    epoch: u64,
    revision: u64,
    attachment: Option<Attachment>,
    segments: Vec<Segment>,
    snapshots: Vec<Snapshot>,
}

/// A snapshot, as `snapshot list` has it.
#[derive(Serialize)]
pub(crate) struct Snapshot {
    id: u64,
    volume: String,
    name: String,
    state: &'static str,
    epoch: u64,
    size_bytes: u64,
}

impl Snapshot {
    /// The snapshot of that volume.
    pub(crate) fn of(volume: &str, snapshot: &v1::Snapshot) -> Self {
        Self {
            id: snapshot.id,
            volume: volume.to_owned(),
            name: snapshot.name.clone(),
            state: words::snapshot_state(snapshot.state()),
            epoch: snapshot.epoch,
            size_bytes: snapshot.size_bytes,
        }
    }
}

#[derive(Serialize)]
struct Attachment {
    gateway: String,
    instance: String,
    epoch: u64,
    lossy: bool,
    clients: u32,
    available: bool,
    detail: String,
    steward: bool,
}

#[derive(Serialize)]
struct Segment {
    index: u32,
    generation: u64,
    replicas: Vec<Replica>,
    change: Option<Change>,
}

#[derive(Serialize)]
struct Change {
    add: Vec<u64>,
    remove: Vec<u64>,
    stage: &'static str,
}

#[derive(Serialize)]
struct Replica {
    id: u64,
    node: u64,
    disk: String,
    state: &'static str,
    role: &'static str,
    health: &'static str,
    resync_done_bytes: u64,
    resync_total_bytes: u64,
    resync_bytes_per_second: u64,
    detail: String,
}

impl From<&v1::Volume> for Volume {
    fn from(volume: &v1::Volume) -> Self {
        Self {
            id: volume.id,
            name: volume.name.clone(),
            size_bytes: volume.size_bytes,
            segment_bytes: volume.segment_bytes,
            replicas: volume.replicas,
            min_replicas: Some(volume.min_replicas).filter(|min| *min > 0),
            durability: volume.durability().or_default().name(),
            state: words::volume_state(volume.state()),
            epoch: volume.epoch,
            revision: volume.revision,
            attachment: volume.attachment.as_ref().map(Attachment::from),
            segments: volume.segments.iter().map(Segment::from).collect(),
            snapshots: volume.snapshots.iter().map(|s| Snapshot::of(&volume.name, s)).collect(),
        }
    }
}

impl From<&v1::Attachment> for Attachment {
    fn from(attachment: &v1::Attachment) -> Self {
        Self {
            gateway: attachment.gateway.clone(),
            instance: hex::encode(&attachment.instance),
            epoch: attachment.epoch,
            lossy: attachment.lossy,
            clients: attachment.clients,
            available: attachment.available,
            detail: attachment.detail.clone(),
            steward: attachment.steward,
        }
    }
}

impl From<&v1::Segment> for Segment {
    fn from(segment: &v1::Segment) -> Self {
        let replicas = segment.replicas.iter().map(Replica::from).collect();
        let change = segment.change.as_ref().map(|change| Change {
            add: change.add.clone(),
            remove: change.remove.clone(),
            stage: if change.joint { "joint" } else { "filling" },
        });
        Self { index: segment.index, generation: segment.generation, replicas, change }
    }
}

impl From<&v1::Replica> for Replica {
    fn from(replica: &v1::Replica) -> Self {
        Self {
            id: replica.id,
            node: replica.node,
            disk: hex::encode(&replica.disk),
            state: words::replica_state(replica.state()),
            role: words::replica_role(replica.role()),
            health: words::replica_health(replica.health()),
            resync_done_bytes: replica.resync_done_bytes,
            resync_total_bytes: replica.resync_total_bytes,
            resync_bytes_per_second: replica.resync_bytes_per_second,
            detail: replica.detail.clone(),
        }
    }
}

/// A storage node, as `node list` has it.
#[derive(Serialize)]
pub(crate) struct Node {
    id: u64,
    name: String,
    data_address: String,
    admin_address: String,
    zone: String,
    disk: String,
    start_count: u64,
    health: &'static str,
    detail: String,
    capacity_bytes: u64,
    used_bytes: u64,
    replicas: u32,
    last_heartbeat_age_ms: u64,
    version: String,
    damaged_extents: u64,
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Self {
        Self {
            id: node.id,
            name: node.name.clone(),
            data_address: node.data_address.clone(),
            admin_address: node.admin_address.clone(),
            zone: node.zone.clone(),
            disk: hex::encode(&node.disk),
            start_count: node.start_count,
            health: words::node_health(node.health()),
            detail: node.detail.clone(),
            capacity_bytes: node.capacity_bytes,
            used_bytes: node.used_bytes,
            replicas: node.replicas,
            last_heartbeat_age_ms: node.last_heartbeat_age_ms,
            version: node.version.clone(),
            damaged_extents: node.damaged_extents,
        }
    }
}

/// A storage node with what it holds, as `node show` has it.
#[derive(Serialize)]
pub(crate) struct NodeDetail {
    #[serde(flatten)]
    pub(crate) node: Node,
    pub(crate) placements: Vec<Placement>,
}

/// A replica on a node.
#[derive(Serialize)]
pub(crate) struct Placement {
    volume: String,
    segment: u32,
    #[serde(flatten)]
    replica: Replica,
}

/// Every replica that a node holds, by volume and segment.
pub(crate) fn placements(volumes: &[v1::Volume], node: u64) -> Vec<Placement> {
    let mut placements = Vec::new();
    for volume in volumes {
        for segment in &volume.segments {
            for replica in segment.replicas.iter().filter(|replica| replica.node == node) {
                let (volume, segment) = (volume.name.clone(), segment.index);
                placements.push(Placement { volume, segment, replica: Replica::from(replica) });
            }
        }
    }
    placements
}

/// The whole cluster, as `status` has it.
#[derive(Serialize)]
pub(crate) struct Status {
    cluster_id: String,
    healthy: bool,
    problems: Vec<String>,
    raft_term: u64,
    managers: Vec<Manager>,
    nodes: Vec<Node>,
    gateways: Vec<Gateway>,
    volumes: Vec<Volume>,
}

#[derive(Serialize)]
struct Manager {
    id: u64,
    address: String,
    leader: bool,
    reachable: bool,
    applied_index: u64,
}

#[derive(Serialize)]
struct Gateway {
    id: String,
    instance: String,
    online: bool,
    nbd_address: String,
    attached_volumes: u32,
    clients: u32,
    version: String,
}

impl From<&v1::Manager> for Manager {
    fn from(manager: &v1::Manager) -> Self {
        Self {
            id: manager.id,
            address: manager.address.clone(),
            leader: manager.leader,
            reachable: manager.reachable,
            applied_index: manager.applied_index,
        }
    }
}

impl From<&v1::Gateway> for Gateway {
    fn from(gateway: &v1::Gateway) -> Self {
        Self {
            id: gateway.id.clone(),
            instance: hex::encode(&gateway.instance),
            online: gateway.online,
            nbd_address: gateway.nbd_address.clone(),
            attached_volumes: gateway.attached_volumes,
            clients: gateway.clients,
            version: gateway.version.clone(),
        }
    }
}

impl From<&v1::ClusterStatus> for Status {
    fn from(status: &v1::ClusterStatus) -> Self {
        Self {
            cluster_id: hex::encode(&status.cluster_id),
            healthy: status.healthy,
            problems: status.problems.clone(),
            raft_term: status.raft_term,
            managers: status.managers.iter().map(Manager::from).collect(),
            nodes: status.nodes.iter().map(Node::from).collect(),
            gateways: status.gateways.iter().map(Gateway::from).collect(),
            volumes: status.volumes.iter().map(Volume::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::{a_changing_volume, a_node, a_status, a_volume};
    use super::*;

    fn keys(value: &serde_json::Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_shape_of_a_volume() {
        let json = serde_json::to_value(Volume::from(&a_volume())).unwrap();
        assert_eq!(
            keys(&json),
            [
                "attachment",
                "durability",
                "epoch",
                "id",
                "min_replicas",
                "name",
                "replicas",
                "revision",
                "segment_bytes",
                "segments",
                "size_bytes",
                "snapshots",
                "state"
            ]
        );
        assert_eq!(json["durability"], "write-through");
        assert_eq!(json["state"], "ready");
        assert_eq!(json["attachment"]["instance"], "07".repeat(16));
        let replica = &json["segments"][0]["replicas"][1];
        assert_eq!(replica["health"], "catching_up");
        assert_eq!(replica["disk"], "02".repeat(16));
        assert_eq!(replica["resync_done_bytes"], 43 << 20);
        assert_eq!(
            keys(replica),
            [
                "detail",
                "disk",
                "health",
                "id",
                "node",
                "resync_bytes_per_second",
                "resync_done_bytes",
                "resync_total_bytes",
                "role",
                "state"
            ]
        );
        assert_eq!(keys(&json["segments"][0]), ["change", "generation", "index", "replicas"]);
        assert!(json["segments"][0]["change"].is_null() && json["min_replicas"].is_null());
        assert_eq!(keys(&json["snapshots"][0]), ["epoch", "id", "name", "size_bytes", "state", "volume"]);
        assert_eq!((&json["attachment"]["steward"], &replica["role"]), (&false.into(), &"voter".into()));
        let changing = serde_json::to_value(Volume::from(&a_changing_volume())).unwrap();
        let change = &changing["segments"][0]["change"];
        assert_eq!(*change, serde_json::json!({ "add": [14], "remove": [13], "stage": "filling" }));
        let detached = v1::Volume { attachment: None, ..a_volume() };
        assert!(serde_json::to_value(Volume::from(&detached)).unwrap()["attachment"].is_null());
    }

    #[test]
    fn the_shape_of_a_node_and_its_placements() {
        let json = serde_json::to_value(NodeDetail {
            node: Node::from(&a_node(2)),
            placements: placements(&[a_volume()], 2),
        })
        .unwrap();
        assert_eq!(json["name"], "node-2");
        assert_eq!(json["health"], "online");
        assert_eq!(json["disk"], "02".repeat(16));
        assert_eq!(json["placements"].as_array().unwrap().len(), 1);
        assert_eq!(json["placements"][0]["volume"], "vol1");
        assert_eq!(json["placements"][0]["segment"], 0);
        assert_eq!(json["placements"][0]["id"], 12);
    }

    #[test]
    fn the_shape_of_the_status() {
        let json = serde_json::to_value(Status::from(&a_status())).unwrap();
        assert_eq!(
            keys(&json),
            ["cluster_id", "gateways", "healthy", "managers", "nodes", "problems", "raft_term", "volumes"]
        );
        assert_eq!(json["cluster_id"], "01".repeat(16));
        assert_eq!(json["managers"][0]["leader"], true);
        assert_eq!(json["gateways"][0]["id"], "gateway-1");
    }
}
