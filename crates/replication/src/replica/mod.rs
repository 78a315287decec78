//! One replica: what it may promise, take, serve and forget.
//!
//! [`Replica`] holds the protocol state of one replica and decides; the storage node carries out. Everything durable is in
//! [`ReplicaMeta`], which the node hands to its disk engine whenever a decision says so ([`Persist`]): the engine's journal
//! keeps order, so that what is journaled after a mark can only be durable if the mark is.
//!
//! Order of calls: [`Replica::create`] or [`Replica::restore`]; then [`Replica::open`], and what its session asks for.
//! After each storage operation the node reports [`Replica::appended`] and [`Replica::made_durable`].

mod lease;
mod meta;
mod repair;
mod resync;

pub use lease::Leases;
pub use meta::{MetaError, ReplicaMeta};
pub use repair::{Repairer, Verdict};
pub use resync::{PullError, PulledExtent, Puller, Stage};

use crate::history::{end_point, truncated};
use crate::timing::Timing;
use quoin_types::{Epoch, InstanceId, Moment, ReplicaId, Seq, SessionId};
use quoin_wire::{
    EpochStart, LeaseHolder, Open, Point, Refusal, ReplicaReport, Resync, ResyncMode, StartEpoch,
};

/// What the disk engine has to keep: the meta, and the position if it is replaced too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// The new state.
    pub meta: ReplicaMeta,
    /// The new position, where it does not follow from the writes.
    pub position: Option<Seq>,
}

/// What to do with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// It is the next: append it.
    Append,
    /// It was taken before: only tell the position again.
    Known,
}

/// What a replica is in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Promised at most; its state may be another epoch's.
    Idle,
    /// In the promised epoch's history: takes writes, serves reads.
    Member,
    /// Takes live writes from a seq on while it pulls what it lacks (rule S1).
    Joining,
    /// Pulls without the live stream (rule S4).
    Pulling,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    id: ReplicaId,
    meta: ReplicaMeta,
    role: Role,
    session: Option<SessionId>,
    /// That session has given its lease back: nothing more comes from it.
    released: bool,
    leases: Leases,
    /// The last write appended to the journal's batch.
    appended: Seq,
    /// The last write that survives loss of power.
    durable: Seq,
    timing: Timing,
}

impl Replica {
    /// A replica that the cluster manager has just placed here (rule C2: once).
    pub fn create(id: ReplicaId, meta: ReplicaMeta, timing: Timing) -> Self {
        Self {
            id,
            meta,
            role: Role::Idle,
            session: None,
            released: false,
            leases: Leases::none(),
            appended: Seq::ZERO,
            durable: Seq::ZERO,
            timing,
        }
    }

    /// A replica found on the disk at the start of the process. `power_was_lost`: under another kernel boot, without a
    /// clean shutdown (rule A2). The caller persists the returned meta if it changed.
    pub fn restore(
        id: ReplicaId,
        mut meta: ReplicaMeta,
        position: Seq,
        power_was_lost: bool,
        now: Moment,
        timing: Timing,
    ) -> (Self, Option<Persist>) {
        let newly_shaken = power_was_lost && !meta.shaken && meta.promise.epoch != Epoch::ZERO;
        meta.shaken |= newly_shaken;
        let persist = newly_shaken.then(|| Persist { meta: meta.clone(), position: None });
        let replica = Self {
            id,
            meta,
            role: Role::Idle,
            session: None,
            released: false,
            // R2: after a process start, a full lease is assumed.
            leases: Leases::assumed(now + timing.lease_granted()),
            appended: position,
            durable: position,
            timing,
        };
        (replica, persist)
    }

    /// Its id.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its durable state.
    pub fn meta(&self) -> &ReplicaMeta {
        &self.meta
    }

    /// The session that opened it last, unless that has let go of it.
    pub fn session(&self) -> Option<SessionId> {
        self.session.filter(|_| !self.released)
    }

