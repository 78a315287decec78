//! What clients and the outside saw of a run so far, and the rules that hold in every state.

use crate::node::{BLOCKS, Image, Node};
use crate::state::{Ask, Bounds, GATEWAYS, NODES, Part, State};
use quoin_replication::writer::{Completion, Failure, Token};
use quoin_types::{Durability, Epoch, Seq};
use quoin_wire::{EpochStart, Message, Point, StartEpoch};

const MAJORITY: usize = NODES / 2 + 1;

/// A set of writes, by number; 0 is what was there before the first.
type Set = u8;

fn has(set: Set, number: u8) -> bool {
    set & 1 << number != 0
}

/// One block as its clients see it: a register with unique values. Gibbons and Korach's test is exact for it: there is no
/// order of operations if and only if of two values each must be before the other.
#[derive(Clone, Hash, Debug)]
struct Register {
    /// Values whose write was acknowledged, or that were read: what begins from now on is after them.
    established: Set,
    /// By value: those that an operation on it began after.
    before: Vec<Set>,
}

impl Register {
    fn began_after(&mut self, value: u8, earlier: Set) {
        self.before[value as usize] |= earlier & !(1 << value);
    }

    fn contradiction(&self, value: u8) -> Option<u8> {
        let others = 0..self.before.len() as u8;
        let before = |a: u8, b: u8| has(self.before[b as usize], a);
        others.into_iter().find(|other| before(*other, value) && before(value, *other))
    }
}

/// How an epoch began.
#[derive(Clone, Hash, Debug)]
struct Started {
    history: Vec<EpochStart>,
    expect: Point,
    mixed: bool,
    lossy: bool,
}

/// All that is remembered of a run.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Seen {
    asked: Set,
    acked: Set,
    durable: Set,
    /// The block of each write, by number less one.
    blocks: Vec<usize>,
    /// Which write has which epoch and seq.
    given: Vec<(Point, u8)>,
    started: [Option<Started>; GATEWAYS],
    /// Registers as they are seen before a lossy attachment and from it on.
    eras: Vec<[Register; BLOCKS]>,
    /// Open reads and flushes, with what was established (or acknowledged) before.
    open: Vec<(usize, usize, Set)>,
    /// The highest epoch that each node has answered that it promised.
    promised: [Epoch; NODES],
    power_lost: bool,
}

