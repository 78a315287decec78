//! The world: one queue of events in virtual time, machines with clocks of their own, and who is told what.

mod faults;
mod manager;
mod network;

use crate::checker::Checker;
use crate::gateway::Gateway;
use crate::node::{Effect, Node, Timer};
use crate::rng::Rng;
use manager::{Configuration, Report};
use quoin_replication::Timing;
use quoin_replication::replica::ReplicaMeta;
use quoin_replication::writer::SegmentConfig;
use quoin_types::{Durability, Epoch, Generation, InstanceId, Moment, NodeId, SegmentId, Seq, SnapshotId};
use quoin_wire::{EpochStart, LeaseHolder, Message};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

pub(crate) const MILLISECOND: u64 = 1_000_000;

/// The most snapshots in a run: a replica that lacks all of them is brought to one after the other, and in time.
const SNAPSHOTS: u64 = 80;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) voters: usize,
    /// Nodes that are no members at first.
    pub(crate) spares: usize,
    pub(crate) durability: Durability,
    pub(crate) retained_bytes_max: usize,
    /// The longest delay of a message.
    pub(crate) delay_max: u64,
    /// The longest delay between two nodes: with long ones, resyncs are interrupted.
    pub(crate) peer_delay_max: u64,
    /// Between faults, on average.
    pub(crate) fault_gap: u64,
    /// How long faults go on.
    pub(crate) chaos: u64,
    /// Between client requests, on average.
    pub(crate) request_gap: u64,
    /// Snapshots in a thousand client requests.
    pub(crate) snapshots: u64,
}

#[derive(Debug)]
enum Event {
    Connect { gateway: usize, node: usize },
    Hello { session: usize },
    Ready { session: usize },
    ToNode { session: usize, message: Message },
    ToGateway { session: usize, message: Message },
    NodeSeesEnd { session: usize },
    GatewaySeesEnd { session: usize },
    Timer { node: usize, process: u64, timer: Timer },
    Ask { from: usize, process: u64, to: usize, pull: u64, message: Message },
    Answer { to: usize, process: u64, pull: u64, message: Message },
    Tick { gateway: usize },
    Heartbeat { gateway: usize },
    Client { gateway: usize },
    Restart { node: usize },
    Attach { void: Option<LeaseHolder> },
    Full { node: usize, full: bool },
    Configure { gateway: usize, configuration: Configuration },
    Report(Report),
    Unwanted { node: usize },
}

/// Who handles an event: it waits while that one is paused.
enum Owner {
    Gateway(usize),
    Node(usize),
    World,
}

struct Session {
    gateway: usize,
    node: usize,
    process: u64,
    /// Nothing more goes in.
    broken: bool,
    ended_at_node: bool,
    ended_at_gateway: bool,
    last_to_node: u64,
    last_to_gateway: u64,
}

/// A machine: its clock, and until when its process is paused.
#[derive(Clone, Copy)]
struct Machine {
    clock_offset: u64,
    clock_ppm: i64,
    paused_until: u64,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) gateways: Vec<Gateway>,
    node_machines: Vec<Machine>,
    gateway_machines: Vec<Machine>,
    sessions: Vec<Session>,
    /// Until when the way between a gateway and a node, or between two nodes, is cut.
    cut_gateway: HashMap<(usize, usize), u64>,
    cut_nodes: HashMap<(usize, usize), u64>,
    full: Vec<bool>,
    pub(crate) clients_active: bool,
    pub(crate) attach_pending: bool,
    pub(crate) configuration: Configuration,
    /// The next node that was never a member.
    next_spare: usize,
    /// Whether two voters may become one (rule C3).
    pub(crate) shrinks: bool,
    pub(crate) checker: Checker,
    pub(crate) zero_numbers: BTreeMap<u64, u64>,
    next_snapshot: u64,
    /// Snapshots that the cluster manager has deleted.
    pub(crate) unwanted: BTreeSet<SnapshotId>,
    /// An epoch started from a mixed state, in which writes may be left that are in no history.
    pub(crate) mixed_start: bool,
    histories: BTreeMap<u64, Vec<EpochStart>>,
    operations: HashMap<(u64, u64), (u64, u64)>,
    pub(crate) problem: Option<String>,
    trace: bool,
}

pub(crate) fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(100),
        heartbeat: Duration::from_millis(20),
        late_answers: Duration::from_millis(10),
        lossy_after: Duration::from_millis(300),
        unanswered_max: Duration::from_millis(40),
        hedge_min: Duration::from_millis(3),
        hedge_max: Duration::from_millis(8),
        retry: Duration::from_millis(10),
    }
}

