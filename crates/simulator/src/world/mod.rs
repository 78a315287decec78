//! The world: machines with their processes, the network between them, the clients, and virtual time.

mod client;
mod deeds;
mod full;
mod gateway;
mod glue;
mod leave;
mod lost;
mod manager;
mod members;
mod nbd_client;
mod network;
mod node;
mod plot;
mod power;
mod rolled_back;
mod rot;
mod rot_tail;

pub(crate) use client::{Client, Workload, registers};
pub(crate) use network::{Machine, Process};
pub(crate) use node::{NodeProcess, OPTIONS};

use crate::checker::{Held, Observer, Rotten};
use crate::faults::Fault;
use crate::queue::{Nanos, Queue};
use crate::random::Random;
use crate::setup::Setup;
use crate::trace::Trace;
use bytes::Bytes;
use gateway::GatewayProcess;
use lost::{LOOK_AGAIN, LostDisks};
use manager::{MEMBERS, Managers, Told};
use network::{ConnId, Network};
use plot::Plot;
use quoin_cluster_manager::member::{Answer, OutboundMessage};
use quoin_types::NodeId;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something has come to this end of a connection.
    Arrival { conn: ConnId, side: usize },
    /// A gateway's timer.
    GatewayTick { gateway: usize, timer: u64 },
    /// A gateway tries to connect to a storage node.
    GatewayConnect { gateway: usize, incarnation: u64, node: NodeId },
    /// A connection that a gateway began should be ready by now.
    GatewayConnectTimeout { gateway: usize, incarnation: u64, node: NodeId, conn: ConnId },
    /// A gateway ends its session with a storage node.
    GatewayCut { gateway: usize, incarnation: u64, node: NodeId, conn: ConnId },
    /// A gateway asks the managers to attach the volume, unless it is attached.
    GatewayAttach { gateway: usize, incarnation: u64 },
    /// A storage node's timer.
    NodeTick { node: usize, timer: u64 },
    /// A disk job has ended.
    Job { node: usize, incarnation: u64, number: u64 },
    /// A pull's connection should be ready, or have said something, by now.
    PullTimeout { node: usize, incarnation: u64, conn: ConnId, heard: u64 },
    /// A storage node's process is started.
    NodeStart { node: usize, incarnation: u64 },
    /// A gateway's process is started.
    GatewayStart { gateway: usize, incarnation: u64 },
    /// A machine has power again.
    PowerBack { machine: Machine },
    /// A member of the managers is started.
    ManagerStart { manager: usize, incarnation: u64 },
    /// A member's timer.
    ManagerTick { manager: usize, incarnation: u64 },
    /// A member's message to another.
    ManagerMessage { from: usize, id: u64, incarnation: u64, message: OutboundMessage },
    /// A call has come to a member.
    CallArrives { call: u64, attempt: u64 },
    /// A member's answer has come to the caller.
    CallAnswered { manager: usize, ticket: u64, answer: Box<Answer> },
    /// Nobody has answered.
    CallTimeout { call: u64, attempt: u64 },
    /// The managers tell a process something.
    Told { caller: Process, incarnation: u64, told: Told },
    /// A process that watches is sent what is new.
    Watch { who: Process, incarnation: u64 },
    /// A process reports to the managers.
    Heartbeat { who: Process, incarnation: u64 },
    /// The operator looks after a node whose disk is lost.
    Replace { node: usize },
    /// A client thinks of something to do.
    ClientAct { client: usize, timer: u64 },
    /// A fault begins.
    Fault,
    /// A fault ends.
    Mend(Fault, usize, usize),
    /// What a plot waits for has come.
    PlotMoment { number: u64 },
    /// What a plot waits for comes no more, or is due.
    PlotTimer { number: u64 },
}

