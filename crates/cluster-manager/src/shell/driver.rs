//! The task that a member runs in: events in by a channel, answers out to whoever waits for them. Time comes in here.
//!
//! It shares its thread with the sockets, so that a message that comes in, and what is answered to it, are one wake-up. Only
//! for the disk is another thread let in meanwhile ([`super::directory`]).

use crate::member::{Answer, Asked, Member, OutboundMessage, Request, Ticket};
use crate::raft::{InboundMessage, MemberError};
use quoin_cluster::RequestId;
use quoin_disk::clock;
use quoin_service::alarm::Alarm;
use quoin_types::Moment;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Events waiting for the task. Past it, raft messages are dropped and requests told to try again.
const EVENTS_MAX: usize = 8192;
/// Events taken in one round, so that a flood of them cannot keep entries from becoming durable.
const EVENTS_PER_ROUND: usize = 1024;

/// The request got no answer here, and may or may not have been carried out: another attempt, at whoever leads now, finds
/// out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TryAgain;

/// What the task is told.
enum Event {
    Message(Box<InboundMessage>),
    Request(Box<Asked>, oneshot::Sender<Answer>),
    Unreachable(u64),
    SnapshotSent(u64, bool),
    Stop,
    Wake,
}

/// How everybody else talks to the member.
#[derive(Clone)]
pub(crate) struct Handle {
    events: Sender<Event>,
    killed: Arc<AtomicBool>,
}

impl Handle {
    /// Hands over a message from another member. It is dropped if the task is behind: raft sends again.
    pub(crate) fn message(&self, message: InboundMessage) -> Result<(), TryAgain> {
        match self.events.try_send(Event::Message(Box::new(message))) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(TryAgain),
        }
    }

    /// Asks the member, and waits for what it answers, for so long at most.
    pub(crate) async fn ask(&self, request_id: RequestId, within: Duration, request: Request) -> Answer {
        let asked = Asked { request_id, deadline: clock::now() + within, request };
        let (reply, answer) = oneshot::channel();
        let try_again = Answer::TryAgain { leader: None };
        if self.events.try_send(Event::Request(Box::new(asked), reply)).is_err() {
            return try_again;
        }
        answer.await.unwrap_or(try_again)
    }

    /// The last message to a member did not arrive.
    pub(crate) fn unreachable(&self, member: u64) {
        let _ = self.events.try_send(Event::Unreachable(member));
    }

    /// What became of a snapshot on its way to a member.
    pub(crate) fn snapshot_sent(&self, member: u64, arrived: bool) {
        let _ = self.events.try_send(Event::SnapshotSent(member, arrived));
    }

    /// Asks the task to hand over leadership and end.
    pub(crate) fn stop(&self) {
        let _ = self.events.try_send(Event::Stop);
    }

    /// Ends the task where it is, as a crash would.
    pub(crate) fn kill(&self) {
        // The event only wakes the task; if there is no room for it, the task is awake.
        self.killed.store(true, Ordering::Relaxed);
        let _ = self.events.try_send(Event::Wake);
    }
}

/// Takes messages for other members. Must not block.
pub(crate) type Outbox = Box<dyn FnMut(OutboundMessage) + Send>;

/// Everything the task owns.
pub(crate) struct Driver {
    member: Member,
    ticks: Ticks,
    alarm: Alarm,
    events: Receiver<Event>,
    killed: Arc<AtomicBool>,
    outbox: Outbox,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    last_ticket: u64,
}

impl Driver {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(member: Member, tick: Duration, outbox: Outbox) -> (Self, Handle) {
        let (sender, events) = channel(EVENTS_MAX);
        let killed = Arc::new(AtomicBool::new(false));
        let handle = Handle { events: sender, killed: killed.clone() };
        let (waiting, ticks, alarm) = (BTreeMap::new(), Ticks::new(tick, clock::now()), Alarm::new());
        (Self { member, ticks, alarm, events, killed, outbox, waiting, last_ticket: 0 }, handle)
    }

