//! One storage node: the composition of the disk engine and the replicas on it. No socket, clock or thread: events in,
//! [`Output`]s out, so that the simulator runs what ships.
//!
//! Order of calls: [`Node::new`]; then any of the `on_…` functions; [`Node::end_batch`] after each batch of them, which
//! writes the journal once for all; then [`Node::outputs`].

mod accepting;
mod blocks;
mod credit;
mod damage;
mod effects;
mod gateway;
mod gathering;
mod peer;
mod placement;
mod pull;
mod reads;
mod repair;
mod scrub;
mod snapshots;

pub use placement::{Assignment, Wanted};
pub use pull::PullId;
pub use reads::ReadJob;
pub use snapshots::KeptSnapshots;

use accepting::Accepting;
use credit::Session;
use damage::Damages;
use effects::Effects;
use gathering::Gathering;
use pull::Pulls;
use quoin_replication::Timing;
use quoin_replication::replica::{Persist, Replica, ReplicaMeta};
use quoin_store::{
    ApplyDone, ApplyJob, CheckpointDone, CheckpointJob, Engine, Lsn, Opened, PlaceDone, PlaceJob, ScrubJob,
    SyncDone, SyncJob,
};
use quoin_types::collections::{HashMap, HashSet};
use quoin_types::{BootId, ClusterId, DiskId, EXTENT_BYTES, Moment, NodeId, ReplicaId, SessionId};
use quoin_wire::{HelloReply, Message, Refusal, Source, Speaker};
use scrub::Scrubber;
use std::time::Duration;

/// A disk that has changed gets a checkpoint after this time even if its journal has room: trimmed space comes back, and
/// the next start has little to replay.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);
/// How many steps of folding deleted snapshots one tick takes, of at most 128 extents each: about 100 µs a step.
const FOLDS_PER_TICK: u32 = 4;

/// What the shell has to do.
pub enum Output {
    /// Send a message on a session.
    Send(SessionId, Message),
    /// End a session: the other side broke the protocol.
    Close(SessionId, String),
    /// Run on any of several other threads, then [`Node::on_placed`].
    Place(PlaceJob),
    /// Run on another thread, then [`Node::on_synced`].
    Sync(SyncJob),
    /// Run on another thread, then [`Node::on_applied`].
    Apply(ApplyJob),
    /// Run on another thread, then [`Node::on_checkpointed`].
    Checkpoint(CheckpointJob),
    /// Run on another thread, then [`Node::on_read_done`].
    Read(ReadJob),
    /// Run on another thread, then [`Node::on_scrubbed`].
    Scrub(ScrubJob),
    /// Connect to a peer to pull from, then [`Node::on_peer_connected`].
    ConnectPeer(PullId, Source),
    /// Send a message to a peer that is pulled from.
    SendPeer(PullId, Message),
    /// End the connection to a peer.
    ClosePeer(PullId),
    /// Tell the cluster manager: the replica exists, durably. If it says that nobody wants it, [`Node::on_unwanted`].
    Created(ReplicaId),
    /// Tell the cluster manager: the replica is gone, durably.
    Dropped(ReplicaId),
}

/// The disk engine failed: the process ends (crash-only).
#[derive(Debug, thiserror::Error)]
#[error("the disk failed: {0}")]
pub struct Fatal(#[from] pub quoin_store::Error);

/// Who the node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// The kernel boot it runs under.
    pub boot: BootId,
}

/// Counters, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Writes taken.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads served.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Blocks and map entries found damaged, each time that one was met.
    pub damaged: u64,
    /// Extents found damaged.
    pub damage_found: u64,
    /// Requests refused.
    pub refused: u64,
    /// Bytes pulled from peers.
    pub pulled_bytes: u64,
    /// Bytes that peers pulled.
    pub served_bytes: u64,
    /// Damaged extents repaired.
    pub repaired: u64,
}

/// What work in the background may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most that resync reads or writes in a second; `None` is no bound.
    pub resync_bytes_per_second: Option<u64>,
    /// The most that scrub looks at in a second; `None`: there is no scrub.
    pub scrub_bytes_per_second: Option<u64>,
    /// The least time from the beginning of one lap of the scrub to that of the next.
    pub scrub_interval: Duration,
}

