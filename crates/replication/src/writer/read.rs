//! Reads, of data and of what blocks are: from one live voter, with a second one when it is late (rules R0–R3).

use super::voter::Stage;
use super::{Completion, Failure, Links, Request, Segment, Token};
use quoin_types::{BLOCK_BYTES, Epoch, Moment, ReplicaId, Seq, SnapshotId};
use quoin_wire::{
    BlockStatus, BlockStatusReply, Damaged, Message, Read, ReadReply, ReadResult, Refusal, Repair,
};
use std::time::Duration;

/// A voter that is slower by less than this is not worth a change.
const SLOWER_MIN: Duration = Duration::from_millis(1);
/// How long a read that finds all its copies damaged waits for a repair, in units of [`super::Timing::unanswered_max`].
const MENDING_MAX: u32 = 5;

/// A read that is not asked of anybody at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingRead {
    pub(super) token: Token,
    offset: u64,
    length: u64,
    what: What,
    /// It must see this write, answered or not.
    covers: Seq,
    /// When it first found all its copies damaged.
    damaged_since: Option<Moment>,
}

/// What is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Data,
    Status { since: Option<SnapshotId> },
}

/// A read on its way.
#[derive(Clone, Debug)]
pub(super) struct PendingRead {
    read: WaitingRead,
    attempts: Vec<Attempt>,
}

/// A read that found every copy damaged, and that a repair or another voter may yet serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mending {
    read: WaitingRead,
    again_at: Moment,
}

#[derive(Clone, Debug)]
struct Attempt {
    voter: ReplicaId,
    sent_at: Moment,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Open,
    Refused,
    Damaged,
}

impl WaitingRead {
    pub(super) fn data(token: Token, offset: u64, length: u32) -> Self {
        let (length, covers) = (u64::from(length), Seq::ZERO);
        Self { token, offset, length, what: What::Data, covers, damaged_since: None }
    }

    /// Data that is to be changed: every write before it must be seen.
    pub(super) fn in_order(token: Token, offset: u64, length: u32, last: Seq) -> Self {
        Self { covers: last, ..Self::data(token, offset, length) }
    }

    pub(super) fn status(token: Token, offset: u64, length: u64, since: Option<SnapshotId>) -> Self {
        let what = What::Status { since };
        Self { token, offset, length, what, covers: Seq::ZERO, damaged_since: None }
    }

    /// If the request does not have to wait for changes that were submitted before it.
    pub(super) fn out_of_order(token: Token, request: &Request) -> Option<Self> {
        match *request {
            Request::Read { offset, length, in_order: false } => Some(Self::data(token, offset, length)),
            Request::Status { offset, length, since } => Some(Self::status(token, offset, length, since)),
            _ => None,
        }
    }

    /// Asks a voter, of which it must see everything that was sent.
    fn message(&self, id: u64, epoch: Epoch, voter: &super::Voter) -> Message {
        let (replica, after, offset) = (voter.config.replica, voter.sent, self.offset);
        match self.what {
            What::Data => {
                Message::Read(Read { id, replica, epoch, after, offset, length: self.length as u32 })
            }
            What::Status { since } => Message::BlockStatus(BlockStatus {
                id,
                replica,
                epoch,
                after,
                offset,
                length: self.length,
                since,
            }),
        }
    }
}

impl Mending {
    pub(super) fn token(&self) -> Token {
        self.read.token
    }
}

impl PendingRead {
    pub(super) fn token(&self) -> Token {
        self.read.token
    }

    fn is_open(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.outcome == Outcome::Open)
    }
}

impl Segment {
    /// Starts the reads that wait, as far as that is possible now: one that must see more may have to wait where others need
    /// not.
    pub(super) fn start_waiting_reads(&mut self, now: Moment, links: &mut dyn Links) {
        let (mut index, mut plain_ones_wait) = (0, false);
        while let Some(read) = self.waiting_reads.get(index).copied().filter(|_| self.may_serve(now)) {
            let is_plain = read.covers == Seq::ZERO;
            if !(is_plain && plain_ones_wait) && self.start_read(&read, now, links) {
                self.waiting_reads.remove(index);
            } else {
                plain_ones_wait |= is_plain;
                index += 1;
            }
        }
    }

    /// Starts a read; `false` if no voter can serve it now.
    pub(super) fn start_read(&mut self, read: &WaitingRead, now: Moment, links: &mut dyn Links) -> bool {
        if !self.has_lease(now) {
            return false;
        }
        let id = self.next_read;
        self.reads.insert(id, PendingRead { read: *read, attempts: Vec::with_capacity(1) });
        if self.ask(id, now, links) {
            self.next_read += 1;
            return true;
        }
        self.reads.remove(&id);
        false
    }

