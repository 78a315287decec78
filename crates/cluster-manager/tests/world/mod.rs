//! Members in one thread, on disks in memory, with a network that loses and delays, and a clock that is a number.

// Each test binary uses some of this.
#![allow(dead_code, unreachable_pub)]

use quoin_cluster::{Command, Outcome, RequestId, command::RegisterNode};
use quoin_cluster_manager::member::{
    Answer, Asked, Member, MemberConfig, OutboundMessage, Reply, Request, Ticket,
};
use quoin_disk::MemDir;
use quoin_types::{ClusterId, DiskId, Moment};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
const STEP: Duration = Duration::from_millis(5);
/// How long a client waits for an answer before it asks somebody else.
const PATIENCE: Duration = Duration::from_millis(700);

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, odds: u64) -> bool {
        odds > 0 && self.below(odds) == 0
    }
}

/// How bad the world is; each is one chance in so many, 0 for never.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// That a message is lost.
    pub loss: u64,
    /// That a member crashes in a step.
    pub crash: u64,
    /// That a pair of members is cut off from each other in a step.
    pub cut: u64,
}

pub const STORM: Weather = Weather { loss: 20, crash: 400, cut: 300 };

struct Host {
    directory: MemDir,
    member: Option<Member>,
    first_members: BTreeMap<u64, String>,
    starts: u64,
    /// When it is started again.
    back_at: Moment,
}

/// A client's request, asked until it is answered.
struct Operation {
    request: RequestId,
    command: Command,
    asked_at: Moment,
    outcome: Option<Outcome>,
}

enum Asking {
    Operation(usize),
    /// With the nodes that must be seen.
    Read(BTreeSet<String>),
    Other,
}

pub struct World {
    seed: u64,
    pub now: Moment,
    random: Random,
    weather: Weather,
    hosts: BTreeMap<u64, Host>,
    links: BTreeMap<(u64, u64), VecDeque<(Moment, OutboundMessage)>>,
    cut_until: BTreeMap<(u64, u64), Moment>,
    operations: Vec<Operation>,
    asking: BTreeMap<(u64, Ticket), Asking>,
    last_ticket: u64,
    pub answers: BTreeMap<Ticket, Answer>,
    /// The nodes whose registration was answered.
    known: BTreeSet<String>,
    pub reads: u64,
    pub crashes: u64,
    pub terms: BTreeSet<u64>,
    pub trace: u64,
}

impl World {
    pub fn new(members: u64, seed: u64) -> Self {
        let mut world = Self {
            seed,
            now: Moment::ZERO + SECOND,
            random: Random(seed),
            weather: Weather::default(),
            hosts: BTreeMap::new(),
            links: BTreeMap::new(),
            cut_until: BTreeMap::new(),
            operations: Vec::new(),
            asking: BTreeMap::new(),
            last_ticket: 0,
            answers: BTreeMap::new(),
            known: BTreeSet::new(),
            reads: 0,
            crashes: 0,
            terms: BTreeSet::new(),
            trace: 0,
        };
        let first: BTreeMap<u64, String> = (1..=members).map(|id| (id, format!("manager-{id}:1"))).collect();
        (1..=members).for_each(|id| world.add_host(id, first.clone()));
        world
    }

    /// A machine with an empty disk, and a member on it.
    pub fn add_host(&mut self, id: u64, first_members: BTreeMap<u64, String>) {
        let (directory, back_at) = (MemDir::new(), self.now);
        self.hosts.insert(id, Host { directory, member: None, first_members, starts: 0, back_at });
        self.start(id);
    }

    /// A machine that never comes back, with all that it has sent and nobody has yet.
    pub fn lose_host(&mut self, id: u64) {
        self.hosts.remove(&id);
        self.links.retain(|(from, _), _| *from != id);
    }

    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Ends all faults; who is down starts.
    pub fn heal(&mut self) {
        self.weather = Weather::default();
        self.cut_until.clear();
        let down: Vec<u64> =
            self.hosts.iter().filter(|(_, host)| host.member.is_none()).map(|(id, _)| *id).collect();
        down.into_iter().for_each(|id| self.start(id));
    }

    fn start(&mut self, id: u64) {
        let host = self.hosts.get_mut(&id).unwrap();
        host.starts += 1;
        let config = MemberConfig {
            id,
            members: host.first_members.clone(),
            seed: self.seed ^ (id << 32 | host.starts),
            tick: TICK,
            heartbeat_interval: Duration::from_millis(500),
        };
        host.member = Some(Member::open(config, &host.directory, self.now).unwrap());
    }

