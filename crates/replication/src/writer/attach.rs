//! Attach and take over: from promises to a started epoch (rules A1–A3).

use super::voter::{Base, Stage};
use super::{Links, Phase, Segment};
use crate::history::{end_point, started};
use quoin_types::{Moment, Seq, joint};
use quoin_wire::{
    Message, OpenReply, Point, Refusal, ReplicaReport, Resync, ResyncMode, StartEpoch, StartEpochReply,
};

/// No segment gets so many writes: at a million a second, it would take 140,000 years.
const SEQ_MAX: Seq = Seq(1 << 62);

impl Segment {
    /// A voter has promised, or refuses.
    pub fn on_open_reply(&mut self, reply: OpenReply, now: Moment, links: &mut dyn Links) {
        let Some(index) = self.voter(reply.replica).filter(|_| reply.epoch == self.config.epoch) else {
            return;
        };
        if self.voters[index].stage != Stage::Opening || self.phase == Phase::Fenced {
            return;
        }
        let report = match reply.result {
            Ok(report) => report,
            Err(refusal) => return self.open_refused(index, refusal, now),
        };
        if self.phase != Phase::Running && self.voters[index].role().votes() {
            // R2: counted from the arrival of the answer. Nobody reads under a learner's lease.
            self.serve_from = self.serve_from.max(now + report.lease_remainder);
        }
        if let Some(reason) = self.impossible(&report).or_else(|| self.broken_promise(index, &report)) {
            return self.voters[index].fail(reason);
        }
        self.voters[index].stage = Stage::Opened(report);
        match self.phase {
            Phase::Opening { .. } => self.decide(now, links),
            // A learner's turn comes when the epoch has started.
            Phase::Recovering { .. } if self.voters[index].unfit || !self.voters[index].role().votes() => {}
            // Step 3: late answers count until step 5. One that has more than the authority is the better one.
            Phase::Recovering { authority } if self.rank(index) > self.rank(authority) => {
                self.authority_lost(authority, now, links);
            }
            Phase::Recovering { authority } => self.recover(index, authority, now, links),
            Phase::Starting | Phase::Running => self.catch_up(index, now, links),
            Phase::Fenced => {}
        }
    }

    /// `StartEpoch` is durable on a voter, or was refused.
    pub fn on_start_epoch_reply(&mut self, reply: &StartEpochReply, now: Moment, links: &mut dyn Links) {
        let Some(index) = self.voter(reply.replica).filter(|_| reply.epoch == self.config.epoch) else {
            return;
        };
        let Some(base) = self.base.as_ref().filter(|_| self.voters[index].stage == Stage::Starting) else {
            return;
        };
        match reply.result {
            Ok(()) => {
                let position = base.expect.seq;
                self.voters[index].go_live(position);
                self.went_live(index, now, links);
            }
            Err(Refusal::HigherEpoch(epoch)) if epoch > self.config.epoch => self.fence(),
            Err(Refusal::OtherInstance) => self.fence(),
            Err(_) => self.rest(index, now),
        }
    }

    pub(super) fn tick_attach(&mut self, now: Moment, links: &mut dyn Links) {
        if matches!(self.phase, Phase::Opening { .. }) {
            self.decide(now, links);
        }
    }

    /// A voter's session is gone. If it was the authority that others are brought to, another one must be found.
    pub(super) fn authority_lost(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        if self.phase != (Phase::Recovering { authority: index }) {
            return;
        }
        self.phase = Phase::Opening { since: now, majority_since: None };
        for other in 0..self.voters.len() {
            // One answer is to come for each question: an answer to an earlier one would tell of an earlier state.
            if !matches!(
                self.voters[other].stage,
                Stage::Offline | Stage::Opening | Stage::Failed(_) | Stage::Resting(_)
            ) {
                self.open(other, now, links);
            }
        }
    }

    /// The authority that others are being brought to.
    pub(super) fn authority(&self) -> Option<usize> {
        match self.phase {
            Phase::Recovering { authority } => Some(authority),
            _ => None,
        }
    }