    /// A voter has answered a read.
    pub fn on_read_reply(&mut self, reply: ReadReply, now: Moment, links: &mut dyn Links) {
        let Some((index, read, sent_at)) = self.answered(reply.id, reply.replica) else { return };
        let outcome = match &reply.result {
            ReadResult::Data { checksums, data } => {
                let fits = read.what == What::Data && data.len() as u64 == read.length;
                if fits && quoin_wire::first_mismatch(data, checksums).is_none() {
                    let voter = &mut self.voters[index];
                    voter.latency = (voter.latency * 7 + now.since(sent_at)) / 8;
                    let ReadResult::Data { data, .. } = reply.result else { unreachable!("looked at above") };
                    self.got(reply.id, Completion::Read(read.token, data), now);
                    return;
                }
                Outcome::Damaged
            }
            ReadResult::Refused(Refusal::HigherEpoch(epoch)) if *epoch > self.config.epoch => {
                self.fence();
                return;
            }
            ReadResult::Refused(_) => Outcome::Refused,
            ReadResult::Mismatch { .. } => Outcome::Damaged,
        };
        // The node itself asks for the repair, as for what its scrub finds: see `on_damaged`.
        self.statistics.damaged_reads += u64::from(matches!(reply.result, ReadResult::Mismatch { .. }));
        self.came_to_nothing(reply.id, reply.replica, outcome, now, links);
    }

    /// A voter has told what blocks are.
    pub fn on_block_status_reply(&mut self, reply: BlockStatusReply, now: Moment, links: &mut dyn Links) {
        let Some((_, read, _)) = self.answered(reply.id, reply.replica) else { return };
        let refusal = match reply.result {
            Ok(runs) => {
                let blocks: u64 = runs.iter().map(|run| u64::from(run.blocks)).sum();
                if matches!(read.what, What::Status { .. }) && blocks * BLOCK_BYTES <= read.length {
                    return self.got(reply.id, Completion::Status(read.token, runs), now);
                }
                Refusal::WrongState
            }
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::HigherEpoch(epoch) if epoch > self.config.epoch => self.fence(),
            // It has everything that was sent to it, and so every snapshot that is still wanted.
            Refusal::LacksSnapshot => {
                self.reads.remove(&reply.id);
                self.completions.push(Completion::Failed(read.token, Failure::NoSnapshot));
            }
            _ => self.came_to_nothing(reply.id, reply.replica, Outcome::Refused, now, links),
        }
    }

    /// An answer to an open attempt: whose, to what, and when that was asked.
    fn answered(&self, id: u64, replica: ReplicaId) -> Option<(usize, WaitingRead, Moment)> {
        let index = self.voter(replica)?;
        let read = self.reads.get(&id)?;
        let is_open = |attempt: &&Attempt| attempt.voter == replica && attempt.outcome == Outcome::Open;
        Some((index, read.read, read.attempts.iter().find(is_open)?.sent_at))
    }

    fn came_to_nothing(
        &mut self,
        id: u64,
        replica: ReplicaId,
        outcome: Outcome,
        now: Moment,
        links: &mut dyn Links,
    ) {
        let attempts = self.reads.get_mut(&id).into_iter().flat_map(|read| &mut read.attempts);
        attempts.filter(|attempt| attempt.voter == replica).for_each(|attempt| attempt.outcome = outcome);
        self.next_attempt(id, now, links);
    }

    /// A voter's session has ended: what was asked of it is asked of another.
    pub(super) fn retry_reads_of(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let mut stranded = Vec::new();
        let replica = self.voters[index].config.replica;
        for (id, read) in &mut self.reads {
            for attempt in read.attempts.iter_mut().filter(|attempt| attempt.voter == replica) {
                attempt.outcome = Outcome::Refused;
            }
            if !read.is_open() {
                stranded.push(*id);
            }
        }
        stranded.sort_unstable();
        stranded.into_iter().for_each(|id| self.next_attempt(id, now, links));
    }

