//! A gateway's shell around the real `Segment`, and its client.

use crate::checker::{Checker, WriteOp};
use crate::rng::Rng;
use crate::store::{block_bytes, block_value, zero_value};
use bytes::Bytes;
use quoin_replication::writer::{
    Completion, Credit, Failure, Links, Operation, Request, Segment, SegmentConfig, Token,
};
use quoin_types::{BLOCK_BYTES, InstanceId, Moment, NodeId, Seq, SnapshotId};
use quoin_wire::*;
use std::collections::{BTreeMap, VecDeque};

/// The blocks that clients use: parts of three extents.
pub(crate) const BLOCKS: [u32; 16] = [0, 1, 2, 3, 4, 14, 15, 16, 17, 18, 19, 31, 32, 33, 34, 35];

/// What the client asked, by token.
#[derive(Clone, Debug)]
enum Asked {
    Write { number: u64, durable: bool },
    Flush { invoked: u64 },
    Read { first: u32, count: u32, invoked: u64 },
}

/// What a segment wants done, gathered during one call.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<(usize, Message)>,
    pub(crate) cuts: Vec<usize>,
    pub(crate) full: Vec<bool>,
}

impl Links for Outbox {
    fn send(&mut self, node: NodeId, message: Message) {
        if !self.cuts.contains(&(node.0 as usize)) {
            self.messages.push((node.0 as usize, message));
        }
    }

    fn credit(&self, node: NodeId, extents: u64) -> Credit {
        if extents > 0 && self.full[node.0 as usize] { Credit::Full } else { Credit::Enough }
    }

    fn spend(&mut self, _node: NodeId, _extents: u64) {}

    fn cut(&mut self, node: NodeId, _reason: &'static str) {
        if !self.cuts.contains(&(node.0 as usize)) {
            self.cuts.push(node.0 as usize);
        }
    }
}

pub(crate) struct Gateway {
    pub(crate) epoch: u64,
    pub(crate) instance: InstanceId,
    pub(crate) up: bool,
    pub(crate) segment: Segment,
    pub(crate) outbox: Outbox,
    /// The session with each node, once it is ready.
    pub(crate) sessions: Vec<Option<usize>>,
    write_through: bool,
    /// The most requests that the client has open at once.
    pub(crate) outstanding_max: usize,
    asked: BTreeMap<Token, Asked>,
    next_token: u64,
    /// Snapshots that were placed.
    snapshots: Vec<(SnapshotId, Seq)>,
    /// Zeroes that were submitted and not yet seen on the wire: their seqs are not known.
    zeroes: VecDeque<(u64, u64, u64)>,
}

impl Gateway {
    pub(crate) fn new(config: SegmentConfig, nodes: usize, now: Moment) -> Self {
        Self {
            epoch: config.epoch.0,
            instance: config.instance,
            up: true,
            write_through: config.durability == quoin_types::Durability::WriteThrough,
            outstanding_max: 8,
            segment: Segment::new(config, now),
            outbox: Outbox { full: vec![false; nodes], ..Outbox::default() },
            sessions: vec![None; nodes],
            asked: BTreeMap::new(),
            next_token: 0,
            snapshots: Vec::new(),
            zeroes: VecDeque::new(),
        }
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.asked.len()
    }

    pub(crate) fn on_message(&mut self, message: Message, now: Moment) {
        let (segment, links) = (&mut self.segment, &mut self.outbox);
        match message {
            Message::OpenReply(reply) => segment.on_open_reply(reply, now, links),
            Message::StartEpochReply(reply) => segment.on_start_epoch_reply(&reply, now, links),
            Message::Positions(positions) => {
                positions.replicas.iter().for_each(|position| segment.on_position(position, now, links));
            }
            Message::Refused(refused) => segment.on_refused(&refused, now, links),
            Message::ReadReply(reply) => segment.on_read_reply(reply, now, links),
            Message::ResyncReport(report) => segment.on_resync_report(&report, now, links),
            Message::HeartbeatReply(reply) => {
                for (replica, epoch) in reply.granted {
                    if epoch.0 == self.epoch {
                        segment.on_lease(replica, Moment::from_nanos(reply.stamp), now, links);
                    }
                }
            }
            other => panic!("a node does not send {other:?}"),
        }
    }