    /// A crash of the process, or a loss of power, and a start some time later.
    pub fn crash(&mut self, id: u64) {
        let (power, seed, pause) = (self.random.one_in(2), self.random.next(), self.random.below(4000));
        let back_at = self.now + MILLISECOND * u32::try_from(pause).unwrap();
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.directory = if power { host.directory.crash(seed) } else { host.directory.process_crash() };
        host.member = None;
        host.back_at = back_at;
        self.asking.retain(|(at, _), _| *at != id);
        self.crashes += 1;
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.hosts.get(&id)?.member.as_ref()
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |host: &&Host| host.member.as_ref().is_some_and(Member::leads);
        let leaders = self.hosts.values().filter(leads);
        let newest = leaders.max_by_key(|host| host.member.as_ref().map(Member::term));
        newest.and_then(|host| host.member.as_ref()).and_then(Member::leader)
    }

    /// Asks a member.
    pub fn ask(&mut self, id: u64, request: Request) -> Option<Ticket> {
        let request_id = RequestId(u128::from(self.random.next()).to_le_bytes());
        self.ask_as(id, request_id, request, Asking::Other)
    }

    fn ask_as(&mut self, id: u64, request_id: RequestId, request: Request, asking: Asking) -> Option<Ticket> {
        let member = self.hosts.get_mut(&id)?.member.as_mut()?;
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asking.insert((id, ticket), asking);
        member.request(ticket, Asked { request_id, deadline: self.now + SECOND * 4, request }, self.now);
        self.advance(id);
        Some(ticket)
    }

    /// Asks the leader, whoever that is, until there is an answer other than to try again.
    pub fn ask_leader(&mut self, request: &Request) -> Answer {
        for _ in 0..2000 {
            let leader = self.leader();
            if let Some(ticket) = leader.and_then(|leader| self.ask(leader, request.clone())) {
                self.run_until(SECOND * 5, |world| world.answers.contains_key(&ticket));
                match self.answers.remove(&ticket) {
                    Some(Answer::TryAgain { .. }) | None => {}
                    Some(answer) => return answer,
                }
            }
            self.step();
        }
        panic!("no leader answers {request:?}");
    }

    /// Registers one more node, in time. Nobody does while all members are down.
    pub fn operate(&mut self) {
        let number = self.operations.len() as u64 + 1;
        let request = RequestId((u128::from(self.random.next()) << 64 | u128::from(number)).to_le_bytes());
        let Some(cluster_id) = self.cluster_id() else { return };
        let command = Command::RegisterNode(RegisterNode {
            cluster_id,
            name: format!("node-{number}"),
            disk: DiskId(u128::from(number).to_le_bytes()),
            start_count: 1,
            ..RegisterNode::default()
        });
        self.operations.push(Operation { request, command, asked_at: Moment::ZERO, outcome: None });
    }

