//! Writes: from a client's request to its acknowledgement (rules W1, W2, W5).

use super::read::WaitingRead;
use super::voter::Stage;
use super::{Completion, Credit, Failure, Links, Operation, Phase, Request, Segment, Token};
use quoin_types::{Durability, Moment, Seq, joint};

/// The most bytes on their way to one voter without an answer.
const WINDOW_BYTES: usize = 16 << 20;

impl Segment {
    /// Takes a client's request. Its completion follows, at once or later.
    pub fn submit(&mut self, token: Token, request: Request, now: Moment, links: &mut dyn Links) {
        if self.phase == Phase::Fenced {
            self.completions.push(Completion::Failed(token, Failure::Fenced));
        } else if let Some(read) = WaitingRead::out_of_order(token, &request) {
            self.waiting_reads.push_back(read);
            self.start_waiting_reads(now, links);
        } else if !self.waiting.is_empty() || !self.may_serve(now) {
            self.waiting.push_back((token, request));
        } else if let Some(request) = self.try_start(token, request, now, links) {
            self.waiting.push_back((token, request));
        }
    }

    /// Starts requests that had to wait, as far as that is possible now.
    pub(super) fn start_waiting(&mut self, now: Moment, links: &mut dyn Links) {
        self.start_waiting_reads(now, links);
        while self.may_serve(now) {
            let Some((token, request)) = self.waiting.pop_front() else { return };
            if let Some(request) = self.try_start(token, request, now, links) {
                self.waiting.push_front((token, request));
                return;
            }
        }
    }

    /// Gives the request back if it cannot be started yet.
    fn try_start(
        &mut self,
        token: Token,
        request: Request,
        now: Moment,
        links: &mut dyn Links,
    ) -> Option<Request> {
        match request {
            Request::Replicate { operation, durable } => {
                match self.room_for(&operation, links) {
                    Credit::Enough => self.replicate(token, operation, durable, now, links),
                    Credit::Later => {
                        // W2: memory comes back with what is durable.
                        if self.log.bytes() > self.config.retained_bytes_max {
                            self.hasten(links);
                        }
                        return Some(Request::Replicate { operation, durable });
                    }
                    Credit::Full => self.completions.push(Completion::Failed(token, Failure::NoSpace)),
                }
                None
            }
            Request::Flush => {
                self.await_durable(self.committed, token, links);
                None
            }
            Request::Read { offset, length, .. } => {
                let read = WaitingRead::in_order(token, offset, length, self.log.last());
                let started = self.start_read(&read, now, links);
                (!started).then_some(request)
            }
            Request::Status { offset, length, since } => {
                let started = self.start_read(&WaitingRead::status(token, offset, length, since), now, links);
                (!started).then_some(request)
            }
        }
    }

    /// W5: decided before a seq is given. Too few live voters, or too much in memory, is `Later`.
    fn room_for(&self, operation: &Operation, links: &dyn Links) -> Credit {
        if !self.is_majority(super::Voter::is_live) || self.log.bytes() > self.config.retained_bytes_max {
            return Credit::Later;
        }
        let extents = operation.extents_touched();
        if extents == 0 {
            // Even where it waits behind what has no room: it may be what gives room back.
            return Credit::Enough;
        }
        // What it has not been sent yet comes before it.
        let credit = |voter: &super::Voter| {
            links.credit(voter.config.node, self.log.credit_after(voter.sent) + extents)
        };
        if self.is_majority(|voter| voter.is_live() && credit(voter) == Credit::Enough) {
            Credit::Enough
        } else if self.is_majority(|voter| voter.is_live() && credit(voter) != Credit::Full) {
            Credit::Later
        } else {
            Credit::Full
        }
    }

    fn replicate(
        &mut self,
        token: Token,
        operation: Operation,
        durable: bool,
        now: Moment,
        links: &mut dyn Links,
    ) {
        let seq = self.log.push(operation);
        let durable = durable || self.config.durability == Durability::WriteThrough;
        if durable {
            self.acknowledge_durable.insert((seq, token));
        } else {
            self.acknowledge_accepted.push_back((seq, token));
        }
        for index in 0..self.voters.len() {
            self.pump(index, now, links);
        }
        if durable {
            self.hasten(links);
        }
    }