    /// The last write appended.
    pub fn position(&self) -> Seq {
        self.appended
    }

    /// The last write that is durable.
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// Whether it is catching up.
    pub fn is_resyncing(&self) -> bool {
        matches!(self.role, Role::Joining | Role::Pulling)
    }

    /// Attach, step 2. On success the state must be persisted; the answer ([`Replica::report`]) goes out once that and all
    /// before it is durable.
    ///
    /// # Errors
    /// A higher promise or generation, another instance under the same epoch (W4), another segment, or an older session of
    /// the same epoch.
    pub fn open(&mut self, session: SessionId, open: &Open) -> Result<Persist, Refusal> {
        if open.segment != self.meta.segment {
            return Err(Refusal::OtherSegment);
        }
        if open.generation < self.meta.generation {
            return Err(Refusal::HigherGeneration(self.meta.generation));
        }
        let promise = self.meta.promise;
        if open.epoch < promise.epoch {
            return Err(Refusal::HigherEpoch(promise.epoch));
        }
        if open.epoch == promise.epoch && open.instance != promise.instance {
            return Err(Refusal::OtherInstance);
        }
        // The node gives rising session ids: what is left of an older connection must not take the replica back.
        if open.epoch == promise.epoch && self.session.is_some_and(|newer| newer > session) {
            return Err(Refusal::StaleSession);
        }
        if open.epoch > promise.epoch {
            // S4: `pulled through` is dropped on a new epoch.
            self.meta.pulled_through = None;
        }
        if let Some(holder) = open.void {
            self.leases.void(holder);
        }
        self.meta.promise = LeaseHolder { instance: open.instance, epoch: open.epoch };
        self.meta.generation = open.generation;
        (self.session, self.released) = (Some(session), false);
        let in_history = end_point(&self.meta.history, self.appended).epoch == open.epoch;
        self.role = if in_history && self.meta.mixed.is_none() { Role::Member } else { Role::Idle };
        Ok(self.persist(None))
    }

    /// What it has, for the answer to [`Open`]. A mixed replica reports its common point (rule A3).
    pub fn report(&self, now: Moment) -> ReplicaReport {
        let (history, last) = match self.meta.mixed {
            Some(common) => (truncated(&self.meta.history, common), common.seq),
            None => (self.meta.history.clone(), self.appended),
        };
        ReplicaReport {
            history,
            last,
            lease_remainder: self.leases.remainder(now, self.meta.promise.instance),
            mixed: self.meta.mixed.is_some(),
            shaken: self.meta.shaken,
        }
    }

    /// Its state as others may count on it: the end of its history, or the common point while mixed.
    pub fn state(&self) -> Point {
        self.meta.mixed.unwrap_or_else(|| end_point(&self.meta.history, self.appended))
    }

    /// Attach, step 5: the epoch becomes part of the history. Durable before it is answered.
    ///
    /// # Errors
    /// Unless promised in this session, in the expected state, and unmixed (or allowed to be mixed).
    pub fn start_epoch(
        &mut self,
        session: SessionId,
        start: &StartEpoch,
    ) -> Result<Option<Persist>, Refusal> {
        self.check_promise(session, start.epoch)?;
        if self.meta.history == start.history && self.meta.mixed.is_none() {
            return Ok(None);
        }
        let starts_after = |last: &EpochStart| {
            last.epoch == start.epoch && last.first.0.checked_sub(1) == Some(start.expect.seq.0)
        };
        let well_formed = start.history.last().is_some_and(starts_after);
        let mixed = self.is_resyncing() || (self.meta.mixed.is_some() && !start.allow_mixed);
        if !well_formed || mixed || self.state() != start.expect {
            return Err(Refusal::WrongState);
        }
        self.meta.history.clone_from(&start.history);
        self.complete(start.expect.seq);
        Ok(Some(self.persist(Some(start.expect.seq))))
    }

