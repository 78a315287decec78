//! What the disk has damaged, until it is repaired (rule R3): found by scrub, by reads, by writes and at the start.
//!
//! Only the gateway knows which peers are in sync. So the node tells it of one damaged extent at a time for each replica
//! ([`quoin_wire::Damaged`]), and it answers with an order. Without a gateway, or without a good copy in reach, an extent
//! stays listed; later it is looked at and told anew.

use super::reads::{Look, PendingPlan};
use super::{Fatal, Node, ReadJob};
use quoin_store::{Error, ExtentOutcome, ExtentPlan, View};
use quoin_types::collections::HashMap;
use quoin_types::{EXTENT_BYTES, ExtentIndex, Moment, ReplicaId, Seq, SessionId, Version};
use quoin_wire::{Damaged, Message};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

/// How long a gateway may take to name a source.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long an extent rests that nobody could give.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The most extents listed. What is beyond is found again by a later lap.
const LISTED_MAX: usize = 16_384;

/// The version that the engine's lists give an extent whose map entry is damaged.
const DAMAGED: Version = Seq(u64::MAX);
/// Extents whose versions are asked for at once.
const LOOKED_UP_AT_ONCE: usize = 1024;

/// One extent.
#[derive(Debug)]
struct Item {
    /// `None`: its map entry is damaged, so nobody knows.
    version: Option<Version>,
    /// Whether what is known of it was seen just now; if not, it is looked at before anyone is asked.
    is_fresh: bool,
    /// Whether it is damaged for sure.
    is_certain: bool,
    /// Peers that could not give it.
    tried: Vec<ReplicaId>,
    rests_until: Moment,
}

/// What is being done about a replica's damage. One thing at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Looking,
    Asked(Moment),
}

/// All damage of a disk.
#[derive(Debug, Default)]
pub(super) struct Damages {
    items: BTreeMap<(ReplicaId, ExtentIndex), Item>,
    steps: HashMap<ReplicaId, (ExtentIndex, Step)>,
    /// Something may be done about one of them now.
    due: bool,
}

impl Damages {
    /// Extents that are damaged and not repaired.
    pub(super) fn count(&self) -> usize {
        self.items.values().filter(|item| item.is_certain).count()
    }

    /// Whether something may be done now.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// A replica's listed extents.
    pub(super) fn of(&self, replica: ReplicaId) -> impl Iterator<Item = ExtentIndex> {
        let all = (replica, ExtentIndex::ZERO)..=(replica, ExtentIndex(u32::MAX));
        self.items.range(all).map(|((_, extent), _)| *extent)
    }

    pub(super) fn contains(&self, replica: ReplicaId, extent: ExtentIndex) -> bool {
        self.items.contains_key(&(replica, extent))
    }

    /// The extent is whole. Whether it was listed as damaged.
    pub(super) fn mended(&mut self, replica: ReplicaId, extent: ExtentIndex) -> bool {
        self.due = true;
        self.items.remove(&(replica, extent)).is_some_and(|item| item.is_certain)
    }

    /// The replica is gone.
    pub(super) fn forget(&mut self, replica: ReplicaId) {
        self.items.retain(|(id, _), _| *id != replica);
        self.steps.remove(&replica);
    }

    /// The gateway has answered.
    pub(super) fn answered(&mut self, replica: ReplicaId) {
        self.steps.remove(&replica);
        self.due = true;
    }

    /// A peer could not give the extent.
    pub(super) fn failed(&mut self, replica: ReplicaId, extent: ExtentIndex, source: ReplicaId) {
        self.due = true;
        if let Some(item) = self.items.get_mut(&(replica, extent)) {
            item.tried.push(source);
        }
    }

    /// What is known of the extent may be out of date.
    pub(super) fn look_again(&mut self, replica: ReplicaId, extent: ExtentIndex) {
        self.due = true;
        if let Some(item) = self.items.get_mut(&(replica, extent)) {
            item.is_fresh = false;
        }
    }

