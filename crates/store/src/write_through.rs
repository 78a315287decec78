//! Where somebody waits for a batch to be durable, and for nothing before it, it is written around the page cache and durable
//! with that one write: that costs less CPU time, and less of the device's, than a write to the page cache and a sync.
//!
//! The job that does it stands in for a sync. Until it has ended the batch is not accepted, nor is anything that is written
//! after it, for a crash may leave a gap in its place.

use crate::engine::Engine;
use crate::journal::SealedBatch;
use crate::sync::SyncJob;
use crate::task::{Task, Work};
use crate::{Error, Lsn};
use std::io;

/// The write of one batch.
pub(crate) struct WriteThrough(SealedBatch);

impl Work for WriteThrough {
    type Outcome = io::Result<()>;

    fn run(self) -> io::Result<()> {
        self.0.write_durably()
    }
}

/// One that was not finished. The engine keeps it, for a full journal cannot wait until someone runs it.
pub(crate) struct UnderWay {
    /// The last record that may be accepted meanwhile.
    pub(crate) before: Lsn,
    task: Task<WriteThrough>,
}

impl Engine {
    /// As [`Engine::submit`], for a batch that somebody waits for to be durable: with the job that writes it, which is the
    /// sync that [`Engine::finish_sync`] takes. `None`, with nothing done, where it takes more than one write: something else
    /// is on its way, or must be, or there is no room.
    pub fn submit_through(&mut self) -> Result<Option<(Lsn, SyncJob)>, Error> {
        self.ensure_healthy()?;
        let is_alone = !self.sync_under_way
            && self.journal.written() <= self.durable
            && self.placements.has_gathered_nothing();
        if !is_alone || self.journal.is_batch_empty() || self.lacks_room() {
            return Ok(None);
        }
        let before = self.journal.written();
        let batch = self.journal.seal_batch(self.durable, self.checkpoint_number);
        let lsn = self.journal.written();
        self.statistics.batches += 1;
        self.statistics.journal_bytes += batch.bytes();
        self.batch_ends.push_back((lsn, self.journal.head()));
        let task = Task::new(WriteThrough(batch));
        self.write_through = Some(UnderWay { before, task: task.clone() });
        self.sync_under_way = true;
        Ok(Some((lsn, SyncJob::write_through(task, lsn))))
    }

    /// Whether a batch is being written through: what is written now is not accepted before that has ended.
    pub fn is_writing_through(&self) -> bool {
        self.write_through.is_some()
    }

    /// Ends the write under way, doing it here if nobody did.
    pub(crate) fn harvest_write_through(&mut self) -> Result<(), Error> {
        let Some(under_way) = self.write_through.take() else { return Ok(()) };
        if let Some(Err(error)) = under_way.task.harvest() {
            return Err(self.poison(Error::io("writing the journal")(error)));
        }
        self.update_accepted();
        Ok(())
    }
}