impl Event {
    /// Numbers that tell most events apart, for the trace's digest.
    pub(crate) fn outline(&self) -> (u64, u64, u64) {
        let (kind, a, b) = match self {
            Event::Arrival { conn, side } => (1, *conn, *side),
            Event::GatewayTick { gateway, .. } => (2, *gateway, 0),
            Event::GatewayConnect { gateway, node, .. } => (3, *gateway, node.0 as usize),
            Event::GatewayConnectTimeout { gateway, conn, .. } => (4, *gateway, *conn),
            Event::GatewayCut { gateway, conn, .. } => (5, *gateway, *conn),
            Event::GatewayAttach { gateway, .. } => (6, *gateway, 0),
            Event::NodeTick { node, .. } => (7, *node, 0),
            Event::Job { node, number, .. } => (8, *node, *number as usize),
            Event::PullTimeout { node, conn, .. } => (9, *node, *conn),
            Event::NodeStart { node, .. } => (10, *node, 0),
            Event::GatewayStart { gateway, .. } => (12, *gateway, 0),
            Event::PowerBack { machine } => (13, *machine, 0),
            Event::ManagerStart { manager, .. } => (19, *manager, 0),
            Event::ManagerTick { manager, .. } => (20, *manager, 0),
            Event::ManagerMessage { from, message, .. } => (21, *from, message.to as usize),
            Event::CallArrives { call, attempt } => (22, *call as usize, *attempt as usize),
            Event::CallAnswered { manager, ticket, .. } => (23, *manager, *ticket as usize),
            Event::CallTimeout { call, attempt } => (24, *call as usize, *attempt as usize),
            Event::Told { incarnation, .. } => (14, *incarnation as usize, 0),
            Event::Watch { incarnation, .. } => (15, *incarnation as usize, 0),
            Event::Heartbeat { incarnation, .. } => (25, *incarnation as usize, 0),
            Event::ClientAct { client, timer } => (16, *client, *timer as usize),
            Event::Replace { node } => (26, *node, 0),
            Event::Fault => (17, 0, 0),
            Event::Mend(_, a, b) => (18, *a, *b),
            Event::PlotMoment { number } => (27, *number as usize, 0),
            Event::PlotTimer { number } => (28, *number as usize, 0),
        };
        (kind, a as u64, b as u64)
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: Nanos,
    pub(crate) setup: Setup,
    pub(crate) queue: Queue,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) gateways: Vec<GatewayProcess>,
    pub(crate) clients: Vec<Client>,
    pub(crate) workload: Workload,
    pub(crate) client_machine: Machine,
    pub(crate) managers: Managers,
    volume_asked: bool,
    lost_disks: LostDisks,
    pub(crate) plot: Option<Plot>,
    plot_number: u64,
    /// Whom a gateway has asked last for data.
    last_reader: Option<NodeId>,
    /// Map entries that have rotted.
    pub(crate) entries_rotted: u64,
    /// Whether each machine has power, and the boots that it had.
    machines: Vec<(bool, u64)>,
    pub(crate) disk_random: Random,
    pub(crate) fault_random: Random,
    id_random: Random,
    pub(crate) observer: Observer,
    pub(crate) trace: Trace,
    /// Faults are over.
    pub(crate) healed: bool,
    /// From then on everything works, but for faults.
    pub(crate) steady_since: Option<Nanos>,
    /// The most that processes held.
    pub(crate) held: Held,
    /// What went wrong.
    pub(crate) problem: Option<String>,
}