    /// Whether a write (or zero) is to be appended. The caller appends it and calls [`Replica::appended`].
    ///
    /// # Errors
    /// Fenced, not in the epoch's history, or not the next seq.
    pub fn take(&self, session: SessionId, epoch: Epoch, seq: Seq) -> Result<Take, Refusal> {
        self.check_promise(session, epoch)?;
        match self.role {
            Role::Member | Role::Joining => {}
            Role::Idle | Role::Pulling => return Err(Refusal::WrongState),
        }
        if seq <= self.appended {
            Ok(Take::Known)
        } else if seq.previous() == self.appended {
            Ok(Take::Append)
        } else {
            Err(Refusal::Gap(self.appended))
        }
    }

    /// Whether a snapshot is to be made. The caller makes it and calls [`Replica::appended`].
    ///
    /// # Errors
    /// As for a write; and while it joins, for it is incomplete, and so would the snapshot be (rule N3).
    pub fn take_snapshot(&self, session: SessionId, epoch: Epoch, seq: Seq) -> Result<Take, Refusal> {
        match self.take(session, epoch, seq)? {
            Take::Append if self.role != Role::Member => Err(Refusal::WrongState),
            take => Ok(take),
        }
    }

    /// A write was appended to the journal's batch.
    pub fn appended(&mut self, seq: Seq) {
        debug_assert!(seq >= self.appended, "positions only rise within a session");
        self.appended = seq;
    }

    /// Writes to here are durable.
    pub fn made_durable(&mut self, seq: Seq) {
        self.durable = self.durable.max(seq.min(self.appended));
    }

    /// Whether its positions mean anything to the gateway: only a member's do (rule S2).
    pub fn counts(&self) -> bool {
        self.role == Role::Member
    }

    /// R0: whether it may answer a read that must see everything to `after`.
    ///
    /// # Errors
    /// Fenced, incomplete, or behind.
    pub fn may_read(&self, epoch: Epoch, after: Seq) -> Result<(), Refusal> {
        if epoch != self.meta.promise.epoch {
            return Err(Refusal::HigherEpoch(self.meta.promise.epoch));
        }
        if self.role != Role::Member || self.appended < after { Err(Refusal::Behind) } else { Ok(()) }
    }

    /// S1, S2: whether a peer may pull from it.
    ///
    /// # Errors
    /// Another epoch is promised, it is incomplete, or behind `after`.
    pub fn may_pull(
        &self,
        epoch: Epoch,
        last_epoch: Epoch,
        after: Seq,
        allow_mixed: bool,
    ) -> Result<(), Refusal> {
        if epoch != self.meta.promise.epoch {
            return Err(Refusal::HigherEpoch(self.meta.promise.epoch));
        }
        let state = self.state();
        let incomplete = self.is_resyncing() || (self.meta.mixed.is_some() && !allow_mixed);
        if incomplete || state.epoch != last_epoch || state.seq < after {
            Err(Refusal::Behind)
        } else {
            Ok(())
        }
    }

    /// R2: whether the lease asked for by a heartbeat is granted.
    pub fn grant_lease(
        &mut self,
        now: Moment,
        session: SessionId,
        instance: InstanceId,
        epoch: Epoch,
    ) -> bool {
        let holder = LeaseHolder { instance, epoch };
        if self.meta.promise != holder || self.session != Some(session) {
            return false;
        }
        self.leases.grant(holder, now, now + self.timing.lease_granted());
        true
    }

    /// R2: a lease is given back. If it is the promised one's, by the session that opened the replica last, nothing more comes
    /// from that: gives it.
    pub fn release(&mut self, session: SessionId, holder: LeaseHolder) -> Option<SessionId> {
        self.leases.void(holder);
        let former = self.session().filter(|opened_by| *opened_by == session && self.meta.promise == holder);
        self.released |= former.is_some();
        former
    }

