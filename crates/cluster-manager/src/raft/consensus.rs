//! One raft member without clock, thread or socket: takes messages, requests and ticks, turns raft-rs's crank, and does what
//! it says in the order that makes it safe.
//!
//! Per round: messages of a leader go out, committed entries are applied, new entries and the hard state are made durable
//! in one transaction, and only then do the messages go out that promise them.

use super::log::Log;
use super::pending::{Asker, Heard, Pending};
use super::random;
use super::store::StoreError;
use super::{InboundMessage, OutboundMessage, logger};
use crate::shared::{Applied, Leadership, Shared};
use prost::Message as _;
use quoin_cluster::codec::CodecError;
use quoin_cluster::{Proposal, State, apply_proposal};
use quoin_disk::Dir;
use quoin_types::Moment;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};
use raft::{INVALID_ID, RawNode, Ready, SnapshotStatus, StateRole};
use std::sync::Arc;

/// Ticks of silence after which a leader is replaced, at least; twice that at most.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Entries applied between two snapshots.
const SNAPSHOT_EVERY: u64 = 1000;
/// Ticks after which a leader that is stopping goes without having found a successor.
const TRANSFER_TICKS: usize = 10;

/// Why a member ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The log cannot be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry or snapshot cannot be used.
    #[error("the state machine: {0}")]
    Codec(#[from] CodecError),
    /// raft-rs refused to go on.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// It ended before, and was asked to go on: what is on its disk is not known any more.
    #[error("this member has ended: open it again")]
    Ended,
}

/// Takes messages for other members, in the order in which they may go. Must not block.
pub(crate) type Outbox<'a> = &'a mut dyn FnMut(OutboundMessage);

/// Everything that raft owns.
pub(crate) struct Consensus {
    id: u64,
    pub(super) node: RawNode<Log>,
    pub(super) shared: Arc<Shared>,
    pub(super) pending: Pending,
    seed: u64,
    applied: u64,
    /// Ticks left for finding a successor, once stopping.
    stopping: Option<usize>,
    /// A write failed, or an entry made no sense: nothing may be said any more.
    ended: bool,
}

impl Consensus {
    /// Opens the log in `directory` and brings the state machine to its snapshot. In an empty directory the cluster begins
    /// with `voters`; without any, this member waits to be taken in.
    pub(crate) fn open(
        id: u64,
        voters: &[u64],
        seed: u64,
        directory: &dyn Dir,
        shared: Arc<Shared>,
    ) -> Result<Self, MemberError> {
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
        let pending = Pending::default();
        let mut consensus = Self { id, node, shared, pending, seed, applied, stopping: None, ended: false };
        consensus.fix_election_timeout();
        consensus.publish();
        Ok(consensus)
    }

    /// Takes a message from another member.
    pub(crate) fn on_message(&mut self, message: InboundMessage, now: Moment) {
        let message = message.0;
        let (from, snapshot) = (message.from, message.snapshot.is_some());
        if self.is_before_its_beginning(&message) {
            return;
        }
        self.shared.progress().heard.insert(from, now);
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

    /// The first members stand in no entry. A member that is not one of them, and went by the entries alone, would take those
    /// that came later for all there are: it begins with a snapshot or not at all.
    fn is_before_its_beginning(&self, message: &Message) -> bool {
        let first_entries = message.msg_type == MessageType::MsgAppend as i32 && message.index == 0;
        first_entries && self.node.store().conf_state().voters.is_empty()
    }

    /// Proposes a command. `asker` hears of it when it is applied here, or that it may not be.
    pub(crate) fn propose(&mut self, asker: Asker, proposal: &Proposal, now: Moment) {
        if !self.may_propose() || self.node.propose(Vec::new(), proposal.encode()).is_err() {
            return self.pending.refuse(asker);
        }
        self.shared.metrics.proposals.inc();
        self.pending.add_proposal(proposal.request, asker, now);
    }

    /// `asker` hears when this member has applied everything that was committed when this was called.
    pub(crate) fn read(&mut self, asker: Asker, now: Moment) {
        if self.is_leading() {
            self.pending.add_read(asker, now);
        } else {
            self.pending.refuse(asker);
        }
    }

    /// The last message to a member did not arrive.
    pub(crate) fn unreachable(&mut self, member: u64) {
        self.node.report_unreachable(member);
    }

    /// What became of a snapshot on its way to a member.
    pub(crate) fn snapshot_sent(&mut self, member: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(member, status);
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self, now: Moment) {
        self.node.tick();
        self.fix_election_timeout();
        self.pending.expire(now);
        if let Some(left) = &mut self.stopping {
            *left = left.saturating_sub(1);
        }
    }

    /// How many ticks from now on change nothing but counts, if nothing comes in before.
    pub(crate) fn quiet_ticks(&self) -> usize {
        if self.stopping.is_some() || self.pending.is_waited_for() || self.has_work() {
            return 0;
        }
        let raft = &self.node.raft;
        let ticks = if raft.state == StateRole::Leader {
            let heartbeat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
            heartbeat.min(raft.election_timeout().saturating_sub(raft.election_elapsed))
        } else {
            raft.randomized_election_timeout().saturating_sub(raft.election_elapsed)
        };
        ticks.saturating_sub(1)
    }

    /// Hands over leadership, if this member has it, and takes no proposals any more.
    pub(crate) fn stop(&mut self) {
        self.stopping = self.stopping.or(Some(TRANSFER_TICKS));
    }

    /// Whether a stopping member may go: it leads no more, leads alone, or found no successor in time.
    pub(crate) fn has_stopped(&self) -> bool {
        let leads = self.node.raft.state == StateRole::Leader;
        self.stopping.is_some_and(|left| left == 0 || !leads || self.successor().is_none())
    }

    /// The answers since this was called last, each given once.
    pub(crate) fn take_answers(&mut self) -> Vec<(Asker, Heard)> {
        self.pending.take_answers()
    }

    /// Whether [`Consensus::advance`] or [`Consensus::take_answers`] have anything to do.
    pub(crate) fn has_work(&self) -> bool {
        self.pending.has_work() || self.node.has_ready()
    }

    /// Does all that follows from what came in. After an error this member is over.
    pub(crate) fn advance(&mut self, now: Moment, send: Outbox<'_>) -> Result<(), MemberError> {
        if self.ended {
            return Err(MemberError::Ended);
        }
        let result = self.turn(now, send);
        self.ended = result.is_err();
        result
    }

    fn turn(&mut self, now: Moment, send: Outbox<'_>) -> Result<(), MemberError> {
        if let Some(context) = self.pending.start_reads() {
            self.node.read_index(context.to_be_bytes().to_vec());
        }
        if self.stopping.is_some() {
            self.hand_over();
        }
        while self.node.has_ready() {
            self.handle_ready(now, send)?;
            self.fix_election_timeout();
        }
        self.publish();
        Ok(())
    }

    /// Whether this member leads and has applied everything that was committed before its term.
    pub(crate) fn is_leading(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.raft.apply_to_current_term()
    }

    /// Whether this member takes proposals.
    pub(super) fn may_propose(&self) -> bool {
        self.is_leading() && self.stopping.is_none()
    }

    /// Makes the most able follower the leader, unless that is under way.
    pub(super) fn hand_over(&mut self) {
        let leads = self.node.raft.state == StateRole::Leader && self.node.raft.lead_transferee.is_none();
        if let Some(successor) = self.successor().filter(|_| leads) {
            self.node.transfer_leader(successor);
        }
    }

    fn successor(&self) -> Option<u64> {
        let raft = &self.node.raft;
        let voters = raft.prs().iter().filter(|(id, _)| raft.prs().conf().voters().contains(**id));
        let others = voters.filter(|(id, _)| **id != self.id);
        let best = others.max_by_key(|(id, progress)| (progress.recent_active, progress.matched, **id));
        best.map(|(id, _)| *id)
    }

    /// raft-rs draws a new timeout from the thread's generator whenever it begins to follow or to stand for election. What
    /// counts is this one, which follows from the seed, the term and the role alone, and so is the same in every run.
    fn fix_election_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let role = raft.state as u64;
        let timeout = random::drawn(self.seed, raft.term, role, ELECTION_TICKS, 2 * ELECTION_TICKS);
        raft.set_randomized_election_timeout(timeout);
    }