    /// A resync of step 4 is complete.
    pub(super) fn recovered(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let Phase::Recovering { authority } = self.phase else { return };
        self.voters[index].stage = Stage::Equal;
        self.start_if_majority(authority, now, links);
    }

    /// A voter became live.
    pub(super) fn went_live(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        self.voters[index].lacked_room = 0;
        self.pump(index, now, links);
        self.run_if_started();
        for other in 0..self.voters.len() {
            self.catch_up(other, now, links);
        }
        self.advance(now, links);
    }

    /// Attach, the end of step 5: the epoch has started on a majority.
    pub(super) fn run_if_started(&mut self) {
        if self.phase == Phase::Starting && self.is_majority(super::Voter::is_live) {
            self.phase = Phase::Running;
        }
    }

    fn open_refused(&mut self, index: usize, refusal: Refusal, now: Moment) {
        match refusal {
            Refusal::HigherEpoch(_) | Refusal::OtherInstance => self.fence(),
            // It is asked for before its node has heard that it is to create it.
            Refusal::UnknownReplica if !self.voters[index].role().votes() => self.rest(index, now),
            Refusal::UnknownReplica | Refusal::OtherSegment => {
                self.voters[index].fail("its storage node no longer holds it".into());
            }
            Refusal::Disk => self.voters[index].fail("its disk failed".into()),
            _ => self.rest(index, now),
        }
    }

    /// What no replica that keeps the rules can report: an epoch that has not started, or more writes than there are.
    fn impossible(&self, report: &ReplicaReport) -> Option<String> {
        let end = end_point(&report.history, report.last);
        let epoch_max = if self.base.is_some() { self.config.epoch } else { self.config.epoch.previous() };
        let first_max = report.history.last().map_or(1, |start| start.first.0);
        let possible = end.epoch <= epoch_max && report.last < SEQ_MAX && first_max <= report.last.0 + 1;
        (!possible).then(|| format!("it reports write {} of epoch {}, which cannot be", end.seq, end.epoch))
    }

    /// W3: a replica that no longer has what it had made durable in this epoch has broken its promise.
    fn broken_promise(&self, index: usize, report: &ReplicaReport) -> Option<String> {
        let durable = self.voters[index].durable;
        let base = self.base.as_ref()?;
        if durable == Seq::ZERO || durable <= base.expect.seq {
            return None;
        }
        let end = end_point(&report.history, report.last);
        let kept = end.epoch == self.config.epoch && report.last >= durable;
        (!kept).then(|| format!("write {durable} was durable on it, and now it has only {}", report.last))
    }

    /// Step 3: once a majority has answered, find the authority.
    fn decide(&mut self, now: Moment, links: &mut dyn Links) {
        let Phase::Opening { since, majority_since } = self.phase else { return };
        let has_answered =
            |voter: &super::Voter| voter.role().votes() && voter.report().is_some() && !voter.unfit;
        if !self.is_majority(has_answered) {
            return;
        }
        let answered: Vec<usize> =
            (0..self.voters.len()).filter(|i| has_answered(&self.voters[*i])).collect();
        let majority_since = majority_since.unwrap_or(now);
        self.phase = Phase::Opening { since, majority_since: Some(majority_since) };
        let remembers =
            |voter: &super::Voter| has_answered(voter) && voter.report().is_some_and(|report| !report.shaken);
        let lossy = !joint::meets_majorities(&self.voters, super::Voter::role, remembers);
        // A2: without a majority's memory, accepted writes may be missing.
        if lossy && now.since(since) < self.config.timing.lossy_after {
            return;
        }
        // Said anew by each decision: an answer that came late may have what was missing.
        self.lossy = lossy;
        // Once it has begun, the replicas tell nobody what they lacked: it must be on record before.
        if lossy && !self.loss_recorded {
            return;
        }
        let authority =
            *answered.iter().max_by_key(|index| self.rank(**index)).expect("a majority has answered");
        let is_equal = |voter: &super::Voter| has_answered(voter) && self.equal_reports(voter, authority);
        let more_may_come = self.voters.iter().any(|voter| voter.stage == Stage::Opening)
            && now.since(majority_since) < self.config.timing.late_answers;
        if !self.is_majority(is_equal) && more_may_come {
            return;
        }
        self.phase = Phase::Recovering { authority };
        // The authority's own report is needed until the others are ordered to follow it.
        for index in answered.into_iter().filter(|index| *index != authority) {
            self.recover(index, authority, now, links);
        }
        self.start_if_majority(authority, now, links);
    }

