//! Connections as TCP makes them: bytes in order, with delay; cut, or silent while a partition lasts.

use super::{Event, World};
use crate::queue::{MICROSECOND, Nanos};
use crate::random::Random;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A machine, by number.
pub(crate) type Machine = usize;
/// A connection, by number.
pub(crate) type ConnId = usize;

/// The end of a connection that asked for it, and the end that was asked.
pub(crate) const CALLER: usize = 0;
pub(crate) const CALLED: usize = 1;

/// A process of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Process {
    Gateway(usize),
    Node(usize),
    Client(usize),
    Manager(usize),
    /// Who asks the managers for changes.
    Operator,
}

/// What a connection carries.
#[derive(Clone, Debug)]
enum Item {
    Bytes(Bytes),
    /// The other end is closed, in order or not.
    End,
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    items: VecDeque<(Nanos, Item)>,
    last_arrival: Nanos,
    bytes: usize,
}

impl Pipe {
    fn clear(&mut self) {
        self.items.clear();
        self.bytes = 0;
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
struct End {
    process: Process,
    /// The start of the process that has this end; none before it was accepted.
    incarnation: Option<u64>,
    open: bool,
}

struct Conn {
    ends: [End; 2],
    /// By the end that they lead to.
    pipes: [Pipe; 2],
}

/// All connections, and what is between the machines.
pub(crate) struct Network {
    random: Random,
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// From, to: nothing gets through, and nobody is told.
    blocked: BTreeSet<(Machine, Machine)>,
    /// From, to: so much longer.
    slow: BTreeMap<(Machine, Machine), Nanos>,
    /// What a message takes, at least and at most.
    delay: (Nanos, Nanos),
    /// The most bytes that waited in one direction of a connection between a gateway and a storage node.
    pub(crate) queued_bytes_max: usize,
}

impl Network {
    pub(crate) fn new(random: Random, delay: (Nanos, Nanos)) -> Self {
        Self {
            random,
            conns: BTreeMap::new(),
            next: 0,
            blocked: BTreeSet::new(),
            slow: BTreeMap::new(),
            delay,
            queued_bytes_max: 0,
        }
    }

    fn delay(&mut self, from: Machine, to: Machine) -> Nanos {
        if from == to {
            return self.random.between(5, 30) * MICROSECOND;
        }
        let slow = self.slow.get(&(from, to)).copied().unwrap_or_default();
        self.random.between(self.delay.0, self.delay.1) + slow + slow / 4 * self.random.below(2)
    }

    /// What a call to the managers takes, one way.
    pub(crate) fn call_delay(&mut self) -> Nanos {
        self.random.between(self.delay.0, self.delay.1)
    }

    pub(crate) fn is_blocked(&self, from: Machine, to: Machine) -> bool {
        self.blocked.contains(&(from, to))
    }

    pub(crate) fn set_slow(&mut self, from: Machine, to: Machine, by: Nanos) {
        self.slow.insert((from, to), by);
        self.slow.insert((to, from), by);
    }

    pub(crate) fn no_longer_slow(&mut self) {
        self.slow.clear();
    }

    fn is_open(&self, id: ConnId, side: usize) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.ends[side].open)
    }
}

impl World {
    pub(crate) fn machine_of(&self, process: Process) -> Machine {
        match process {
            Process::Gateway(index) => self.gateways[index].machine,
            Process::Node(index) => self.nodes[index].machine,
            Process::Manager(index) => self.managers.members[index].machine,
            Process::Client(_) | Process::Operator => self.client_machine,
        }
    }

    pub(super) fn incarnation_of(&self, process: Process) -> u64 {
        match process {
            Process::Gateway(index) => self.gateways[index].incarnation,
            Process::Node(index) => self.nodes[index].incarnation,
            Process::Manager(index) => self.managers.members[index].incarnation,
            Process::Client(_) | Process::Operator => 0,
        }
    }

    /// Begins a connection; what is sent on it is the other end's to accept.
    pub(super) fn connect(&mut self, from: Process, to: Process) -> ConnId {
        self.network.next += 1;
        let id = self.network.next;
        let incarnation = Some(self.incarnation_of(from));
        let ends = [
            End { process: from, incarnation, open: true },
            End { process: to, incarnation: None, open: true },
        ];
        self.network.conns.insert(id, Conn { ends, pipes: Default::default() });
        id
    }

    pub(super) fn send_on(&mut self, id: ConnId, side: usize, bytes: Bytes) {
        if self.network.is_open(id, side) && !bytes.is_empty() {
            self.push(id, side, Item::Bytes(bytes));
        }
    }

