//! The gateway's side of one segment: one owner, events in, messages and completions out.
//!
//! Order of calls: [`Segment::new`]; then for each node of a voter [`Segment::session_up`] whenever a session with it is
//! ready and [`Segment::session_down`] when it ends; the `on_…` functions for what comes in on it; [`Segment::submit`] for
//! clients; [`Segment::tick`] now and then (at least at [`Timing::hedge_min`] while something is under way). After any of
//! them, [`Segment::completions`] holds what clients may now be told.
//!
//! Nothing is served before [`Segment::allow_serving`]: the volume says so when all its segments are promised (attach,
//! step 6).

mod attach;
mod catch_up;
mod configure;
mod log;
mod read;
mod snapshot;
mod voter;
mod write;

pub use log::Operation;
pub use voter::{VoterConfig, VoterHealth, VoterStatus};

use crate::timing::Timing;
use bytes::Bytes;
use log::Log;
use quoin_types::block::BlockRun;
use quoin_types::collections::HashMap;
use quoin_types::{
    Durability, Epoch, Generation, InstanceId, Moment, NodeId, ReplicaId, SegmentId, Seq, SnapshotId, joint,
};
use quoin_wire::{LeaseHolder, Message, Open, Position, Refusal, Refused};
use read::{Mending, PendingRead, WaitingRead};
use std::collections::{BTreeSet, VecDeque};
use voter::{Base, Stage, Voter};

/// A client's request, by the number that its owner gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What a client asks of a segment. Offsets and lengths are whole blocks, in bytes within the segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Replicates an operation; `durable`: answered only when a majority has made it durable (FUA).
    Replicate {
        /// The operation.
        operation: Operation,
        /// Whether its acknowledgement means durable.
        durable: bool,
    },
    /// Answered when every write acknowledged before is durable on a majority.
    Flush,
    /// Reads blocks.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes; at most [`quoin_types::limits::READ_BYTES_MAX`].
        length: u32,
        /// Whether it must see every change that was submitted before it, answered or not: it is read to be changed.
        in_order: bool,
    },
    /// Asks what blocks are, without their data.
    Status {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes. The answer may tell of less.
        length: u64,
        /// What has changed since this snapshot? `None`: what is allocated?
        since: Option<SnapshotId>,
    },
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// Done.
    Done(Token),
    /// Read; the blocks were verified.
    Read(Token, Bytes),
    /// What the blocks are, from the first on; at least one of them, perhaps not all.
    Status(Token, Vec<BlockRun>),
    /// Not done.
    Failed(Token, Failure),
}

impl Completion {
    /// Whose.
    pub fn token(&self) -> Token {
        match self {
            Completion::Done(token)
            | Completion::Read(token, _)
            | Completion::Status(token, _)
            | Completion::Failed(token, _) => *token,
        }
    }
}

/// Why a request was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No majority has room (rule W5). Nothing was changed.
    NoSpace,
    /// The volume belongs to another gateway now.
    Fenced,
    /// No replica has a good copy.
    Damaged,
    /// No replica that can be reached has a good copy; one that cannot be reached may have.
    DamagedInReach,
    /// The snapshot that was asked about is no more.
    NoSnapshot,
}

/// The way to the storage nodes, shared by all segments.
pub trait Links {
    /// Queues a message on the ordered session with a node. Without a session it is dropped.
    fn send(&mut self, node: NodeId, message: Message);
    /// Whether the node has granted credit for so many extents.
    fn credit(&self, node: NodeId, extents: u64) -> Credit;
    /// Uses up credit.
    fn spend(&mut self, node: NodeId, extents: u64);
    /// Somebody waits for what was sent to a node to become durable there: it need not wait until more has gathered. Only a
    /// hint, sent once for all that is sent with it.
    fn sync(&mut self, _node: NodeId) {}
    /// Ends the session with a node that does not answer.
    fn cut(&mut self, node: NodeId, reason: &'static str);
}

/// Whether a node can take a write that touches new extents (rule W5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credit {
    /// Yes.
    Enough,
    /// Not yet: credit is on its way back.
    Later,
    /// Its disk is full.
    Full,
}

