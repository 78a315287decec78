//! From appended to accepted to durable.

use crate::engine::Engine;
use crate::{Error, Lsn};
use quoin_disk::File;
use std::io;
use std::sync::Arc;

/// Block data that may wait in memory to be applied.
const UNAPPLIED_BYTES_MAX: u64 = 64 << 20;

/// The wait for the journal's files and for data placed outside of them, to be run on any thread. It must be run and finished; the engine starts no other
/// before.
pub struct SyncJob {
    files: Vec<Arc<dyn File>>,
    lsn: Lsn,
}

/// How a [`SyncJob`] went.
pub struct SyncDone {
    lsn: Lsn,
    result: io::Result<()>,
}

impl SyncJob {
    /// Waits until the device has it.
    pub fn run(self) -> SyncDone {
        let result = self.files.iter().try_for_each(|file| file.sync());
        SyncDone { lsn: self.lsn, result }
    }
}

impl Engine {
    /// Writes the batch to the journal, with one vectored write, and returns the last accepted record. If the journal is
    /// full, or too much was not applied yet, this makes room first, and so waits for the device.
    pub fn commit(&mut self) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        if self.journal.is_batch_empty() {
            return Ok(self.accepted);
        }
        self.make_room()?;
        if let Err(error) = self.write_placements() {
            return Err(self.poison(error));
        }
        let written = match self.journal.write_batch(self.durable) {
            Ok(written) => written,
            Err(error) => return Err(self.poison(Error::io("writing the journal")(error))),
        };
        self.statistics.batches += 1;
        self.statistics.journal_bytes += written;
        self.accepted = self.journal.last_lsn();
        self.batch_ends.push_back((self.accepted, self.journal.head()));
        Ok(self.accepted)
    }

    /// The last resort where jobs do not keep up: does their work here, and so waits for the device.
    fn make_room(&mut self) -> Result<(), Error> {
        if !self.journal.has_room() {
            self.statistics.journal_full += 1;
            return self.checkpoint_now();
        }
        if self.unapplied_bytes > UNAPPLIED_BYTES_MAX && self.applied < self.accepted {
            self.statistics.overlay_full += 1;
            self.sync_now()?;
            self.apply_now()?;
        }
        Ok(())
    }

    /// A sync of all that is accepted; `None` if there is nothing to sync, or one is under way.
    pub fn start_sync(&mut self) -> Option<SyncJob> {
        if self.sync_under_way || self.poisoned.is_some() || self.accepted <= self.durable {
            return None;
        }
        self.sync_under_way = true;
        let mut files = self.journal.take_dirty();
        if self.placements.take_unsynced() {
            files.push(self.data.clone());
        }
        Some(SyncJob { files, lsn: self.accepted })
    }

    /// Takes note of a sync and returns the last durable record. [`Engine::start_apply`] has work then.
    pub fn finish_sync(&mut self, done: SyncDone) -> Result<Lsn, Error> {
        self.sync_under_way = false;
        self.ensure_healthy()?;
        if let Err(error) = done.result {
            return Err(self.poison(Error::io("syncing the journal")(error)));
        }
        self.now_durable(done.lsn);
        Ok(self.durable)
    }

    /// Syncs everything accepted, here and now, whatever other sync is under way.
    pub(crate) fn sync_now(&mut self) -> Result<(), Error> {
        if self.accepted <= self.durable {
            return Ok(());
        }
        // All files: a job under way may have taken over those that it has not synced yet.
        let files = self.journal.ring().files().iter().chain([&self.data]);
        let result = files.into_iter().try_for_each(|file| file.sync());
        if let Err(error) = result {
            return Err(self.poison(Error::io("syncing the journal")(error)));
        }
        self.now_durable(self.accepted);
        Ok(())
    }

    fn now_durable(&mut self, lsn: Lsn) {
        self.statistics.syncs += 1;
        self.durable = self.durable.max(lsn);
    }
}