    fn push(&mut self, id: ConnId, side: usize, item: Item) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        let other = 1 - side;
        let (from, to) = (conn.ends[side].process, conn.ends[other].process);
        let (from_machine, to_machine) = (self.machine_of(from), self.machine_of(to));
        let delay = self.network.delay(from_machine, to_machine);
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let pipe = &mut conn.pipes[other];
        let arrival = (self.now + delay).max(pipe.last_arrival);
        pipe.last_arrival = arrival;
        if let Item::Bytes(bytes) = &item {
            pipe.bytes += bytes.len();
            if matches!((from, to), (Process::Gateway(_), Process::Node(_))) {
                self.network.queued_bytes_max = self.network.queued_bytes_max.max(pipe.bytes);
            }
        }
        pipe.items.push_back((arrival, item));
        self.queue.push(arrival, Event::Arrival { conn: id, side: other });
    }

    /// Closes one end; the other hears of it in order.
    pub(super) fn close(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.ends[side].open, false) {
            conn.pipes[side].clear();
            self.push(id, side, Item::End);
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: ConnId) {
        let over = self.network.conns.get(&id).is_some_and(|conn| conn.ends.iter().all(|end| !end.open));
        if over {
            self.network.conns.remove(&id);
        }
    }

    /// What has arrived is handed over, as one batch.
    pub(super) fn on_arrival(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.network.conns.get(&id) else { return };
        let (here, there) = (conn.ends[side], conn.ends[1 - side]);
        let (to, from) = (self.machine_of(here.process), self.machine_of(there.process));
        if self.network.is_blocked(from, to) {
            return;
        }
        if !self.machine_is_up(to) {
            // Nobody answers; what was sent is lost with the connection.
            if let Some(conn) = self.network.conns.get_mut(&id) {
                conn.pipes[side].clear();
            }
            return;
        }
        if let Some(until) = self.paused_until(here.process) {
            self.queue.push(until, Event::Arrival { conn: id, side });
            return;
        }
        let alive = self.is_listening(here.process)
            && here.open
            && here.incarnation.is_none_or(|incarnation| incarnation == self.incarnation_of(here.process));
        if !alive {
            self.refuse(id, side);
            return;
        }
        let incarnation = self.incarnation_of(here.process);
        let now = self.now;
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let is_new = conn.ends[side].incarnation.replace(incarnation).is_none();
        let mut batch: Vec<Bytes> = Vec::new();
        let mut ended = false;
        let pipe = &mut conn.pipes[side];
        while let Some((_, item)) = pipe.items.pop_front_if(|(at, _)| *at <= now) {
            match item {
                Item::Bytes(bytes) => {
                    pipe.bytes -= bytes.len();
                    batch.push(bytes);
                }
                Item::End => {
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            conn.ends[side].open = false;
            conn.pipes[side].clear();
        }
        if !batch.is_empty() {
            let bytes = if batch.len() == 1 { batch.swap_remove(0) } else { batch.concat().into() };
            self.on_bytes(here.process, id, side, is_new, &bytes);
        }
        if ended {
            self.on_end(here.process, id);
            self.forget_if_over(id);
        }
    }

    /// Nobody has this end: the other one is told.
    fn refuse(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        conn.ends[side].open = false;
        conn.pipes[side].clear();
        if conn.ends[1 - side].open {
            self.push(id, side, Item::End);
        } else {
            self.network.conns.remove(&id);
        }
    }

    /// The ends of a process that is gone. Its kernel, if it is there, sends what it still has, or a part of it, and says
    /// good-bye.
    pub(super) fn close_all_of(&mut self, process: Process, power_lost: bool) {
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for id in ids {
            for side in [CALLER, CALLED] {
                let Some(conn) = self.network.conns.get_mut(&id) else { continue };
                let end = &mut conn.ends[side];
                if end.process != process || !end.open || end.incarnation.is_none() {
                    continue;
                }
                end.open = false;
                conn.pipes[side].clear();
                self.lose_a_part(id, 1 - side);
                if !power_lost {
                    self.push(id, side, Item::End);
                }
            }
            self.forget_if_over(id);
        }
    }

    /// Some of what is on its way to an end never gets there: everything from a point on.
    fn lose_a_part(&mut self, id: ConnId, side: usize) {
        let Some(conn) = self.network.conns.get_mut(&id) else { return };
        let items = &mut conn.pipes[side].items;
        let keep = self.network.random.below(items.len() as u64 + 1) as usize;
        items.truncate(keep);
        conn.pipes[side].bytes = 0;
        for (_, item) in &conn.pipes[side].items {
            if let Item::Bytes(bytes) = item {
                conn.pipes[side].bytes += bytes.len();
            }
        }
    }

    /// Breaks connections between two machines: what is on its way is lost, from a point on, and both ends learn of it.
    pub(crate) fn break_connections(&mut self, a: Machine, b: Machine) {
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.network.conns.get(&id) else { continue };
            let machines = conn.ends.map(|end| self.machine_of(end.process));
            if machines != [a, b] && machines != [b, a] {
                continue;
            }
            for side in [CALLER, CALLED] {
                self.lose_a_part(id, side);
                // The end that the item leads to is told as if by the other one.
                self.push(id, 1 - side, Item::End);
            }
        }
    }

    pub(crate) fn block(&mut self, from: Machine, to: Machine) {
        if from != to {
            self.network.blocked.insert((from, to));
        }
    }

    /// Ends a partition: what waited goes on its way.
    pub(crate) fn unblock(&mut self, from: Machine, to: Machine) {
        if !self.network.blocked.remove(&(from, to)) {
            return;
        }
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for id in ids {
            for side in [CALLER, CALLED] {
                let conn = &self.network.conns[&id];
                let is_on_it = self.machine_of(conn.ends[1 - side].process) == from
                    && self.machine_of(conn.ends[side].process) == to;
                if is_on_it && !conn.pipes[side].items.is_empty() {
                    self.queue.push(self.now, Event::Arrival { conn: id, side });
                }
            }
        }
    }

    pub(crate) fn unblock_all(&mut self) {
        let blocked: Vec<(Machine, Machine)> = self.network.blocked.iter().copied().collect();
        for (from, to) in blocked {
            self.unblock(from, to);
        }
    }

    /// A machine is back: who still has a connection with what ran there before is told so at the next packet.
    pub(super) fn reset_old_connections(&mut self, machine: Machine) {
        let ids: Vec<ConnId> = self.network.conns.keys().copied().collect();
        for id in ids {
            for side in [CALLER, CALLED] {
                let conn = &self.network.conns[&id];
                let end = conn.ends[side];
                if !end.open && conn.ends[1 - side].open && self.machine_of(end.process) == machine {
                    self.push(id, side, Item::End);
                }
            }
        }
    }
}
