//! A directory in memory that knows what a loss of power would leave of it.
//!
//! The model: what was synced survives. Of what was not, every single write survives whole, torn at the granularity of
//! a 512-byte sector, or not at all, independently of every other; so a sector may hold any of the values it had since
//! the last sync. Names created, removed or replaced since the last sync of the directory are there or not, each by
//! itself. A crash of the process alone loses nothing.

use crate::direct::assert_direct;
use crate::random::Random;
use crate::{Dir, File, Lock, Map, OpenMode};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// A directory in memory. Clones are the same directory.
#[derive(Clone, Default)]
pub struct MemDir {
    names: Arc<Mutex<Names>>,
    locked: Arc<AtomicBool>,
}

#[derive(Default)]
struct Names {
    now: BTreeMap<String, Arc<MemFile>>,
    durable: BTreeMap<String, Arc<MemFile>>,
}

impl MemDir {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is found after a loss of power at this moment. The same seed gives the same answer.
    #[must_use]
    pub fn crash(&self, seed: u64) -> MemDir {
        let mut random = Random::new(seed);
        let names = guard(&self.names);
        let mut all: Vec<&String> = names.now.keys().chain(names.durable.keys()).collect();
        all.sort();
        all.dedup();
        let mut survivors = BTreeMap::new();
        for name in all {
            let (now, durable) = (names.now.get(name), names.durable.get(name));
            let same = matches!((now, durable), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            let chosen = if same || random.below(2) == 0 { now } else { durable };
            if let Some(file) = chosen {
                let content = guard(&file.content).after_power_loss(&mut random);
                survivors.insert(name.clone(), Arc::new(MemFile { content: Mutex::new(content) }));
            }
        }
        MemDir::with_names(Names { durable: survivors.clone(), now: survivors })
    }

    /// What is found after a crash of the process at this moment: everything, and what was not synced still is not.
    #[must_use]
    pub fn process_crash(&self) -> MemDir {
        let names = guard(&self.names);
        let mut copies: Vec<(Arc<MemFile>, Arc<MemFile>)> = Vec::new();
        let mut copy_of = |file: &Arc<MemFile>| match copies.iter().find(|(old, _)| Arc::ptr_eq(old, file)) {
            Some((_, copy)) => copy.clone(),
            None => {
                let copy = Arc::new(MemFile { content: Mutex::new(guard(&file.content).clone()) });
                copies.push((file.clone(), copy.clone()));
                copy
            }
        };
        let now = names.now.iter().map(|(name, file)| (name.clone(), copy_of(file))).collect();
        let durable = names.durable.iter().map(|(name, file)| (name.clone(), copy_of(file))).collect();
        MemDir::with_names(Names { now, durable })
    }

    fn with_names(names: Names) -> MemDir {
        MemDir { names: Arc::new(Mutex::new(names)), locked: Arc::default() }
    }

    fn file(&self, name: &str, mode: OpenMode) -> io::Result<Arc<MemFile>> {
        let mut names = guard(&self.names);
        match (names.now.get(name), mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(file.clone()),
            (None, OpenMode::Existing) => Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                let file = Arc::new(MemFile::default());
                names.now.insert(name.to_owned(), file.clone());
                Ok(file)
            }
        }
    }
}

impl Dir for MemDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(self.file(name, mode)?)
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        let file = self.file(name, OpenMode::OpenOrCreate)?;
        Ok(file)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(guard(&self.names).now.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        guard(&self.names).now.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut names = guard(&self.names);
        let file = names.now.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        names.now.insert(to.to_owned(), file);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut names = guard(&self.names);
        names.durable = names.now.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<Lock> {
        if self.locked.swap(true, Ordering::AcqRel) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Lock::new(Held(self.locked.clone())))
    }
}

