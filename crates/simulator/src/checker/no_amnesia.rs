//! C2: no disk answers for a replica that it does not have, and none has forgotten what it said was durable, or that it promised.

use crate::faults::Kind;
use quoin_cluster::Volume;
use quoin_types::collections::HashMap;
use quoin_types::{DiskId, Epoch, ReplicaId, Seq};
use quoin_wire::{OpenReply, Position};
use std::collections::BTreeMap;

/// What rots. A record that has, or whose data has, ends the journal when a crash follows before the next record: then the
/// gateway sees the replica fail (rule W3), which is all that can be had.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rotten {
    data: bool,
    journal: bool,
}

impl Rotten {
    pub(crate) fn of(faults: &[Kind]) -> Self {
        let (data, journal) = (faults.contains(&Kind::Rot), faults.contains(&Kind::RotTail));
        Self { data, journal }
    }
}

#[derive(Default)]
pub(super) struct Memory {
    rotten: Rotten,
    /// The disk on which each replica was first heard of.
    homes: HashMap<ReplicaId, DiskId>,
    /// The last durable position that each replica has told since it started an epoch.
    durable: HashMap<(ReplicaId, Epoch), Seq>,
    /// The highest epoch that each replica has said that it promised (rule A1).
    promised: HashMap<ReplicaId, Epoch>,
    /// What the gateway of an epoch has heard to be durable on a replica.
    heard: HashMap<(ReplicaId, Epoch), Seq>,
    /// Those of which the gateway of an epoch has heard that they have less of it than was durable on them.
    condemned: BTreeMap<ReplicaId, Epoch>,
}

impl Memory {
    pub(super) fn new(rotten: Rotten) -> Self {
        Self { rotten, ..Self::default() }
    }

    /// A replica has started an epoch: what it has of it counts from here.
    pub(super) fn started(&mut self, replica: ReplicaId, epoch: Epoch) {
        self.durable.entry((replica, epoch)).or_default();
    }

    /// Before it started the epoch that it has promised, a replica tells of its former state, which a resync may replace.
    pub(super) fn told(&mut self, position: &Position) {
        if let Some(durable) = self.durable.get_mut(&(position.replica, position.epoch)) {
            *durable = position.durable.max(*durable);
        }
    }

    pub(super) fn opened(&mut self, reply: &OpenReply, disk: DiskId) -> Result<(), String> {
        let Ok(report) = &reply.result else { return Ok(()) };
        let home = *self.homes.entry(reply.replica).or_insert(disk);
        if home != disk {
            return Err(format!("replica {} is of disk {home}, and disk {disk} answers", reply.replica));
        }
        let promised = self.promised.entry(reply.replica).or_default();
        if reply.epoch < *promised && !self.rotten.journal {
            return Err(format!("replica {} forgot that it promised epoch {promised}", reply.replica));
        }
        *promised = reply.epoch;
        let Some(last) = report.history.last().filter(|_| !report.mixed) else { return Ok(()) };
        // Under a later epoch a resync may have taken back what nobody else had.
        let durable = self.durable.get(&(reply.replica, last.epoch)).copied().unwrap_or_default();
        if report.last < durable && !self.rotten.data && !self.rotten.journal {
            return Err(format!(
                "replica {} said that {durable} of epoch {} was durable, and has {} of it",
                reply.replica, last.epoch, report.last
            ));
        }
        Ok(())
    }

    /// A gateway hears how far a replica is.
    pub(super) fn heard(&mut self, position: &Position) {
        let heard = self.heard.entry((position.replica, position.epoch)).or_default();
        *heard = position.durable.max(*heard);
    }

    /// A gateway hears what a replica has.
    pub(super) fn heard_opened(&mut self, reply: &OpenReply) {
        let Ok(report) = &reply.result else { return };
        let heard = self.heard.get(&(reply.replica, reply.epoch)).copied().unwrap_or_default();
        let is_of_epoch = report.history.last().is_some_and(|last| last.epoch == reply.epoch);
        if is_of_epoch && !report.mixed && report.last < heard {
            self.condemned.insert(reply.replica, reply.epoch);
        }
    }

    /// W3: in the end no member has broken its promise to the gateway that there is. Another one would not know of it, and
    /// brings every member to one state when it begins.
    pub(super) fn check_members(&self, volume: &Volume) -> Result<(), String> {
        let members = volume.segments.iter().flat_map(|segment| segment.members());
        let is_condemned = |id: &ReplicaId| self.condemned.get(id) == Some(&volume.epoch);
        match members.map(|(replica, _)| replica.id).find(is_condemned) {
            Some(id) => Err(format!("replica {id} has lost what it said was durable, and is still a member")),
            None => Ok(()),
        }
    }
}
