//! The cluster managers: members as they ship, on machines that fail like all others, and the calls of everybody else.

use super::gateway::EXPORT;
use super::network::Machine;
use super::{Event, Process, World};
use crate::clock::Clock;
use crate::queue::{MILLISECOND, Nanos};
use crate::random::Random;
use quoin_api::v1;
use quoin_cluster::{RequestId, State, Volume};
use quoin_cluster_manager::member::{
    Answer, Asked, Member, MemberConfig, OutboundMessage, Reply, Request, Ticket,
};
use quoin_disk::MemDir;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many members there are.
pub(crate) const MEMBERS: usize = 3;
/// A leader that is silent for 10 to 20 of these is replaced.
const TICK: Duration = Duration::from_millis(20);
/// How often everybody reports.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(200);
/// How long a member may take over a request.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a caller waits before it asks another member.
const CALL_MAX: Nanos = 700 * MILLISECOND;
const TRY_AGAIN: Nanos = 50 * MILLISECOND;
/// How often a watcher is sent what is new.
const WATCH_EVERY: Nanos = 20 * MILLISECOND;
/// How often a call is tried that need not be made for ever.
const ATTEMPTS_MAX: u64 = 6;

/// One member's process.
pub(crate) struct ManagerProcess {
    pub(crate) machine: Machine,
    /// Its raft id: another one whenever its directory is lost.
    pub(super) id: u64,
    pub(super) directory: MemDir,
    clock: Clock,
    pub(crate) member: Option<Member>,
    pub(crate) incarnation: u64,
    pub(crate) paused_until: Nanos,
}

/// A call under way.
struct Call {
    caller: Process,
    incarnation: u64,
    request_id: RequestId,
    request: Request,
    member: usize,
    attempt: u64,
}

/// Somebody who watches a member's state.
#[derive(Clone, Copy, Debug, Default)]
struct Watcher {
    member: usize,
    seen: Option<u64>,
    /// When what was sent last arrives: what follows arrives later.
    arrival: Nanos,
}

/// The managers, and who speaks with them.
pub(crate) struct Managers {
    random: Random,
    seed: u64,
    pub(crate) members: Vec<ManagerProcess>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    pub(super) last_id: u64,
    /// The member whose directory was lost last.
    pub(super) lost: Option<u64>,
    watchers: BTreeMap<Process, Watcher>,
    /// The volume, as the member that is ahead has it.
    volume: Option<Volume>,
    volume_revision: u64,
}

impl Managers {
    pub(super) fn new(first_machine: Machine, mut random: Random) -> Self {
        let members = (0..MEMBERS).map(|index| ManagerProcess {
            machine: first_machine + index,
            id: index as u64 + 1,
            directory: MemDir::new(),
            clock: Clock::random(&mut random),
            member: None,
            incarnation: 0,
            paused_until: 0,
        });
        let members = members.collect();
        Self {
            seed: random.next(),
            random,
            members,
            calls: BTreeMap::new(),
            next_call: 0,
            last_id: MEMBERS as u64,
            lost: None,
            watchers: BTreeMap::new(),
            volume: None,
            volume_revision: 0,
        }
    }

    /// The one volume, once there is one.
    pub(crate) fn volume(&self) -> Option<&Volume> {
        self.volume.as_ref()
    }

    /// The member that a call goes to.
    pub(super) fn asked(&self, call: u64) -> Option<usize> {
        self.calls.get(&call).map(|call| call.member)
    }

    /// Where the member of this raft id is, if it is anywhere.
    pub(super) fn place_of(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|process| process.id == id)
    }

    /// The machine of the member that leads, or of some member.
    pub(crate) fn leader(&self) -> usize {
        let leads = |process: &ManagerProcess| process.member.as_ref().is_some_and(Member::leads);
        self.members.iter().position(leads).unwrap_or_default()
    }

    fn look(&mut self, index: usize) {
        let Some(member) = &self.members[index].member else { return };
        let state = member.state();
        if state.revision() > self.volume_revision {
            self.volume_revision = state.revision();
            self.volume = state.volumes().values().find(|volume| volume.name == EXPORT).cloned();
        }
    }
}

