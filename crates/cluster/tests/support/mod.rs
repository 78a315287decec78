//! Commands for tests: few names and ids, so that they meet each other.

#![allow(dead_code, unreachable_pub)]

use proptest::prelude::*;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{
    Candidate, Cause, ClusterTime, Command, HealthChange, ReplicaState, SegmentAt, SegmentChange, State,
    Volume, apply,
};
use quoin_types::{
    ClusterId, DiskId, Durability, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, SnapshotId, VolumeId,
};

pub const CLUSTER: ClusterId = ClusterId([9; 16]);

/// A state with an identity and three nodes, on disks 1 to 3.
pub fn initialised() -> State {
    initialised_with(3)
}

/// A state with an identity and so many nodes, on disks of the same numbers.
pub fn initialised_with(nodes: u8) -> State {
    let mut state = State::default();
    let managers = [(1, "m1:1".to_owned())].into();
    apply(&mut state, &Command::InitCluster { cluster_id: CLUSTER, managers }).unwrap();
    for number in 1..=nodes {
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

/// What a node reports that has done everything that it was told.
pub fn report_of(state: &State, node: u64) -> Command {
    let node = NodeId(node);
    let disk = state.nodes().get(&node).map_or(DiskId([0; 16]), |node| node.disk);
    let here = |wanted| {
        let replicas = state.replicas_on(node).filter(|(.., replica)| replica.state == wanted);
        replicas.map(|(.., replica)| replica.id).collect::<Vec<ReplicaId>>()
    };
    let (created, dropped) = (here(ReplicaState::Creating), here(ReplicaState::Dropping));
    Command::ReportReplicas { node, disk, created, dropped }
}

/// A leader concludes that a node has gone, or is back.
pub fn gone_or_back(state: &State, node: u64) -> Command {
    let changes = state.nodes().get(&NodeId(node)).map(|known| HealthChange {
        node: known.id,
        disk: known.disk,
        start_count: known.start_count,
        known: known.health.cause(),
        absent: if known.health.is_online() { Some(Cause::Silent) } else { None },
    });
    Command::ChangeHealth { at: state.time(), changes: changes.into_iter().collect() }
}

/// Every node reports that it has done everything.
pub fn settle(state: &mut State) {
    let nodes: Vec<NodeId> = state.nodes().keys().copied().collect();
    for node in nodes {
        let report = report_of(state, node.0);
        apply(state, &report).unwrap();
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
        // Some owners say that one copy is enough.
        min_replicas: Some(1).filter(|_| size_bytes % 3 == 0),
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
    let detach = (name(), gateway(), epoch(), any::<bool>())
        .prop_map(|(volume, gateway, epoch, clean)| Command::Detach { volume, gateway, epoch, clean });
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

/// Any command that is asked after the cluster has its identity, and does not depend on what was before.
pub fn command() -> impl Strategy<Value = Command> {
    prop_oneof![2 => volumes(), 2 => attachments(), 2 => nodes(), 1 => healths()]
}

/// What is done next: a command, or one that is made for the state that it meets. Few of the commands that compare would
/// ever fit otherwise.
#[derive(Clone, Debug)]
pub enum Step {
    Any(Command),
    Fitting(Fitting),
}

/// A command for a state, from a few dice.
#[derive(Clone, Copy, Debug)]
pub struct Fitting {
    verb: u8,
    volume: u8,
    segment: u8,
    node: u8,
    removed: u8,
    /// One in a few is for a configuration or epoch that was before, or that is still to come.
    stale: u8,
}

/// Anything that may come next.
pub fn step() -> impl Strategy<Value = Step> {
    let dice = (0..15_u8, any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>(), 0..12_u8);
    let fitting = dice.prop_map(|(verb, volume, segment, node, removed, stale)| {
        Step::Fitting(Fitting { verb, volume, segment, node, removed, stale })
    });
    prop_oneof![1 => command().prop_map(Step::Any), 2 => fitting]
}

impl Step {
    pub fn command(&self, state: &State) -> Command {
        match self {
            Step::Any(command) => command.clone(),
            Step::Fitting(fitting) => fitting.command(state),
        }
    }
}

impl Fitting {
    fn command(self, state: &State) -> Command {
        let nodes = state.nodes().len() as u64;
        let living: Vec<&Volume> = state.volumes().values().filter(|volume| !volume.deleting).collect();
        let node = u64::from(self.node) % nodes + 1;
        if self.verb == 0 {
            return gone_or_back(state, node);
        }
        match living.get(usize::from(self.volume) % living.len().max(1)) {
            Some(volume) if self.verb >= 3 => self.about(volume, nodes),
            _ => report_of(state, node),
        }
    }

    fn about(self, volume: &Volume, nodes: u64) -> Command {
        let (id, name) = (volume.id, volume.name.clone());
        let epoch = if self.stale == 1 { volume.epoch.next() } else { volume.epoch };
        let gateway = GatewayId("gw-a".to_owned());
        let instance = InstanceId([self.node % 3; 16]);
        let segments = vec![self.at(volume)];
        let snapshot = volume.snapshots.get(usize::from(self.segment) % volume.snapshots.len().max(1));
        match self.verb {
            3..=5 => Command::BeginChange {
                volume: id,
                epoch,
                replicas: None,
                segments: vec![self.change(volume, nodes)],
            },
            6 | 7 => Command::EnterJoint { volume: id, epoch, segments },
            8 => Command::FinishChange { volume: id, epoch, segments },
            9 => Command::AbortChange { volume: id, epoch, segments },
            10 => {
                let replicas = &volume.segments[segments[0].index as usize].replicas;
                let remove = replicas.get(usize::from(self.removed) % replicas.len().max(1));
                let remove = remove.map_or(ReplicaId(1), |replica| replica.id);
                Command::Shrink { volume: id, epoch, segment: segments[0], remove }
            }
            11 => Command::BeginSnapshot { volume: name, name: format!("s{}", self.node % 8) },
            12 => {
                let snapshot = snapshot.map_or(SnapshotId(1), |snapshot| snapshot.id);
                Command::CommitSnapshot { volume: id, snapshot, epoch }
            }
            13 => {
                let name = snapshot.map_or("s", |snapshot| &snapshot.name).to_owned();
                Command::DeleteSnapshot { volume: volume.name.clone(), name }
            }
            _ if self.node.is_multiple_of(7) => Command::MarkLossy { volume: id, epoch },
            _ if self.node.is_multiple_of(2) => {
                Command::Attach { volume: name, gateway, instance, expected_epoch: epoch }
            }
            _ => Command::AssignSteward { volume: id, gateway, instance, expected_epoch: epoch },
        }
    }

    fn at(self, volume: &Volume) -> SegmentAt {
        let index = usize::from(self.segment) % volume.segments.len();
        let generation = volume.segments[index].generation;
        let generation = if self.stale == 2 { generation.previous() } else { generation };
        SegmentAt { index: u32::try_from(index).unwrap(), generation }
    }

    fn change(self, volume: &Volume, nodes: u64) -> SegmentChange {
        let at = self.at(volume);
        let replicas = &volume.segments[at.index as usize].replicas;
        let is_removed = |index: usize| self.removed >> (index % 8) & 1 == 1;
        let removed = replicas.iter().enumerate().filter(|(index, _)| is_removed(*index));
        let holds = |node: &u64| replicas.iter().any(|replica| replica.node.0 == *node);
        // Most often nodes that have none.
        let added = (1..=nodes).filter(|node| self.node >> (node % 8) & 1 == 1);
        SegmentChange {
            at,
            add: added.filter(|node| self.stale == 3 || !holds(node)).map(NodeId).collect(),
            remove: removed.map(|(_, replica)| replica.id).collect(),
        }
    }
}