impl World {
    pub(crate) fn new(setup: Setup, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let segment = SegmentId::default();
        let count = setup.voters + setup.spares;
        let nodes: Vec<Node> = (0..count)
            .map(|index| Node::new(index, ReplicaMeta::new(segment, Generation(1)), timing()))
            .collect();
        let node_machines = (0..count).map(|_| new_machine(&mut rng)).collect();
        let shrinks = rng.permille(300);
        let mut world = Self {
            full: vec![false; count],
            configuration: Configuration::new(setup.voters),
            next_spare: setup.voters,
            shrinks,
            setup,
            rng,
            now: MILLISECOND,
            order: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            nodes,
            gateways: Vec::new(),
            node_machines,
            gateway_machines: Vec::new(),
            sessions: Vec::new(),
            cut_gateway: HashMap::new(),
            cut_nodes: HashMap::new(),
            clients_active: true,
            attach_pending: false,
            checker: Checker::default(),
            zero_numbers: BTreeMap::new(),
            next_snapshot: 0,
            unwanted: BTreeSet::new(),
            mixed_start: false,
            histories: BTreeMap::new(),
            operations: HashMap::new(),
            problem: None,
            trace: std::env::var_os("QUOIN_TRACE").is_some(),
        };
        world.attach(None);
        world
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((time, self.order)));
        self.events.insert(self.order, event);
    }

    fn clock(&self, machine: &Machine) -> Moment {
        let drift = (self.now as i64 / 1_000_000) * machine.clock_ppm;
        Moment::from_nanos((self.now + machine.clock_offset).saturating_add_signed(drift))
    }

    pub(crate) fn gateway_clock(&self, gateway: usize) -> Moment {
        self.clock(&self.gateway_machines[gateway])
    }

    fn owner(&self, event: &Event) -> Owner {
        match event {
            Event::Connect { gateway, .. }
            | Event::Tick { gateway }
            | Event::Heartbeat { gateway }
            | Event::Client { gateway } => Owner::Gateway(*gateway),
            Event::Ready { session }
            | Event::ToGateway { session, .. }
            | Event::GatewaySeesEnd { session } => Owner::Gateway(self.sessions[*session].gateway),
            Event::Hello { session } | Event::ToNode { session, .. } | Event::NodeSeesEnd { session } => {
                Owner::Node(self.sessions[*session].node)
            }
            Event::Timer { node, .. } | Event::Unwanted { node } => Owner::Node(*node),
            Event::Ask { to, .. } | Event::Answer { to, .. } => Owner::Node(*to),
            Event::Configure { gateway, .. } => Owner::Gateway(*gateway),
            Event::Restart { .. } | Event::Attach { .. } | Event::Full { .. } | Event::Report(_) => {
                Owner::World
            }
        }
    }

    /// Runs until a moment, or until something is wrong.
    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(Reverse((time, order))) = self.queue.peek().copied().filter(|next| next.0.0 < end) {
            self.queue.pop();
            self.now = self.now.max(time);
            let event = self.events.remove(&order).expect("every queued number has its event");
            let paused_until = match self.owner(&event) {
                Owner::Gateway(gateway) => self.gateway_machines[gateway].paused_until,
                Owner::Node(node) => self.node_machines[node].paused_until,
                Owner::World => 0,
            };
            if paused_until > self.now {
                // The number stays, and with it the order.
                self.queue.push(Reverse((paused_until, order)));
                self.events.insert(order, event);
                continue;
            }
            if self.trace
                && !matches!(event, Event::Tick { .. } | Event::Heartbeat { .. } | Event::Client { .. })
            {
                eprintln!("{:>12} {event:?}", self.now);
            }
            self.handle(event);
            if self.problem.is_some() {
                return;
            }
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connect { gateway, node } => self.connect(gateway, node),
            Event::Hello { session } => self.hello(session),
            Event::Ready { session } => self.ready(session),
            Event::ToNode { session, message } => self.arrive_at_node(session, message),
            Event::ToGateway { session, message } => {
                let Session { gateway, ended_at_gateway, .. } = self.sessions[session];
                if !ended_at_gateway && self.gateways[gateway].up {
                    let now = self.gateway_clock(gateway);
                    self.gateways[gateway].on_message(message, now);
                    self.after_gateway(gateway);
                }
            }
            Event::NodeSeesEnd { session } => self.sessions[session].ended_at_node = true,
            Event::GatewaySeesEnd { session } => self.end_at_gateway(session),
            Event::Timer { node, process, timer } => {
                if self.nodes[node].process == process && self.nodes[node].up {
                    self.nodes[node].on_timer(timer, &mut self.rng);
                    self.after_node(node, None);
                }
            }
            Event::Ask { from, process, to, pull, message } => {
                if self.nodes[to].up {
                    self.nodes[to].on_question(from, &message);
                    self.after_node(to, Some((process, pull)));
                }
            }
            Event::Answer { to, process, pull, message } => {
                let node = &mut self.nodes[to];
                if node.up && node.process == process && node.pull_number == pull {
                    node.on_answer(message, &mut self.rng);
                    self.after_node(to, None);
                }
            }
            Event::Tick { gateway } => self.tick(gateway),
            Event::Heartbeat { gateway } => {
                if self.gateways[gateway].up {
                    let now = self.gateway_clock(gateway);
                    self.gateways[gateway].heartbeat(now);
                    self.after_gateway(gateway);
                    self.report(gateway);
                    self.later(20 * MILLISECOND, Event::Heartbeat { gateway });
                }
            }
            Event::Client { gateway } => self.client(gateway),
            Event::Restart { node } => self.restart(node),
            Event::Attach { void } => self.attach(void),
            Event::Full { node, full } => self.set_full(node, full),
            Event::Configure { gateway, configuration } => self.configure(gateway, &configuration),
            Event::Report(report) => self.reported(&report),
            Event::Unwanted { node } => self.tell_unwanted(node),
        }
    }

    fn tick(&mut self, gateway: usize) {
        if !self.gateways[gateway].up {
            return;
        }
        let now = self.gateway_clock(gateway);
        self.gateways[gateway].tick(now);
        self.after_gateway(gateway);
        if self.gateways[gateway].segment.is_fenced() {
            return self.stop_gateway(gateway);
        }
        let gap = if self.gateways[gateway].segment.is_busy() { 2 } else { 10 };
        self.later(gap * MILLISECOND, Event::Tick { gateway });
    }

    fn client(&mut self, gateway: usize) {
        if !self.gateways[gateway].up || !self.clients_active {
            return;
        }
        let now = self.gateway_clock(gateway);
        if self.rng.permille(self.setup.snapshots) && self.next_snapshot < SNAPSHOTS {
            self.change_snapshots(gateway, now);
        }
        if self.gateways[gateway].outstanding() < self.gateways[gateway].outstanding_max {
            self.gateways[gateway].ask_something(&mut self.checker, &mut self.rng, self.now, now);
            self.after_gateway(gateway);
        }
        let gap = self.rng.below(2 * self.setup.request_gap);
        self.later(gap, Event::Client { gateway });
    }

    /// A snapshot is placed; now and then an older one is deleted, of which the nodes hear in their own time.
    fn change_snapshots(&mut self, gateway: usize, now: Moment) {
        // A learner pulls them one after the other, each with some questions: more would not fit into the time for healing.
        if self.next_snapshot == 60 {
            return;
        }
        self.next_snapshot += 1;
        self.gateways[gateway].place_snapshot(SnapshotId(self.next_snapshot), now);
        self.after_gateway(gateway);
        if self.rng.permille(300) {
            self.unwanted.insert(SnapshotId(self.rng.below(self.next_snapshot) + 1));
            for node in 0..self.nodes.len() {
                let delay = self.rng.below(100 * MILLISECOND);
                self.later(delay, Event::Unwanted { node });
            }
        }
    }

    pub(crate) fn tell_unwanted(&mut self, node: usize) {
        if self.nodes[node].up {
            self.nodes[node].on_unwanted(&self.unwanted, &mut self.rng);
            self.after_node(node, None);
        }
    }

    /// Carries out what a gateway wants done, and looks at what it says.
    pub(crate) fn after_gateway(&mut self, gateway: usize) {
        let state = &mut self.gateways[gateway];
        state.learn_seqs(&mut self.checker, &mut self.zero_numbers);
        let messages = std::mem::take(&mut state.outbox.messages);
        let cuts = std::mem::take(&mut state.outbox.cuts);
        if let Err(problem) = state.complete(&mut self.checker, &self.zero_numbers, self.now) {
            self.problem = Some(problem);
        }
        for status in state.segment.status() {
            if let quoin_replication::writer::VoterHealth::Failed(reason) = status.health {
                self.problem = Some(format!("replica {} is said to have failed: {reason}", status.replica));
            }
        }
        for (node, message) in messages {
            if let Some(session) = self.gateways[gateway].sessions[node] {
                self.send(session, true, message);
            }
        }
        for node in cuts {
            if let Some(session) = self.gateways[gateway].sessions[node] {
                self.sessions[session].broken = true;
                let delay = self.rng.below(20 * MILLISECOND);
                self.later(delay, Event::NodeSeesEnd { session });
                self.end_at_gateway(session);
            }
        }
    }

    /// Carries out what a node wants done. `asker`: the process and pull of the peer it answers.
    fn after_node(&mut self, node: usize, asker: Option<(u64, u64)>) {
        for history in std::mem::take(&mut self.nodes[node].started) {
            let epoch = history.last().expect("a start has its epoch").epoch.0;
            if self.gateways.iter().any(|gateway| gateway.epoch == epoch && gateway.segment.is_lossy()) {
                self.checker.lossy.insert(epoch);
            }
            if *self.histories.entry(epoch).or_insert_with(|| history.clone()) != history {
                self.problem = Some(format!("epoch {epoch} has two histories"));
            }
        }
        let process = self.nodes[node].process;
        for effect in std::mem::take(&mut self.nodes[node].effects) {
            match effect {
                Effect::Send(session, message) => {
                    if self.sessions[session.0 as usize].process == process {
                        self.send(session.0 as usize, false, message);
                    }
                }
                Effect::Later(delay, timer) => self.later(delay, Event::Timer { node, process, timer }),
                Effect::Ask(replica, message) => {
                    let to = replica.0 as usize;
                    let pull = self.nodes[node].pull_number;
                    if !self.nodes_are_cut(node, to) {
                        let delay = self.rng.between(20_000, self.setup.peer_delay_max);
                        self.later(delay, Event::Ask { from: node, process, to, pull, message });
                    }
                }
                Effect::Answer(to, message) => {
                    let (process, pull) = asker.expect("an answer has its asker");
                    if !self.nodes_are_cut(node, to) {
                        let delay = self.rng.between(20_000, self.setup.peer_delay_max);
                        self.later(delay, Event::Answer { to, process, pull, message });
                    }
                }
            }
        }
    }

    fn nodes_are_cut(&self, a: usize, b: usize) -> bool {
        self.cut_nodes.get(&(a.min(b), a.max(b))).is_some_and(|until| *until > self.now)
    }

    /// The cluster manager gives the volume to a new gateway.
    pub(crate) fn attach(&mut self, void: Option<LeaseHolder>) {
        self.attach_pending = false;
        let index = self.gateways.len();
        let config = SegmentConfig {
            id: SegmentId::default(),
            generation: Generation(self.configuration.generation),
            voters: self.configuration.voters(),
            durability: self.setup.durability,
            epoch: Epoch(index as u64 + 1),
            instance: InstanceId([index as u8 + 1; 16]),
            void,
            records_loss: false,
            retained_bytes_max: self.setup.retained_bytes_max,
            timing: timing(),
        };
        let machine = new_machine(&mut self.rng);
        self.gateway_machines.push(machine);
        let now = self.clock(&machine);
        let mut gateway = Gateway::new(config, self.nodes.len(), now);
        gateway.outbox.full.clone_from(&self.full);
        // Long tails that nobody acknowledges, followed by epochs with few writes, and the other way round.
        gateway.outstanding_max = self.rng.pick(&[2, 8, 8, 40]);
        if self.rng.permille(500) {
            let local = NodeId(self.rng.below(self.nodes.len() as u64));
            gateway.segment.set_local(local, true);
        }
        self.gateways.push(gateway);
        for node in 0..self.nodes.len() {
            let delay = self.delay();
            self.later(delay, Event::Connect { gateway: index, node });
        }
        self.later(MILLISECOND, Event::Tick { gateway: index });
        self.later(MILLISECOND, Event::Heartbeat { gateway: index });
        self.later(MILLISECOND, Event::Client { gateway: index });
    }

    fn set_full(&mut self, node: usize, full: bool) {
        self.full[node] = full;
        for gateway in 0..self.gateways.len() {
            self.gateways[gateway].outbox.full[node] = full;
            if !full && self.gateways[gateway].up && self.gateway_machines[gateway].paused_until <= self.now {
                let now = self.gateway_clock(gateway);
                let Gateway { segment, outbox, .. } = &mut self.gateways[gateway];
                segment.on_credit(NodeId(node as u64), now, outbox);
                self.after_gateway(gateway);
            }
        }
    }

    /// The members in the end.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Node> {
        self.configuration.members.iter().map(|(node, _)| &self.nodes[*node])
    }

    /// The history that the last started epoch has, for the final checks, and its end.
    pub(crate) fn last_history(&self) -> (&[EpochStart], Seq) {
        let replica = &self.members().next().expect("a member").replica;
        (replica.meta().history.as_slice(), replica.position())
    }
}

fn new_machine(rng: &mut Rng) -> Machine {
    Machine { clock_offset: rng.below(1 << 40), clock_ppm: rng.below(18_000) as i64 - 9_000, paused_until: 0 }
}
