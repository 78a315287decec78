//! C4: a steward has no clients, and no leases that anybody would have to wait for.

use super::Acknowledged;
use quoin_cluster::Volume;
use quoin_types::Epoch;
use quoin_wire::Heartbeat;
use std::collections::BTreeSet;

/// The epochs that were given to stewards.
#[derive(Default)]
pub(super) struct Stewards(BTreeSet<Epoch>);

impl Stewards {
    pub(super) fn volume_is(&mut self, volume: &Volume) {
        self.0.extend(volume.attachment.iter().filter(|at| at.steward).map(|at| at.epoch));
    }

    pub(super) fn asks_for_leases(&self, heartbeat: &Heartbeat) -> Result<(), String> {
        match heartbeat.replicas.iter().find(|(_, epoch)| self.0.contains(epoch)) {
            Some((replica, epoch)) => {
                Err(format!("the steward of epoch {epoch} asks replica {replica} for a lease"))
            }
            None => Ok(()),
        }
    }

    pub(super) fn acknowledges(&self, told: &Acknowledged<'_>) -> Result<(), String> {
        match self.0.contains(&Epoch(told.epoch)) {
            true => Err(format!("the steward of epoch {} answers a client", told.epoch)),
            false => Ok(()),
        }
    }
}