/// One storage node.
pub struct Node {
    identity: NodeIdentity,
    timing: Timing,
    engine: Engine,
    replicas: HashMap<ReplicaId, Replica>,
    sessions: HashMap<SessionId, Session>,
    /// What was asked for until the last tick.
    requests_seen: u64,
    /// Whether nothing was, from the tick before that to that.
    is_quiet: bool,
    /// Whether the last tick left layers to fold.
    is_folding: bool,
    next_session: u64,
    /// Replicas that the batch appends to.
    appended: HashSet<ReplicaId>,
    /// Replicas whose position is to be told.
    moved: HashSet<ReplicaId>,
    accepting: Accepting,
    effects: Effects,
    pulls: Pulls,
    damages: Damages,
    scrubber: Scrubber,
    /// What the cluster manager said of the replicas' snapshots.
    kept: HashMap<ReplicaId, KeptSnapshots>,
    gathering: Gathering,
    checkpointing: bool,
    /// A gateway could be granted more if there were a checkpoint.
    wants_checkpoint: bool,
    /// The last checkpoint made for its age, and the last record that it covers.
    checkpointed: (Moment, Lsn),
    counters: Counters,
    outputs: Vec<Output>,
}

impl Node {
    /// A node on an opened disk. `opened` tells what the opening found.
    ///
    /// # Errors
    /// The disk failed, or holds a replica state of a later version.
    pub fn new(
        identity: NodeIdentity,
        engine: Engine,
        opened: &Opened,
        limits: Limits,
        timing: Timing,
        now: Moment,
    ) -> Result<Self, Fatal> {
        let applied = engine.applied();
        let mut node = Self {
            identity,
            timing,
            engine,
            replicas: HashMap::default(),
            sessions: HashMap::default(),
            requests_seen: 0,
            is_quiet: false,
            is_folding: false,
            // W3: session ids of different processes never meet.
            next_session: opened.start_count << 32,
            appended: HashSet::default(),
            moved: HashSet::default(),
            accepting: Accepting::default(),
            effects: Effects::default(),
            pulls: Pulls::new(limits.resync_bytes_per_second),
            damages: Damages::default(),
            scrubber: Scrubber::new(limits.scrub_bytes_per_second, limits.scrub_interval, now),
            kept: HashMap::default(),
            gathering: Gathering::new(),
            checkpointing: false,
            wants_checkpoint: false,
            checkpointed: (now, applied),
            counters: Counters::default(),
            outputs: Vec::new(),
        };
        node.restore_replicas(opened.power_was_lost, now)?;
        for (replica, extent) in &opened.damaged {
            node.find_damaged_entries(*replica, extent.byte_offset(), EXTENT_BYTES);
        }
        Ok(node)
    }

    fn restore_replicas(&mut self, power_was_lost: bool, now: Moment) -> Result<(), Fatal> {
        let found: Vec<_> = self
            .engine
            .replicas()
            .map(|(id, view)| (id, ReplicaMeta::decode(view.meta), view.position))
            .collect();
        for (id, meta, position) in found {
            let meta = meta.map_err(|error| quoin_store::Error::Corrupt {
                what: format!("replica {id}"),
                detail: error.to_string(),
            })?;
            let (replica, persist) = Replica::restore(id, meta, position, power_was_lost, now, self.timing);
            self.replicas.insert(id, replica);
            if let Some(persist) = persist {
                self.persist(id, &persist)?;
            }
        }
        self.end_batch(now)?;
        if power_was_lost {
            // The marks are in the journal: only now may the former boot be forgotten.
            self.engine.power_loss_noted()?;
        }
        Ok(())
    }

    /// Who it is.
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// The disk engine, to look at.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Replicas on the disk, and how many of them are catching up.
    pub fn replica_counts(&self) -> (usize, usize) {
        (self.replicas.len(), self.replicas.values().filter(|replica| replica.is_resyncing()).count())
    }

    /// Extents that are damaged and not repaired yet.
    pub fn damaged_extents(&self) -> usize {
        self.damages.count()
    }

    /// Complete laps of the scrub since the start, and the time since the last one; since the start if there was none.
    pub fn scrub_laps(&self) -> (u64, Duration) {
        (self.scrubber.laps(), self.scrubber.lap_age())
    }

    /// Takes what the shell has to do, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When a tick is needed, if sooner than usual.
    pub fn due(&self) -> Option<Moment> {
        self.scrubber.due().into_iter().chain(self.gathering.due()).min()
    }

    /// Whether ticks are needed soon.
    pub fn is_busy(&self) -> bool {
        !self.pulls.is_empty() || self.damages.is_due()
    }

