//! Whole extents are written once: their data goes straight to new slots, and only the mapping through the journal.
//!
//! E1 and E2 allow it: the slots are nobody's. E4 makes it safe: the records count only with the data. So the data need not
//! be there before the record is: jobs write it, several at once and around the page cache, while the owner goes on. A
//! record is accepted when that is done for it and for all before it; until then reads find the data in the overlay.

use crate::engine::Engine;
use crate::format::record::Run;
use crate::slots::Slot;
use crate::task::{Task, Work};
use crate::{Error, Lsn};
use quoin_disk::File;
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The most data that gathers before it is handed to jobs without being asked to.
const GATHERED_BYTES_MAX: u64 = 8 << 20;
/// What one job writes: as much as devices take at once; a larger batch is written by several.
const JOB_BYTES: u64 = 1 << 20;
/// Data on its way. With more, the owner waits.
const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Shorter pieces go through the page cache, which gathers them.
const DIRECT_BYTES_MIN: u64 = EXTENT_BYTES;

/// Data for new slots.
#[derive(Default)]
pub(crate) struct Placements {
    /// Of the current batch.
    gathered: Vec<(Lsn, Run)>,
    gathered_bytes: u64,
    /// Of batches that were written, in their order.
    in_flight: VecDeque<Placing>,
    in_flight_bytes: u64,
    /// The number of the next job that is made, and of the next that is handed out.
    next_number: u64,
    next_handed: u64,
    /// Some was handed to jobs, and no sync that covers it has begun.
    unsynced: bool,
}

/// A job that was not finished. The engine keeps it, for a sync cannot wait until someone runs it.
struct Placing {
    number: u64,
    /// While it is under way, the last record that may be accepted; and the last one of its batch.
    before: Lsn,
    lsn: Lsn,
    runs: Vec<(Lsn, Slot)>,
    bytes: u64,
    task: Task<PlaceWork>,
    is_done: bool,
}

pub(crate) struct PlaceWork {
    data: Arc<dyn File>,
    /// In order of their places.
    runs: Vec<Run>,
}

/// Data to be written to new slots, by any thread and beside other such jobs; then to be finished.
pub struct PlaceJob {
    number: u64,
    task: Task<PlaceWork>,
}

/// A [`PlaceJob`] that was run.
pub struct PlaceDone {
    number: u64,
}

impl PlaceJob {
    /// Does the work; waits for the device.
    pub fn run(self) -> PlaceDone {
        self.task.run();
        PlaceDone { number: self.number }
    }
}

impl Work for PlaceWork {
    type Outcome = io::Result<()>;

    /// Writes the runs, neighbours together.
    fn run(self) -> io::Result<()> {
        for group in self.runs.chunk_by(|a, b| a.byte_offset() + a.data.len() as u64 == b.byte_offset()) {
            let slices: Vec<IoSlice<'_>> = group.iter().map(|run| IoSlice::new(&run.data)).collect();
            let offset = group[0].byte_offset();
            if bytes_of(group) < DIRECT_BYTES_MIN {
                self.data.write_vectored_at(&slices, offset)?;
            } else {
                self.data.write_direct_at(&slices, offset)?;
            }
        }
        Ok(())
    }
}

fn bytes_of(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.data.len() as u64).sum()
}

impl Run {
    pub(crate) fn byte_offset(&self) -> u64 {
        self.slot.byte_offset() + u64::from(self.first_block) * BLOCK_BYTES
    }
}

impl Placements {
    pub(crate) fn push(&mut self, lsn: Lsn, run: Run) {
        self.gathered_bytes += run.data.len() as u64;
        self.gathered.push((lsn, run));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.gathered_bytes >= GATHERED_BYTES_MAX
    }

    /// The last record that has all its data, and all before it have; `written` if nothing is on its way.
    pub(crate) fn accepted(&self, written: Lsn) -> Lsn {
        self.in_flight.front().map_or(written, |first| first.before)
    }

    /// Whether no data of the current batch goes to new slots.
    pub(crate) fn has_gathered_nothing(&self) -> bool {
        self.gathered.is_empty()
    }