/// What a process is told by the managers.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The answer to a call; without one it was given up.
    Answer(Box<Request>, Option<Box<Answer>>),
    NodeView(v1::ReplicaAssignments),
    GatewayView(Box<v1::GatewayView>),
}

impl World {
    // Members.

    pub(super) fn start_manager(&mut self, index: usize, incarnation: u64) {
        let first = self.managers.members[0].machine;
        let process = &self.managers.members[index];
        let idle = process.incarnation == incarnation && process.member.is_none();
        if !idle || !self.machine_is_up(process.machine) {
            return;
        }
        let process = &mut self.managers.members[index];
        let config = MemberConfig {
            id: process.id,
            // One that came later is taken in by those that there are.
            members: if process.id > MEMBERS as u64 {
                BTreeMap::new()
            } else {
                (0..MEMBERS).map(|member| (member as u64 + 1, (first + member).to_string())).collect()
            },
            seed: self.managers.seed ^ (index as u64) << 32 ^ incarnation,
            tick: TICK,
            heartbeat_interval: HEARTBEAT,
        };
        let now = process.clock.at(self.now);
        match Member::open(config, &process.directory, now) {
            Ok(member) => process.member = Some(member),
            Err(error) => return self.fail(format!("manager {index} cannot open its log: {error}")),
        }
        self.queue.push(self.now, Event::ManagerTick { manager: index, incarnation });
    }

    pub(super) fn end_manager(&mut self, index: usize, power_lost: bool) {
        let seed = self.managers.random.next();
        let process = &mut self.managers.members[index];
        process.member = None;
        process.incarnation += 1;
        process.paused_until = 0;
        let directory = &process.directory;
        process.directory = if power_lost { directory.crash(seed) } else { directory.process_crash() };
    }

    pub(super) fn on_manager_tick(&mut self, index: usize, incarnation: u64) {
        let process = &mut self.managers.members[index];
        if process.incarnation != incarnation {
            return;
        }
        let now = process.clock.at(self.now);
        let wait = process.clock.virtual_time(TICK);
        let Some(member) = process.member.as_mut() else { return };
        member.tick(now);
        self.queue.push(self.now + wait, Event::ManagerTick { manager: index, incarnation });
        self.advance_manager(index);
    }

    fn advance_manager(&mut self, index: usize) {
        let process = &mut self.managers.members[index];
        let now = process.clock.at(self.now);
        let Some(member) = process.member.as_mut() else { return };
        let mut messages = Vec::new();
        let result = member.advance(now, &mut |message| messages.push(message));
        let answers = member.take_answers();
        let (incarnation, id) = (process.incarnation, process.id);
        for message in messages {
            let delay = self.network.call_delay();
            let event = Event::ManagerMessage { from: index, id, incarnation, message };
            self.queue.push(self.now + delay, event);
        }
        for (ticket, answer) in answers {
            let delay = self.network.call_delay();
            let answer = Box::new(answer);
            self.queue
                .push(self.now + delay, Event::CallAnswered { manager: index, ticket: ticket.0, answer });
        }
        if let Err(error) = result {
            return self.fail(format!("manager {index} is over: {error}"));
        }
        self.managers.look(index);
        let Self { managers, observer, now, .. } = self;
        if let Some(volume) = managers.volume() {
            observer.volume_is(volume, *now);
        }
    }