/// What a segment is told at its attachment.
#[derive(Clone, Debug)]
pub struct SegmentConfig {
    /// Which.
    pub id: SegmentId,
    /// Its configuration's number.
    pub generation: Generation,
    /// The members of its configuration, learners included; at most [`quoin_types::limits::MEMBERS_MAX`].
    pub voters: Vec<VoterConfig>,
    /// When plain writes are acknowledged.
    pub durability: Durability,
    /// The attachment's number.
    pub epoch: Epoch,
    /// This process.
    pub instance: InstanceId,
    /// A former lease whose holder is proven gone.
    pub void: Option<LeaseHolder>,
    /// Whether a lossy start waits for [`Segment::loss_is_recorded`].
    pub records_loss: bool,
    /// The most bytes kept for replicas that come back, and the most written without being durable.
    pub retained_bytes_max: usize,
    /// The protocol's times.
    pub timing: Timing,
}

/// Where the attachment stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Steps 2 and 3: promises and reports are gathered.
    Opening { since: Moment, majority_since: Option<Moment> },
    /// Step 4: voters are brought to the state of the authority (an index into the voters).
    Recovering { authority: usize },
    /// Step 5: the epoch is being started.
    Starting,
    /// A majority is in the epoch.
    Running,
    /// A higher epoch was given.
    Fenced,
}

/// One segment of an attached volume.
#[derive(Clone, Debug)]
pub struct Segment {
    config: SegmentConfig,
    voters: Vec<Voter>,
    phase: Phase,
    /// Decided once `StartEpoch` is sent; then it stays (a second decision under one epoch would fork its history).
    base: Option<Base>,
    log: Log,
    /// W1: everything to here is acknowledged or may be.
    committed: Seq,
    /// Everything to here is durable on a majority.
    durable: Seq,
    acknowledge_accepted: VecDeque<(Seq, Token)>,
    acknowledge_durable: BTreeSet<(Seq, Token)>,
    /// Changes, flushes and reads in order, that could not be started yet.
    waiting: VecDeque<(Token, Request)>,
    /// Reads that could not be started yet. They do not wait for changes: what is not answered has no place in time yet.
    waiting_reads: VecDeque<WaitingRead>,
    reads: HashMap<u64, PendingRead>,
    /// Reads that found every copy damaged, and are tried again.
    mending: Vec<Mending>,
    next_read: u64,
    /// The voter that the last reads went to.
    usual_reader: Option<ReplicaId>,
    /// C1: what was given a seq before the present configuration began to be used.
    settled_at: Seq,
    /// R1: reads that have their data and wait for a write they saw.
    reads_to_commit: Vec<(Seq, Completion)>,
    completions: Vec<Completion>,
    serving_allowed: bool,
    /// R2: when leases of others have surely ended.
    serve_from: Moment,
    lossy: bool,
    /// Whether it is known outside that it is lossy, or need not be.
    loss_recorded: bool,
    statistics: Statistics,
}

/// Counters, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Reads sent to a second replica because the first was late.
    pub hedged_reads: u64,
    /// Reads that met damage: a block that did not match its checksum, or the map entry of its extent.
    pub damaged_reads: u64,
    /// Replicas brought back from memory.
    pub resends: u64,
    /// Replicas brought back by pulling from a peer.
    pub resyncs: u64,
}

impl Segment {
    /// A segment whose attachment begins now.
    pub fn new(config: SegmentConfig, now: Moment) -> Self {
        let voters = config.voters.iter().cloned().map(Voter::new).collect();
        let next_read = config.epoch.0 << 32;
        let loss_recorded = !config.records_loss;
        Self {
            config,
            voters,
            phase: Phase::Opening { since: now, majority_since: None },
            base: None,
            log: Log::new(Seq(1)),
            committed: Seq::ZERO,
            durable: Seq::ZERO,
            acknowledge_accepted: VecDeque::new(),
            acknowledge_durable: BTreeSet::new(),
            waiting: VecDeque::new(),
            waiting_reads: VecDeque::new(),
            reads: HashMap::default(),
            mending: Vec::new(),
            // An answer to a read of an earlier epoch, late on the same session, must not meet a read of this one.
            next_read,
            usual_reader: None,
            settled_at: Seq::ZERO,
            reads_to_commit: Vec::new(),
            completions: Vec::new(),
            serving_allowed: false,
            serve_from: now,
            lossy: false,
            loss_recorded,
            statistics: Statistics::default(),
        }
    }

    /// Which segment it is.
    pub fn id(&self) -> SegmentId {
        self.config.id
    }

    /// The nodes of its voters with their replicas.
    pub fn voters(&self) -> impl Iterator<Item = &VoterConfig> {
        self.voters.iter().map(|voter| &voter.config)
    }

