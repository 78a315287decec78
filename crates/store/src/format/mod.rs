//! Bytes on the disk, and nothing else: each structure's layout, how it is written and how untrusted bytes are read.
//! No I/O here. `docs/disk-format.md` has the same tables with their reasons.
//!
//! All numbers are little-endian. All structures carry a checksum (CRC-32) that begins with the disk's random id, so
//! that bytes of another disk, or bytes made by a client of a volume, never look like a structure of this one.

pub(crate) mod batch;
pub(crate) mod checkpoint;
pub(crate) mod entry;
pub(crate) mod record;
pub(crate) mod starts;
pub(crate) mod superblock;

use crate::Error;
use crc32fast::Hasher;
use quoin_types::{BLOCK_BYTES, DiskId};

/// The version of every structure written by this code. Raised when any of them changes.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// One block as `usize`.
pub(crate) const BLOCK: usize = BLOCK_BYTES as usize;

/// The state of a checksum after the disk's id, and for the journal its incarnation (E4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Salt(u32);

impl Salt {
    /// For structures outside of the journal.
    pub(crate) fn of_disk(disk: DiskId) -> Self {
        Self(crc32fast::hash(disk.as_bytes()))
    }

    /// For the journal of one start (E4): records of another start never continue it.
    pub(crate) fn of_incarnation(self, incarnation: u64) -> Self {
        Self(self.checksum(&[&incarnation.to_le_bytes()]))
    }

    /// The checksum of all parts, one after the other.
    pub(crate) fn checksum(self, parts: &[&[u8]]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.0);
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// Refuses a structure of an unknown version by its name.
pub(crate) fn check_version(what: &str, found: u32) -> Result<(), Error> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(Error::UnknownVersion { what: what.to_owned(), found, known: FORMAT_VERSION })
}

/// `length` rounded up to a multiple of `unit`.
pub(crate) const fn round_up(length: usize, unit: usize) -> usize {
    length.next_multiple_of(unit)
}