    pub(super) fn on_manager_message(
        &mut self,
        from: usize,
        id: u64,
        incarnation: u64,
        message: &OutboundMessage,
    ) {
        // To one that is lost, or not there yet.
        let Some(to) = self.managers.place_of(message.to) else { return };
        let (here, there) = (self.managers.members[from].machine, self.managers.members[to].machine);
        let receiver = &mut self.managers.members[to];
        let now = receiver.clock.at(self.now);
        let arrives = !self.network.is_blocked(here, there);
        let arrived = match receiver.member.as_mut().filter(|_| arrives) {
            Some(member) => {
                member.on_message(id, &message.bytes, now);
                true
            }
            None => false,
        };
        self.trace.bytes(&message.bytes);
        if arrived {
            self.advance_manager(to);
        }
        let sender = &mut self.managers.members[from];
        if let Some(member) = sender.member.as_mut().filter(|_| sender.incarnation == incarnation) {
            if !arrived {
                member.unreachable(message.to);
            }
            if message.snapshot {
                member.snapshot_sent(message.to, arrived);
            }
        }
    }

    // Calls.

    /// Asks the managers.
    pub(super) fn call_manager(&mut self, caller: Process, request: Request) {
        self.managers.next_call += 1;
        let number = self.managers.next_call;
        let call = Call {
            caller,
            incarnation: self.incarnation_of(caller),
            request_id: RequestId(self.managers.random.bytes_16()),
            request,
            member: self.managers.random.index(MEMBERS),
            attempt: 0,
        };
        self.managers.calls.insert(number, call);
        self.send_call(number, 0);
    }

    fn send_call(&mut self, number: u64, wait: Nanos) {
        let Some(call) = self.managers.calls.get_mut(&number) else { return };
        call.attempt += 1;
        let attempt = call.attempt;
        let delay = self.network.call_delay();
        self.queue.push(self.now + wait + delay, Event::CallArrives { call: number, attempt });
        self.queue.push(self.now + wait + CALL_MAX, Event::CallTimeout { call: number, attempt });
    }

    pub(super) fn on_call_arrives(&mut self, number: u64, attempt: u64) {
        let Some(call) = self.managers.calls.get(&number).filter(|call| call.attempt == attempt) else {
            return;
        };
        let (index, caller) = (call.member, call.caller);
        let (from, to) = (self.machine_of(caller), self.managers.members[index].machine);
        if self.network.is_blocked(from, to) {
            return;
        }
        let process = &mut self.managers.members[index];
        let now = process.clock.at(self.now);
        let Some(member) = process.member.as_mut() else { return };
        let (request_id, request) = (call.request_id, call.request.clone());
        let ticket = Ticket(number << 16 | attempt);
        member.request(ticket, Asked { request_id, deadline: now + DEADLINE, request }, now);
        self.advance_manager(index);
    }

    pub(super) fn on_call_answered(&mut self, index: usize, ticket: u64, answer: Box<Answer>) {
        let (number, attempt) = (ticket >> 16, ticket & 0xFFFF);
        let Some(call) = self.managers.calls.get(&number).filter(|call| call.attempt == attempt) else {
            return;
        };
        let (from, to) = (self.managers.members[index].machine, self.machine_of(call.caller));
        if self.network.is_blocked(from, to) {
            return;
        }
        if let Answer::TryAgain { leader } = *answer {
            let leader = leader.and_then(|leader| self.managers.place_of(leader));
            return self.try_again(number, leader.filter(|leader| *leader != index));
        }
        self.end_call(number, Some(answer));
    }

    pub(super) fn on_call_timeout(&mut self, number: u64, attempt: u64) {
        if self.managers.calls.get(&number).is_some_and(|call| call.attempt == attempt) {
            self.try_again(number, None);
        }
    }

    fn try_again(&mut self, number: u64, member: Option<usize>) {
        let another = self.managers.random.index(MEMBERS);
        let Some(call) = self.managers.calls.get_mut(&number) else { return };
        let attempts_max = match call.request {
            Request::NodeHeartbeat(_) | Request::GatewayHeartbeat(_) => 1,
            Request::RegisterNode(_)
            | Request::ReportReplicas(_)
            | Request::CreateVolume(_)
            | Request::ChangeMembers { .. } => u64::MAX,
            _ => ATTEMPTS_MAX,
        };
        call.member = member.unwrap_or(another);
        let (caller, incarnation) = (call.caller, call.incarnation);
        if call.attempt >= attempts_max && member.is_none() || self.incarnation_of(caller) != incarnation {
            return self.end_call(number, None);
        }
        self.send_call(number, TRY_AGAIN);
    }