    fn cluster_id(&self) -> Option<ClusterId> {
        self.hosts.values().find_map(|host| host.member.as_ref()?.state().cluster_id())
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    /// Asks again what has waited for long; sometimes what has not.
    fn ask_clients(&mut self) {
        let mut indices: Vec<usize> =
            (0..self.operations.len()).filter(|index| self.operations[*index].outcome.is_none()).collect();
        if !self.operations.is_empty() && self.random.one_in(50) {
            indices.push(usize::try_from(self.random.below(self.operations.len() as u64)).unwrap());
        }
        for index in indices {
            let operation = &self.operations[index];
            let late = self.now.since(operation.asked_at) > PATIENCE;
            if late || self.random.one_in(200) {
                let (request_id, command) = (operation.request, operation.command.clone());
                self.operations[index].asked_at = self.now;
                let id = self.some_host();
                self.ask_as(id, request_id, Request::Propose(command), Asking::Operation(index));
            }
        }
        if self.random.one_in(20) {
            let (id, known) = (self.some_host(), self.known.clone());
            let request_id = RequestId::default();
            self.ask_as(id, request_id, Request::Read, Asking::Read(known));
        }
    }

    fn some_host(&mut self) -> u64 {
        let nth = self.random.below(self.hosts.len() as u64);
        *self.hosts.keys().nth(usize::try_from(nth).unwrap()).unwrap()
    }

    /// Lets [`STEP`] pass.
    pub fn step(&mut self) {
        self.now = self.now + STEP;
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        if self.random.one_in(self.weather.crash) {
            let id = self.some_host();
            if self.member(id).is_some() {
                self.crash(id);
            }
        }
        if self.random.one_in(self.weather.cut) {
            let pair = (self.some_host(), self.some_host());
            let until = self.now + MILLISECOND * u32::try_from(self.random.below(5000)).unwrap();
            self.cut_until.insert((pair.0.min(pair.1), pair.0.max(pair.1)), until);
        }
        for &id in &ids {
            let host = &self.hosts[&id];
            if host.member.is_none() && host.back_at <= self.now {
                self.start(id);
            }
            let offset = MILLISECOND * 15 * u32::try_from(id).unwrap();
            if (self.now + offset).as_nanos().is_multiple_of(TICK.as_nanos() as u64)
                && let Some(member) = self.hosts.get_mut(&id).and_then(|host| host.member.as_mut())
            {
                member.tick(self.now);
                self.advance(id);
            }
        }
        self.deliver();
        self.ask_clients();
    }

    fn deliver(&mut self) {
        let pairs: Vec<(u64, u64)> = self.links.keys().copied().collect();
        for (from, to) in pairs {
            let cut =
                self.cut_until.get(&(from.min(to), from.max(to))).is_some_and(|until| *until > self.now);
            while let Some(queue) = self.links.get_mut(&(from, to))
                && queue.front().is_some_and(|(at, _)| *at <= self.now)
            {
                let Some((_, message)) = queue.pop_front() else { break };
                let lost = cut || self.random.one_in(self.weather.loss);
                let receiver =
                    self.hosts.get_mut(&to).and_then(|host| host.member.as_mut()).filter(|_| !lost);
                let arrived = receiver.is_some();
                if let Some(member) = receiver {
                    member.on_message(from, &message.bytes, self.now);
                    self.trace = mix(self.trace, from << 32 | to, &message.bytes);
                    self.advance(to);
                }
                if let Some(sender) = self.hosts.get_mut(&from).and_then(|host| host.member.as_mut()) {
                    if message.snapshot {
                        sender.snapshot_sent(to, arrived);
                    } else if !arrived {
                        sender.unreachable(to);
                    }
                }
            }
        }
    }

    fn advance(&mut self, id: u64) {
        let now = self.now;
        let member = self.hosts.get_mut(&id).and_then(|host| host.member.as_mut()).unwrap();
        let mut sent = Vec::new();
        member.advance(now, &mut |message| sent.push(message)).unwrap();
        let answers = member.take_answers();
        if member.leads() {
            self.terms.insert(member.term());
        }
        for message in sent {
            let delay = MILLISECOND * u32::try_from(self.random.below(40)).unwrap();
            self.links.entry((id, message.to)).or_default().push_back((now + delay, message));
        }
        for (ticket, answer) in answers {
            self.hear(id, ticket, answer);
        }
    }

    /// Checks an answer: what was answered once is answered so again, and is in everything that is read later.
    fn hear(&mut self, id: u64, ticket: Ticket, answer: Answer) {
        let asking = self.asking.remove(&(id, ticket)).unwrap_or(Asking::Other);
        match (asking, answer) {
            (Asking::Operation(index), Answer::Reply(Reply::Applied(outcome))) => {
                let operation = &mut self.operations[index];
                let first = *operation.outcome.get_or_insert(outcome);
                assert_eq!(first, outcome, "carried out twice");
                let Command::RegisterNode(node) = &operation.command else { unreachable!() };
                self.known.insert(node.name.clone());
            }
            (Asking::Read(expected), Answer::Reply(Reply::Current(_))) => {
                self.reads += 1;
                let missing = self.missing(id, &expected);
                assert!(missing.is_empty(), "at {:?}, member {id} has lost {missing:?}", self.now);
            }
            (Asking::Operation(_) | Asking::Read(_), Answer::TryAgain { .. }) => {}
            (Asking::Operation(_) | Asking::Read(_), answer) => panic!("{answer:?}"),
            (Asking::Other, answer) => drop(self.answers.insert(ticket, answer)),
        }
    }

    fn missing(&self, id: u64, expected: &BTreeSet<String>) -> Vec<String> {
        let state = self.member(id).unwrap().state();
        let there: BTreeSet<&str> = state.nodes().values().map(|node| node.name.as_str()).collect();
        expected.iter().filter(|name| !there.contains(name.as_str())).cloned().collect()
    }

    pub fn asked(&self) -> usize {
        self.operations.len()
    }

    pub fn answered(&self) -> usize {
        self.known.len()
    }

    /// Whether every operation is answered, and every member has all of them, in the same state.
    pub fn has_converged(&self) -> bool {
        if self.operations.iter().any(|operation| operation.outcome.is_none()) {
            return false;
        }
        let states: Option<Vec<Vec<u8>>> =
            self.hosts.values().map(|host| Some(host.member.as_ref()?.state().encode())).collect();
        let complete = self.hosts.keys().all(|id| self.missing(*id, &self.known).is_empty());
        states.is_some_and(|states| states.windows(2).all(|pair| pair[0] == pair[1])) && complete
    }
}

fn mix(trace: u64, number: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    std::iter::once(number).chain(words).fold(trace, |trace, word| Random(trace ^ word).next())
}
