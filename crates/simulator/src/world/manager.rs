//! The cluster managers, as one authority: the state machine that ships, and what its members say of it.

use super::network::Machine;
use super::{Event, Process, World};
use crate::queue::{MILLISECOND, Nanos};
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{Candidate, Command, Outcome, ReplicaState, State, Volume};
use quoin_gateway::core::{View, ViewedVolume, VolumeSpec};
use quoin_replication::writer::VoterConfig;
use quoin_storage_node::node::{Assignment, KeptSnapshots, Wanted};
use quoin_types::{ClusterId, DiskId, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, ReplicaRole};
use quoin_wire::LeaseHolder;
use std::collections::{BTreeMap, BTreeSet};

/// How long a caller waits for managers that do not answer.
const UNREACHABLE_AFTER: Nanos = 200 * MILLISECOND;
const CLUSTER: ClusterId = ClusterId([7; 16]);

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum ManagerCall {
    RegisterEmpty { name: String },
    Register(RegisterNode),
    Report { node: NodeId, disk: DiskId, created: Vec<ReplicaId>, dropped: Vec<ReplicaId> },
    Attach { gateway: GatewayId, instance: InstanceId },
    MarkLossy { epoch: Epoch },
}

/// An attachment that was given.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    pub(crate) previous: Option<LeaseHolder>,
    pub(crate) spec: VolumeSpec,
    pub(crate) nodes: Vec<(NodeId, String)>,
}

/// What a storage node watches.
#[derive(Clone, Debug)]
pub(crate) struct NodeView {
    pub(crate) disk: DiskId,
    pub(crate) assignments: Vec<Assignment>,
}

/// What is answered, or told to those who watch.
#[derive(Clone, Debug)]
pub(crate) enum ManagerReply {
    Done,
    Unreachable(ManagerCall),
    Refused,
    MayFormat(ClusterId),
    Registered(NodeId),
    Attached(Box<Attached>),
    NotAttached,
    GatewayView(Box<View>),
    NodeView(NodeView),
}

/// The managers.
pub(crate) struct Manager {
    pub(crate) machine: Machine,
    pub(crate) state: State,
    /// They answer nobody before this moment.
    pub(crate) away_until: Nanos,
    /// Who watches, with the revision that was last sent, and the time at which that arrives.
    gateways: BTreeMap<usize, (u64, Nanos)>,
    nodes: BTreeMap<usize, (u64, Nanos)>,
}