    pub(crate) fn tick(&mut self, now: Moment) {
        self.segment.tick(now, &mut self.outbox);
        if self.segment.is_promised() {
            self.segment.allow_serving(now, &mut self.outbox);
        }
    }

    pub(crate) fn heartbeat(&mut self, now: Moment) {
        for node in 0..self.sessions.len() {
            let replicas: Vec<_> = self.segment.leases_wanted(NodeId(node as u64)).collect();
            if !replicas.is_empty() {
                let heartbeat = Heartbeat { stamp: now.as_nanos(), instance: self.instance, replicas };
                self.outbox.messages.push((node, Message::Heartbeat(heartbeat)));
            }
        }
    }

    /// The client's next request.
    pub(crate) fn ask_something(&mut self, checker: &mut Checker, rng: &mut Rng, real: u64, now: Moment) {
        let at = rng.below(BLOCKS.len() as u64) as usize;
        let most =
            BLOCKS[at..].iter().zip(BLOCKS[at]..).take_while(|(block, next)| *block == next).count() as u64;
        let count = rng.between(1, most.min(4)) as u32;
        let durable = rng.permille(100);
        match rng.below(100) {
            0..45 => self.write(checker, BLOCKS[at], count, durable, real, now),
            45..55 => self.zero(checker, BLOCKS[at], count, durable, real, now),
            55..62 => self.flush(real, now),
            _ => self.read(BLOCKS[at], count, real, now),
        }
    }

    fn write(
        &mut self,
        checker: &mut Checker,
        first: u32,
        count: u32,
        durable: bool,
        real: u64,
        now: Moment,
    ) {
        let number = self.note_write(checker, first, count, real);
        let data: Vec<u8> = (0..count).flat_map(|_| block_bytes(number)).collect();
        let offset = u64::from(first) * BLOCK_BYTES;
        let operation = Operation::Write { offset, checksums: block_checksums(&data), data: data.into() };
        self.submit(Asked::Write { number, durable }, Request::Replicate { operation, durable }, now);
    }

    fn zero(&mut self, checker: &mut Checker, first: u32, count: u32, durable: bool, real: u64, now: Moment) {
        let number = self.note_write(checker, first, count, real);
        let (offset, length) = (u64::from(first) * BLOCK_BYTES, u64::from(count) * BLOCK_BYTES);
        self.zeroes.push_back((number, offset, length));
        let operation = Operation::Zero { offset, length };
        self.submit(Asked::Write { number, durable }, Request::Replicate { operation, durable }, now);
    }

    pub(crate) fn flush(&mut self, real: u64, now: Moment) {
        self.submit(Asked::Flush { invoked: real }, Request::Flush, now);
    }

    pub(crate) fn read(&mut self, first: u32, count: u32, real: u64, now: Moment) {
        let request = Request::Read {
            offset: u64::from(first) * BLOCK_BYTES,
            length: count * BLOCK_BYTES as u32,
            in_order: false,
        };
        self.submit(Asked::Read { first, count, invoked: real }, request, now);
    }

    /// Places a snapshot, if the segment is ready for it.
    pub(crate) fn place_snapshot(&mut self, id: SnapshotId, now: Moment) {
        let seq = self.segment.place_snapshot(id, now, &mut self.outbox);
        self.snapshots.extend(seq.map(|seq| (id, seq)));
    }

    fn submit(&mut self, asked: Asked, request: Request, now: Moment) {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.asked.insert(token, asked);
        self.segment.submit(token, request, now, &mut self.outbox);
    }