    /// The replicas that leases are to be asked of at a node.
    pub fn leases_wanted(&self, node: NodeId) -> impl Iterator<Item = (ReplicaId, Epoch)> {
        self.voters
            .iter()
            .filter(move |voter| voter.config.node == node)
            .filter(|voter| !matches!(voter.stage, Stage::Offline | Stage::Opening | Stage::Failed(_)))
            .map(|voter| (voter.config.replica, self.config.epoch))
    }

    /// Takes what clients may now be told.
    pub fn completions(&mut self) -> impl Iterator<Item = Completion> {
        self.completions.drain(..)
    }

    /// Whether a majority has promised the epoch (attach, step 2).
    pub fn is_promised(&self) -> bool {
        !matches!(self.phase, Phase::Opening { .. } | Phase::Fenced)
    }

    /// Whether a higher epoch was given.
    pub fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// Whether accepted writes may have been lost to a loss of power (rule A2).
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// It is on record that this attachment is lossy (rule A2): whoever attaches next will know. So it may begin, with the next
    /// tick.
    pub fn loss_is_recorded(&mut self) {
        self.loss_recorded = true;
    }

    /// Whether a majority takes writes.
    pub fn is_available(&self) -> bool {
        self.phase == Phase::Running && self.is_majority(Voter::is_live)
    }

    /// Whether something is under way that needs ticks soon.
    pub fn is_busy(&self) -> bool {
        !self.reads.is_empty()
            || !self.mending.is_empty()
            || !self.waiting.is_empty()
            || !self.waiting_reads.is_empty()
            || self.committed < self.log.last()
            || !matches!(self.phase, Phase::Running)
            || self
                .voters
                .iter()
                .any(|voter| !matches!(voter.stage, Stage::Live | Stage::Offline | Stage::Failed(_)))
    }

    /// Whether it serves, and every voter is in the stream.
    pub fn is_whole(&self) -> bool {
        self.phase == Phase::Running && self.voters.iter().all(Voter::is_live)
    }

    /// How its voters do.
    pub fn status(&self) -> Vec<VoterStatus> {
        self.voters.iter().map(|voter| voter.status(self.committed)).collect()
    }

    /// The writes kept in memory until they are durable on a majority, in bytes (rule W2).
    pub fn retained_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// Counters.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The volume's other segments are promised too: serving may begin (attach, step 6).
    pub fn allow_serving(&mut self, now: Moment, links: &mut dyn Links) {
        if !self.serving_allowed {
            self.serving_allowed = true;
            self.start_waiting(now, links);
        }
    }

    /// A session with a node is ready: its positions begin anew (rule W3).
    pub fn session_up(&mut self, node: NodeId, now: Moment, links: &mut dyn Links) {
        self.session_down(node, now, links);
        for index in self.voters_at(node) {
            self.open(index, now, links);
        }
    }

    /// The session with a node has ended.
    pub fn session_down(&mut self, node: NodeId, now: Moment, links: &mut dyn Links) {
        for index in self.voters_at(node) {
            self.voters[index].lost_session();
            self.authority_lost(index, now, links);
            self.retry_reads_of(index, now, links);
        }
    }

    /// Whether a node is on this machine: reads prefer it.
    pub fn set_local(&mut self, node: NodeId, local: bool) {
        for index in self.voters_at(node) {
            self.voters[index].local = local;
        }
    }

    /// A node has moved.
    pub fn set_address(&mut self, node: NodeId, address: &str) {
        for index in self.voters_at(node) {
            address.clone_into(&mut self.voters[index].config.address);
        }
    }

    /// R2: a lease was granted to a heartbeat that was sent at `sent_at`.
    pub fn on_lease(&mut self, replica: ReplicaId, sent_at: Moment, now: Moment, links: &mut dyn Links) {
        let had = self.has_lease(now);
        let until = sent_at + self.config.timing.lease_held();
        if let Some(index) = self.voter(replica) {
            let voter = &mut self.voters[index];
            voter.lease_until = voter.lease_until.max(until);
        }
        if !had && self.has_lease(now) {
            self.start_waiting(now, links);
        }
    }

    /// W5: a node has granted more credit.
    pub fn on_credit(&mut self, node: NodeId, now: Moment, links: &mut dyn Links) {
        for index in self.voters_at(node) {
            self.pump(index, now, links);
        }
        self.start_waiting(now, links);
    }