    pub(super) fn tick_reads(&mut self, now: Moment, links: &mut dyn Links) {
        self.retry_mending(now, links);
        let timing = self.config.timing;
        let voter = |replica: ReplicaId| self.voters.iter().find(|voter| voter.config.replica == replica);
        let late = |read: &PendingRead| {
            let [attempt] = read.attempts.as_slice() else { return false };
            let usual = voter(attempt.voter).map_or(Duration::ZERO, |voter| voter.latency * 4);
            attempt.outcome == Outcome::Open
                && now.since(attempt.sent_at) >= usual.clamp(timing.hedge_min, timing.hedge_max)
        };
        let mut hedged: Vec<u64> =
            self.reads.iter().filter(|(_, read)| late(read)).map(|(id, _)| *id).collect();
        hedged.sort_unstable();
        for id in hedged {
            if self.ask(id, now, links) {
                self.statistics.hedged_reads += 1;
            }
        }
        let limit = timing.unanswered_max;
        for read in self.reads.values() {
            for attempt in read.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Open) {
                if now.since(attempt.sent_at) > limit
                    && let Some(voter) =
                        self.voters.iter().find(|voter| voter.config.replica == attempt.voter)
                {
                    links.cut(voter.config.node, "it does not answer reads");
                }
            }
        }
    }

    fn got(&mut self, id: u64, answer: Completion, now: Moment) {
        let Some(PendingRead { read, .. }) = self.reads.remove(&id) else { return };
        // R2: the lease is checked when data arrives, not when it was asked for.
        if !self.has_lease(now) {
            self.waiting_reads.push_front(read);
            return;
        }
        // R1: what it may show of writes that a failover could still undo is shown once they cannot be undone.
        match self.log.last_overlapping(self.visible(), read.offset, read.length) {
            Some(seq) => self.reads_to_commit.push((seq, answer)),
            None => self.completions.push(answer),
        }
    }

    /// An attempt came to nothing: ask another voter, or wait, or give up when every copy is damaged.
    fn next_attempt(&mut self, id: u64, now: Moment, links: &mut dyn Links) {
        if self.reads.get(&id).is_none_or(PendingRead::is_open) || self.ask(id, now, links) {
            return;
        }
        let Some(PendingRead { mut read, attempts }) = self.reads.remove(&id) else { return };
        if attempts.iter().any(|attempt| attempt.outcome != Outcome::Damaged) {
            self.waiting_reads.push_back(read);
            return;
        }
        let since = *read.damaged_since.get_or_insert(now);
        if self.may_be_mended(since, now) {
            let again_at = now + self.config.timing.retry;
            self.mending.push(Mending { read, again_at });
        } else {
            let voters = self.voters.iter().filter(|voter| voter.role().votes()).count();
            let everywhere = attempts.len() == voters;
            let failure = if everywhere { Failure::Damaged } else { Failure::DamagedInReach };
            self.completions.push(Completion::Failed(read.token, failure));
        }
    }

    /// Whether a read that found all its copies damaged may find a good one later: different extents of it may be damaged
    /// on different voters, which then repair each other; and a voter that is on its way back may be good.
    fn may_be_mended(&self, since: Moment, now: Moment) -> bool {
        let on_its_way =
            |voter: &super::Voter| !matches!(voter.stage, Stage::Live | Stage::Offline | Stage::Failed(_));
        let patience = self.config.timing.unanswered_max * MENDING_MAX;
        self.voters.len() > 1 && (now.since(since) < patience || self.voters.iter().any(on_its_way))
    }

    fn retry_mending(&mut self, now: Moment, links: &mut dyn Links) {
        if !self.may_serve(now) {
            return;
        }
        for due in self.mending.extract_if(.., |mending| mending.again_at <= now) {
            self.waiting_reads.push_back(due.read);
        }
        self.start_waiting_reads(now, links);
    }

    /// Asks the best voter that was not asked yet. The segment keeps to one voter as long as that is not clearly slower
    /// than another: reads that go one way travel in batches.
    fn ask(&mut self, id: u64, now: Moment, links: &mut dyn Links) -> bool {
        let Some(read) = self.reads.get_mut(&id) else { return false };
        // R0: it must have been sent, in this session, everything that was acknowledged, and what the read is ordered behind.
        let needed = self.committed.max(read.read.covers);
        let may_serve = |voter: &&super::Voter| {
            voter.is_live()
                && voter.role().votes()
                && voter.sent >= needed
                && read.attempts.iter().all(|attempt| attempt.voter != voter.config.replica)
        };
        let candidates = || self.voters.iter().filter(may_serve);
        // The one on this machine, else the one that answers soonest.
        let best =
            candidates().min_by_key(|voter| (!voter.local, voter.latency + voter.oldest_unanswered(now)));
        let Some(best) = best else { return false };
        let usual = candidates().find(|voter| {
            Some(voter.config.replica) == self.usual_reader
                && voter.local == best.local
                && voter.latency + voter.oldest_unanswered(now) <= best.latency * 2 + SLOWER_MIN
        });
        let voter = usual.unwrap_or(best);
        if read.attempts.is_empty() {
            self.usual_reader = Some(voter.config.replica);
        }
        links.send(voter.config.node, read.read.message(id, self.config.epoch, voter));
        let attempt = Attempt { voter: voter.config.replica, sent_at: now, outcome: Outcome::Open };
        read.attempts.push(attempt);
        true
    }

    /// R3: a voter has found an extent damaged. It is told a live voter to fetch it from: the one that has the most of
    /// those that it did not try. Without one there is no answer; the voter goes on asking.
    pub fn on_damaged(&mut self, damaged: &Damaged, links: &mut dyn Links) {
        let Some(index) = self.voter(damaged.replica).filter(|_| damaged.epoch == self.config.epoch) else {
            return;
        };
        let others = self.voters.iter().enumerate().filter(|(other, voter)| {
            *other != index && voter.is_live() && !damaged.tried.contains(&voter.config.replica)
        });
        let Some((_, source)) = others.max_by_key(|(_, voter)| voter.accepted) else { return };
        let order = Repair {
            replica: damaged.replica,
            epoch: self.config.epoch,
            extent: damaged.extent,
            version: damaged.version,
            source: source.source(),
        };
        links.send(self.voters[index].config.node, Message::Repair(order));
    }
}
