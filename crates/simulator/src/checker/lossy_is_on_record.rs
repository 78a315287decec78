//! A2: an attachment that began without all that was accepted is on record as lossy before. Its replicas tell nobody later.

use quoin_cluster::Volume;
use quoin_types::Epoch;
use std::collections::BTreeSet;

/// The epochs of attachments that the managers know to be lossy.
#[derive(Default)]
pub(super) struct Record(BTreeSet<Epoch>);

impl Record {
    pub(super) fn volume_is(&mut self, volume: &Volume) {
        self.0.extend(volume.attachment.iter().filter(|at| at.lossy).map(|at| at.epoch));
    }

    pub(super) fn begins_lossy(&self, epoch: Epoch) -> Result<(), String> {
        match self.0.contains(&epoch) {
            true => Ok(()),
            false => {
                Err(format!("the lossy attachment of epoch {epoch} begins, and no manager knows that it is"))
            }
        }
    }
}
