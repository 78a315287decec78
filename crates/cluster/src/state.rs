//! Everything the cluster manager knows for good.

use crate::codec;
use crate::command::{Outcome, RequestId};
use crate::health::{ClusterTime, Health};
use crate::index::Index;
use crate::requests::AnsweredRequests;
use crate::segment::Replica;
use crate::volume::Volume;
use prost::Message as _;
use quoin_types::{
    ClusterId, DiskId, GatewayId, Generation, InstanceId, NodeId, ReplicaId, SegmentId, SnapshotId, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

/// A storage node: one process on one disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Never reused.
    pub id: NodeId,
    /// Given by its operator, unique.
    pub name: String,
    /// The disk it was last accepted with.
    pub disk: DiskId,
    /// How often that disk has been started; only ever rises (rule C2).
    pub start_count: u64,
    /// The process that made the last start, if it said so: it may register again under the same count.
    pub instance: Option<InstanceId>,
    /// `host:port` of the data plane.
    pub data_address: String,
    /// `host:port` of health and metrics.
    pub admin_address: String,
    /// The failure domain; nodes of the same zone fail together.
    pub zone: String,
    /// As it was at the last registration.
    pub capacity_bytes: u64,
    /// The software's version, for people.
    pub version: String,
    /// Whether it is there.
    pub health: Health,
}

/// The last number given of each kind; the next one is higher by one, and none is ever given twice.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Of volumes.
    pub volume: u64,
    /// Of replicas.
    pub replica: u64,
    /// Of nodes.
    pub node: u64,
    /// Of snapshots.
    pub snapshot: u64,
}

/// The state of the cluster manager. Changed by [`crate::apply`] alone.
///
/// Two states are equal when their snapshots are: what is derived from the rest does not count.
#[derive(Clone, Default, Debug)]
pub struct State {
    pub(crate) revision: u64,
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) counters: Counters,
    pub(crate) time: ClusterTime,
    pub(crate) managers: BTreeMap<u64, String>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    pub(crate) retired_disks: BTreeMap<DiskId, NodeId>,
    pub(crate) answered: AnsweredRequests,
    pub(crate) index: Index,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl State {
    /// Rises with every command that was carried out.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The cluster's identity, once its first leader has chosen it.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// The members of the manager: raft id and `host:port`.
    pub fn managers(&self) -> &BTreeMap<u64, String> {
        &self.managers
    }

    /// The storage nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The volumes, tombstones included.
    pub fn volumes(&self) -> &BTreeMap<VolumeId, Volume> {
        &self.volumes
    }

    /// The last ids given.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last reading of the cluster's time.
    pub fn time(&self) -> ClusterTime {
        self.time
    }

    /// The volume of this name. Tombstones have no name any more.
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.index.names.get(name).and_then(|id| self.volumes.get(id))
    }

    /// The storage node of this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The storage node that this disk is in.
    pub fn node_of_disk(&self, disk: DiskId) -> Option<&Node> {
        self.nodes.values().find(|node| node.disk == disk)
    }

    /// The replicas that belong on a node, with their volumes, in the order of their volumes and segments.
    pub fn replicas_on(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (&Volume, SegmentId, Generation, &Replica)> {
        let segments = self.index.by_node.get(&node).map(|on_node| &on_node.segments);
        segments.into_iter().flatten().flat_map(move |id| {
            let volume = self.volumes.get(&id.volume);
            let segment = volume.and_then(|volume| volume.segments.get(id.index as usize));
            volume.zip(segment).into_iter().flat_map(move |(volume, segment)| {
                let here = segment.replicas.iter().filter(move |replica| replica.node == node);
                here.map(move |replica| (volume, *id, segment.generation, replica))
            })
        })
    }

    /// How many replicas belong on a node.
    pub fn replica_count_on(&self, node: NodeId) -> usize {
        self.index.by_node.get(&node).map_or(0, |on_node| on_node.segments.len())
    }

    /// Of the replicas that a disk has, those that do not belong there and never will: their ids were given, and are not in
    /// this state any more. An id that is still to be given is of a state that this one does not know, such as that of
    /// managers before they were set back to a backup; nothing is said of it.
    pub fn unwanted_on(&self, node: NodeId, disk: DiskId, ids: &[ReplicaId]) -> Vec<ReplicaId> {
        let on_disk = self.replicas_on(node).filter(|(.., replica)| replica.disk == disk);
        let wanted: BTreeSet<ReplicaId> = on_disk.map(|(.., replica)| replica.id).collect();
        let was_given = |id: &ReplicaId| id.0 <= self.counters.replica;
        ids.iter().copied().filter(|id| was_given(id) && !wanted.contains(id)).collect()
    }

    /// The volumes that are attached to a gateway.
    pub fn volumes_attached_to(&self, gateway: &GatewayId) -> impl Iterator<Item = &Volume> {
        let volumes = self.index.by_gateway.get(gateway).map(|at| &at.volumes);
        volumes.into_iter().flatten().filter_map(|id| self.volumes.get(id))
    }

    /// The volumes that a leader has something to do for: a change, a snapshot, a steward, a policy that lets them shrink.
    pub fn tended_volumes(&self) -> impl Iterator<Item = &Volume> {
        self.index.tended.iter().filter_map(|id| self.volumes.get(id))
    }

    /// What came of a request, if it was carried out lately: whoever repeats it is told so, whatever holds by now.
    pub fn answer_to(&self, request: RequestId) -> Option<Outcome> {
        self.answered.get(request)
    }

    /// The revision at which what belongs on a node last changed. A watcher that has seen it need not look again.
    pub fn node_revision(&self, node: NodeId) -> u64 {
        self.index.by_node.get(&node).map_or(self.index.built, |on_node| on_node.revision)
    }

    /// The revision at which what a gateway must know last changed: its volumes, or the addresses of their nodes.
    pub fn gateway_revision(&self, gateway: &GatewayId) -> u64 {
        self.index.by_gateway.get(gateway).map_or(self.index.built, |at| at.revision)
    }

    /// The state as a snapshot. The same state always gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::state::to_message(self).encode_to_vec()
    }

    /// A state from its snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::state::from_bytes(bytes)
    }

    pub(crate) fn next_volume(&mut self) -> VolumeId {
        self.counters.volume += 1;
        VolumeId(self.counters.volume)
    }

    pub(crate) fn next_replica(&mut self) -> ReplicaId {
        self.counters.replica += 1;
        ReplicaId(self.counters.replica)
    }

    pub(crate) fn next_snapshot(&mut self) -> SnapshotId {
        self.counters.snapshot += 1;
        SnapshotId(self.counters.snapshot)
    }

    pub(crate) fn next_node(&mut self) -> NodeId {
        self.counters.node += 1;
        NodeId(self.counters.node)
    }
}
