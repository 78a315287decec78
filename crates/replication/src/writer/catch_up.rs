//! Bringing voters back while the segment is served (rules W2, S1–S4).

use super::voter::{Progress, Stage, Voter};
use super::{Links, Phase, Segment};
use crate::history::common_point;
use quoin_types::{Moment, Seq};
use quoin_wire::{Message, Refusal, Resync, ResyncMode, ResyncReport, ResyncState, Settle};
use std::time::Duration;

/// Opening and starting wait for the disk's sync, which may take longer than an answer on the I/O path.
const PATIENCE: u32 = 5;

/// How often the pause before the next pull is doubled while there is no room.
const LACKED_ROOM_MAX: u32 = 6;

impl Segment {
    /// A resync goes on, is complete, or broke.
    pub fn on_resync_report(&mut self, report: &ResyncReport, now: Moment, links: &mut dyn Links) {
        let Some(index) = self.voter(report.replica).filter(|_| report.epoch == self.config.epoch) else {
            return;
        };
        let voter = &mut self.voters[index];
        if !matches!(voter.stage, Stage::Recovering | Stage::Joining | Stage::Pulling) {
            return;
        }
        voter.progress.update(now, report.done_bytes, report.total_bytes);
        match (report.state, &voter.stage) {
            (ResyncState::Running, _) => {}
            (ResyncState::Complete, Stage::Recovering) => self.recovered(index, now, links),
            (ResyncState::Complete, Stage::Joining) => {
                // S2: from here on its positions count; they arrive behind this report.
                voter.stage = Stage::Live;
                self.went_live(index, now, links);
            }
            (ResyncState::RoundDone, Stage::Pulling) => {
                voter.round_due = false;
                self.open(index, now, links);
            }
            (state, _) => {
                let own_fault = matches!(state, ResyncState::Failed(Refusal::NoSpace | Refusal::Disk));
                if state == ResyncState::Failed(Refusal::PeerDamaged) {
                    self.voters[index].damaged_source = Some(self.voters[index].source);
                }
                self.voters[index].resync_broke();
                if state == ResyncState::Failed(Refusal::NoSpace) {
                    self.rest_for_room(index, now);
                } else {
                    self.rest(index, now);
                }
                // Perhaps the authority no longer answers: ask all anew, and decide among those that do.
                if let Some(authority) = self.authority().filter(|_| !own_fault) {
                    if state == ResyncState::Failed(Refusal::PeerDamaged) {
                        self.voters[authority].unfit = true;
                    }
                    self.authority_lost(authority, now, links);
                }
            }
        }
    }

    /// The pull has brought what there was room for. The next one waits for room to come back: each time longer, unless
    /// somebody waits for it.
    fn rest_for_room(&mut self, index: usize, now: Moment) {
        if !self.is_available() {
            return self.rest(index, now);
        }
        let voter = &mut self.voters[index];
        let pause = self.config.timing.retry * (1 << voter.lacked_room);
        voter.lacked_room = (voter.lacked_room + 1).min(LACKED_ROOM_MAX);
        voter.stage = Stage::Resting(now + pause);
    }

    /// Decides for a voter that has told what it has, once the epoch's start is decided.
    pub(super) fn catch_up(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let (Some(base), Some(report)) = (&self.base, self.voters[index].report()) else { return };
        let end = Self::reported_end(report);
        let (shaken, mixed) = (report.shaken, report.mixed);
        if end.epoch == self.config.epoch && !mixed {
            if end.seq > self.log.last() {
                let reason =
                    format!("it has write {} where {} is the last that was given", end.seq, self.log.last());
                return self.voters[index].fail(reason);
            }
            if end.seq.next() >= self.log.floor() && !self.voters[index].must_pull {
                return self.resend(index, end.seq, shaken, now, links);
            }
        } else if end == base.expect && self.log.floor() == base.expect.seq.next() {
            // A clean replica in the very state that the epoch started from; or one that was brought there for it.
            let in_state = self.voters[index].in_base_state || (!mixed && !base.mixed);
            if in_state {
                return self.send_start(index, now, links);
            }
        }
        self.pull(index, now, links);
    }

    /// W2: a short gap is re-sent from memory.
    fn resend(&mut self, index: usize, position: Seq, shaken: bool, now: Moment, links: &mut dyn Links) {
        if position < self.log.last() {
            self.statistics.resends += 1;
        }
        let last = self.log.last();
        let voter = &mut self.voters[index];
        voter.settle_at = shaken.then_some(last);
        voter.go_live(position);
        voter.behind_until = last;
        self.settle(index, links);
        self.went_live(index, now, links);
    }

    /// A voter could not take a write because the map entry of its extent is damaged: nobody knows what the rest of the
    /// extent was. The voter lags, and a resync replaces the entry. A round comes first, for the joined stream would
    /// bring the very same write; and it is begun at once, since re-sending would meet the damage again.
    pub(super) fn damaged_under_a_write(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        self.leaves_the_stream(index, now, links);
    }

    /// A voter lags, and a resync begins at once: a round without the live stream.
    pub(super) fn leaves_the_stream(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let voter = &mut self.voters[index];
        voter.lost_session();
        voter.must_pull = true;
        voter.round_due = true;
        self.authority_lost(index, now, links);
        self.retry_reads_of(index, now, links);
        self.open(index, now, links);
    }

