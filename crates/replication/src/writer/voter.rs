//! One voter, as its gateway sees it.

use quoin_types::{Moment, NodeId, ReplicaId, ReplicaRole, Seq};
use quoin_wire::{Point, ReplicaReport, Source};
use std::collections::VecDeque;
use std::time::Duration;

/// Who the voter is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoterConfig {
    /// The storage node.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where peers reach it.
    pub address: String,
    /// Its replica of the segment.
    pub replica: ReplicaId,
    /// What it is in the segment's configuration.
    pub role: ReplicaRole,
}

/// Where a voter stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// No session with its node.
    Offline,
    /// `Open` is on its way.
    Opening,
    /// It has promised and told what it has; nothing was decided for it yet.
    Opened(ReplicaReport),
    /// During attach: brought to the authority's state.
    Recovering,
    /// In the authority's state, waiting for the others.
    Equal,
    /// `StartEpoch` is on its way.
    Starting,
    /// A prefix of the epoch's history: its positions count.
    Live,
    /// Takes the live stream and pulls (rule S1).
    Joining,
    /// Pulls only (rule S4).
    Pulling,
    /// A resync broke: asked again after this moment.
    Resting(Moment),
    /// It lost what it had promised to keep, or cannot serve: left alone.
    Failed(String),
}

/// How a voter does, for reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoterStatus {
    /// Its replica.
    pub replica: ReplicaId,
    /// Its node's name.
    pub name: String,
    /// How it does.
    pub health: VoterHealth,
    /// Whether it surely has every acknowledged write, should it be the only one left of two (rule C3).
    pub whole: bool,
    /// Whether it came back from a loss of power and does not have everything again (rule A2).
    pub shaken: bool,
}

/// How a voter does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VoterHealth {
    /// Takes every write.
    InSync,
    /// Catching up; bytes pulled, bytes to pull, bytes per second.
    CatchingUp {
        /// Pulled so far.
        done_bytes: u64,
        /// To pull, as known.
        total_bytes: u64,
        /// How fast lately.
        bytes_per_second: u64,
    },
    /// Not reachable.
    Missing,
    /// It lost what it had promised to keep, or cannot serve.
    Failed(String),
}

/// A write on its way.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    seq: Seq,
    sent_at: Moment,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Voter {
    pub(crate) config: VoterConfig,
    pub(crate) stage: Stage,
    /// The last seq sent in this session.
    pub(crate) sent: Seq,
    /// W3: positions of the present session only.
    pub(crate) accepted: Seq,
    /// What it has made durable in this epoch; true whether or not it is reachable.
    pub(crate) durable: Seq,
    /// R2: how long its lease may be used.
    pub(crate) lease_until: Moment,
    /// A2: it came back shaken; settle it when it has everything up to here.
    pub(crate) settle_at: Option<Seq>,
    /// It is in the state that the epoch starts from: brought there, or found there (attach, step 4).
    pub(crate) in_base_state: bool,
    /// Whether a round without the live stream must come before the next join.
    pub(crate) round_due: bool,
    /// It met damage under a write: re-sending from memory would meet it again.
    pub(crate) must_pull: bool,
    /// The replica that it was last told to pull from, and the last one that could not give what is damaged on its disk.
    pub(crate) source: ReplicaId,
    pub(crate) damaged_source: Option<ReplicaId>,
    /// As the authority of this attach it could not give what the others lack, for that is damaged on its disk. Until it
    /// is live it counts as if it had not answered: a majority of the others has everything acknowledged (rule A2).
    pub(crate) unfit: bool,
    /// It is live and is being re-sent everything up to here: until it has that, it lags.
    pub(crate) behind_until: Seq,
    /// W5: since when it has no room for what it is to be sent.
    pub(crate) starved_since: Option<Moment>,
    /// It has had no room for so long that it is lagging, though it is there.
    pub(crate) is_starved: bool,
    /// W5: it is sent everything to here whether or not it has granted credit.
    pub(crate) overdraws_to: Seq,
    /// How many pulls in a row found no room for all there was, up to a bound.
    pub(crate) lacked_room: u32,
    pub(crate) asked_at: Moment,
    pub(crate) progress: Progress,
    /// Whether it is on this machine.
    pub(crate) local: bool,
    /// Read latency, smoothed.
    pub(crate) latency: Duration,
    unanswered: VecDeque<Unanswered>,
    unanswered_bytes: usize,
}

/// How a resync does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) bytes_per_second: u64,
    measured: Option<(Moment, u64)>,
}

impl Progress {
    pub(crate) fn update(&mut self, now: Moment, done_bytes: u64, total_bytes: u64) {
        (self.done_bytes, self.total_bytes) = (done_bytes, total_bytes);
        match self.measured {
            Some((then, done_then)) if done_bytes >= done_then => {
                let elapsed = now.since(then);
                if elapsed >= Duration::from_millis(500) {
                    let rate = (done_bytes - done_then) as f64 / elapsed.as_secs_f64();
                    self.bytes_per_second = rate as u64;
                    self.measured = Some((now, done_bytes));
                } else if self.bytes_per_second == 0 && !elapsed.is_zero() {
                    self.bytes_per_second = ((done_bytes - done_then) as f64 / elapsed.as_secs_f64()) as u64;
                }
            }
            _ => self.measured = Some((now, done_bytes)),
        }
    }
}