    fn report_of(&self, index: usize) -> Option<&ReplicaReport> {
        self.voters[index].report()
    }

    /// Step 3: the greatest is the authority.
    fn rank(&self, index: usize) -> Option<(Point, bool)> {
        self.report_of(index).map(|report| (end_point(&report.history, report.last), !report.mixed))
    }

    /// Whether a voter is in the authority's very state.
    fn equal_reports(&self, voter: &super::Voter, authority: usize) -> bool {
        let (Some(own), Some(best)) = (voter.report(), self.report_of(authority)) else { return false };
        voter.config.replica == self.voters[authority].config.replica
            || (!own.mixed
                && !best.mixed
                && end_point(&own.history, own.last) == end_point(&best.history, best.last))
    }

    /// Step 4 for one voter: it is equal to the authority, or pulls from it.
    fn recover(&mut self, index: usize, authority: usize, now: Moment, links: &mut dyn Links) {
        if self.equal_reports(&self.voters[index], authority) {
            self.voters[index].stage = Stage::Equal;
            return self.start_if_majority(authority, now, links);
        }
        let (Some(own), Some(best)) = (self.report_of(index), self.report_of(authority)) else { return };
        let order = Resync {
            replica: self.voters[index].config.replica,
            epoch: self.config.epoch,
            mode: ResyncMode::Join,
            common: crate::common_point((&own.history, own.last), (&best.history, best.last)),
            history: best.history.clone(),
            join_at: best.last.next(),
            source_mixed: best.mixed,
            source: self.voters[authority].source(),
        };
        self.order_resync(index, order, Stage::Recovering, now, links);
    }

    /// Step 5, when a majority is in the authority's state. The decision is for good: under one epoch there is one start.
    fn start_if_majority(&mut self, authority: usize, now: Moment, links: &mut dyn Links) {
        let leader = self.voters[authority].config.replica;
        let equal = self.is_majority(|voter| voter.stage == Stage::Equal || voter.config.replica == leader);
        let Some(report) = self.report_of(authority).filter(|_| equal) else { return };
        if self.phase != (Phase::Recovering { authority }) {
            return;
        }
        let expect = end_point(&report.history, report.last);
        let history = started(&report.history, expect.seq, self.config.epoch);
        let base = Base { history, expect, mixed: report.mixed };
        self.log = super::Log::new(expect.seq.next());
        (self.committed, self.durable) = (expect.seq, expect.seq);
        self.voters[authority].stage = Stage::Equal;
        self.base = Some(base);
        self.phase = Phase::Starting;
        for index in 0..self.voters.len() {
            match self.voters[index].stage {
                Stage::Equal => self.send_start(index, now, links),
                // Copying from a standing authority is over; it goes on as a join to the live stream.
                Stage::Recovering => self.open(index, now, links),
                _ => self.catch_up(index, now, links),
            }
        }
    }

    pub(super) fn send_start(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let Some(base) = &self.base else { return };
        let voter = &mut self.voters[index];
        voter.stage = Stage::Starting;
        voter.in_base_state = true;
        voter.asked_at = now;
        links.send(
            voter.config.node,
            Message::StartEpoch(StartEpoch {
                replica: voter.config.replica,
                epoch: self.config.epoch,
                history: base.history.clone(),
                expect: base.expect,
                allow_mixed: base.mixed,
            }),
        );
    }

    /// The end of a voter's reported state.
    pub(super) fn reported_end(report: &ReplicaReport) -> Point {
        end_point(&report.history, report.last)
    }
}
