//! Requests under way, and the leader's duties: does what the decisions say, and comes back to them.

use super::Member;
use super::duties::{self, LOOKS_PER_HEARTBEAT};
use super::request::{Answer, Asked, Refused, Ticket};
use super::step::{Context, Point, Step, Until, step};
use crate::raft::{Asker, Heard};
use quoin_cluster::{Command, Proposal, RequestId};
use quoin_types::{ClusterId, Moment};

/// A request under way.
pub(super) struct Job {
    asked: Asked,
    stage: Stage,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Raft.
    Raft(Asker),
    /// Something to happen.
    Until(Until),
}

/// Who asked something of raft.
pub(super) enum Caller {
    Job(Ticket),
    /// The leader itself.
    Duty(Command),
}

impl Member {
    /// Takes up a request.
    pub(super) fn begin(&mut self, ticket: Ticket, asked: Asked, now: Moment) {
        self.proceed(ticket, asked, Point::Begun, now);
        // It may have said what others wait for.
        self.look = true;
    }

    /// Makes the next decision about a request, and does what it says.
    fn proceed(&mut self, ticket: Ticket, asked: Asked, point: Point, now: Moment) {
        let next = match self.decide(&asked, point, now) {
            Ok(next) => next,
            Err(refused) => return self.answers.push((ticket, Answer::Refused(refused))),
        };
        let stage = match next {
            Step::Answer(reply) => return self.answers.push((ticket, Answer::Reply(reply))),
            Step::TryAgain => return self.send_away(ticket),
            Step::Resign => {
                self.consensus.step_aside();
                return self.send_away(ticket);
            }
            Step::Wait(_) if asked.deadline <= now => return self.send_away(ticket),
            Step::Wait(until) => Stage::Until(until),
            Step::Read => {
                let asker = self.ask(Caller::Job(ticket));
                self.consensus.read(asker, now);
                Stage::Raft(asker)
            }
            Step::Propose(command) => {
                let request = asked.request_id;
                Stage::Raft(self.propose(Caller::Job(ticket), request, command, now))
            }
            Step::ProposeAlso(command) => {
                let request = RequestId(self.random.id());
                Stage::Raft(self.propose(Caller::Job(ticket), request, command, now))
            }
            Step::Settle => {
                let (asker, request) = (self.ask(Caller::Job(ticket)), RequestId(self.random.id()));
                self.consensus.settle_members(asker, request, now);
                Stage::Raft(asker)
            }
            Step::Change(change) => {
                let (asker, request) = (self.ask(Caller::Job(ticket)), RequestId(self.random.id()));
                self.consensus.change_member(asker, request, &change, now);
                Stage::Raft(asker)
            }
        };
        self.jobs.insert(ticket, Job { asked, stage });
    }

    fn decide(&mut self, asked: &Asked, point: Point, now: Moment) -> Result<Step, Refused> {
        let mut live = self.shared.live(now);
        let state = self.shared.state();
        let mut context = Context {
            id: self.config.id,
            request: asked.request_id,
            state: &state,
            live: &mut live,
            consensus: &self.consensus,
            now,
            left: asked.deadline.since(now),
            hurry: false,
        };
        let next = step(&asked.request, point, &mut context);
        if context.hurry {
            self.duties_at = now;
        }
        next
    }

    fn ask(&mut self, caller: Caller) -> Asker {
        self.last_asker += 1;
        let asker = Asker(self.last_asker);
        self.callers.insert(asker, caller);
        asker
    }

    fn propose(&mut self, caller: Caller, request: RequestId, command: Command, now: Moment) -> Asker {
        let asker = self.ask(caller);
        self.consensus.propose(asker, &Proposal { request, command }, now);
        asker
    }

    /// Takes an answer of raft to whoever waits for it.
    pub(super) fn hear(&mut self, asker: Asker, heard: Heard, now: Moment) {
        match self.callers.remove(&asker) {
            Some(Caller::Duty(command)) => {
                self.duties_under_way -= 1;
                if matches!(heard, Heard::Applied(Ok(_))) {
                    duties::tell(&command, &self.shared.state());
                }
            }
            Some(Caller::Job(ticket)) => {
                let Some(job) = self.jobs.remove(&ticket) else { return };
                match heard {
                    Heard::Applied(result) => self.proceed(ticket, job.asked, Point::Applied(result), now),
                    Heard::Current => self.proceed(ticket, job.asked, Point::Current, now),
                    Heard::Settled => self.proceed(ticket, job.asked, Point::Look(Until::Settled), now),
                    Heard::TryAgain => self.send_away(ticket),
                }
            }
            None => {}
        }
    }

    /// Looks again at the requests that wait for something to happen, if something has, and at those whose time is over.
    pub(super) fn look_at_jobs(&mut self, now: Moment) {
        let revision = self.shared.state().revision();
        if !std::mem::take(&mut self.look) && revision == self.seen {
            return;
        }
        self.seen = revision;
        let is_ripe = |job: &Job| matches!(job.stage, Stage::Until(_)) || job.asked.deadline <= now;
        let ripe: Vec<Ticket> =
            self.jobs.iter().filter(|(_, job)| is_ripe(job)).map(|(ticket, _)| *ticket).collect();
        for ticket in ripe {
            let Some(job) = self.jobs.remove(&ticket) else { continue };
            match job.stage {
                Stage::Until(until) => self.proceed(ticket, job.asked, Point::Look(until), now),
                Stage::Raft(asker) => {
                    self.callers.remove(&asker);
                    self.send_away(ticket);
                }
            }
        }
    }

    /// Answers that another member must be asked, or this one again.
    pub(super) fn send_away(&mut self, ticket: Ticket) {
        let leader = self.leader();
        self.answers.push((ticket, Answer::TryAgain { leader }));
    }

    /// This member does not lead any more.
    pub(super) fn send_all_away(&mut self) {
        self.callers.retain(|_, caller| matches!(caller, Caller::Duty(_)));
        for ticket in std::mem::take(&mut self.jobs).into_keys() {
            self.send_away(ticket);
        }
    }

    /// Does what a leader does unasked, if it is time and the last of it is done.
    pub(super) fn do_duties(&mut self, now: Moment) {
        if !self.consensus.is_leading() || self.duties_under_way > 0 || now < self.duties_at {
            return;
        }
        self.duties_at = now + self.config.heartbeat_interval / LOOKS_PER_HEARTBEAT;
        let commands = if self.shared.state().cluster_id().is_some() {
            let mut live = self.shared.live(now);
            duties::due(&self.shared.state(), &mut live, now)
        } else {
            let managers = self.config.members.clone();
            vec![Command::InitCluster { cluster_id: ClusterId(self.random.id()), managers }]
        };
        for command in commands {
            let request = RequestId(self.random.id());
            self.duties_under_way += 1;
            self.propose(Caller::Duty(command.clone()), request, command, now);
        }
    }
}