    /// A2: the same gateway has sent everything again. Returns the state to persist if that ends being shaken.
    ///
    /// # Errors
    /// Fenced, or not there yet.
    pub fn settle(&mut self, session: SessionId, epoch: Epoch, seq: Seq) -> Result<Option<Persist>, Refusal> {
        self.check_promise(session, epoch)?;
        if self.role != Role::Member || self.appended < seq {
            return Err(Refusal::Gap(self.appended));
        }
        if !self.meta.shaken {
            return Ok(None);
        }
        self.meta.shaken = false;
        Ok(Some(self.persist(None)))
    }

    /// A3: begins a resync. The returned state, which marks the replica mixed, is journaled before anything is changed.
    /// Gives also the version above which extents are pulled.
    ///
    /// # Errors
    /// Not promised in this session, or a common point beyond what it has.
    pub fn begin_resync(&mut self, session: SessionId, order: &Resync) -> Result<(Persist, Seq), Refusal> {
        self.check_promise(session, order.epoch)?;
        let foreign = order.history.last().is_some_and(|last| last.epoch > order.epoch);
        if order.common > self.state() || order.join_at == Seq::ZERO || foreign {
            return Err(Refusal::WrongState);
        }
        let common = self.meta.mixed.map_or(order.common, |mixed| mixed.min(order.common));
        self.meta.mixed = Some(common);
        let since = self.meta.pulled_through.unwrap_or(common.seq).max(common.seq);
        let position = match order.mode {
            ResyncMode::Join => {
                self.role = Role::Joining;
                self.appended = order.join_at.previous();
                Some(self.appended)
            }
            ResyncMode::Round => {
                self.role = Role::Pulling;
                None
            }
        };
        self.durable = self.durable.min(self.appended);
        Ok((self.persist(position), since))
    }

    /// S2: a joined resync has everything: its own position has reached the highest one stated. Durable before it is told.
    pub fn finish_join(&mut self, order: &Resync) -> Persist {
        debug_assert_eq!(self.role, Role::Joining);
        self.meta.history.clone_from(&order.history);
        if order.source_mixed {
            // The source's own state is still only its common point; StartEpoch, which allows for it, ends that.
            let end = end_point(&order.history, self.appended);
            self.meta.mixed = Some(end);
            self.meta.pulled_through = None;
            self.role = Role::Idle;
        } else {
            let shaken = self.meta.shaken;
            self.complete(self.appended);
            // A2: the state of an authority whose epoch has not started may itself have lost writes. Only the epoch's
            // start, made durable here or contained in the history that was pulled, ends being shaken.
            self.meta.shaken = shaken && self.role != Role::Member;
        }
        self.persist(Some(self.appended))
    }

    /// S4: a round without the live stream has ended.
    pub fn finish_round(&mut self, pulled_through: Seq) -> Persist {
        debug_assert_eq!(self.role, Role::Pulling);
        self.meta.pulled_through = Some(pulled_through);
        self.role = Role::Idle;
        self.persist(None)
    }

    /// A resync broke. The replica stays mixed.
    pub fn abandon_resync(&mut self) {
        if self.is_resyncing() {
            self.role = Role::Idle;
        }
    }

    /// Whether a session's order under this epoch is (still) the promised one's.
    ///
    /// # Errors
    /// Why not.
    pub fn check_promise(&self, session: SessionId, epoch: Epoch) -> Result<(), Refusal> {
        if epoch != self.meta.promise.epoch {
            Err(Refusal::HigherEpoch(self.meta.promise.epoch))
        } else if self.session != Some(session) {
            Err(Refusal::StaleSession)
        } else {
            Ok(())
        }
    }

    fn complete(&mut self, position: Seq) {
        self.meta.mixed = None;
        self.meta.pulled_through = None;
        self.meta.shaken = false;
        self.appended = position;
        self.durable = self.durable.min(position);
        let member = end_point(&self.meta.history, position).epoch == self.meta.promise.epoch;
        self.role = if member { Role::Member } else { Role::Idle };
    }

    fn persist(&self, position: Option<Seq>) -> Persist {
        Persist { meta: self.meta.clone(), position }
    }
}