    fn handle_ready(&mut self, now: Moment, send: Outbox<'_>) -> Result<(), MemberError> {
        let mut ready = self.node.ready();
        post(ready.take_messages(), send);
        if ready.ss().is_some_and(|soft| soft.raft_state != StateRole::Leader) {
            self.pending.give_up();
        }
        if !ready.snapshot().is_empty() {
            self.install(ready.snapshot().clone(), &ready)?;
        }
        self.apply(ready.take_committed_entries(), now)?;
        self.persist(&mut ready)?;
        post(ready.take_persisted_messages(), send);
        for read in ready.take_read_states() {
            if let Ok(context) = read.request_ctx.as_slice().try_into() {
                self.pending.confirm_reads(u64::from_be_bytes(context), read.index);
            }
        }
        let mut light = self.node.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.node.mut_store().note_commit(commit);
        }
        post(light.take_messages(), send);
        self.apply(light.take_committed_entries(), now)?;
        self.node.advance_apply_to(self.applied);
        self.pending.finish_reads(self.applied);
        self.compact()
    }

    fn install(&mut self, snapshot: Snapshot, ready: &Ready) -> Result<(), MemberError> {
        let index = snapshot.get_metadata().index;
        let state = State::decode(&snapshot.data)?;
        self.node.mut_store().install(snapshot, ready.hs())?;
        self.shared.change_state(|current| *current = state);
        self.applied = index;
        self.shared.metrics.snapshots_received.inc();
        tracing::info!(index, "caught up by a snapshot from the leader");
        Ok(())
    }

    fn persist(&mut self, ready: &mut Ready) -> Result<(), MemberError> {
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

    fn apply(&mut self, entries: Vec<Entry>, now: Moment) -> Result<(), MemberError> {
        for entry in entries {
            let index = entry.index;
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => self.note_settled(&entry),
                EntryType::EntryNormal => self.apply_command(&entry, now)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_members(&entry)?,
            }
            self.applied = index;
        }
        Ok(())
    }

    fn apply_command(&mut self, entry: &Entry, now: Moment) -> Result<(), MemberError> {
        let proposal = Proposal::decode(&entry.data)?;
        let result = self.shared.change_state(|state| apply_proposal(state, &proposal));
        if let Some(since) = self.pending.answer(proposal.request, &result) {
            self.shared.metrics.commit_seconds.observe(now.since(since).as_secs_f64());
        }
        Ok(())
    }

    /// Takes a snapshot when it is time. The first one is taken at once, and another one after each change of the members: a
    /// new one begins with a snapshot, and refuses one that it is not in; and whoever starts again must not look for a
    /// majority among those that were let go.
    fn compact(&mut self) -> Result<(), MemberError> {
        let known = self.node.store().snapshot_index();
        let since = self.applied.saturating_sub(known);
        let others = self.node.store().snapshot_has_other_members();
        if since >= SNAPSHOT_EVERY || (since > 0 && (known == 0 || others)) {
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
}

fn post(messages: Vec<Message>, send: Outbox<'_>) {
    for message in messages {
        let snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
        send(OutboundMessage { to: message.to, snapshot, bytes: message.encode_to_vec() });
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