    fn end_call(&mut self, number: u64, answer: Option<Box<Answer>>) {
        let Some(call) = self.managers.calls.remove(&number) else { return };
        let (caller, incarnation) = (call.caller, call.incarnation);
        let told = Told::Answer(Box::new(call.request), answer);
        self.queue.push(self.now, Event::Told { caller, incarnation, told });
    }

    pub(super) fn on_told(&mut self, who: Process, incarnation: u64, told: Told) {
        if self.incarnation_of(who) != incarnation {
            return;
        }
        match (who, told) {
            (Process::Node(index), Told::Answer(request, answer)) => {
                self.node_is_answered(index, &request, answer);
            }
            (Process::Node(index), Told::NodeView(view)) => self.node_sees(index, &view),
            (Process::Gateway(index), Told::Answer(request, answer)) => {
                self.gateway_is_answered(index, &request, answer);
            }
            (Process::Gateway(index), Told::GatewayView(view)) => self.gateway_sees(index, &view),
            (_, Told::Answer(request, Some(answer))) => {
                if let Request::ChangeMembers { .. } = *request {
                    self.members_changed(&answer);
                }
                self.trace.line(self.now, || format!("the operator is answered: {answer:?}"));
            }
            _ => {}
        }
    }

    // Watches.

    /// Begins to watch some member's state.
    pub(super) fn watch(&mut self, who: Process) {
        let member = self.managers.random.index(MEMBERS);
        self.managers.watchers.insert(who, Watcher { member, ..Watcher::default() });
        let incarnation = self.incarnation_of(who);
        self.queue.push(self.now, Event::Watch { who, incarnation });
    }

    pub(super) fn on_watch(&mut self, who: Process, incarnation: u64) {
        if self.incarnation_of(who) != incarnation {
            return;
        }
        self.queue.push(self.now + WATCH_EVERY, Event::Watch { who, incarnation });
        let Some(mut watcher) = self.managers.watchers.get(&who).copied() else { return };
        let process = &self.managers.members[watcher.member];
        let (here, there) = (process.machine, self.machine_of(who));
        let cut = self.network.is_blocked(here, there) || self.network.is_blocked(there, here);
        let Some(member) = process.member.as_ref().filter(|_| !cut && process.paused_until <= self.now)
        else {
            watcher = Watcher { member: self.managers.random.index(MEMBERS), seen: None, ..watcher };
            self.managers.watchers.insert(who, watcher);
            return;
        };
        let Some((revision, told)) = self.shown_to(who, member) else { return };
        if watcher.seen.is_some_and(|seen| seen >= revision) {
            return;
        }
        let delay = self.network.call_delay();
        watcher.seen = Some(revision);
        watcher.arrival = watcher.arrival.max(self.now + delay);
        self.managers.watchers.insert(who, watcher);
        self.queue.push(watcher.arrival, Event::Told { caller: who, incarnation, told });
    }

    fn shown_to(&self, who: Process, member: &Member) -> Option<(u64, Told)> {
        match who {
            Process::Node(index) => {
                let identity = *self.nodes[index].node.as_ref()?.identity();
                let revision = member.state().node_revision(identity.node);
                Some((revision, Told::NodeView(member.node_view(identity.node, identity.disk))))
            }
            Process::Gateway(index) => {
                let name = &self.gateways[index].name;
                let revision = member.state().gateway_revision(name);
                Some((revision, Told::GatewayView(Box::new(member.gateway_view(name)))))
            }
            _ => None,
        }
    }

    // The operator.