    fn await_durable(&mut self, seq: Seq, token: Token, links: &mut dyn Links) {
        if seq <= self.durable {
            self.completions.push(Completion::Done(token));
        } else {
            self.acknowledge_durable.insert((seq, token));
            self.hasten(links);
        }
    }

    /// Voters whose positions count are asked not to wait until more has gathered for a sync.
    fn hasten(&self, links: &mut dyn Links) {
        self.voters.iter().filter(|voter| voter.is_live()).for_each(|voter| links.sync(voter.config.node));
    }

    /// Sends a voter what it has not been sent, as far as its window and credit allow.
    pub(super) fn pump(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let voter = &mut self.voters[index];
        if !matches!(voter.stage, Stage::Live | Stage::Joining) {
            return;
        }
        while voter.sent < self.log.last() && voter.unanswered_bytes() < WINDOW_BYTES {
            let seq = voter.sent.next();
            let Some(operation) = self.log.get(seq) else {
                // Memory no longer reaches back to it: it is lagging, the others go on without it.
                self.voters[index].resync_broke();
                self.open(index, now, links);
                return;
            };
            if voter.stage == Stage::Joining && matches!(operation, Operation::Snapshot(_)) {
                // N3: it is incomplete, and so would its snapshot be. A round without the live stream brings the snapshot.
                self.voters[index].resync_broke();
                self.open(index, now, links);
                return;
            }
            let extents = operation.extents_touched();
            if seq > voter.overdraws_to && links.credit(voter.config.node, extents) != Credit::Enough {
                voter.starved_since.get_or_insert(now);
                return;
            }
            voter.starved_since = None;
            links.spend(voter.config.node, extents);
            links.send(voter.config.node, operation.message(voter.config.replica, self.config.epoch, seq));
            voter.sent_write(now, seq, operation.memory_bytes());
        }
    }

    /// Counts positions, and tells clients what has come true.
    pub(super) fn advance(&mut self, now: Moment, links: &mut dyn Links) {
        if self.base.is_none() {
            return;
        }
        let accepted = |voter: &super::Voter| if voter.is_live() { voter.accepted } else { Seq::ZERO };
        let accepted = joint::position(&self.voters, super::Voter::role, accepted);
        self.durable = self.durable.max(self.durable_on_majority());
        self.committed = self.committed.max(accepted).max(self.durable);
        self.acknowledge();
        self.trim();
        self.start_waiting(now, links);
    }

    /// What is durable on a majority of the present configuration.
    pub(super) fn durable_on_majority(&self) -> Seq {
        joint::position(&self.voters, super::Voter::role, |voter| voter.durable).min(self.log.last())
    }

    /// What reads may show (rule R1): nothing that a failover could undo.
    pub(super) fn visible(&self) -> Seq {
        match self.config.durability {
            Durability::Flush => self.committed,
            Durability::WriteThrough => self.durable,
        }
    }

    fn acknowledge(&mut self) {
        while let Some((_, token)) = self.acknowledge_accepted.pop_front_if(|(seq, _)| *seq <= self.committed)
        {
            self.completions.push(Completion::Done(token));
        }
        while self.acknowledge_durable.first().is_some_and(|(seq, _)| *seq <= self.durable) {
            let (_, token) = self.acknowledge_durable.pop_first().expect("just looked at");
            self.completions.push(Completion::Done(token));
        }
        let visible = self.visible();
        if !self.reads_to_commit.is_empty() {
            let ready = self.reads_to_commit.extract_if(.., |(seq, _)| *seq <= visible);
            self.completions.extend(ready.map(|(_, read)| read));
        }
    }

    /// W2: what a majority has made durable is kept only for voters that lack it, within the bound.
    fn trim(&mut self) {
        let counted = self.voters.iter().filter(|voter| !voter.has_failed());
        let everywhere = counted.map(|voter| voter.durable).min().unwrap_or_default();
        while self.log.floor() <= self.durable
            && self.log.floor() < self.log.next()
            && (self.log.floor() <= everywhere || self.log.bytes() > self.config.retained_bytes_max)
        {
            self.log.drop_front();
        }
    }
}
