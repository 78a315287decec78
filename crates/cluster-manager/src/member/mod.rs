//! One member of the cluster manager, without clock, socket, thread or random source: what `run` runs in a task of its
//! own, and what a simulator runs, many of them, in one.
//!
//! Everything comes in by a call that says what time it is: messages of other members ([`Member::on_message`]), requests of
//! storage nodes, gateways and people ([`Member::request`]), and the passing of a tick ([`Member::tick`], every
//! [`MemberConfig::tick`]). After any of them, or after many, [`Member::advance`] does what follows, and hands over the
//! messages for other members at the moment at which they may go; then [`Member::take_answers`] has the answers. Two members
//! that were told the same, at the same times, from the same seed, do the same.
//!
//! A member's log is in a directory of `quoin_disk`: a real one, or one in memory that can lose its power.
//!
//! Rules of use: a new [`MemberConfig::seed`] for every start (it draws the ids of requests, which must differ from those of
//! earlier starts); one open member per directory; after an error of [`Member::advance`] the member is over, whatever it had
//! promised stands in its directory, and it is opened again or not at all.

mod changes;
mod duties;
mod gateways;
mod jobs;
mod managers;
mod nodes;
mod request;
mod snapshots;
mod step;
mod volumes;

pub use crate::raft::{MemberError, OutboundMessage, StoreError};
pub(crate) use changes::node_called;
pub use request::{Answer, Asked, Current, OtherReply, Refused, Reply, Request, Ticket};

use crate::metrics::Metrics;
use crate::raft::{Asker, Consensus, InboundMessage, Outbox, Random, parse_message};
use crate::shared::Shared;
use crate::view::{self, View};
use jobs::{Caller, Job};
use quoin_api::v1;
use quoin_cluster::State;
use quoin_disk::Dir;
use quoin_types::{DiskId, GatewayId, Moment, NodeId};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// What a member is told at its start.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Its raft id, from 1. Never that of a member whose directory is lost.
    pub id: u64,
    /// The first members and where they are reached (`host:port`), this one included; empty for one that is to be taken in
    /// by those there are ([`Request::ChangeMembers`]). Ignored once the directory has members.
    pub members: BTreeMap<u64, String>,
    /// What its election timeouts and ids are drawn from. Another one at every start.
    pub seed: u64,
    /// How often [`Member::tick`] is called. A leader that is silent for 10 to 20 ticks is replaced; it sends heartbeats
    /// every 2.
    pub tick: Duration,
    /// How often storage nodes and gateways report; three missed reports make them unreachable.
    pub heartbeat_interval: Duration,
}

/// One member of the cluster manager.
pub struct Member {
    config: MemberConfig,
    consensus: Consensus,
    shared: Arc<Shared>,
    random: Random,
    jobs: BTreeMap<Ticket, Job>,
    /// Who waits for what was asked of raft, by the number it was asked under.
    callers: BTreeMap<Asker, Caller>,
    last_asker: u64,
    answers: Vec<(Ticket, Answer)>,
    /// Something may have happened that a job waits for.
    look: bool,
    /// The revision that the jobs saw last.
    seen: u64,
    /// When the leader's duties are looked at next, and how many of their commands are on their way.
    duties_at: Moment,
    duties_under_way: usize,
}

impl Member {
    /// Opens the member whose log is in `directory`; an empty one begins with the members of the configuration.
    ///
    /// # Errors
    /// A directory that another has open, a disk that fails, or a log that this version does not understand.
    pub fn open(config: MemberConfig, directory: &dyn Dir, now: Moment) -> Result<Self, MemberError> {
        let (metrics, _) = Metrics::new();
        let shared = Arc::new(Shared::new(config.heartbeat_interval, metrics));
        Self::open_with(config, directory, shared, now)
    }

    /// As [`Member::open`], publishing in `shared` what others look at meanwhile.
    pub(crate) fn open_with(
        config: MemberConfig,
        directory: &dyn Dir,
        shared: Arc<Shared>,
        now: Moment,
    ) -> Result<Self, MemberError> {
        let mut random = Random::new(config.seed);
        let voters: Vec<u64> = config.members.keys().copied().collect();
        let timeouts = random.number();
        let consensus = Consensus::open(config.id, &voters, timeouts, directory, shared.clone())?;
        Ok(Self {
            config,
            consensus,
            shared,
            random,
            jobs: BTreeMap::new(),
            callers: BTreeMap::new(),
            last_asker: 0,
            answers: Vec::new(),
            look: false,
            seen: 0,
            duties_at: now,
            duties_under_way: 0,
        })
    }

