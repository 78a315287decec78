//! A directory that fails where it is told to.

use crate::memory::concatenated;
use crate::{Dir, File, Lock, Map, OpenMode};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, PoisonError};

/// Kinds of operations that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Reads of files, and loads of maps (which can only have bits flipped).
    Read,
    /// Writes.
    Write,
    /// Syncs of files, flushes of maps, syncs of the directory (under the name "").
    Sync,
    /// Allocations of files and maps.
    Allocate,
}

/// What happens instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The operation fails with `EIO`, having done nothing.
    InputOutput,
    /// The operation fails with `ENOSPC`, having done nothing.
    NoSpace,
    /// A write does its first half and fails with `EIO`.
    Half,
    /// The operation succeeds, with one bit of what is read or written (by index, modulo the length) flipped.
    FlipBit(u64),
}

/// One fault: from the `after`-th matching operation on, for `times` operations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which kind of operation.
    pub operation: Operation,
    /// Only on files whose name begins so; empty for all.
    pub name_prefix: String,
    /// How many matching operations pass unharmed first.
    pub after: u64,
    /// How many are harmed then.
    pub times: u64,
    /// What happens to them.
    pub effect: Effect,
}

/// A directory whose operations fail as told by [`FaultyDir::inject`]. Clones share their faults.
#[derive(Clone)]
pub struct FaultyDir {
    inner: Arc<dyn Dir>,
    faults: Faults,
}

#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// Counts one operation and says what to do to it.
    fn next(&self, operation: Operation, name: &str) -> Option<Effect> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut effect = None;
        for fault in
            faults.iter_mut().filter(|f| f.operation == operation && name.starts_with(&f.name_prefix))
        {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 && effect.is_none() {
                fault.times -= 1;
                effect = Some(fault.effect);
            }
        }
        effect
    }

    /// For operations that carry no data: fails or passes.
    fn check(&self, operation: Operation, name: &str) -> io::Result<()> {
        match self.next(operation, name) {
            None | Some(Effect::FlipBit(_)) => Ok(()),
            Some(effect) => Err(effect.error()),
        }
    }
}

impl Effect {
    fn error(self) -> io::Error {
        match self {
            Effect::NoSpace => io::ErrorKind::StorageFull.into(),
            _ => io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        }
    }
}

fn flip(bytes: &mut [u8], bit: u64) {
    if !bytes.is_empty() {
        let bit = bit % (bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}

impl FaultyDir {
    /// A directory without faults yet.
    pub fn new(inner: Arc<dyn Dir>) -> Self {
        Self { inner, faults: Faults::default() }
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.faults.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.faults.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Dir for FaultyDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(name, mode)?;
        Ok(Arc::new(FaultyFile { inner, name: name.to_owned(), faults: self.faults.clone() }))
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        let inner = self.inner.open_map(name)?;
        Ok(Arc::new(FaultyMap { inner, name: name.to_owned(), faults: self.faults.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(Operation::Sync, "")?;
        self.inner.sync()
    }

    fn lock(&self) -> io::Result<Lock> {
        self.inner.lock()
    }
}

struct FaultyFile {
    inner: Arc<dyn File>,
    name: String,
    faults: Faults,
}

impl File for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let effect = self.faults.next(Operation::Read, &self.name);
        if let Some(effect @ (Effect::InputOutput | Effect::NoSpace | Effect::Half)) = effect {
            return Err(effect.error());
        }
        self.inner.read_at(buffer, offset)?;
        if let Some(Effect::FlipBit(bit)) = effect {
            flip(buffer, bit);
        }
        Ok(())
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match self.faults.next(Operation::Write, &self.name) {
            None => self.inner.write_at(data, offset),
            Some(Effect::FlipBit(bit)) => {
                let mut damaged = data.to_vec();
                flip(&mut damaged, bit);
                self.inner.write_at(&damaged, offset)
            }
            Some(effect) => {
                if effect == Effect::Half {
                    self.inner.write_at(&data[..data.len() / 2], offset)?;
                }
                Err(effect.error())
            }
        }
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(&concatenated(slices), offset)
    }

    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data = self.device_takes(slices, offset)?;
        self.inner.write_direct_at(&[IoSlice::new(&data)], offset)
    }

    /// A failing sync fails it, too: then it is written, and not durable.
    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data = self.device_takes(slices, offset)?;
        let slices = [IoSlice::new(&data)];
        match self.faults.check(Operation::Sync, &self.name) {
            Ok(()) => self.inner.write_durably_at(&slices, offset),
            Err(error) => self.inner.write_direct_at(&slices, offset).and(Err(error)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.check(Operation::Sync, &self.name)?;
        self.inner.sync()
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.faults.check(Operation::Allocate, &self.name)?;
        self.inner.allocate(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.punch(offset, length)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        self.inner.expect_random_reads()
    }

    fn drop_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.drop_cached(offset, length)
    }
}

impl FaultyFile {
    /// What a device takes of a direct write, which may fail, or bring something else.
    fn device_takes(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<Vec<u8>> {
        let mut data = concatenated(slices);
        match self.faults.next(Operation::Write, &self.name) {
            None => Ok(data),
            Some(Effect::FlipBit(bit)) => {
                flip(&mut data, bit);
                Ok(data)
            }
            Some(effect) => {
                if effect == Effect::Half {
                    // The device has whole sectors; what it had when it failed need not be whole blocks.
                    self.inner.write_at(&data[..data.len() / 2 + 512], offset)?;
                }
                Err(effect.error())
            }
        }
    }
}

struct FaultyMap {
    inner: Arc<dyn Map>,
    name: String,
    faults: Faults,
}

impl Map for FaultyMap {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        self.inner.load(offset, buffer);
        if let Some(Effect::FlipBit(bit)) = self.faults.next(Operation::Read, &self.name) {
            flip(buffer, bit);
        }
    }

    fn store(&self, offset: u64, data: &[u8]) {
        self.inner.store(offset, data);
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.check(Operation::Sync, &self.name)?;
        self.inner.flush()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn grow(&self, new_length: u64) -> io::Result<()> {
        self.inner.grow(new_length)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.faults.check(Operation::Allocate, &self.name)?;
        self.inner.allocate(offset, length)
    }
}
