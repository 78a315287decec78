//! C2: no disk answers for a replica that it does not have, and none has forgotten what it said was durable, or that it promised.

use quoin_types::collections::HashMap;
use quoin_types::{DiskId, Epoch, ReplicaId, Seq};
use quoin_wire::{OpenReply, Position};

#[derive(Default)]
pub(super) struct Memory {
    /// A record whose data has rotted ends the journal when a crash follows before the next record: then the gateway sees
    /// the replica fail (rule W3), which is all that can be had.
    pub(super) bits_flip: bool,
    /// The disk on which each replica was first heard of.
    homes: HashMap<ReplicaId, DiskId>,
    /// The last durable position that each replica has told since it started an epoch.
    durable: HashMap<(ReplicaId, Epoch), Seq>,
    /// The highest epoch that each replica has said that it promised (rule A1).
    promised: HashMap<ReplicaId, Epoch>,
}

impl Memory {
    pub(super) fn new(bits_flip: bool) -> Self {
        Self { bits_flip, ..Self::default() }
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
        if reply.epoch < *promised {
            return Err(format!("replica {} forgot that it promised epoch {promised}", reply.replica));
        }
        *promised = reply.epoch;
        let Some(last) = report.history.last().filter(|_| !report.mixed) else { return Ok(()) };
        // Under a later epoch a resync may have taken back what nobody else had.
        let durable = self.durable.get(&(reply.replica, last.epoch)).copied().unwrap_or_default();
        if report.last < durable && !self.bits_flip {
            return Err(format!(
                "replica {} said that {durable} of epoch {} was durable, and has {} of it",
                reply.replica, last.epoch, report.last
            ));
        }
        Ok(())
    }
}
