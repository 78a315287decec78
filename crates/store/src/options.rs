//! Words of the engine's interface: options, identity, positions, counters.

use crate::Error;
use quoin_types::{BLOCK_BYTES, ClusterId, DiskId, ExtentIndex, ReplicaId};
use std::fmt;

/// A position in the journal: it counts records, from 1, and rises across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the engine uses its directory. May differ from one open to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The size of one journal file: a multiple of 4 KiB.
    pub journal_file_bytes: u64,
    /// The number of journal files. Half of their sum bounds the largest record, and what a restart replays is at
    /// most their sum.
    pub journal_files: u32,
    /// Space that clients are not promised: for trims, metadata and resync (rule W5).
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_file_bytes: 32 << 20, journal_files: 4, reserve_bytes: 256 << 20 }
    }
}

impl Options {
    /// The least sum of the journal files.
    pub const JOURNAL_BYTES_MIN: u64 = 64 << 10;

    /// All journal files together.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.journal_file_bytes * u64::from(self.journal_files)
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if !self.journal_file_bytes.is_multiple_of(BLOCK_BYTES) || self.journal_file_bytes > 1 << 34 {
            return Err(Error::Option { what: "journal_file_bytes is not a multiple of 4096 up to 16 GiB" });
        }
        if self.journal_files == 0 || self.journal_files > 1024 {
            return Err(Error::Option { what: "journal_files is not between 1 and 1024" });
        }
        if self.journal_bytes() < Self::JOURNAL_BYTES_MIN {
            return Err(Error::Option { what: "journal_file_bytes × journal_files is less than 64 KiB" });
        }
        Ok(())
    }
}

/// Who a disk is: written once, when it is formatted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its own id. A wiped disk gets a new one (rule C2).
    pub disk: DiskId,
    /// How much data it may hold, in bytes; rounded down to whole extents.
    pub capacity_bytes: u64,
}

/// What opening a disk found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The number of this start, raised durably (rule C2). The first is 1.
    pub start_count: u64,
    /// The last start ended without a clean shutdown, and under another boot of the kernel: accepted records that
    /// were not durable may be gone (rule A2).
    pub power_was_lost: bool,
    /// The last start ended without a clean shutdown.
    pub crashed: bool,
    /// Records replayed from the journal.
    pub replayed_records: u64,
    /// Journal bytes replayed.
    pub replayed_bytes: u64,
    /// The last record there is.
    pub end: Lsn,
    /// Map entries that are damaged: reading them fails until [`crate::Engine::put_extent`] replaces them.
    pub damaged: Vec<(ReplicaId, ExtentIndex)>,
}

/// How the disk's space is used, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// All of it.
    pub capacity_bytes: u64,
    /// Slots that hold data, or that still wait for a checkpoint or a read before they can be reused (E2).
    pub used_bytes: u64,
    /// Of those, slots that nothing holds any more: the next checkpoint gives them back.
    pub freeing_bytes: u64,
    /// Slots that can be taken now, the reserve included. While the filesystem is full only those that have blocks of it.
    pub free_bytes: u64,
    /// What is not to be promised to clients: trims, metadata and pulls need some, and writes that nobody has room for any more.
    pub reserve_bytes: u64,
    /// Whether the filesystem has no room for all of the capacity, for others use it, too.
    pub filesystem_full: bool,
}

/// Plain counters since the start, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Bytes written to journal files, headers and padding included.
    pub journal_bytes: u64,
    /// Bytes written to the data file.
    pub data_bytes: u64,
    /// Of those, bytes written straight to new slots, not through the journal.
    pub placed_bytes: u64,
    /// Bytes of block data that callers gave.
    pub payload_bytes: u64,
    /// Map entries stored.
    pub entries_stored: u64,
    /// Records appended.
    pub records: u64,
    /// Batches written: one vectored write each.
    pub batches: u64,
    /// Journal syncs that ended well.
    pub syncs: u64,
    /// Checkpoints that ended well.
    pub checkpoints: u64,
    /// Commits that found the journal full, or too much to do again after a crash, and had to make a checkpoint themselves.
    pub journal_full: u64,
    /// Commits that found too much data unapplied and had to apply it themselves.
    pub overlay_full: u64,
    /// Slots given blocks when they were needed, not ahead.
    pub slots_allocated_late: u64,
    /// Slots given back to the filesystem.
    pub slots_punched: u64,
    /// Reads planned.
    pub reads: u64,
    /// Reads planned again because what they read had changed meanwhile.
    pub read_retries: u64,
    /// Bytes of map and data that scrubs looked at.
    pub scrubbed_bytes: u64,
    /// Blocks whose content did not match their checksum.
    pub mismatches: u64,
}