    /// W1: a position arrived on the present session.
    pub fn on_position(&mut self, position: &Position, now: Moment, links: &mut dyn Links) {
        let Some(index) = self.voter(position.replica).filter(|_| position.epoch == self.config.epoch) else {
            return;
        };
        let last = self.log.last();
        let voter = &mut self.voters[index];
        // A replica that recovers during attach tells positions too, before the epoch has any.
        if !matches!(voter.stage, Stage::Live | Stage::Joining) {
            return;
        }
        // It was sent before the order to join was heard, and tells of a tail that the resync takes away.
        if voter.stage == Stage::Joining && position.accepted > last {
            return;
        }
        if position.accepted > last {
            let reported = position.accepted;
            voter.fail(format!("it reports write {reported} where {last} is the last that was given"));
            return self.retry_reads_of(index, now, links);
        }
        voter.answered(position.accepted);
        if voter.stage != Stage::Live {
            return;
        }
        voter.accepted = voter.accepted.max(position.accepted);
        voter.durable = voter.durable.max(position.durable.min(position.accepted));
        self.settle(index, links);
        self.advance(now, links);
    }

    /// A node has refused something in the stream: the voter is asked anew what it has.
    pub fn on_refused(&mut self, refused: &Refused, now: Moment, links: &mut dyn Links) {
        let Some(index) = self.voter(refused.replica).filter(|_| refused.epoch == self.config.epoch) else {
            return;
        };
        match refused.reason {
            Refusal::HigherEpoch(epoch) if epoch > self.config.epoch => self.fence(),
            Refusal::OtherInstance => self.fence(),
            // An answer to something sent before the voter was asked anew.
            _ if matches!(self.voters[index].stage, Stage::Offline | Stage::Opening | Stage::Failed(_)) => {}
            Refusal::StaleSession => {}
            Refusal::Disk => self.damaged_under_a_write(index, now, links),
            Refusal::NoSpace if self.can_do_without(index) => self.leaves_the_stream(index, now, links),
            _ => {
                self.voters[index].lost_session();
                self.rest(index, now);
                self.authority_lost(index, now, links);
                self.retry_reads_of(index, now, links);
            }
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Moment, links: &mut dyn Links) {
        if self.phase == Phase::Fenced {
            return;
        }
        self.tick_attach(now, links);
        self.tick_voters(now, links);
        self.tick_reads(now, links);
        self.start_waiting(now, links);
    }

    /// Ends the attachment: every open request fails. The segment is of no more use.
    pub fn fence(&mut self) {
        self.phase = Phase::Fenced;
        let tokens = self.waiting.drain(..).map(|(token, _)| token);
        let tokens = tokens.chain(self.waiting_reads.drain(..).map(|read| read.token));
        let tokens = tokens.chain(self.acknowledge_accepted.drain(..).map(|(_, token)| token));
        let tokens =
            tokens.chain(std::mem::take(&mut self.acknowledge_durable).into_iter().map(|(_, token)| token));
        let tokens = tokens.chain(self.reads.drain().map(|(_, read)| read.token()));
        let tokens = tokens.chain(self.mending.drain(..).map(|read| read.token()));
        let tokens = tokens.chain(self.reads_to_commit.drain(..).map(|(_, read)| read.token()));
        self.completions.extend(tokens.map(|token| Completion::Failed(token, Failure::Fenced)));
    }

    /// Whether those voters for which `yes` holds are a majority; in a joint configuration, of both halves (rule C1).
    fn is_majority(&self, yes: impl Fn(&Voter) -> bool) -> bool {
        joint::is_majority(&self.voters, Voter::role, yes)
    }

    fn voter(&self, replica: ReplicaId) -> Option<usize> {
        self.voters.iter().position(|voter| voter.config.replica == replica)
    }

    fn voters_at(&self, node: NodeId) -> Vec<usize> {
        (0..self.voters.len()).filter(|index| self.voters[*index].config.node == node).collect()
    }

    fn has_lease(&self, now: Moment) -> bool {
        self.is_majority(|voter| voter.lease_until > now)
    }

    fn may_serve(&self, now: Moment) -> bool {
        self.phase == Phase::Running && self.serving_allowed && now >= self.serve_from
    }

    fn open(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        let voter = &mut self.voters[index];
        if voter.has_failed() || self.phase == Phase::Fenced {
            return;
        }
        voter.stage = Stage::Opening;
        voter.asked_at = now;
        links.send(
            voter.config.node,
            Message::Open(Open {
                replica: voter.config.replica,
                segment: self.config.id,
                epoch: self.config.epoch,
                generation: self.config.generation,
                instance: self.config.instance,
                void: self.config.void,
            }),
        );
    }

    /// Leaves a voter alone for a little while, then asks it anew.
    fn rest(&mut self, index: usize, now: Moment) {
        self.voters[index].stage = Stage::Resting(now + self.config.timing.retry);
    }
}
