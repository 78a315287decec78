//! Whole extents are written once: their data goes straight to new slots, and only the mapping through the journal.
//!
//! E1 and E2 allow it: the slots are nobody's. E4 makes it safe: the records count only with the data.

use crate::engine::Engine;
use crate::format::record::Run;
use crate::{Error, Lsn};
use quoin_types::BLOCK_BYTES;
use std::io::IoSlice;

/// The most data that gathers before it is written without being asked to.
const PLACED_BYTES_MAX: u64 = 8 << 20;

/// Data for new slots, not written yet. Reads find it in the overlay.
#[derive(Default)]
pub(crate) struct Placements {
    runs: Vec<(Lsn, Run)>,
    bytes: u64,
    /// Some was written, and no sync that covers it has begun.
    unsynced: bool,
}

impl Placements {
    pub(crate) fn push(&mut self, lsn: Lsn, run: Run) {
        self.bytes += run.data.len() as u64;
        self.runs.push((lsn, run));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= PLACED_BYTES_MAX
    }

    /// Whether a sync that begins now must cover the data file; from now on one does.
    pub(crate) fn take_unsynced(&mut self) -> bool {
        std::mem::take(&mut self.unsynced)
    }
}

impl Run {
    pub(crate) fn byte_offset(&self) -> u64 {
        self.slot.byte_offset() + u64::from(self.first_block) * BLOCK_BYTES
    }
}

impl Engine {
    /// Writes what waits to be placed, neighbours together. From then on reads find it in the data file.
    pub(crate) fn write_placements(&mut self) -> Result<(), Error> {
        if self.placements.runs.is_empty() {
            return Ok(());
        }
        let mut runs = std::mem::take(&mut self.placements.runs);
        runs.sort_unstable_by_key(|(_, run)| run.byte_offset());
        self.placements.unsynced = true;
        for group in runs.chunk_by(|a, b| a.1.byte_offset() + a.1.data.len() as u64 == b.1.byte_offset()) {
            let slices: Vec<IoSlice<'_>> = group.iter().map(|(_, run)| IoSlice::new(&run.data)).collect();
            self.data
                .write_vectored_at(&slices, group[0].1.byte_offset())
                .map_err(Error::io("writing data"))?;
        }
        for (lsn, run) in runs {
            self.slot_data.placed(lsn, run.slot);
        }
        self.statistics.data_bytes += self.placements.bytes;
        self.statistics.placed_bytes += self.placements.bytes;
        self.placements.bytes = 0;
        Ok(())
    }
}
