//! A disk that is slow, fails and forgets: a `MemDir` behind switches.

use crate::random::Random;
use quoin_disk::{Dir, File, Lock, Map, MemDir, OpenMode};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

/// What is wrong with a disk at the moment.
#[derive(Debug)]
struct Switches {
    random: Random,
    /// How often the page cache lacks what is read, in a thousand.
    uncached_permille: u64,
    /// Reads, writes and syncs fail.
    failing: bool,
    /// Only syncs fail.
    syncs_fail: bool,
    /// What is to be durable is only written: power is lost before the device has it whole.
    losing_power: bool,
    /// The filesystem has no blocks left.
    full: bool,
}

/// A disk with switches. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    dir: MemDir,
    switches: Arc<Mutex<Switches>>,
}

fn input_output() -> io::Error {
    io::Error::other("input/output error")
}

impl SimDisk {
    pub(crate) fn new(random: Random, uncached_permille: u64) -> Self {
        let switches = Switches {
            random,
            uncached_permille,
            failing: false,
            syncs_fail: false,
            losing_power: false,
            full: false,
        };
        Self { dir: MemDir::new(), switches: Arc::new(Mutex::new(switches)) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Switches) -> T) -> T {
        look(&mut self.switches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_dir(&self, dir: MemDir) -> Self {
        Self { dir, switches: self.switches.clone() }
    }

    /// What a crash of the process leaves: everything.
    #[must_use]
    pub(crate) fn process_crash(&self) -> Self {
        self.with_dir(self.dir.process_crash())
    }

    /// Does what was under way when power is lost: any of it may be on the device then.
    pub(crate) fn while_losing_power<T>(&self, work: impl FnOnce() -> T) -> T {
        self.with(|switches| switches.losing_power = true);
        let outcome = work();
        self.with(|switches| switches.losing_power = false);
        outcome
    }

    /// What a loss of power leaves.
    #[must_use]
    pub(crate) fn power_loss(&self, seed: u64) -> Self {
        self.with_dir(self.dir.crash(seed))
    }

    /// An empty disk in its place.
    #[must_use]
    pub(crate) fn wiped(&self) -> Self {
        self.with_dir(MemDir::new())
    }

    /// From now on everything fails, or nothing.
    pub(crate) fn set_failing(&self, failing: bool) {
        self.with(|switches| switches.failing = failing);
    }

    /// From now on syncs fail, or do not.
    pub(crate) fn set_syncs_fail(&self, fail: bool) {
        self.with(|switches| switches.syncs_fail = fail);
    }

    /// From now on nothing gets blocks that has none, or it does.
    pub(crate) fn set_full(&self, full: bool) {
        self.with(|switches| switches.full = full);
    }

    /// Asks for blocks.
    fn take_blocks(&self) -> io::Result<()> {
        self.check(false)?;
        if self.with(|switches| switches.full) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// The files below the switches.
    pub(crate) fn files(&self) -> &MemDir {
        &self.dir
    }

    fn check(&self, is_sync: bool) -> io::Result<()> {
        let fails = self.with(|switches| switches.failing || (is_sync && switches.syncs_fail));
        if fails { Err(input_output()) } else { Ok(()) }
    }

    fn is_losing_power(&self) -> bool {
        self.with(|switches| switches.losing_power)
    }

    fn is_cached(&self) -> bool {
        self.with(|switches| {
            let chance = switches.uncached_permille;
            !switches.random.permille(chance)
        })
    }
}

impl Dir for SimDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.check(false)?;
        Ok(Arc::new(SimFile { inner: self.dir.open(name, mode)?, disk: self.clone() }))
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        self.check(false)?;
        Ok(Arc::new(SimMap { inner: self.dir.open_map(name)?, disk: self.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check(false)?;
        self.dir.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check(false)?;
        self.dir.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.check(true)?;
        self.dir.sync()
    }

    fn lock(&self) -> io::Result<Lock> {
        self.dir.lock()
    }
}

struct SimFile {
    inner: Arc<dyn File>,
    disk: SimDisk,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.read_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        if !self.disk.is_cached() {
            return Ok(false);
        }
        self.disk.check(false)?;
        self.inner.read_cached_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.write_at(data, offset)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.write_vectored_at(slices, offset)
    }

    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.write_direct_at(slices, offset)
    }

    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.disk.check(true)?;
        if self.disk.is_losing_power() {
            return self.inner.write_direct_at(slices, offset);
        }
        self.inner.write_durably_at(slices, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.check(true)?;
        if self.disk.is_losing_power() {
            return Ok(());
        }
        self.inner.sync()
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.take_blocks()?;
        self.inner.allocate(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.punch(offset, length)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.set_len(length)
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        self.inner.expect_random_reads()
    }

    fn drop_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.drop_cached(offset, length)
    }
}

struct SimMap {
    inner: Arc<dyn Map>,
    disk: SimDisk,
}

impl Map for SimMap {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        self.inner.load(offset, buffer);
    }

    fn store(&self, offset: u64, data: &[u8]) {
        self.inner.store(offset, data);
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.check(true)?;
        self.inner.flush()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn grow(&self, new_length: u64) -> io::Result<()> {
        self.disk.check(false)?;
        self.inner.grow(new_length)
    }

    /// The header of a map has its blocks since the map was made, and is asked for again with each start.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset > 0 {
            self.disk.take_blocks()?;
        } else {
            self.disk.check(false)?;
        }
        self.inner.allocate(offset, length)
    }
}