    /// Runs until stopped or killed.
    pub(crate) async fn run(mut self) -> Result<(), MemberError> {
        let mut events = Vec::new();
        loop {
            self.member.advance(clock::now(), &mut *self.outbox)?;
            for (ticket, answer) in self.member.take_answers() {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // Whoever asked may have gone; then nobody wants to know.
                    let _ = reply.send(answer);
                }
            }
            if self.member.has_stopped() {
                return Ok(());
            }
            let quiet = self.member.quiet_ticks();
            let rings = self.alarm.until(self.ticks.after(quiet));
            let open = tokio::select! {
                biased;
                count = self.events.recv_many(&mut events, EVENTS_PER_ROUND) => count > 0,
                () = rings => true,
            };
            if !open || self.killed.load(Ordering::Relaxed) {
                return Ok(());
            }
            // What has come is newer than the time that passed without a word. The one tick of which something may follow
            // comes last: a leader's word that waits here may be reason not to hold an election.
            let passed = self.ticks.passed(quiet, clock::now());
            (0..passed.quiet).for_each(|_| self.member.tick(clock::now()));
            if events.is_empty() {
                events.extend(std::iter::from_fn(|| self.events.try_recv().ok()).take(EVENTS_PER_ROUND));
            }
            events.drain(..).for_each(|event| self.on_event(event));
            if passed.last {
                self.member.tick(clock::now());
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(message) => self.member.take(*message, clock::now()),
            Event::Request(asked, reply) => {
                self.last_ticket += 1;
                let ticket = Ticket(self.last_ticket);
                self.waiting.insert(ticket, reply);
                self.member.request(ticket, *asked, clock::now());
            }
            Event::Unreachable(member) => self.member.unreachable(member),
            Event::SnapshotSent(member, arrived) => self.member.snapshot_sent(member, arrived),
            Event::Stop => self.member.stop(),
            Event::Wake => {}
        }
    }
}

/// Which ticks are over. Nobody is woken for one of which nothing follows.
struct Ticks {
    tick: Duration,
    last: Moment,
    /// Whether somebody looked more than a tick too late, the last time.
    was_late: bool,
}

/// The ticks that have passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Passed {
    /// How many of those of which nothing follows.
    quiet: usize,
    /// Whether the one after them has, too.
    last: bool,
}

impl Ticks {
    fn new(tick: Duration, now: Moment) -> Self {
        Self { tick, last: now, was_late: false }
    }

    /// When the tick after so many quiet ones is over.
    fn after(&self, quiet: usize) -> Moment {
        let ticks = u32::try_from(quiet).unwrap_or(u32::MAX).saturating_add(1);
        self.last + self.tick.saturating_mul(ticks)
    }

    /// The ticks that are over now, if the next so many were to be quiet.
    fn passed(&mut self, quiet: usize, now: Moment) -> Passed {
        if now >= self.after(quiet) {
            // Ticks that were missed (a slow disk, a suspended machine) are not made up for: they would only hasten an
            // election that nobody needs. What a leader has said meanwhile may still be in a socket: it is read first. One
            // who is always late has his ticks all the same.
            self.was_late = !self.was_late && now >= self.after(quiet) + self.tick;
            self.last = now;
            return Passed { quiet, last: !self.was_late };
        }
        let ticks = now.since(self.last).as_nanos() / self.tick.as_nanos().max(1);
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        self.last = self.last + self.tick.saturating_mul(ticks);
        Passed { quiet: ticks as usize, last: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);

    fn after(millis: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn quiet_ticks_are_counted_when_somebody_looks_and_the_rest_of_one_is_kept() {
        let mut ticks = Ticks::new(TICK, after(0));
        assert_eq!(ticks.after(9), after(500));
        assert_eq!(ticks.passed(9, after(120)), Passed { quiet: 2, last: false });
        assert_eq!(ticks.passed(9, after(149)), Passed { quiet: 0, last: false });
        assert_eq!(ticks.passed(9, after(150)), Passed { quiet: 1, last: false });
        assert_eq!(ticks.after(0), after(200));
        assert_eq!(ticks.passed(0, after(200)), Passed { quiet: 0, last: true });
    }

    #[test]
    fn missed_ticks_are_not_made_up_for() {
        let mut ticks = Ticks::new(TICK, after(0));
        assert_eq!(ticks.passed(3, after(10_000)), Passed { quiet: 3, last: false });
        assert_eq!(ticks.after(0), after(10_050));
        assert_eq!(ticks.passed(0, after(10_060)), Passed { quiet: 0, last: true });
        // Late each time: every other one counts.
        let late = [20_000, 30_000, 40_000].map(|millis| ticks.passed(0, after(millis)).last);
        assert_eq!(late, [false, true, false]);
    }
}