impl Manager {
    pub(super) fn new(machine: Machine) -> Self {
        let mut state = State::default();
        let command = Command::InitCluster { cluster_id: CLUSTER, managers: BTreeMap::new() };
        quoin_cluster::apply(&mut state, &command).expect("a new state takes its identity");
        Self { machine, state, away_until: 0, gateways: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    pub(super) fn watch_gateway(&mut self, index: usize) {
        self.gateways.insert(index, (0, 0));
    }

    pub(super) fn watch_node(&mut self, index: usize) {
        self.nodes.insert(index, (0, 0));
    }

    /// The one volume, once there is one.
    pub(crate) fn volume(&self) -> Option<&Volume> {
        self.state.volumes().values().next()
    }

    fn spec(&self, volume: &Volume) -> VolumeSpec {
        let voter = |replica: &quoin_cluster::Replica| {
            let node = &self.state.nodes()[&replica.node];
            VoterConfig {
                node: replica.node,
                name: node.name.clone(),
                address: node.data_address.clone(),
                replica: replica.id,
                role: ReplicaRole::Voter,
            }
        };
        let segments = volume.served_segments().iter();
        VolumeSpec {
            id: volume.id,
            size_bytes: volume.size_bytes,
            segment_bytes: volume.segment_bytes,
            durability: volume.durability,
            segments: segments
                .map(|segment| (segment.generation, segment.replicas.iter().map(voter).collect()))
                .collect(),
        }
    }

    fn addresses(&self, volume: &Volume) -> Vec<(NodeId, String)> {
        let used: BTreeSet<NodeId> = volume.replicas().map(|(.., replica)| replica.node).collect();
        used.into_iter().map(|id| (id, self.state.nodes()[&id].data_address.clone())).collect()
    }

    fn gateway_view(&self, gateway: &GatewayId) -> View {
        let volume = self.state.volumes_attached_to(gateway).next();
        let shown = |volume: &Volume| {
            let attachment = volume.attachment.as_ref()?;
            Some(ViewedVolume {
                spec: self.spec(volume),
                epoch: attachment.epoch,
                instance: attachment.instance,
                steward: false,
                taking: Vec::new(),
            })
        };
        View {
            revision: self.state.revision(),
            volumes: volume.and_then(shown).into_iter().collect(),
            nodes: volume.map(|volume| self.addresses(volume)).unwrap_or_default(),
        }
    }

    fn node_view(&self, node: NodeId, disk: DiskId) -> NodeView {
        let here = self.state.replicas_on(node).filter(|(.., replica)| replica.disk == disk);
        let assignments = here.map(|(volume, segment, generation, replica)| Assignment {
            replica: replica.id,
            segment,
            generation,
            segment_bytes: volume.segment_bytes,
            snapshots: KeptSnapshots::default(),
            wanted: match replica.state {
                ReplicaState::Creating => Wanted::Created,
                ReplicaState::Ready => Wanted::Kept,
                ReplicaState::Dropping => Wanted::Dropped,
            },
        });
        NodeView { disk, assignments: assignments.collect() }
    }

    fn carry_out(&mut self, call: ManagerCall) -> ManagerReply {
        match call {
            ManagerCall::RegisterEmpty { name } => {
                match quoin_cluster::apply::check_unformatted_disk(&self.state, &name) {
                    Ok(()) => ManagerReply::MayFormat(CLUSTER),
                    Err(_) => ManagerReply::Refused,
                }
            }
            ManagerCall::Register(node) => {
                match quoin_cluster::apply(&mut self.state, &Command::RegisterNode(node)) {
                    Ok(Outcome::Node(id)) => ManagerReply::Registered(id),
                    _ => ManagerReply::Refused,
                }
            }
            ManagerCall::Report { node, disk, created, dropped } => {
                let command = Command::ReportReplicas { node, disk, created, dropped };
                let _ = quoin_cluster::apply(&mut self.state, &command);
                ManagerReply::Done
            }
            ManagerCall::Attach { gateway, instance } => self.attach(gateway, instance),
            ManagerCall::MarkLossy { epoch } => {
                if let Some(volume) = self.volume().map(|volume| volume.id) {
                    let _ = quoin_cluster::apply(&mut self.state, &Command::MarkLossy { volume, epoch });
                }
                ManagerReply::Done
            }
        }
    }

    fn attach(&mut self, gateway: GatewayId, instance: InstanceId) -> ManagerReply {
        let Some(volume) = self.volume() else { return ManagerReply::NotAttached };
        let (name, expected_epoch) = (volume.name.clone(), volume.epoch);
        let command = Command::Attach { volume: name, gateway, instance, expected_epoch };
        let Ok(Outcome::Attached { volume, epoch, previous }) =
            quoin_cluster::apply(&mut self.state, &command)
        else {
            return ManagerReply::NotAttached;
        };
        let volume = &self.state.volumes()[&volume];
        ManagerReply::Attached(Box::new(Attached {
            cluster: CLUSTER,
            epoch,
            revision: volume.revision,
            previous: previous.map(|old| LeaseHolder { instance: old.instance, epoch: old.epoch }),
            spec: self.spec(volume),
            nodes: self.addresses(volume),
        }))
    }
}

impl World {
    /// Sends a call to the managers.
    pub(super) fn call_manager(&mut self, caller: Process, call: ManagerCall) {
        let incarnation = self.incarnation_of(caller);
        let delay = self.network.call_delay();
        self.queue.push(self.now + delay, Event::Call { caller, incarnation, call });
    }

    pub(super) fn on_call(&mut self, caller: Process, incarnation: u64, call: ManagerCall) {
        let machine = self.machine_of(caller);
        let unreachable = self.manager.away_until > self.now
            || self.network.is_blocked(machine, self.manager.machine)
            || self.network.is_blocked(self.manager.machine, machine);
        let (answer, delay) = if unreachable {
            (ManagerReply::Unreachable(call), UNREACHABLE_AFTER)
        } else {
            (self.manager.carry_out(call), self.network.call_delay())
        };
        self.queue.push(self.now + delay, Event::Answer { caller, incarnation, answer });
        self.tell_watchers();
    }

    pub(super) fn on_answer(&mut self, caller: Process, incarnation: u64, answer: ManagerReply) {
        if self.incarnation_of(caller) != incarnation {
            return;
        }
        match (caller, answer) {
            (Process::Node(index), ManagerReply::MayFormat(cluster)) => self.node_may_format(index, cluster),
            (Process::Node(index), ManagerReply::Registered(id)) => self.node_registered(index, id),
            (Process::Node(index), ManagerReply::Refused) => self.node_refused(index),
            (Process::Node(index), ManagerReply::NodeView(view)) => self.node_sees(index, view),
            (
                Process::Node(index),
                ManagerReply::Unreachable(ManagerCall::Register(_) | ManagerCall::RegisterEmpty { .. }),
            ) => self.node_not_registered(index),
            (_, ManagerReply::Unreachable(call @ ManagerCall::Report { .. })) => {
                self.call_manager(caller, call)
            }
            (Process::Gateway(index), ManagerReply::Attached(attached)) => {
                self.gateway_attached(index, *attached)
            }
            (Process::Gateway(index), ManagerReply::NotAttached | ManagerReply::Unreachable(_)) => {
                self.gateway_not_attached(index);
            }
            (Process::Gateway(index), ManagerReply::GatewayView(view)) => self.gateway_sees(index, &view),
            _ => {}
        }
    }

    /// Everyone who watches and has not seen the latest is sent it.
    pub(crate) fn tell_watchers(&mut self) {
        let gateways: Vec<usize> = self.manager.gateways.keys().copied().collect();
        for index in gateways {
            let name = self.gateways[index].name.clone();
            let revision = self.manager.state.gateway_revision(&name);
            let (seen, arrival) = self.manager.gateways[&index];
            if revision > seen && self.gateways[index].running.is_some() {
                let view = self.manager.gateway_view(&name);
                let caller = Process::Gateway(index);
                let at = self.tell(caller, arrival, ManagerReply::GatewayView(Box::new(view)));
                self.manager.gateways.insert(index, (revision, at));
            }
        }
        let nodes: Vec<usize> = self.manager.nodes.keys().copied().collect();
        for index in nodes {
            if self.nodes[index].node.is_some() {
                self.send_node_view(index);
            }
        }
    }

    pub(super) fn send_node_view(&mut self, index: usize) {
        let Some(node) = &self.nodes[index].node else { return };
        let (id, disk) = (node.identity().node, node.identity().disk);
        let revision = self.manager.state.node_revision(id);
        let (seen, arrival) = self.manager.nodes.get(&index).copied().unwrap_or_default();
        if revision > seen {
            let view = self.manager.node_view(id, disk);
            let at = self.tell(Process::Node(index), arrival, ManagerReply::NodeView(view));
            self.manager.nodes.insert(index, (revision, at));
        }
    }

    /// In order, and late if nobody can be reached: the stream of a watch.
    fn tell(&mut self, who: Process, not_before: Nanos, answer: ManagerReply) -> Nanos {
        let delay = self.network.call_delay();
        let at = (self.now.max(self.manager.away_until) + delay).max(not_before);
        let incarnation = self.incarnation_of(who);
        self.queue.push(at, Event::Answer { caller: who, incarnation, answer });
        at
    }

    /// Creates the volume once enough nodes have registered; `true` once it is ready.
    pub(crate) fn prepare_volume(&mut self) -> bool {
        if let Some(volume) = self.manager.volume() {
            return volume.stage() == quoin_cluster::VolumeStage::Ready;
        }
        if self.manager.state.nodes().len() < self.setup.nodes {
            return false;
        }
        let free_bytes = self.setup.capacity_bytes;
        let nodes = self.manager.state.nodes().keys();
        let candidates = nodes.map(|node| Candidate { node: *node, free_bytes }).collect();
        let command = Command::CreateVolume {
            name: super::gateway::EXPORT.into(),
            size_bytes: self.setup.segment_bytes * u64::from(self.setup.segments),
            segment_bytes: self.setup.segment_bytes,
            replicas: self.setup.replicas as u32,
            min_replicas: None,
            durability: self.setup.durability,
            candidates,
        };
        if let Err(refusal) = quoin_cluster::apply(&mut self.manager.state, &command) {
            self.fail(format!("the volume cannot be created: {refusal:?}"));
        }
        self.tell_watchers();
        false
    }
}