    /// Ends a question that nobody has answered.
    fn give_up_waiting(&mut self, now: Moment) {
        let late = |step: &Step| matches!(step, Step::Asked(at) if now.since(*at) >= ANSWER_MAX);
        for (replica, (extent, _)) in self.steps.extract_if(|_, (_, step)| late(step)) {
            if let Some(item) = self.items.get_mut(&(replica, extent)) {
                item.rests_until = now + ASK_AGAIN;
                item.is_fresh = false;
                item.tried.clear();
            }
        }
    }

    /// The replicas with damage about which nothing is being done.
    fn idle_replicas(&self) -> Vec<ReplicaId> {
        let mut ids: Vec<ReplicaId> = self.items.keys().map(|(replica, _)| *replica).collect();
        ids.dedup();
        ids.retain(|id| !self.steps.contains_key(id));
        ids
    }

    fn next_of(&self, replica: ReplicaId, now: Moment) -> Option<(ExtentIndex, &Item)> {
        let all = (replica, ExtentIndex::ZERO)..=(replica, ExtentIndex(u32::MAX));
        let due = self.items.range(all).find(|(_, item)| item.rests_until <= now);
        due.map(|((_, extent), item)| (*extent, item))
    }
}

impl Node {
    /// Lists a damaged extent, and says so in the log, once.
    pub(super) fn found_damage(
        &mut self,
        replica: ReplicaId,
        extent: ExtentIndex,
        version: Option<Version>,
        what: impl Display,
    ) {
        let Some(item) = self.listed(replica, extent) else { return };
        (item.version, item.is_fresh) = (version, true);
        if std::mem::replace(&mut item.is_certain, true) {
            return;
        }
        self.counters.damage_found += 1;
        let segment = self.replicas.get(&replica).map(|state| state.meta().segment).unwrap_or_default();
        let offset = extent.byte_offset();
        tracing::error!(volume = %segment.volume, segment = segment.index, offset, ?version, "{what}");
    }

    /// Lists an extent that is to be looked at.
    pub(super) fn suspect(&mut self, replica: ReplicaId, extent: ExtentIndex) {
        if let Some(item) = self.listed(replica, extent) {
            item.is_fresh = false;
        }
    }

    fn listed(&mut self, replica: ReplicaId, extent: ExtentIndex) -> Option<&mut Item> {
        let damages = &mut self.damages;
        if damages.items.len() >= LISTED_MAX && !damages.contains(replica, extent) {
            return None;
        }
        damages.due = true;
        let item = || Item {
            version: None,
            is_fresh: false,
            is_certain: false,
            tried: Vec::new(),
            rests_until: Moment::ZERO,
        };
        Some(damages.items.entry((replica, extent)).or_insert_with(item))
    }

    /// Lists the extents of a range whose map entry is damaged, and gives the first.
    pub(super) fn find_damaged_entries(
        &mut self,
        replica: ReplicaId,
        offset: u64,
        length: u64,
    ) -> Option<ExtentIndex> {
        let mut from = extents(offset, length).next()?;
        let end = offset.saturating_add(length);
        let mut damaged = Vec::new();
        while let Ok(page) =
            self.engine.changed_since(replica, View::Live, Version::ZERO, from, LOOKED_UP_AT_ONCE)
        {
            let within = page.iter().take_while(|(extent, _)| extent.byte_offset() < end);
            damaged.extend(within.filter(|(_, version)| *version == DAMAGED).map(|(extent, _)| *extent));
            match page.last() {
                Some((last, _)) if page.len() == LOOKED_UP_AT_ONCE && last.byte_offset() < end => {
                    from = last.next();
                }
                _ => break,
            }
        }
        for extent in &damaged {
            let what = format!("the map entry of extent {extent} of replica {replica} is damaged");
            self.found_damage(replica, *extent, None, what);
        }
        damaged.first().copied()
    }