impl Seen {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let register = Register { established: 1, before: vec![0; bounds.writes().count() + 1] };
        Self {
            asked: 1,
            acked: 0,
            durable: 0,
            blocks: bounds.writes().map(|(_, block)| block).collect(),
            given: Vec::new(),
            started: [None, None],
            eras: vec![std::array::from_fn(|_| register.clone())],
            open: Vec::new(),
            promised: [Epoch::ZERO; NODES],
            power_lost: false,
        }
    }

    fn register(&mut self, gateway: usize, block: usize) -> &mut Register {
        let era = if gateway == 0 { 0 } else { self.eras.len() - 1 };
        &mut self.eras[era][block]
    }

    pub(crate) fn submitted(&mut self, bounds: &Bounds, gateway: usize, index: usize) {
        match bounds.asks[gateway][index] {
            Ask::Write(block) | Ask::Durable(block) => {
                let number = bounds.write_number(gateway, index);
                self.asked |= 1 << number;
                let register = self.register(gateway, block);
                register.began_after(number, register.established);
            }
            Ask::Read(block) => {
                let established = self.register(gateway, block).established;
                self.open.push((gateway, index, established));
            }
            Ask::Flush => self.open.push((gateway, index, self.acked)),
        }
    }

    /// Whether a gateway's message tells something new.
    pub(crate) fn is_news(&self, message: &Message) -> bool {
        match message {
            Message::Write(write) => {
                let given = (Point { epoch: write.epoch, seq: write.seq }, write.data[0]);
                !self.given.contains(&given)
            }
            Message::StartEpoch(_) => true,
            _ => false,
        }
    }

    /// A gateway sends something.
    pub(crate) fn sent(&mut self, message: &Message, lossy: bool) -> Result<(), String> {
        match message {
            Message::Write(write) => {
                let (point, number) = (Point { epoch: write.epoch, seq: write.seq }, write.data[0]);
                match self.given.iter().find(|(given, _)| *given == point) {
                    Some((_, other)) if *other != number => {
                        Err(format!("{point:?} is given to write {number} and to write {other}"))
                    }
                    Some(_) => Ok(()),
                    None => {
                        self.given.push((point, number));
                        self.given.sort_unstable();
                        Ok(())
                    }
                }
            }
            Message::StartEpoch(start) => self.starts(start, lossy),
            _ => Ok(()),
        }
    }

    fn starts(&mut self, start: &StartEpoch, lossy: bool) -> Result<(), String> {
        let place = &mut self.started[start.epoch.0 as usize - 1];
        if let Some(started) = place {
            let same = started.history == start.history && started.expect == start.expect;
            return if same {
                Ok(())
            } else {
                Err(format!("one epoch starts twice: {started:?}, {start:?}"))
            };
        }
        let (history, expect, mixed) = (start.history.clone(), start.expect, start.allow_mixed);
        *place = Some(Started { history, expect, mixed, lossy });
        if lossy {
            // What was only accepted may be gone, and what was read of it too.
            let mut era = self.eras[0].clone();
            era.iter_mut().for_each(|register| register.established &= 1 | self.durable);
            self.eras.push(era);
        }
        Ok(())
    }

    pub(crate) fn promised(&mut self, node: usize, epoch: Epoch) {
        self.promised[node] = self.promised[node].max(epoch);
    }

    pub(crate) fn lost_power(&mut self) {
        self.power_lost = true;
    }

    /// A client hears how its request ended.
    pub(crate) fn completed(
        &mut self,
        bounds: &Bounds,
        nodes: &[Part<Node>; NODES],
        gateway: usize,
        completion: &Completion,
    ) -> Result<(), String> {
        let Token(index) = completion.token();
        let index = index as usize;
        let before = self.open.iter().position(|open| (open.0, open.1) == (gateway, index));
        let before = before.map(|at| self.open.remove(at).2);
        match (completion, bounds.asks[gateway][index], before) {
            (Completion::Done(_), ask @ (Ask::Write(block) | Ask::Durable(block)), None) => {
                let number = bounds.write_number(gateway, index);
                let durable = matches!(ask, Ask::Durable(_)) || bounds.durability == Durability::WriteThrough;
                self.acked |= 1 << number;
                self.register(gateway, block).established |= 1 << number;
                if durable {
                    self.durable |= 1 << number;
                }
                self.is_on_a_majority(nodes, number, durable)
            }
            (Completion::Done(_), Ask::Flush, Some(covered)) => {
                self.durable |= covered;
                (1..8).filter(|n| has(covered, *n)).try_for_each(|n| self.is_on_a_majority(nodes, n, true))
            }
            (Completion::Read(_, data), Ask::Read(block), Some(before)) => {
                self.read(gateway, block, data[0], before)
            }
            (Completion::Failed(_, Failure::Fenced), ..) => Ok(()),
            (other, ask, _) => Err(format!("{other:?} answers {ask:?}")),
        }
    }

    fn read(&mut self, gateway: usize, block: usize, value: u8, before: Set) -> Result<(), String> {
        let written =
            value == 0 || (has(self.asked, value) && self.blocks.get(value as usize - 1) == Some(&block));
        if !written {
            return Err(format!("a read of block {block} returns {value}, which nobody wrote there"));
        }
        let register = self.register(gateway, block);
        register.began_after(value, before);
        register.established |= 1 << value;
        match register.contradiction(value) {
            Some(other) => {
                Err(format!("R0-R2: no order explains values {value} and {other} of block {block}"))
            }
            None => Ok(()),
        }
    }

    fn point_of(&self, number: u8) -> Option<Point> {
        self.given.iter().find(|(_, other)| *other == number).map(|(point, _)| *point)
    }

    /// W1, and the same for durable: so many replicas have it in their state.
    fn is_on_a_majority(&self, nodes: &[Part<Node>; NODES], number: u8, durable: bool) -> Result<(), String> {
        let point = self.point_of(number).ok_or_else(|| format!("W1: write {number} was never sent"))?;
        let image = |node: &Part<Node>| {
            let store = &node.get().store;
            if durable { contains(&store.durable, point) } else { contains(&store.live, point) }
        };
        if nodes.iter().filter(|node| image(node)).count() >= MAJORITY {
            return Ok(());
        }
        let how = if durable { "durable" } else { "accepted" };
        Err(format!("W1: write {number}, {point:?}, is acknowledged and not {how} on a majority"))
    }

    /// Checks what holds in every state.
    pub(crate) fn check(&self, state: &State) -> Result<(), String> {
        self.acknowledged_writes_stay(state)?;
        for (index, node) in state.nodes.iter().enumerate() {
            let node = node.get();
            let promise = node.store.durable.meta.promise.epoch.min(node.replica.meta().promise.epoch);
            if promise < self.promised[index] {
                return Err(format!("node {index} forgot that it promised epoch {}", self.promised[index]));
            }
            self.is_what_its_history_says(&node.store.live).map_err(|e| format!("node {index}: {e}"))?;
        }
        self.equal_states_are_equal(state)?;
        Ok(())
    }

    /// W1, A1 and A2: what was acknowledged is accepted by a majority; once a later epoch is started, it is in its state.
    fn acknowledged_writes_stay(&self, state: &State) -> Result<(), String> {
        for number in (1..8).filter(|number| has(self.acked, *number)) {
            let point = self.point_of(number).ok_or("an acknowledged write was never sent")?;
            let durable = has(self.durable, number);
            let later = self.started.iter().skip(point.epoch.0 as usize).flatten().next();
            let Some(later) = later else {
                if durable || !self.power_lost {
                    self.is_on_a_majority(&state.nodes, number, durable)?;
                }
                continue;
            };
            if (durable || !later.lossy) && !is_in(&later.history, later.expect, point) {
                return Err(format!(
                    "A1, A2: write {number}, {point:?}, was acknowledged and is not in {later:?}"
                ));
            }
        }
        Ok(())
    }

    /// Every replica that is not mixed holds what the writes of its history make.
    fn is_what_its_history_says(&self, image: &Image) -> Result<(), String> {
        let history = &image.meta.history;
        let Some(last) = history.last().filter(|_| image.meta.mixed.is_none()) else { return Ok(()) };
        let started = self.started[last.epoch.0 as usize - 1].as_ref();
        let started = started.filter(|started| started.history == *history);
        let started = started.ok_or_else(|| format!("nobody started {history:?}"))?;
        // What a mixed authority had beyond its common point is anybody's guess, but it is the same everywhere.
        let guessed = |start: &EpochStart| {
            self.started[start.epoch.0 as usize - 1].as_ref().is_some_and(|started| started.mixed)
        };
        if started.mixed || history.iter().any(guessed) {
            return Ok(());
        }
        let mut blocks = [0; BLOCKS];
        for (at, start) in history.iter().enumerate() {
            let end = history.get(at + 1).map_or(image.position, |next| next.first.previous());
            for seq in start.first.0..=end.0 {
                let point = Point { epoch: start.epoch, seq: Seq(seq) };
                let given = self.given.iter().find(|(given, _)| *given == point);
                let (_, number) = given.ok_or_else(|| format!("nobody gave {point:?} of {image:?}"))?;
                blocks[self.blocks[*number as usize - 1]] = *number;
            }
        }
        if blocks == image.blocks { Ok(()) } else { Err(format!("{image:?} should hold {blocks:?}")) }
    }

    /// Two replicas with one history and one position have one content.
    fn equal_states_are_equal(&self, state: &State) -> Result<(), String> {
        let images = state.nodes.iter().map(|node| &node.get().store.live);
        let whole: Vec<&Image> = images.filter(|image| image.meta.mixed.is_none()).collect();
        for (at, image) in whole.iter().enumerate() {
            for other in &whole[at + 1..] {
                let same_state = image.meta.history == other.meta.history && image.position == other.position;
                if same_state && image.blocks != other.blocks {
                    return Err(format!("one history, two contents: {image:?}, {other:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a write is in a replica's state: while it is mixed, to the common point.
fn contains(image: &Image, point: Point) -> bool {
    let history = &image.meta.history;
    let last = history.last().map_or(Epoch::ZERO, |start| start.epoch);
    let end = image.meta.mixed.unwrap_or(Point { epoch: last, seq: image.position });
    is_in(history, end, point)
}

/// Whether a history that ends at `end` has a write.
fn is_in(history: &[EpochStart], end: Point, point: Point) -> bool {
    let Some(at) = history.iter().position(|start| start.epoch == point.epoch) else { return false };
    let next = history.get(at + 1).filter(|next| next.epoch <= end.epoch);
    let last = next.map_or(end.seq, |next| next.first.previous());
    point.epoch <= end.epoch && (history[at].first..=last).contains(&point.seq)
}