    /// Takes the bytes of a message that member `from` sent to this one. What makes no sense is dropped.
    pub fn on_message(&mut self, from: u64, bytes: &[u8], now: Moment) {
        match parse_message(bytes, from, self.config.id) {
            Ok(message) => self.take(message, now),
            Err(error) => tracing::warn!(from, %error, "a raft message is dropped"),
        }
    }

    /// Takes a message that was checked.
    pub(crate) fn take(&mut self, message: InboundMessage, now: Moment) {
        self.consensus.on_message(message, now);
    }

    /// The last message to a member did not arrive.
    pub fn unreachable(&mut self, member: u64) {
        self.consensus.unreachable(member);
    }

    /// Whether a snapshot ([`OutboundMessage::snapshot`]) has arrived at a member. To be told of every one: until then it
    /// gets nothing else.
    pub fn snapshot_sent(&mut self, member: u64, arrived: bool) {
        self.consensus.snapshot_sent(member, arrived);
    }

    /// A tick has passed.
    pub fn tick(&mut self, now: Moment) {
        self.consensus.tick(now);
        self.look = true;
    }

    /// How many ticks from now on change nothing, if nothing comes in before: whoever has many members, or would be woken for
    /// each, may give them all at once when they have passed, and before what comes after them.
    pub fn quiet_ticks(&self) -> usize {
        if self.jobs.is_empty() && self.callers.is_empty() { self.consensus.quiet_ticks() } else { 0 }
    }

    /// Takes a request. Its answer is among [`Member::take_answers`] sooner or later, once; a ticket is not given again
    /// before that.
    pub fn request(&mut self, ticket: Ticket, asked: Asked, now: Moment) {
        if self.leads() {
            self.begin(ticket, asked, now);
        } else {
            self.send_away(ticket);
        }
    }

    /// Does all that follows from what came in. `send` gets the messages for other members, each as soon as it may go:
    /// those of a leader before its own disk has the entries, those that promise something after.
    ///
    /// # Errors
    /// A disk that failed, or a log that makes no sense. The member is over then.
    pub fn advance(&mut self, now: Moment, send: Outbox<'_>) -> Result<(), MemberError> {
        loop {
            self.consensus.advance(now, send)?;
            for (asker, heard) in self.consensus.take_answers() {
                self.hear(asker, heard, now);
            }
            if self.leads() {
                self.look_at_jobs(now);
            } else {
                self.send_all_away();
            }
            self.do_duties(now);
            if !self.consensus.has_work() {
                return Ok(());
            }
        }
    }

    /// The answers since this was called last.
    pub fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Begins to stop: hands over leadership, if this member has it. Requests go on being answered as far as they can be.
    pub fn stop(&mut self) {
        self.consensus.stop();
    }

    /// Whether a stopping member has nothing more to hand over.
    pub fn has_stopped(&self) -> bool {
        self.consensus.has_stopped()
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<u64> {
        self.shared.leadership.borrow().leader
    }

    /// Whether this member leads a cluster that has its identity, and so answers requests.
    pub fn leads(&self) -> bool {
        self.consensus.is_leading() && self.shared.state().cluster_id().is_some()
    }

    /// Raft's term.
    pub fn term(&self) -> u64 {
        self.shared.leadership.borrow().term
    }

    /// The last entry of the log that is applied.
    pub fn applied_index(&self) -> u64 {
        self.shared.applied.borrow().index
    }

    /// The state as this member has applied it; that of a follower may be behind. Not to be held over another call.
    pub fn state(&self) -> impl Deref<Target = State> + '_ {
        self.shared.state()
    }

    /// What a storage node watches: what belongs on that disk. Worth looking at when [`State::node_revision`] rises.
    pub fn node_view(&self, node: NodeId, disk: DiskId) -> v1::ReplicaAssignments {
        view::replica_assignments(&self.shared.state(), node, disk)
    }

    /// What a gateway watches: the volumes attached to it. Worth looking at when [`State::gateway_revision`] rises.
    pub fn gateway_view(&self, gateway: &GatewayId) -> v1::GatewayView {
        view::gateway_view(&self.shared.state(), gateway)
    }

    /// A volume with its health, as people see it, by name. Live figures are known to the leader alone.
    pub fn volume_view(&self, name: &str, now: Moment) -> Option<v1::Volume> {
        let live = self.shared.live(now);
        let state = self.shared.state();
        let view = View { state: &state, live: &live, now };
        state.volume_named(name).map(|volume| view.volume(volume))
    }
}
