//! The raft thread: takes events, turns raft-rs's crank, and does what it says in the order that makes it safe.
//!
//! Per round: messages of a leader go out, committed entries are applied, new entries and the hard state are made durable
//! in one transaction, and only then do the messages go out that promise them.

use super::log::Log;
pub(crate) use super::pending::TryAgain;
use super::pending::{Answer, Pending, ReadReply};
use super::random::Random;
use super::store::StoreError;
use super::{InboundMessage, OutboundMessage, logger};
use crate::shared::{Applied, Leadership, Shared};
use prost::Message as _;
use quoin_cluster::codec::CodecError;
use quoin_cluster::{Proposal, RequestId, State, apply_proposal};
use quoin_disk::clock;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{INVALID_ID, RawNode, Ready, SnapshotStatus, StateRole};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Ticks of silence after which a leader is replaced, at least; twice that at most.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries applied between two snapshots.
const SNAPSHOT_EVERY: u64 = 1000;
/// Events waiting for the raft thread. Past it, raft messages are dropped and requests told to try again.
const EVENTS_MAX: usize = 8192;
/// Events taken in one round, so that a flood of them cannot keep entries from becoming durable.
const EVENTS_PER_ROUND: usize = 1024;
/// Ticks after which a leader that is stopping goes without having found a successor.
const TRANSFER_TICKS: usize = 10;

