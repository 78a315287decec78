//! Files, directories and memory maps as the disk engine sees them, memory that devices read from, the machine's clock, and sockets
//! that outlive a process: the home of `unsafe`.
//!
//! Three implementations stand behind the same traits: [`OsDir`] (real files), [`MemDir`] (memory, with a model of what
//! a loss of power leaves behind) and [`FaultyDir`] (a wrapper that makes the n-th read, write or sync fail). Nothing
//! here knows what the bytes mean, and nothing here retries: an error of a write or a sync is handed up as it came.

#![allow(
    unsafe_code,
    reason = "memory maps, chunks of memory and inherited descriptors need it; the rest of the workspace denies it"
)]

pub mod clock;
mod direct;
mod faulty;
pub mod inherited;
pub mod landing;
mod lock;
mod memory;
mod os;
mod random;
pub mod shared;

pub use faulty::{Effect, Fault, FaultyDir, Operation};
pub use lock::{Lock, LockedFile, lock_file};
pub use memory::MemDir;
pub use os::OsDir;

use std::io::{self, IoSlice};
use std::sync::Arc;

/// What offsets and lengths of [`File::write_direct_at`] are multiples of.
pub const DIRECT_BYTES: u64 = 4096;

/// What [`Dir::open`] does about a file that is there, or is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Fails with `NotFound` unless the file exists.
    Existing,
    /// Fails with `AlreadyExists` if the file exists.
    CreateNew,
    /// Creates the file, empty, if it does not exist.
    OpenOrCreate,
}

/// One directory of files: a disk, for the engine. Names are plain, without a slash.
pub trait Dir: Send + Sync {
    /// Opens a file for reading and writing. A created file is durable only after [`Dir::sync`].
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Opens a file as a memory map of its whole length, creating it, empty, if it does not exist.
    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>>;

    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Removes a file. Those who have it open keep it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes creations, removals and renames durable.
    fn sync(&self) -> io::Result<()>;

    /// Takes the directory for this process, against all others, until the lock is dropped. `WouldBlock` if it is taken.
    fn lock(&self) -> io::Result<Lock>;
}

/// A file, read and written by position.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset`. `UnexpectedEof` if the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` only if that needs no wait for the device: `Ok(false)`, with the buffer's content undefined,
    /// if any part of it would have to wait.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Writes all of `data` at `offset`, extending the file as needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `slices`, one after the other, at `offset`. Any number of slices.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// As [`File::write_vectored_at`], around the page cache where the filesystem can do that: for much data that is not
    /// soon read again. Reads that begin afterwards see it, for what the cache had of the range is dropped. Offset and
    /// length are multiples of [`DIRECT_BYTES`]. While it runs, or where it fails, any sectors of it may be written.
    /// Like any write, it is durable only after [`File::sync`].
    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// As [`File::write_direct_at`], and durable when it returns: for less CPU time than a write through the page cache and a
    /// sync. Nothing else that was written becomes durable by it.
    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes every write that has returned durable (`fdatasync`). After an error nothing may be assumed of any write
    /// since the last success, nor of a later success.
    fn sync(&self) -> io::Result<()>;

    /// Gives the range blocks on the device, extending the file as needed, so that writing to it cannot run out of
    /// space. Content does not change; new bytes read as zeros.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Gives the range's blocks back; it reads as zeros afterwards. The file's length does not change. Where the
    /// filesystem cannot do that, nothing happens.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (sparsely) the file.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Asks that reads bring only what they ask for into the page cache. Readahead gathers pages into large ones, of up to
    /// megabytes, and each small write to such a page then costs ten times as much.
    fn expect_random_reads(&self) -> io::Result<()>;

    /// Asks that later reads of the range come from the device. Of use only after [`File::sync`]: dirty pages stay.
    fn drop_cached(&self, offset: u64, length: u64) -> io::Result<()>;
}

/// A file mapped into memory.
///
/// Every method takes `&self`: implementations copy under a lock of their own, so that any use from any threads is
/// sound. The engine is the only writer, so that lock is never contended on its path.
pub trait Map: Send + Sync {
    /// Copies bytes out. Panics if the range passes the end of the map.
    fn load(&self, offset: u64, buffer: &mut [u8]);

    /// Says that [`Map::load`] will ask for the range soon: it is read from the device meanwhile, if it must be. Loads
    /// read nothing else ahead.
    fn prefetch(&self, _offset: u64, _length: u64) {}

    /// Copies bytes in. The range must have been given blocks by [`Map::allocate`] before: a store into a hole of a
    /// full filesystem kills the process. Panics if the range passes the end of the map.
    fn store(&self, offset: u64, data: &[u8]);

    /// Makes every store that has returned durable (`msync`, then `fdatasync` for the file's blocks and length).
    fn flush(&self) -> io::Result<()>;

    /// The length of the map in bytes.
    fn len(&self) -> u64;

    /// Whether the map is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Extends the file and its map, sparsely: new bytes read as zeros and have no blocks yet. Never shrinks.
    fn grow(&self, new_length: u64) -> io::Result<()>;

    /// Gives a range within the map blocks on the device, so that a store to it cannot fail.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;
}