    fn state(&self) -> Option<impl std::ops::Deref<Target = State> + '_> {
        self.managers.members[self.managers.leader()].member.as_ref().map(Member::state)
    }

    pub(super) fn operate(&mut self, request: Request) {
        self.call_manager(Process::Operator, request);
    }

    /// Creates the volume once enough nodes have registered; `true` once it is ready.
    pub(crate) fn prepare_volume(&mut self) -> bool {
        if let Some(volume) = self.managers.volume() {
            return volume.stage() == quoin_cluster::VolumeStage::Ready;
        }
        let nodes = self.state().map_or(0, |state| state.nodes().len());
        if nodes < self.setup.nodes || self.volume_asked {
            return false;
        }
        self.volume_asked = true;
        self.operate(Request::CreateVolume(v1::CreateVolumeRequest {
            name: EXPORT.into(),
            size_bytes: self.setup.segment_bytes * u64::from(self.setup.segments),
            replicas: self.setup.replicas as u32,
            durability: v1::Durability::from(self.setup.durability).into(),
            segment_bytes: self.setup.segment_bytes,
            min_replicas: self.setup.min_replicas,
        }));
        false
    }

    /// A change of where the volume's replicas are, or of how many there are.
    pub(crate) fn reconfigure(&mut self) {
        let Some(volume) = self.managers.volume().cloned() else { return };
        let random = &mut self.managers.random;
        let volume_name = EXPORT.to_owned();
        // While copies are lost, which ones may go is not for chance to say: only as many come as go.
        let count_stays = self.setup.faults.iter().any(|kind| kind.loses_disks());
        let request = match random.below(5) {
            0 => Request::AbortChange(v1::AbortChangeRequest { volume: volume_name }),
            1 | 2 if !count_stays => {
                let most = self.setup.nodes.min(5) as u64;
                let replicas = random.between(1, most) as u32;
                Request::SetReplicas(v1::SetReplicasRequest { volume: volume_name, replicas })
            }
            _ => {
                let segment = random.below(volume.segments.len() as u64) as u32;
                let from = format!("node-{}", random.index(self.setup.nodes));
                Request::MoveReplica(v1::MoveReplicaRequest {
                    volume: volume_name,
                    segment: Some(segment),
                    from,
                    to: String::new(),
                })
            }
        };
        self.operate(request);
    }

    /// A snapshot more, or one less.
    pub(crate) fn snapshot(&mut self) {
        let volume = EXPORT.to_owned();
        let name = format!("snapshot-{}", self.managers.random.below(5));
        let known = self.managers.volume().is_some_and(|volume| volume.snapshot_named(&name).is_some());
        self.operate(if known {
            Request::DeleteSnapshot(v1::DeleteSnapshotRequest { volume, name })
        } else {
            Request::CreateSnapshot(v1::CreateSnapshotRequest { volume, name, no_wait: true })
        });
    }

    /// Deletes all snapshots, for the last round; says whether there are none.
    pub(crate) fn delete_snapshots(&mut self) -> bool {
        let names: Vec<String> = self
            .managers
            .volume()
            .map(|volume| volume.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect())
            .unwrap_or_default();
        let none = names.is_empty();
        for name in names {
            self.operate(Request::DeleteSnapshot(v1::DeleteSnapshotRequest { volume: EXPORT.into(), name }));
        }
        none
    }

    /// The volume grows by a part of a segment, or by more.
    pub(crate) fn resize(&mut self) {
        let Some(size_bytes) = self.managers.volume().map(|volume| volume.size_bytes) else { return };
        let more = self.setup.segment_bytes / self.managers.random.pick(&[1, 2]);
        let most = self.setup.segment_bytes * (u64::from(self.setup.segments) + 2);
        if size_bytes + more <= most {
            let size_bytes = size_bytes + more;
            self.operate(Request::ResizeVolume(v1::ResizeVolumeRequest { name: EXPORT.into(), size_bytes }));
        }
    }
}

/// The reply in an answer, if it is one.
pub(super) fn reply(answer: Option<Box<Answer>>) -> Option<Reply> {
    match answer.map(|answer| *answer) {
        Some(Answer::Reply(reply)) => Some(reply),
        _ => None,
    }
}

/// Whether the managers said no.
pub(super) fn is_refused(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Refused(_)))
}
