//! From appended to accepted to durable.

use crate::engine::Engine;
use crate::place::PlaceWork;
use crate::task::Task;
use crate::write_through::WriteThrough;
use crate::{Error, Lsn};
use quoin_disk::File;
use std::io;
use std::sync::Arc;

/// Block data that may wait in memory to be applied.
const UNAPPLIED_BYTES_MAX: u64 = 64 << 20;

/// The wait for the journal's files and for data placed outside of them, to be run on any thread. It must be run and
/// finished; the engine starts no other before.
pub struct SyncJob {
    /// What is to be written first, if anything is.
    batch: Option<Task<WriteThrough>>,
    journal: Vec<Arc<dyn File>>,
    places: Vec<Task<PlaceWork>>,
    data: Option<Arc<dyn File>>,
    lsn: Lsn,
}

/// How a [`SyncJob`] went.
pub struct SyncDone {
    lsn: Lsn,
    result: io::Result<()>,
}

impl SyncJob {
    /// One that writes a batch through.
    pub(crate) fn write_through(batch: Task<WriteThrough>, lsn: Lsn) -> Self {
        Self { batch: Some(batch), journal: Vec::new(), places: Vec::new(), data: None, lsn }
    }

    /// Whether it has nothing to wait for but the journal.
    pub fn is_of_journal_only(&self) -> bool {
        self.places.is_empty() && self.data.is_none()
    }

    /// Waits until the device has it.
    pub fn run(self) -> SyncDone {
        let result = self.run_all();
        SyncDone { lsn: self.lsn, result }
    }

    /// A batch that is written here is durable then; with it there is nothing else to do. Else the journal comes first, for
    /// other threads write data meanwhile. What they have left is written here, and then one sync covers it.
    fn run_all(&self) -> io::Result<()> {
        if self.batch.as_ref().is_some_and(Task::fails) {
            return Err(io::Error::other("a batch could not be written through"));
        }
        self.journal.iter().try_for_each(|file| file.sync())?;
        if self.places.iter().any(Task::fails) {
            return Err(io::Error::other("data could not be written to its slots"));
        }
        self.data.as_ref().map_or(Ok(()), |data| data.sync())
    }
}

impl Engine {
    /// Writes the batch to the journal, with one vectored write, and returns its last record: it is accepted when the data
    /// on its way to slots is there ([`Engine::start_place`]), at once if there is none. If the journal is full, or too much
    /// was not applied yet, this makes room first, and so waits for the device.
    pub fn submit(&mut self) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        if self.journal.is_batch_empty() {
            return Ok(self.journal.written());
        }
        self.make_room()?;
        self.begin_placing()?;
        let written = match self.journal.write_batch(self.durable, self.checkpoint_number) {
            Ok(written) => written,
            Err(error) => return Err(self.poison(Error::io("writing the journal")(error))),
        };
        self.statistics.batches += 1;
        self.statistics.journal_bytes += written;
        let last = self.journal.written();
        self.update_accepted();
        self.batch_ends.push_back((last, self.journal.head()));
        Ok(last)
    }

    /// Writes the batch, waits until all data is where it belongs, and returns the last record, which is accepted now.
    pub fn commit(&mut self) -> Result<Lsn, Error> {
        let last = self.submit()?;
        self.harvest_write_through()?;
        self.place_through(last)?;
        Ok(self.accepted)
    }

    /// What is accepted follows from what is on its way.
    pub(crate) fn update_accepted(&mut self) {
        // What is written after a batch that is written through has nothing on its way that is older.
        self.accepted = match &self.write_through {
            Some(under_way) => under_way.before,
            None => self.placements.accepted(self.journal.written()),
        };
    }

    fn journal_is_full(&self) -> bool {
        !self.journal.has_room() || self.redo_work.is_too_much()
    }

    fn overlay_is_full(&self) -> bool {
        self.unapplied_bytes > UNAPPLIED_BYTES_MAX && self.applied < self.journal.written()
    }

    /// Whether a batch can be written only after waiting for the device.
    pub(crate) fn lacks_room(&self) -> bool {
        self.journal_is_full() || self.overlay_is_full()
    }

    /// The last resort where jobs do not keep up: does their work here, and so waits for the device.
    fn make_room(&mut self) -> Result<(), Error> {
        if self.journal_is_full() {
            self.statistics.journal_full += 1;
            return self.checkpoint_now();
        }
        if self.overlay_is_full() {
            self.statistics.overlay_full += 1;
            self.sync_now()?;
            self.apply_now()?;
        }
        Ok(())
    }

    /// A sync of all that was written, whether it is accepted yet or not; `None` if there is nothing to sync, or one is under way.
    pub fn start_sync(&mut self) -> Option<SyncJob> {
        let lsn = self.journal.written();
        if self.sync_under_way || self.poisoned.is_some() || lsn <= self.durable {
            return None;
        }
        self.sync_under_way = true;
        let journal = self.journal.take_dirty();
        let (places, data_too) = self.placements.take_unsynced();
        let data = data_too.then(|| self.data.clone());
        Some(SyncJob { batch: None, journal, places, data, lsn })
    }

    /// Takes note of a sync and returns the last durable record. [`Engine::start_apply`] has work then.
    pub fn finish_sync(&mut self, done: SyncDone) -> Result<Lsn, Error> {
        self.sync_under_way = false;
        self.ensure_healthy()?;
        self.harvest_write_through()?;
        self.place_through(done.lsn)?;
        if let Err(error) = done.result {
            return Err(self.poison(Error::io("syncing the journal")(error)));
        }
        self.now_durable(done.lsn);
        Ok(self.durable)
    }

    /// Syncs everything written, here and now, whatever other sync is under way.
    pub(crate) fn sync_now(&mut self) -> Result<(), Error> {
        let written = self.journal.written();
        if written <= self.durable {
            return Ok(());
        }
        self.harvest_write_through()?;
        self.place_through(written)?;
        // All files: a job under way may have taken over those that it has not synced yet.
        let files = self.journal.ring().files().iter().chain([&self.data]);
        let result = files.into_iter().try_for_each(|file| file.sync());
        if let Err(error) = result {
            return Err(self.poison(Error::io("syncing the journal")(error)));
        }
        self.now_durable(written);
        Ok(())
    }

    fn now_durable(&mut self, lsn: Lsn) {
        self.statistics.syncs += 1;
        self.durable = self.durable.max(lsn);
    }
}
