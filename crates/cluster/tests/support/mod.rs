//! Commands for tests: few names and ids, so that they meet each other.

#![allow(dead_code, unreachable_pub)]

use proptest::prelude::*;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{Candidate, Cause, ClusterTime, Command, HealthChange, State, apply};
use quoin_types::{ClusterId, DiskId, Durability, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, VolumeId};

pub const CLUSTER: ClusterId = ClusterId([9; 16]);

/// A state with an identity and three nodes, on disks 1 to 3.
pub fn initialised() -> State {
    let mut state = State::default();
    let managers = [(1, "m1:1".to_owned())].into();
    apply(&mut state, &Command::InitCluster { cluster_id: CLUSTER, managers }).unwrap();
    for number in 1..=3 {
        apply(&mut state, &Command::RegisterNode(node(number, number, 1))).unwrap();
    }
    state
}

pub fn node(name: u8, disk: u8, start_count: u64) -> RegisterNode {
    RegisterNode {
        cluster_id: CLUSTER,
        name: format!("node-{name}"),
        disk: DiskId([disk; 16]),
        start_count,
        data_address: format!("node-{name}:{start_count}"),
        zone: format!("zone-{}", name % 2),
        capacity_bytes: 1 << 40,
        ..RegisterNode::default()
    }
}

pub fn candidates(nodes: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
    nodes.into_iter().map(|node| Candidate { node: NodeId(node), free_bytes: 1 << 40 }).collect()
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn size() -> impl Strategy<Value = u64> {
    (0..5_u64).prop_map(|blocks| blocks * 65536 + 4096)
}

fn ids() -> impl Strategy<Value = Vec<ReplicaId>> {
    prop::collection::vec((1..30_u64).prop_map(ReplicaId), 0..30)
}

fn volumes() -> impl Strategy<Value = Command> {
    let create = (name(), size(), 0..4_u32).prop_map(|(name, size_bytes, replicas)| Command::CreateVolume {
        name,
        size_bytes,
        segment_bytes: 131_072,
        replicas,
        durability: Durability::WriteThrough,
        candidates: candidates(1..=4),
    });
    let delete = (name(), prop::option::of((0..4_u64).prop_map(Epoch)))
        .prop_map(|(name, expected_epoch)| Command::DeleteVolume { name, expected_epoch });
    let resize = (name(), size()).prop_map(|(name, size_bytes)| Command::ResizeVolume {
        name,
        size_bytes,
        candidates: candidates(1..=4),
    });
    prop_oneof![3 => create, 1 => delete, 2 => resize]
}

fn attachments() -> impl Strategy<Value = Command> {
    let gateway = || prop::sample::select(vec!["gw-a", "gw-b"]).prop_map(|name| GatewayId(name.to_owned()));
    let epoch = || (0..4_u64).prop_map(Epoch);
    let attach =
        (name(), gateway(), 0..3_u8, epoch()).prop_map(|(volume, gateway, instance, expected_epoch)| {
            Command::Attach { volume, gateway, instance: InstanceId([instance; 16]), expected_epoch }
        });
    let detach = (name(), gateway(), epoch()).prop_map(|(volume, gateway, epoch)| Command::Detach {
        volume,
        gateway,
        epoch,
    });
    let lossy = (0..4_u64, epoch())
        .prop_map(|(volume, epoch)| Command::MarkLossy { volume: VolumeId(volume), epoch });
    prop_oneof![6 => attach, 2 => detach, 1 => lossy]
}

fn nodes() -> impl Strategy<Value = Command> {
    let register = (1..5_u8, 1..7_u8, 1..4_u64)
        .prop_map(|(name, disk, start_count)| Command::RegisterNode(node(name, disk, start_count)));
    let report = (1..5_u64, 1..7_u8, ids(), ids()).prop_map(|(node, disk, created, dropped)| {
        Command::ReportReplicas { node: NodeId(node), disk: DiskId([disk; 16]), created, dropped }
    });
    // Reports of the disk that a node began with, which is most often its own.
    let fitting = (1..4_u8, ids(), ids()).prop_map(|(node, created, dropped)| Command::ReportReplicas {
        node: NodeId(node.into()),
        disk: DiskId([node; 16]),
        created,
        dropped,
    });
    prop_oneof![2 => register, 1 => report, 6 => fitting]
}

fn healths() -> impl Strategy<Value = Command> {
    let cause = || prop::sample::select(vec![None, Some(Cause::Silent), Some(Cause::Left)]);
    // Of the disk that the node began with, which is most often its own.
    let change = (1..5_u8, 1..4_u64, cause(), cause()).prop_map(|(number, start_count, known, absent)| {
        let (node, disk) = (NodeId(number.into()), DiskId([number; 16]));
        HealthChange { node, disk, start_count, known, absent }
    });
    (0..9_u64, prop::collection::vec(change, 0..8))
        .prop_map(|(at, changes)| Command::ChangeHealth { at: ClusterTime::from_millis(at), changes })
}

/// Any command that is asked after the cluster has its identity.
pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![2 => volumes(), 2 => attachments(), 2 => nodes(), 1 => healths()]
}