    /// Whether nobody has read or written since the tick before the last one, that found nothing to do, and nobody waits for what
    /// another may find: space that was made.
    pub fn is_at_rest(&self) -> bool {
        self.is_quiet
            && self.requests() == self.requests_seen
            && !self.is_folding
            && self.engine.space().freeing_bytes == 0
            && !self.sessions.values().any(Session::waits_for_space)
    }

    fn requests(&self) -> u64 {
        self.counters.reads + self.counters.writes + self.counters.refused
    }

    /// A new connection has said who it is.
    pub fn on_session(&mut self, speaker: Speaker) -> SessionId {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        self.sessions.insert(id, Session::new(speaker));
        self.outputs.push(Output::Send(
            id,
            Message::HelloReply(HelloReply {
                node: self.identity.node,
                disk: self.identity.disk,
                session: id,
                boot: self.identity.boot,
            }),
        ));
        id
    }

    /// A connection has ended.
    pub fn on_session_closed(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        self.abandon_pulls_of(id);
    }

    /// A frame has come in on a session.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_message(&mut self, session: SessionId, message: Message, now: Moment) -> Result<(), Fatal> {
        let Some(speaker) = self.sessions.get(&session).map(|session| session.speaker) else { return Ok(()) };
        match (speaker, message) {
            (Speaker::Gateway(instance), message) => self.on_gateway_message(session, instance, message, now),
            (Speaker::Peer(_), Message::ListSnapshots(list)) => {
                self.on_list_snapshots(session, &list);
                Ok(())
            }
            (Speaker::Peer(_), Message::List(list)) => self.on_list(session, &list),
            (Speaker::Peer(_), Message::Fetch(fetch)) => self.on_fetch(session, &fetch),
            (Speaker::Peer(_), _) => {
                self.close(session, "a peer may only list and fetch");
                Ok(())
            }
        }
    }

    /// Ends a batch of events: what was appended is written to the journal, once, and told.
    ///
    /// # Errors
    /// The disk failed.
    pub fn end_batch(&mut self, now: Moment) -> Result<(), Fatal> {
        // What would be accepted no sooner gathers while a batch is written through.
        if self.engine.has_uncommitted() && !self.engine.is_writing_through() {
            self.write_batch(now)?;
        }
        self.moved.extend(self.accepting.accepted(self.engine.accepted()));
        self.tell_positions();
        self.start_jobs(now);
        // Effects may have come true without a sync of their own (everything was durable already).
        self.come_true(now)
    }

    /// Writes the batch to the journal: through, where somebody waits for that.
    fn write_batch(&mut self, now: Moment) -> Result<(), Fatal> {
        let through = if self.gathering.is_asked() { self.engine.submit_through()? } else { None };
        let (written, sync) = match through {
            Some((written, job)) => (written, Some(job)),
            None => (self.engine.submit()?, None),
        };
        self.gathering.wrote(now);
        if let Some(job) = sync {
            self.gathering.sync_begins(true);
            self.outputs.push(Output::Sync(job));
        }
        for id in self.appended.drain() {
            let Some(replica) = self.replicas.get(&id) else { continue };
            self.effects.durable_at(written, id, replica.position());
            if self.engine.accepted() < written {
                self.accepting.at(written, id, replica);
            } else {
                self.moved.insert(id);
            }
        }
        Ok(())
    }

    /// Data of whole extents is in its place: what waited for that is accepted.
    ///
    /// # Errors
    /// The disk failed: nothing is pretended.
    pub fn on_placed(&mut self, done: PlaceDone, now: Moment) -> Result<(), Fatal> {
        self.engine.finish_place(done)?;
        self.end_batch(now)
    }

    /// A sync has ended: group commit.
    ///
    /// # Errors
    /// The disk failed: nothing is pretended.
    pub fn on_synced(&mut self, done: SyncDone, now: Moment) -> Result<(), Fatal> {
        self.gathering.synced(now);
        self.engine.finish_sync(done)?;
        self.moved.extend(self.accepting.accepted(self.engine.accepted()));
        self.come_true(now)?;
        self.end_batch(now)
    }

    /// What is durable is in its place now.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_applied(&mut self, done: ApplyDone, now: Moment) -> Result<(), Fatal> {
        self.gathering.applied(now);
        self.engine.finish_apply(done)?;
        self.end_batch(now)
    }

    /// A checkpoint has ended.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_checkpointed(&mut self, done: CheckpointDone, now: Moment) -> Result<(), Fatal> {
        self.checkpointing = false;
        self.engine.finish_checkpoint(done)?;
        self.gathering.look_at_space();
        self.end_batch(now)
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The disk failed.
    pub fn tick(&mut self, now: Moment) -> Result<(), Fatal> {
        let requests = self.requests();
        self.is_quiet = requests == std::mem::replace(&mut self.requests_seen, requests);
        self.tick_pulls(now)?;
        self.tick_damage(now)?;
        self.tick_scrub(now);
        self.tick_credit();
        self.fold()?;
        if self.gathering.tick(now) {
            self.engine.ask_filesystem();
        }
        self.end_batch(now)?;
        self.checkpoint_by_age(now);
        Ok(())
    }

    /// Ends the engine cleanly: everything is durable and marked as such.
    ///
    /// # Errors
    /// The disk failed.
    pub fn shutdown(self) -> Result<(), Fatal> {
        Ok(self.engine.shutdown()?)
    }

    fn start_jobs(&mut self, now: Moment) {
        while let Some(job) = self.engine.start_place() {
            self.outputs.push(Output::Place(job));
        }
        if self.gathering.wants_sync(self.effects.are_awaited(), now) {
            let job = self.engine.start_sync();
            self.gathering.sync_begins(job.is_some());
            self.outputs.extend(job.map(Output::Sync));
        }
        if self.gathering.wants_apply(now) {
            let job = self.engine.start_apply();
            self.gathering.apply_begins(job.is_some());
            self.outputs.extend(job.map(Output::Apply));
        }
        // Wanted anew for as long as there is need.
        let is_wanted = std::mem::take(&mut self.wants_checkpoint);
        if !self.checkpointing
            && let Some(job) = self.engine.start_checkpoint(is_wanted)
        {
            self.checkpointing = true;
            self.outputs.push(Output::Checkpoint(job));
        }
    }

    /// Gives up a little of what deleted snapshots kept. A full disk is no failure: a checkpoint may free what it takes.
    fn fold(&mut self) -> Result<(), Fatal> {
        for _ in 0..FOLDS_PER_TICK {
            self.is_folding = false;
            match self.engine.fold() {
                Ok(true) => self.is_folding = true,
                Ok(false) | Err(quoin_store::Error::NoSpace) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn checkpoint_by_age(&mut self, now: Moment) {
        // What is not applied yet is not in it, and must not be forgotten: a disk may have nothing to do afterwards.
        let applied = self.engine.applied();
        let (then, applied_then) = self.checkpointed;
        if self.checkpointing || applied == applied_then || now.since(then) < CHECKPOINT_EVERY {
            return;
        }
        if let Some(job) = self.engine.start_checkpoint(true) {
            self.checkpointed = (now, applied);
            self.checkpointing = true;
            self.outputs.push(Output::Checkpoint(job));
        }
    }

    fn persist(&mut self, id: ReplicaId, persist: &Persist) -> Result<Lsn, Fatal> {
        Ok(self.engine.put_meta(id, persist.meta.encode(), persist.position)?)
    }

    fn send(&mut self, session: SessionId, message: Message) {
        if self.sessions.contains_key(&session) {
            self.outputs.push(Output::Send(session, message));
        }
    }

    fn close(&mut self, session: SessionId, reason: impl Into<String>) {
        if self.sessions.remove(&session).is_some() {
            self.abandon_pulls_of(session);
            self.outputs.push(Output::Close(session, reason.into()));
        }
    }
}

/// Sorts what the engine says about one request: a refusal for its sender, or the end of the process.
fn refusal_or_fatal(error: quoin_store::Error) -> Result<Refusal, Fatal> {
    match error {
        // A snapshot that is one too many has its place when a deleted one is folded.
        quoin_store::Error::NoSpace | quoin_store::Error::TooManySnapshots { .. } => Ok(Refusal::NoSpace),
        quoin_store::Error::UnknownSnapshot { .. } => Ok(Refusal::LacksSnapshot),
        quoin_store::Error::UnknownReplica(_) => Ok(Refusal::UnknownReplica),
        quoin_store::Error::OutOfRange { .. }
        | quoin_store::Error::Misaligned { .. }
        | quoin_store::Error::SnapshotExists { .. } => Ok(Refusal::WrongState),
        quoin_store::Error::Corrupt { .. } => Ok(Refusal::Disk),
        error => Err(Fatal(error)),
    }
}
