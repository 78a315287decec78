//! C2: no disk answers for a replica that it does not have, and none has forgotten what it said was durable.

use super::acknowledged_is_on_a_majority::Positions;
use quoin_types::collections::HashMap;
use quoin_types::{DiskId, ReplicaId};
use quoin_wire::OpenReply;

/// The disk on which each replica was first heard of.
#[derive(Default)]
pub(super) struct Memory {
    homes: HashMap<ReplicaId, DiskId>,
}

impl Memory {
    pub(super) fn opened(
        &mut self,
        reply: &OpenReply,
        disk: DiskId,
        positions: &Positions,
    ) -> Result<(), String> {
        let Ok(report) = &reply.result else { return Ok(()) };
        let home = *self.homes.entry(reply.replica).or_insert(disk);
        if home != disk {
            return Err(format!("replica {} is of disk {home}, and disk {disk} answers", reply.replica));
        }
        let Some(last) = report.history.last().filter(|_| !report.mixed) else { return Ok(()) };
        // Under a later epoch a resync may have taken back what nobody else had.
        let durable = positions.durable(reply.replica, last.epoch);
        if report.last < durable {
            return Err(format!(
                "replica {} said that {durable} of epoch {} was durable, and has {} of it",
                reply.replica, last.epoch, report.last
            ));
        }
        Ok(())
    }
}