struct Held(Arc<AtomicBool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

pub(crate) fn concatenated(slices: &[IoSlice<'_>]) -> Vec<u8> {
    slices.iter().map(|slice| &**slice).collect::<Vec<&[u8]>>().concat()
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct MemFile {
    content: Mutex<Content>,
}

/// A file's bytes now, its bytes at the last sync, and what was done in between.
#[derive(Clone, Default)]
struct Content {
    now: Pages,
    durable: Pages,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    /// It survives a loss of power; what was written before it need not.
    Durable {
        offset: u64,
        data: Arc<[u8]>,
    },
    Zero {
        offset: u64,
        length: u64,
    },
    SetLength(u64),
}

impl Content {
    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        if self.unsynced.is_empty() && matches!(change, Change::Durable { .. }) {
            self.durable.apply(&change);
        } else {
            self.unsynced.push(change);
        }
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.durable.apply(&change);
        }
    }

    fn after_power_loss(&self, random: &mut Random) -> Content {
        let mut pages = self.durable.clone();
        // One crash in four loses everything unsynced, one keeps everything; the rest choose write by write.
        let mood = random.below(4);
        for change in &self.unsynced {
            let fate = match (mood, change) {
                (_, Change::Durable { .. }) | (1, _) => 1,
                (0, _) => 0,
                _ => random.below(3),
            };
            match fate {
                0 => {}
                1 => pages.apply(change),
                _ => pages.apply_torn(change, random),
            }
        }
        Content { now: pages.clone(), durable: pages, unsynced: Vec::new() }
    }
}

/// Sparse bytes; pages are shared between copies until one of them changes.
#[derive(Clone, Default)]
struct Pages {
    length: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

impl Pages {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } | Change::Durable { offset, data } => self.write(*offset, data),
            Change::Zero { offset, length } => self.zero(*offset, *length),
            Change::SetLength(length) => self.set_length(*length),
        }
    }

    fn apply_torn(&mut self, change: &Change, random: &mut Random) {
        match change {
            Change::Write { offset, data } => {
                let mut done = 0;
                while done < data.len() {
                    let to_sector_end = SECTOR_BYTES - (*offset as usize + done) % SECTOR_BYTES;
                    let end = data.len().min(done + to_sector_end);
                    if random.below(2) == 0 {
                        self.write(offset + done as u64, &data[done..end]);
                    }
                    done = end;
                }
            }
            whole => {
                if random.below(2) == 0 {
                    self.apply(whole);
                }
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.length = self.length.max(offset + data.len() as u64);
        for_each_page(offset, data.len(), |page, within, range| {
            let bytes = Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES])));
            bytes[within..within + range.len()].copy_from_slice(&data[range]);
        });
    }

    fn zero(&mut self, offset: u64, length: u64) {
        let length = length.min(self.length.saturating_sub(offset));
        for_each_page(offset, length as usize, |page, within, range| {
            if range.len() == PAGE_BYTES {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[within..within + range.len()].fill(0);
            }
        });
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            let tail = self.length - length;
            self.zero(length, tail);
        }
        self.length = length;
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for_each_page(offset, buffer.len(), |page, within, range| match self.pages.get(&page) {
            Some(bytes) => buffer[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
            None => buffer[range].fill(0),
        });
        Ok(())
    }
}

/// Calls `each` with (page, offset within it, range of the whole) for every page that `length` bytes at `offset` touch.
fn for_each_page(offset: u64, length: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < length {
        let position = offset + done as u64;
        let within = (position % PAGE_BYTES as u64) as usize;
        let end = length.min(done + PAGE_BYTES - within);
        each(position / PAGE_BYTES as u64, within, done..end);
        done = end;
    }
}

impl File for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        guard(&self.content).now.read(offset, buffer)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        guard(&self.content).change(Change::Write { offset, data: data.into() });
        Ok(())
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(&concatenated(slices), offset)
    }

    /// To a loss of power it is a write like any other: the device's own cache is volatile too.
    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        assert_direct(slices, offset);
        self.write_vectored_at(slices, offset)
    }

    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        assert_direct(slices, offset);
        let data = concatenated(slices).into();
        guard(&self.content).change(Change::Durable { offset, data });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        guard(&self.content).sync();
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut content = guard(&self.content);
        if offset + length > content.now.length {
            content.change(Change::SetLength(offset + length));
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        guard(&self.content).change(Change::Zero { offset, length });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(guard(&self.content).now.length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        guard(&self.content).change(Change::SetLength(length));
        Ok(())
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cached(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Map for MemFile {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        guard(&self.content).now.read(offset, buffer).expect("an access past the end of a map");
    }

    fn store(&self, offset: u64, data: &[u8]) {
        let mut content = guard(&self.content);
        assert!(offset + data.len() as u64 <= content.now.length, "an access past the end of a map");
        content.change(Change::Write { offset, data: data.into() });
    }

    fn flush(&self) -> io::Result<()> {
        File::sync(self)
    }

    fn len(&self) -> u64 {
        guard(&self.content).now.length
    }

    fn grow(&self, new_length: u64) -> io::Result<()> {
        let mut content = guard(&self.content);
        if new_length > content.now.length {
            content.change(Change::SetLength(new_length));
        }
        Ok(())
    }

    fn allocate(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}