    /// W5: a voter that has no room for what it is to be sent is lagging. Behind what it cannot take may be what gives room
    /// back, and the stream has an order: a pull has none. A voter that writes cannot do without is sent it all the same,
    /// and may use its reserve.
    fn tick_starved(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let limit = self.config.timing.unanswered_max;
        let voter = &mut self.voters[index];
        let starved = voter.starved_since.map_or(Duration::ZERO, |since| now.since(since));
        voter.is_starved = starved > limit;
        if voter.stage == Stage::Joining {
            if starved > limit * PATIENCE {
                self.leaves_the_stream(index, now, links);
            }
        } else if starved > limit {
            if self.can_do_without(index) {
                self.leaves_the_stream(index, now, links);
            } else if self.voters[index].role().votes() {
                self.voters[index].overdraws_to = self.log.last();
                self.pump(index, now, links);
            }
        }
    }

    /// Whether writes go on without a voter: others that have room for them are a majority, and it can pull from one.
    pub(super) fn can_do_without(&self, index: usize) -> bool {
        let replica = self.voters[index].config.replica;
        let has_room = |voter: &Voter| voter.is_live() && voter.starved_since.is_none();
        self.is_majority(|voter| voter.config.replica != replica && has_room(voter))
            && self.source_for(index).is_some_and(has_room)
    }

    /// The gap is too old, or the states diverged: pull from a live peer.
    fn pull(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let (Some(base), Some(report)) = (&self.base, self.voters[index].report()) else { return };
        let Some(source) = self.source_for(index) else { return };
        let mode = if self.voters[index].round_due { ResyncMode::Round } else { ResyncMode::Join };
        let order = Resync {
            replica: self.voters[index].config.replica,
            epoch: self.config.epoch,
            mode,
            common: common_point((&report.history, report.last), (&base.history, self.log.last())),
            history: base.history.clone(),
            join_at: self.log.next(),
            source_mixed: false,
            source: source.source(),
        };
        self.statistics.resyncs += 1;
        let stage = if mode == ResyncMode::Join { Stage::Joining } else { Stage::Pulling };
        self.order_resync(index, order, stage, now, links);
    }

    /// The live voter that another one best pulls from.
    fn source_for(&self, index: usize) -> Option<&Voter> {
        // What only a snapshot keeps is not repaired: the same source would fail the same way.
        let damaged = self.voters[index].damaged_source;
        let others =
            self.voters.iter().enumerate().filter(|(other, voter)| *other != index && voter.is_live());
        others.map(|(_, voter)| voter).max_by_key(|voter| {
            // S1: it answers when it has everything; without room it may never have.
            (Some(voter.config.replica) != damaged, voter.starved_since.is_none(), voter.accepted)
        })
    }

    pub(super) fn order_resync(
        &mut self,
        index: usize,
        order: Resync,
        stage: Stage,
        now: Moment,
        links: &mut dyn Links,
    ) {
        let voter = &mut self.voters[index];
        voter.stage = stage;
        voter.asked_at = now;
        voter.source = order.source.replica;
        voter.in_base_state = false;
        voter.settle_at = None;
        // From here on it is mixed (rule A3), and nothing but a resync ends that.
        voter.must_pull = false;
        // What it had is replaced; its positions mean nothing until it is complete (rule S2).
        voter.durable = Seq::ZERO;
        voter.progress = Progress::default();
        voter.restart_stream(order.join_at.previous());
        links.send(voter.config.node, Message::Resync(order));
    }

    /// A2: a shaken voter that has everything again is told so.
    pub(super) fn settle(&mut self, index: usize, links: &mut dyn Links) {
        let voter = &mut self.voters[index];
        if let Some(seq) = voter.settle_at.filter(|seq| *seq <= voter.accepted) {
            voter.settle_at = None;
            links.send(
                voter.config.node,
                Message::Settle(Settle { replica: voter.config.replica, epoch: self.config.epoch, seq }),
            );
        }
    }

    pub(super) fn tick_voters(&mut self, now: Moment, links: &mut dyn Links) {
        let limit = self.config.timing.unanswered_max;
        for index in 0..self.voters.len() {
            let voter = &self.voters[index];
            match voter.stage {
                Stage::Live | Stage::Joining if voter.oldest_unanswered(now) > limit => {
                    links.cut(voter.config.node, "it does not answer writes");
                }
                Stage::Live if voter.grants_no_more(now, self.config.timing.lease) => {
                    self.voters[index].lost_session();
                    self.retry_reads_of(index, now, links);
                    self.open(index, now, links);
                }
                Stage::Opening | Stage::Starting if now.since(voter.asked_at) > limit * PATIENCE => {
                    links.cut(voter.config.node, "it does not answer");
                }
                Stage::Live | Stage::Joining => {
                    self.pump(index, now, links);
                    self.tick_starved(index, now, links);
                }
                Stage::Resting(until) if now >= until => self.open(index, now, links),
                Stage::Opened(_) if matches!(self.phase, Phase::Starting | Phase::Running) => {
                    self.catch_up(index, now, links);
                }
                _ => {}
            }
        }
    }
}