impl World {
    /// A cluster that is about to start.
    pub(crate) fn new(setup: Setup, seed: u64, trace: Trace) -> Self {
        let machines = setup.nodes + setup.gateways + MEMBERS + 1;
        let network = Network::new(Random::split(seed, 2), setup.delay);
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            network,
            nodes: Vec::new(),
            gateways: Vec::new(),
            clients: Vec::new(),
            workload: Workload::new(Random::split(seed, 3), &setup),
            client_machine: machines - 1,
            managers: Managers::new(machines - 1 - MEMBERS, Random::split(seed, 7)),
            volume_asked: false,
            lost_disks: LostDisks::default(),
            plot: None,
            plot_number: 0,
            last_reader: None,
            entries_rotted: 0,
            machines: vec![(true, 1); machines],
            disk_random: Random::split(seed, 4),
            fault_random: Random::split(seed, 5),
            id_random: Random::split(seed, 6),
            observer: Observer::new(setup.durability, Rotten::of(&setup.faults)),
            trace,
            healed: false,
            steady_since: None,
            held: Held::default(),
            problem: None,
            setup,
        };
        world.build();
        world
    }

    fn build(&mut self) {
        for manager in 0..MEMBERS {
            self.queue.push(self.now, Event::ManagerStart { manager, incarnation: 0 });
        }
        for index in 0..self.setup.nodes {
            let node = NodeProcess::new(index, &self.setup, &mut self.disk_random);
            self.nodes.push(node);
            self.queue.push(self.now, Event::NodeStart { node: index, incarnation: 0 });
        }
        for index in 0..self.setup.gateways {
            let local = self.setup.local_gateways;
            let machine = if local { index % self.setup.nodes } else { self.setup.nodes + index };
            self.gateways.push(GatewayProcess::new(index, machine, &mut self.id_random));
            self.queue.push(self.now, Event::GatewayStart { gateway: index, incarnation: 0 });
        }
        self.clients.resize_with(self.setup.clients, Client::new);
    }

    pub(crate) fn fail(&mut self, problem: impl Into<String>) {
        if self.problem.is_none() {
            self.problem = Some(problem.into());
        }
    }

    fn fail_if(&mut self, result: Result<(), String>) {
        if let Err(problem) = result {
            self.fail(problem);
        }
    }

    /// Lets the world run; stops early when something went wrong.
    pub(crate) fn run_until(&mut self, until: Nanos) {
        while self.problem.is_none() {
            let Some((at, event)) = self.queue.pop(until) else { break };
            self.now = self.now.max(at);
            self.trace.event(self.now, &event);
            self.dispatch(event);
        }
        self.now = self.now.max(until);
    }

    fn dispatch(&mut self, event: Event) {
        let event = match self.owner(&event).and_then(|owner| self.paused_until(owner)) {
            Some(until) => return self.queue.push(until, event),
            None => event,
        };
        match event {
            Event::Arrival { conn, side } => self.on_arrival(conn, side),
            Event::GatewayTick { gateway, timer } => self.on_gateway_tick(gateway, timer),
            Event::GatewayConnect { gateway, incarnation, node } => {
                self.gateway_connect(gateway, incarnation, node);
            }
            Event::GatewayConnectTimeout { gateway, incarnation, node, conn } => {
                self.gateway_connect_timeout(gateway, incarnation, node, conn);
            }
            Event::GatewayCut { gateway, incarnation, node, conn } => {
                self.gateway_cut(gateway, incarnation, node, conn);
            }
            Event::GatewayAttach { gateway, incarnation } => self.gateway_attach(gateway, incarnation),
            Event::NodeTick { node, timer } => self.on_node_tick(node, timer),
            Event::Job { node, incarnation, number } => self.on_job(node, incarnation, number),
            Event::PullTimeout { node, incarnation, conn, heard } => {
                self.on_pull_timeout(node, incarnation, conn, heard);
            }
            Event::NodeStart { node, incarnation } => self.start_node(node, incarnation),
            Event::GatewayStart { gateway, incarnation } => self.start_gateway(gateway, incarnation),
            Event::PowerBack { machine } => self.power_back(machine),
            Event::ManagerStart { manager, incarnation } => self.start_manager(manager, incarnation),
            Event::ManagerTick { manager, incarnation } => self.on_manager_tick(manager, incarnation),
            Event::ManagerMessage { from, id, incarnation, message } => {
                self.on_manager_message(from, id, incarnation, &message);
            }
            Event::CallArrives { call, attempt } => self.on_call_arrives(call, attempt),
            Event::CallAnswered { manager, ticket, answer } => self.on_call_answered(manager, ticket, answer),
            Event::CallTimeout { call, attempt } => self.on_call_timeout(call, attempt),
            Event::Told { caller, incarnation, told } => self.on_told(caller, incarnation, told),
            Event::Watch { who, incarnation } => self.on_watch(who, incarnation),
            Event::Heartbeat { who, incarnation } => self.on_heartbeat(who, incarnation),
            Event::ClientAct { client, timer } => self.client_act(client, timer),
            Event::Replace { node } => self.replace_lost(node),
            Event::Fault => self.begin_fault(),
            Event::Mend(fault, a, b) => self.end_fault(fault, a, b),
            Event::PlotMoment { number } => self.on_plot_moment(number),
            Event::PlotTimer { number } => self.on_plot_timer(number),
        }
    }

    /// Whose event it is; a connection's arrival is looked at by itself.
    fn owner(&self, event: &Event) -> Option<Process> {
        match event {
            Event::GatewayTick { gateway, .. }
            | Event::GatewayConnect { gateway, .. }
            | Event::GatewayConnectTimeout { gateway, .. }
            | Event::GatewayCut { gateway, .. }
            | Event::GatewayAttach { gateway, .. } => Some(Process::Gateway(*gateway)),
            Event::NodeTick { node, .. } | Event::Job { node, .. } | Event::PullTimeout { node, .. } => {
                Some(Process::Node(*node))
            }
            Event::Told { caller, .. } => Some(*caller),
            Event::Heartbeat { who, .. } => Some(*who),
            Event::ManagerTick { manager, .. } => Some(Process::Manager(*manager)),
            Event::ManagerMessage { message, .. } => self.managers.place_of(message.to).map(Process::Manager),
            Event::CallArrives { call, .. } => self.managers.asked(*call).map(Process::Manager),
            _ => None,
        }
    }

    fn paused_until(&self, process: Process) -> Option<Nanos> {
        let until = match process {
            Process::Gateway(index) => self.gateways[index].paused_until,
            Process::Node(index) => self.nodes[index].paused_until,
            Process::Manager(index) => self.managers.members[index].paused_until,
            Process::Client(_) | Process::Operator => 0,
        };
        (until > self.now).then_some(until)
    }

    fn is_listening(&self, process: Process) -> bool {
        match process {
            Process::Gateway(index) => self.gateways[index].running.is_some(),
            Process::Node(index) => self.nodes[index].node.is_some(),
            Process::Client(_) | Process::Manager(_) | Process::Operator => true,
        }
    }

    fn on_bytes(&mut self, process: Process, conn: ConnId, side: usize, is_new: bool, bytes: &Bytes) {
        self.trace.bytes(bytes);
        match process {
            Process::Gateway(index) => self.gateway_bytes(index, conn, side, bytes),
            Process::Node(index) => self.node_bytes(index, conn, side, is_new, bytes),
            Process::Client(index) => self.client_bytes(index, conn, bytes),
            Process::Manager(_) | Process::Operator => {}
        }
    }

    fn on_end(&mut self, process: Process, conn: ConnId) {
        match process {
            Process::Gateway(index) => self.gateway_conn_ended(index, conn),
            Process::Node(index) => self.node_conn_ended(index, conn),
            Process::Client(index) => self.client_conn_ended(index, conn),
            Process::Manager(_) | Process::Operator => {}
        }
    }

    fn on_heartbeat(&mut self, who: Process, incarnation: u64) {
        if self.incarnation_of(who) != incarnation {
            return;
        }
        match who {
            Process::Node(index) => self.node_heartbeat(index),
            Process::Gateway(index) => self.gateway_heartbeat(index),
            _ => {}
        }
    }
}