    /// What a sync that begins now must wait for, and whether it must cover the data file; from now on one does.
    pub(crate) fn take_unsynced(&mut self) -> (Vec<Task<PlaceWork>>, bool) {
        let waiting = self.in_flight.iter().filter(|placing| !placing.is_done);
        (waiting.map(|placing| placing.task.clone()).collect(), std::mem::take(&mut self.unsynced))
    }

    /// Makes jobs of what has gathered. `before` and `lsn` as in [`Placing`]. Says how many bytes that are.
    fn make_jobs(&mut self, data: &Arc<dyn File>, before: Lsn, lsn: Lsn) -> u64 {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.sort_unstable_by_key(|(_, run)| run.byte_offset());
        self.unsynced |= !gathered.is_empty();
        let mut gathered = gathered.into_iter().peekable();
        while gathered.peek().is_some() {
            let (mut runs, mut written, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((of, run)) =
                gathered.next_if(|(_, run)| bytes == 0 || bytes + run.data.len() as u64 <= JOB_BYTES)
            {
                bytes += run.data.len() as u64;
                written.push((of, run.slot));
                runs.push(run);
            }
            let task = Task::new(PlaceWork { data: data.clone(), runs });
            let number = self.next_number;
            self.next_number += 1;
            self.in_flight.push_back(Placing {
                number,
                before,
                lsn,
                runs: written,
                bytes,
                task,
                is_done: false,
            });
        }
        self.in_flight_bytes += self.gathered_bytes;
        std::mem::take(&mut self.gathered_bytes)
    }
}

impl Engine {
    /// Makes jobs of the batch's data for new slots, before the batch is written.
    pub(crate) fn begin_placing(&mut self) -> Result<(), Error> {
        while self.placements.in_flight_bytes > IN_FLIGHT_BYTES_MAX
            && let Some(first) = self.placements.in_flight.iter().find(|placing| !placing.is_done)
        {
            let number = first.number;
            self.harvest_place(number)?;
        }
        let (before, lsn) = (self.journal.written(), self.journal.last_lsn());
        let bytes = self.placements.make_jobs(&self.data, before, lsn);
        self.statistics.data_bytes += bytes;
        self.statistics.placed_bytes += bytes;
        Ok(())
    }

    /// Data to be written to new slots, if there is any that no job was handed out for. Any number may be under way. Where
    /// nobody runs them, [`Engine::commit`] and each [`crate::SyncJob`] do the work themselves.
    pub fn start_place(&mut self) -> Option<PlaceJob> {
        if self.poisoned.is_some() {
            return None;
        }
        let placements = &mut self.placements;
        let next =
            placements.in_flight.iter().find(|job| job.number >= placements.next_handed && !job.is_done)?;
        placements.next_handed = next.number + 1;
        Some(PlaceJob { number: next.number, task: next.task.clone() })
    }

    /// Takes note of a job and returns the last accepted record.
    #[expect(clippy::needless_pass_by_value, reason = "a job is finished once")]
    pub fn finish_place(&mut self, done: PlaceDone) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        self.harvest_place(done.number)?;
        Ok(self.accepted)
    }

    /// Ends all jobs of records up to `lsn`, doing here what nobody did.
    pub(crate) fn place_through(&mut self, lsn: Lsn) -> Result<(), Error> {
        while let Some(first) = self.placements.in_flight.front()
            && first.lsn <= lsn
        {
            let number = first.number;
            self.harvest_place(number)?;
        }
        Ok(())
    }

    /// Ends this job, doing it here if nobody did. From then on reads find the data in the data file.
    fn harvest_place(&mut self, number: u64) -> Result<(), Error> {
        let placements = &mut self.placements;
        // A sync or a commit may have ended it already.
        let Some(placing) = placements.in_flight.iter_mut().find(|placing| placing.number == number) else {
            return Ok(());
        };
        if !placing.is_done {
            placing.is_done = true;
            if let Some(Err(error)) = placing.task.harvest() {
                return Err(self.poison(Error::io("writing data")(error)));
            }
            placements.in_flight_bytes -= placing.bytes;
            for (lsn, slot) in std::mem::take(&mut placing.runs) {
                self.slot_data.placed(lsn, slot);
            }
        }
        while placements.in_flight.pop_front_if(|first| first.is_done).is_some() {}
        self.update_accepted();
        Ok(())
    }
}