    /// The version of an extent on this disk; `None` where its map entry is damaged.
    pub(super) fn own_version(
        &self,
        replica: ReplicaId,
        extent: ExtentIndex,
    ) -> Result<Option<Version>, UnknownExtent> {
        let changed = self.engine.changed_since(replica, View::Live, Version::ZERO, extent, 1);
        match changed.map_err(|_| UnknownExtent)?.first() {
            Some((found, DAMAGED)) if *found == extent => Ok(None),
            Some((found, version)) if *found == extent => Ok(Some(*version)),
            _ => Ok(Some(Version::ZERO)),
        }
    }

    /// Does the next thing about each replica's damage: looks whether it is still there, or tells its gateway.
    pub(super) fn tick_damage(&mut self, now: Moment) -> Result<(), Fatal> {
        self.damages.give_up_waiting(now);
        self.damages.due = false;
        for id in self.damages.idle_replicas() {
            // A resync mends what is listed, too; and what is not complete must not be repaired (rule S2).
            let Some(replica) = self.replicas.get(&id).filter(|replica| replica.counts()) else { continue };
            let session = replica.session().filter(|session| self.sessions.contains_key(session));
            let (Some(session), false) = (session, self.pulls.is_pulling(id)) else { continue };
            let epoch = replica.meta().promise.epoch;
            let Some((extent, item)) = self.damages.next_of(id, now) else { continue };
            if !item.is_fresh {
                self.damages.steps.insert(id, (extent, Step::Looking));
                self.look(id, extent)?;
                continue;
            }
            let (version, tried) = (item.version, item.tried.clone());
            self.damages.steps.insert(id, (extent, Step::Asked(now)));
            self.send(session, Message::Damaged(Damaged { replica: id, epoch, extent, version, tried }));
        }
        Ok(())
    }

    fn look(&mut self, replica: ReplicaId, extent: ExtentIndex) -> Result<(), Fatal> {
        let look = Look { replica, extent };
        match self.engine.read_extent(replica, View::Live, extent) {
            Ok(plan) => self.start_look(look, plan),
            Err(error) => self.looked(look, Err(error)),
        }
    }

    fn start_look(&mut self, look: Look, plan: ExtentPlan) -> Result<(), Fatal> {
        // It is nobody's read: no session has this number.
        self.start_read(ReadJob { session: SessionId(0), plan: PendingPlan::Look(look, plan) })
    }

    /// What the look at a listed extent has found.
    pub(super) fn looked(&mut self, look: Look, outcome: Result<ExtentOutcome, Error>) -> Result<(), Fatal> {
        let Look { replica, extent } = look;
        match outcome {
            Ok(ExtentOutcome::Retry(plan)) => return self.start_look(look, plan),
            Ok(ExtentOutcome::Data(_)) => {
                if self.damages.mended(replica, extent) {
                    tracing::info!(%replica, %extent, "a damaged extent has been overwritten: it is whole");
                }
            }
            Ok(ExtentOutcome::Mismatch { block, version }) => {
                let what = format!("block {block} (extent {extent}) of replica {replica} is damaged");
                self.found_damage(replica, extent, Some(version), what);
            }
            Err(Error::Corrupt { .. }) => {
                self.find_damaged_entries(replica, extent.byte_offset(), EXTENT_BYTES);
            }
            Err(Error::Io { .. }) => match self.own_version(replica, extent) {
                Ok(version) => {
                    let what = format!("extent {extent} of replica {replica} cannot be read");
                    self.found_damage(replica, extent, version, what);
                }
                Err(UnknownExtent) => drop(self.damages.mended(replica, extent)),
            },
            Err(Error::UnknownReplica(_) | Error::OutOfRange { .. }) => {
                self.damages.mended(replica, extent);
            }
            Err(error) => return Err(error.into()),
        }
        self.damages.answered(replica);
        Ok(())
    }
}

/// The replica, or the extent, is not on this disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UnknownExtent;

/// The extents that a range touches.
pub(super) fn extents(offset: u64, length: u64) -> impl Iterator<Item = ExtentIndex> {
    let end = offset.saturating_add(length).div_ceil(EXTENT_BYTES);
    (offset / EXTENT_BYTES..end).map_while(|extent| u32::try_from(extent).ok().map(ExtentIndex))
}