/// Why the raft thread stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The log cannot be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry or snapshot cannot be used.
    #[error("the state machine: {0}")]
    Codec(#[from] CodecError),
    /// raft-rs refused to go on.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

/// What the raft thread is told.
enum Event {
    Message(Box<InboundMessage>),
    Propose(RequestId, Vec<u8>, oneshot::Sender<Answer>),
    Read(ReadReply),
    Unreachable(u64),
    SnapshotSent(u64, bool),
    Stop,
    Wake,
}

/// How the rest of the member talks to the raft thread.
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

    /// Proposes a command and waits until it is applied here.
    pub(crate) async fn propose(&self, proposal: &Proposal) -> Answer {
        let (reply, answer) = oneshot::channel();
        let event = Event::Propose(proposal.request, proposal.encode(), reply);
        self.events.try_send(event).map_err(|_| TryAgain)?;
        answer.await.unwrap_or(Err(TryAgain))
    }

    /// Waits until this member has applied everything that was committed when this was called.
    pub(crate) async fn read_barrier(&self) -> Result<(), TryAgain> {
        let (reply, answer) = oneshot::channel();
        self.events.try_send(Event::Read(reply)).map_err(|_| TryAgain)?;
        answer.await.unwrap_or(Err(TryAgain))
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
pub(crate) type Outbox = Box<dyn Fn(OutboundMessage) + Send>;

/// Everything the raft thread owns.
pub(crate) struct Driver {
    id: u64,
    tick: Duration,
    node: RawNode<Log>,
    events: Receiver<Event>,
    killed: Arc<AtomicBool>,
    outbox: Outbox,
    shared: Arc<Shared>,
    pending: Pending,
    random: Random,
    /// The election timeout that was set last.
    timeout: usize,
    applied: u64,
    /// Ticks left for finding a successor, once stopping.
    stopping: Option<usize>,
}

impl Driver {
    /// Opens the log in `directory` and brings the state machine to its snapshot.
    pub(crate) fn open(
        id: u64,
        directory: &Path,
        voters: &[u64],
        tick: Duration,
        seed: u64,
        outbox: Outbox,
        shared: Arc<Shared>,
    ) -> Result<(Self, Handle), DriverError> {
        let log = Log::open(directory, voters)?;
        let applied = log.snapshot_index();
        if let Some(data) = log.snapshot_data() {
            let state = State::decode(data)?;
            shared.change_state(|current| *current = state);
        }
        let alone = log.conf_state().voters == [id];
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let mut node = RawNode::new(&config, log, &logger::logger())?;
        if alone {
            node.campaign()?;
        }
        let (sender, events) = sync_channel(EVENTS_MAX);
        let random = Random::new(seed);
        let pending = Pending::default();
        let killed = Arc::new(AtomicBool::new(false));
        let handle = Handle { events: sender, killed: killed.clone() };
        let driver = Self {
            id,
            tick,
            node,
            events,
            killed,
            outbox,
            shared,
            pending,
            random,
            timeout: 0,
            applied,
            stopping: None,
        };
        driver.publish();
        Ok((driver, handle))
    }

    /// Runs until stopped or killed.
    pub(crate) fn run(mut self) -> Result<(), DriverError> {
        let mut next_tick = clock::now() + self.tick;
        loop {
            self.fix_election_timeout();
            while self.node.has_ready() {
                self.handle_ready()?;
            }
            self.publish();
            if self.may_stop() {
                return Ok(());
            }
            if !self.take_events(next_tick.since(clock::now())) {
                return Ok(());
            }
            if clock::now() >= next_tick {
                // Ticks that were missed (a slow disk, a suspended machine) are not made up for: they would only hasten an
                // election that nobody needs.
                next_tick = clock::now() + self.tick;
                self.on_tick();
            }
            if let Some(context) = self.pending.start_reads() {
                self.node.read_index(context.to_be_bytes().to_vec());
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
            Event::Message(message) => self.on_message(message.0),
            Event::Propose(request, data, reply) => self.on_proposal(request, data, reply),
            Event::Read(reply) => {
                if self.is_leading() {
                    self.pending.add_read(reply);
                } else {
                    let _ = reply.send(Err(TryAgain));
                }
            }
            Event::Unreachable(member) => self.node.report_unreachable(member),
            Event::SnapshotSent(member, arrived) => {
                let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.node.report_snapshot(member, status);
            }
            Event::Stop => self.stopping = self.stopping.or(Some(TRANSFER_TICKS)),
            Event::Wake => {}
        }
    }

    fn on_message(&mut self, message: Message) {
        let (from, snapshot) = (message.from, message.snapshot.is_some());
        self.shared.progress().heard.insert(from, clock::now());
        // A snapshot that this version cannot read must not replace a state that it can.
        if snapshot && let Err(error) = State::decode(&message.get_snapshot().data) {
            tracing::error!(from, %error, "a snapshot is refused");
            return;
        }
        if let Err(error) = self.node.step(message) {
            tracing::debug!(from, %error, "a raft message is refused");
        }
        self.fix_election_timeout();
    }

    fn on_proposal(&mut self, request: RequestId, data: Vec<u8>, reply: oneshot::Sender<Answer>) {
        if !self.is_leading() || self.stopping.is_some() || self.node.propose(Vec::new(), data).is_err() {
            let _ = reply.send(Err(TryAgain));
            return;
        }
        self.shared.metrics.proposals.inc();
        self.pending.add_proposal(request, reply, clock::now());
    }

    fn on_tick(&mut self) {
        self.node.tick();
        self.pending.forget_abandoned();
        if let Some(left) = &mut self.stopping {
            *left = left.saturating_sub(1);
        }
    }

    /// raft-rs draws a new timeout from the thread's generator whenever it begins to follow or to stand for election; this
    /// replaces it with one of our own.
    fn fix_election_timeout(&mut self) {
        if self.node.raft.randomized_election_timeout() != self.timeout {
            self.timeout = self.random.between(ELECTION_TICKS, 2 * ELECTION_TICKS);
            self.node.raft.set_randomized_election_timeout(self.timeout);
        }
    }

    /// Whether this member leads and has applied everything that was committed before its term.
    fn is_leading(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.raft.apply_to_current_term()
    }

    fn handle_ready(&mut self) -> Result<(), DriverError> {
        let mut ready = self.node.ready();
        self.send(ready.take_messages());
        if ready.ss().is_some_and(|soft| soft.raft_state != StateRole::Leader) {
            self.pending.give_up();
        }
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot().clone(), &ready)?;
        }
        self.apply(ready.take_committed_entries())?;
        self.persist(&mut ready)?;
        self.send(ready.take_persisted_messages());
        for read in ready.take_read_states() {
            if let Ok(context) = read.request_ctx.as_slice().try_into() {
                self.pending.confirm_reads(u64::from_be_bytes(context), read.index);
            }
        }
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().note_commit(commit);
        }
        self.send(light.take_messages());
        self.apply(light.take_committed_entries())?;
        self.node.advance_apply_to(self.applied);
        self.pending.finish_reads(self.applied);
        self.compact()
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
            (self.outbox)(OutboundMessage { to: message.to, snapshot, bytes: message.encode_to_vec() });
        }
    }

    fn install(&mut self, snapshot: Snapshot, ready: &Ready) -> Result<(), DriverError> {
        let index = snapshot.get_metadata().index;
        let state = State::decode(&snapshot.data)?;
        self.node.mut_store().install(snapshot, ready.hs())?;
        self.shared.change_state(|current| *current = state);
        self.applied = index;
        self.shared.metrics.snapshots_received.inc();
        tracing::info!(index, "caught up by a snapshot from the leader");
        Ok(())
    }

    fn persist(&mut self, ready: &mut Ready) -> Result<(), DriverError> {
        let entries = ready.take_entries();
        if ready.must_sync() || !entries.is_empty() {
            let hard_state = ready.hs().cloned();
            self.node.mut_store().append(entries, hard_state.as_ref())?;
        } else if let Some(hard_state) = ready.hs() {
            let commit = hard_state.commit;
            self.node.mut_store().note_commit(commit);
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), DriverError> {
        for entry in entries {
            let index = entry.index;
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.apply_command(&entry)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_members(&entry)?,
            }
            self.applied = index;
        }
        Ok(())
    }

    fn apply_command(&mut self, entry: &Entry) -> Result<(), DriverError> {
        let proposal = Proposal::decode(&entry.data)?;
        let result = self.shared.change_state(|state| apply_proposal(state, &proposal));
        if let Some(since) = self.pending.answer(proposal.request, &result) {
            self.shared.metrics.commit_seconds.observe(clock::now().since(since).as_secs_f64());
        }
        Ok(())
    }

    fn apply_members(&mut self, entry: &Entry) -> Result<(), DriverError> {
        let damaged = |_| StoreError::Damaged("a change of members");
        let conf_state = if entry.get_entry_type() == EntryType::EntryConfChange {
            let change = ConfChange::decode(entry.data.as_slice()).map_err(damaged)?;
            self.node.apply_conf_change(&change)?
        } else {
            let change = ConfChangeV2::decode(entry.data.as_slice()).map_err(damaged)?;
            self.node.apply_conf_change(&change)?
        };
        self.node.mut_store().set_conf_state(conf_state)?;
        Ok(())
    }

    fn compact(&mut self) -> Result<(), DriverError> {
        let since = self.applied.saturating_sub(self.node.store().snapshot_index());
        if since >= SNAPSHOT_EVERY {
            let data = self.shared.state().encode();
            let applied = self.applied;
            self.node.mut_store().compact(applied, data)?;
            self.shared.metrics.snapshots.inc();
        }
        Ok(())
    }

    fn publish(&self) {
        let raft = &self.node.raft;
        let leader = (raft.leader_id != INVALID_ID).then_some(raft.leader_id);
        let leadership = Leadership { term: raft.term, leader, leading: self.is_leading() };
        let revision = self.shared.state().revision();
        let applied = Applied { index: self.applied, revision };
        set(&self.shared.applied, applied);
        if set(&self.shared.leadership, leadership) {
            tracing::info!(term = leadership.term, leader, leading = leadership.leading, "leadership");
        }
        let metrics = &self.shared.metrics;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.term.set(number(raft.term));
        metrics.is_leader.set(i64::from(leadership.leading));
        metrics.has_leader.set(i64::from(leader.is_some()));
        metrics.applied_index.set(number(self.applied));
        metrics.commit_index.set(number(raft.raft_log.committed));
        if leadership.leading {
            let matched = raft.prs().iter().map(|(id, progress)| (*id, progress.matched));
            self.shared.progress().matched = matched.collect();
        }
    }

    /// Whether a stopping member may go: it leads no more, leads alone, or found no successor in time.
    fn may_stop(&mut self) -> bool {
        let Some(ticks_left) = self.stopping else { return false };
        if self.node.raft.state != StateRole::Leader || ticks_left == 0 {
            return true;
        }
        let others = self.node.raft.prs().iter().filter(|(id, _)| **id != self.id);
        let successor = others.max_by_key(|(id, progress)| (progress.recent_active, progress.matched, **id));
        let Some(successor) = successor.map(|(id, _)| *id) else { return true };
        if self.node.raft.lead_transferee.is_none() {
            self.node.transfer_leader(successor);
            while self.node.has_ready() {
                if self.handle_ready().is_err() {
                    return true;
                }
            }
        }
        false
    }
}

/// Publishes a value if it is another one. Says whether it was.
fn set<T: PartialEq>(sender: &tokio::sync::watch::Sender<T>, value: T) -> bool {
    sender.send_if_modified(|current| {
        let changed = *current != value;
        *current = value;
        changed
    })
}