impl Voter {
    pub(crate) fn new(config: VoterConfig) -> Self {
        Self {
            config,
            stage: Stage::Offline,
            sent: Seq::ZERO,
            accepted: Seq::ZERO,
            durable: Seq::ZERO,
            lease_until: Moment::ZERO,
            settle_at: None,
            in_base_state: false,
            round_due: false,
            must_pull: false,
            source: ReplicaId::default(),
            damaged_source: None,
            unfit: false,
            behind_until: Seq::ZERO,
            starved_since: None,
            is_starved: false,
            overdraws_to: Seq::ZERO,
            lacked_room: 0,
            asked_at: Moment::ZERO,
            progress: Progress::default(),
            local: false,
            latency: Duration::ZERO,
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    pub(crate) fn role(&self) -> ReplicaRole {
        self.config.role
    }

    /// C3: whether it is known to be complete, unmixed and unshaken: in sync, or just opened and well. Everything committed
    /// is durable on it, so that this stays true should its power go before anybody acts on it.
    fn is_whole(&self, committed: Seq) -> bool {
        match &self.stage {
            Stage::Live => self.settle_at.is_none() && self.durable >= committed,
            Stage::Opened(report) => !report.mixed && !report.shaken,
            _ => false,
        }
    }

    pub(crate) fn report(&self) -> Option<&ReplicaReport> {
        match &self.stage {
            Stage::Opened(report) => Some(report),
            _ => None,
        }
    }

    pub(crate) fn source(&self) -> Source {
        Source { node: self.config.node, address: self.config.address.clone(), replica: self.config.replica }
    }

    /// Its position in the epoch, from now on counted (stage `Live`).
    pub(crate) fn go_live(&mut self, position: Seq) {
        self.stage = Stage::Live;
        self.restart_stream(position);
        self.accepted = position;
        self.durable = self.durable.max(position);
        self.round_due = false;
        self.must_pull = false;
        self.unfit = false;
    }

    /// The stream to it begins after `position`.
    pub(crate) fn restart_stream(&mut self, position: Seq) {
        self.sent = position;
        self.accepted = Seq::ZERO;
        self.behind_until = Seq::ZERO;
        (self.starved_since, self.is_starved) = (None, false);
        self.overdraws_to = Seq::ZERO;
        self.unanswered.clear();
        self.unanswered_bytes = 0;
    }

    pub(crate) fn sent_write(&mut self, now: Moment, seq: Seq, bytes: usize) {
        debug_assert_eq!(seq, self.sent.next());
        self.sent = seq;
        self.unanswered.push_back(Unanswered { seq, sent_at: now, bytes });
        self.unanswered_bytes += bytes;
    }

    pub(crate) fn answered(&mut self, accepted: Seq) {
        while self.unanswered.front().is_some_and(|write| write.seq <= accepted) {
            let write = self.unanswered.pop_front().expect("just looked at");
            self.unanswered_bytes -= write.bytes;
        }
    }

    pub(crate) fn unanswered_bytes(&self) -> usize {
        self.unanswered_bytes
    }

    /// The age of the oldest write that it has not answered: health is judged on the I/O path.
    pub(crate) fn oldest_unanswered(&self, now: Moment) -> Duration {
        self.unanswered.front().map_or(Duration::ZERO, |write| now.since(write.sent_at))
    }

    /// R2: whether it has granted leases, and none for twice as long as one lasts, though it is asked all the time and
    /// answers. It may have promised another epoch, or serve another session: it is to be asked.
    pub(crate) fn grants_no_more(&self, now: Moment, lease: Duration) -> bool {
        self.lease_until != Moment::ZERO && now.since(self.lease_until.max(self.asked_at)) > lease * 2
    }

    /// S4: a join broke; next time a round without the live stream comes first.
    pub(crate) fn resync_broke(&mut self) {
        if self.stage == Stage::Joining {
            self.round_due = true;
        }
    }

    /// It is left alone, and nothing that it said counts any more (rule W3).
    pub(crate) fn fail(&mut self, reason: String) {
        self.lost_session();
        self.durable = Seq::ZERO;
        self.stage = Stage::Failed(reason);
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.stage, Stage::Failed(_))
    }

    pub(crate) fn lost_session(&mut self) {
        self.resync_broke();
        if !self.has_failed() {
            self.stage = Stage::Offline;
        }
        self.accepted = Seq::ZERO;
        self.unanswered.clear();
        self.unanswered_bytes = 0;
    }

    pub(crate) fn status(&self, committed: Seq) -> VoterStatus {
        let health = match &self.stage {
            Stage::Offline => VoterHealth::Missing,
            Stage::Failed(reason) => VoterHealth::Failed(reason.clone()),
            Stage::Live if !self.is_starved && self.accepted >= self.behind_until => VoterHealth::InSync,
            _ => VoterHealth::CatchingUp {
                done_bytes: self.progress.done_bytes,
                total_bytes: self.progress.total_bytes,
                bytes_per_second: self.progress.bytes_per_second,
            },
        };
        VoterStatus {
            replica: self.config.replica,
            name: self.config.name.clone(),
            health,
            whole: self.is_whole(committed),
            shaken: self.settle_at.is_some(),
        }
    }
}

/// The state that an epoch starts from, once decided (attach, step 5). Never changes within an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Base {
    /// The authority's history and this epoch.
    pub(crate) history: Vec<quoin_wire::EpochStart>,
    /// The authority's state.
    pub(crate) expect: Point,
    /// Whether the authority was mixed.
    pub(crate) mixed: bool,
}