    fn note_write(&self, checker: &mut Checker, first: u32, count: u32, real: u64) -> u64 {
        let number = checker.writes.len() as u64 + 1;
        let write = WriteOp {
            epoch: self.epoch,
            blocks: (first..first + count).collect(),
            invoked: real,
            acked: None,
            durable: false,
            void: false,
            seq: 0,
        };
        checker.writes.insert(number, write);
        number
    }

    /// Learns from what is sent which seq each operation was given.
    pub(crate) fn learn_seqs(&mut self, checker: &mut Checker, zero_numbers: &mut BTreeMap<u64, u64>) {
        for (_, message) in &self.outbox.messages {
            let (number, seq) = match message {
                Message::Write(write) => (block_value(&write.data), write.seq),
                Message::Zero(zero) => {
                    let value = zero_value(zero.epoch, zero.seq);
                    let zeroes = &mut self.zeroes;
                    let number = *zero_numbers.entry(value).or_insert_with(|| {
                        // Nearly always the front one: one that could be sent to nobody may be followed by another that
                        // goes to a replica which joins behind it.
                        let range = (zero.offset, zero.length);
                        let at = zeroes.iter().position(|(_, offset, length)| (*offset, *length) == range);
                        let (number, ..) =
                            zeroes.remove(at.expect("a zero that somebody asked for")).expect("it is there");
                        number
                    });
                    (number, zero.seq)
                }
                _ => continue,
            };
            let write = checker.writes.get_mut(&number).expect("a write that nobody asked for");
            assert!(write.seq == 0 || write.seq == seq.0, "one write, one seq");
            write.seq = seq.0;
        }
    }

    /// Tells the client, and the checker, how requests ended.
    pub(crate) fn complete(
        &mut self,
        checker: &mut Checker,
        zero_numbers: &BTreeMap<u64, u64>,
        real: u64,
    ) -> Result<(), String> {
        for (id, seq) in self.snapshots.extract_if(.., |(_, seq)| self.segment.is_durable(*seq)) {
            checker.snapshots.insert(id, (self.epoch, seq));
        }
        let completions: Vec<Completion> = self.segment.completions().collect();
        for completion in completions {
            let token = completion.token();
            let asked = self.asked.remove(&token).ok_or_else(|| format!("{token:?} was answered twice"))?;
            match (asked, completion) {
                (Asked::Write { number, durable }, Completion::Done(_)) => {
                    let write = checker.writes.get_mut(&number).expect("noted");
                    write.acked = Some(real);
                    write.durable = durable || self.write_through;
                }
                (Asked::Write { number, .. }, Completion::Failed(_, failure)) => {
                    let write = checker.writes.get_mut(&number).expect("noted");
                    write.void = failure == Failure::NoSpace;
                }
                (Asked::Flush { invoked }, Completion::Done(_)) => checker.flushed(self.epoch, invoked, real),
                (Asked::Read { first, count, invoked }, Completion::Read(_, data)) => {
                    self.note_read(checker, zero_numbers, first, count, invoked, real, &data)?;
                }
                (_, Completion::Failed(..)) => {}
                (asked, completion) => return Err(format!("{completion:?} answers {asked:?}")),
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the facts of one read
    fn note_read(
        &self,
        checker: &mut Checker,
        zero_numbers: &BTreeMap<u64, u64>,
        first: u32,
        count: u32,
        invoked: u64,
        real: u64,
        data: &Bytes,
    ) -> Result<(), String> {
        if data.len() as u64 != u64::from(count) * BLOCK_BYTES {
            return Err(format!("a read of {count} blocks gave {} bytes", data.len()));
        }
        for (block, bytes) in (first..).zip(data.chunks_exact(BLOCK_BYTES as usize)) {
            let value = block_value(bytes);
            let number = zero_numbers.get(&value).copied().unwrap_or(value);
            checker.read(self.epoch, block, number, invoked, real);
        }
        Ok(())
    }
}
