//! A member's directory, for a member that shares its thread with sockets: while it waits for the disk, another thread takes
//! these over. Nothing else waits: what is written is in the page cache until it is synced.

use quoin_disk::{Dir, File, Lock, Map, OpenMode, OsDir};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};

/// A directory of the operating system's.
pub(crate) struct Directory(OsDir);

impl Directory {
    /// Opens a directory; creates it, if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        OsDir::open(path).map(Self)
    }
}

/// Waits for the disk. A runtime of one thread alone has no other to let in.
fn wait<T>(what: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(what)
        }
        _ => what(),
    }
}

impl Dir for Directory {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Waits(self.0.open(name, mode)?)))
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        self.0.open_map(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        wait(|| self.0.sync())
    }

    fn lock(&self) -> io::Result<Lock> {
        self.0.lock()
    }
}

/// A file that is waited for.
struct Waits(Arc<dyn File>);

impl File for Waits {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.0.read_cached_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_vectored_at(slices, offset)
    }

    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        wait(|| self.0.write_direct_at(slices, offset))
    }

    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        wait(|| self.0.write_durably_at(slices, offset))
    }

    fn sync(&self) -> io::Result<()> {
        wait(|| self.0.sync())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.allocate(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.punch(offset, length)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        self.0.expect_random_reads()
    }

    fn drop_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.drop_cached(offset, length)
    }
}
