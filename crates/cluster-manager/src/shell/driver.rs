//! The thread that a member runs on: events in by a channel, answers out to whoever waits for them. Time comes in here.

use crate::member::{Answer, Asked, Member, OutboundMessage, Request, Ticket};
use crate::raft::{InboundMessage, MemberError};
use quoin_cluster::RequestId;
use quoin_disk::clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Events waiting for the thread. Past it, raft messages are dropped and requests told to try again.
const EVENTS_MAX: usize = 8192;
/// Events taken in one round, so that a flood of them cannot keep entries from becoming durable.
const EVENTS_PER_ROUND: usize = 1024;

/// The request got no answer here, and may or may not have been carried out: another attempt, at whoever leads now, finds
/// out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TryAgain;

/// What the thread is told.
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
    events: SyncSender<Event>,
    killed: Arc<AtomicBool>,
}

impl Handle {
    /// Hands over a message from another member. It is dropped if the thread is behind: raft sends again.
    pub(crate) fn message(&self, message: InboundMessage) -> Result<(), TryAgain> {
        match self.events.try_send(Event::Message(Box::new(message))) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(TryAgain),
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

    /// Asks the thread to hand over leadership and end.
    pub(crate) fn stop(&self) {
        let _ = self.events.try_send(Event::Stop);
    }

    /// Ends the thread where it is, as a crash would.
    pub(crate) fn kill(&self) {
        // The event only wakes the thread; if there is no room for it, the thread is awake.
        self.killed.store(true, Ordering::Relaxed);
        let _ = self.events.try_send(Event::Wake);
    }
}

/// Takes messages for other members. Must not block.
pub(crate) type Outbox = Box<dyn FnMut(OutboundMessage) + Send>;

/// Everything the thread owns.
pub(crate) struct Driver {
    member: Member,
    tick: Duration,
    events: Receiver<Event>,
    killed: Arc<AtomicBool>,
    outbox: Outbox,
    waiting: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    last_ticket: u64,
}

impl Driver {
    pub(crate) fn new(member: Member, tick: Duration, outbox: Outbox) -> (Self, Handle) {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let killed = Arc::new(AtomicBool::new(false));
        let handle = Handle { events: sender, killed: killed.clone() };
        let waiting = BTreeMap::new();
        (Self { member, tick, events, killed, outbox, waiting, last_ticket: 0 }, handle)
    }

    /// Runs until stopped or killed.
    pub(crate) fn run(mut self) -> Result<(), MemberError> {
        let mut next_tick = clock::now() + self.tick;
        loop {
            self.member.advance(clock::now(), &mut *self.outbox)?;
            for (ticket, answer) in self.member.take_answers() {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // Whoever asked may have gone; then nobody wants to know.
                    let _ = reply.send(answer);
                }
            }
            if self.member.has_stopped() || !self.take_events(next_tick.since(clock::now())) {
                return Ok(());
            }
            if clock::now() >= next_tick {
                // Ticks that were missed (a slow disk, a suspended machine) are not made up for: they would only hasten an
                // election that nobody needs.
                next_tick = clock::now() + self.tick;
                self.member.tick(clock::now());
            }
        }
    }

    /// Waits for events and takes what has come. Says whether to go on.
    fn take_events(&mut self, wait: Duration) -> bool {
        let mut event = match self.events.recv_timeout(wait) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        for _ in 0..EVENTS_PER_ROUND {
            if self.killed.load(Ordering::Relaxed) {
                return false;
            }
            self.on_event(event);
            match self.events.try_recv() {
                Ok(next) => event = next,
                Err(_) => return true,
            }
        }
        self.on_event(event);
        true
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
