//! Real files.

use crate::direct::Direct;
use crate::landing::Landing;
use crate::lock::{Lock, lock_file};
use crate::{Dir, File, Map, OpenMode};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{Advice as FileAdvice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

/// The most slices that one `pwritev` takes (Linux `UIO_MAXIOV`).
pub(crate) const SLICES_MAX: usize = 1024;

/// The size of a page as the map's locks count it, and how many of these there are.
const PAGE_BYTES: u64 = 4096;
const PAGE_LOCKS: usize = 16;

/// A directory of the file system.
pub struct OsDir {
    path: PathBuf,
    landing: Arc<Landing>,
}

impl OsDir {
    /// The directory at `path`, which must exist.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if !fs::metadata(&path)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is no directory", path.display()),
            ));
        }
        Ok(Self { path, landing: Arc::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str, mode: OpenMode) -> io::Result<fs::File> {
        let mut options = fs::File::options();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => {}
            OpenMode::CreateNew => {
                options.create_new(true);
            }
            OpenMode::OpenOrCreate => {
                options.create(true).truncate(false);
            }
        }
        options.open(self.path.join(name))
    }
}

impl Dir for OsDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = self.open_file(name, mode)?;
        Ok(Arc::new(OsFile { file, direct: OnceLock::new(), landing: self.landing.clone() }))
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        Ok(Arc::new(OsMap::new(self.open_file(name, OpenMode::OpenOrCreate)?)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn lock(&self) -> io::Result<Lock> {
        Ok(Lock::new(lock_file(&self.path.join("lock"))?))
    }
}

struct OsFile {
    file: fs::File,
    /// The same file, opened for direct writes when the first one comes; `None` where that is not possible.
    direct: OnceLock<Option<Direct>>,
    /// What it writes from then.
    landing: Arc<Landing>,
}

impl File for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let mut done = 0;
        while done < buffer.len() {
            let slice = &mut [IoSliceMut::new(&mut buffer[done..])];
            match preadv2(&self.file, slice, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                // NOTSUP: a filesystem without RWF_NOWAIT. The caller then reads on a thread, which is always right.
                Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = offset;
        for group in slices.chunks(SLICES_MAX) {
            position = self.write_group(group, position)?;
        }
        Ok(())
    }

    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if !self.write_around_cache(slices, offset, ReadWriteFlags::empty())? {
            self.write_vectored_at(slices, offset)?;
        }
        Ok(())
    }

    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if !self.write_around_cache(slices, offset, ReadWriteFlags::DSYNC)? {
            self.write_vectored_at(slices, offset)?;
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        allocate(&self.file, offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        match retry(|| {
            fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
        }) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, FileAdvice::Random)?)
    }

    fn drop_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        Ok(fadvise(&self.file, offset, NonZeroU64::new(length), FileAdvice::DontNeed)?)
    }
}

impl OsFile {
    /// `false`, with any part of it written, if it must be written through the page cache.
    fn write_around_cache(
        &self,
        slices: &[IoSlice<'_>],
        offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        let direct = self.direct.get_or_init(|| Direct::reopen(&self.file, self.landing.clone()));
        direct.as_ref().map_or(Ok(false), |direct| direct.write(slices, offset, flags))
    }

    /// Writes at most [`SLICES_MAX`] slices and returns the position after them.
    fn write_group(&self, group: &[IoSlice<'_>], mut position: u64) -> io::Result<u64> {
        let total: u64 = group.iter().map(|slice| slice.len() as u64).sum();
        let mut written = retry(|| pwritev(&self.file, group, position))?;
        if written as u64 == total {
            return Ok(position + total);
        }
        // A short write (a signal, a full device): finish slice by slice.
        for slice in group {
            let done = written.min(slice.len());
            written -= done;
            self.file.write_all_at(&slice[done..], position + done as u64)?;
            position += slice.len() as u64;
        }
        Ok(position)
    }
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn allocate(file: &fs::File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    Ok(retry(|| fallocate(file, FallocateFlags::empty(), offset, length))?)
}

struct OsMap {
    file: fs::File,
    /// `None` while the file is empty. Replaced as a whole by `grow`, so that a flush need not hold the lock.
    map: RwLock<Option<Arc<MmapRaw>>>,
    /// Locks for the pages, which take turns, so that a store that waits for its page stops only loads nearby. Taken in
    /// ascending order.
    pages: [RwLock<()>; PAGE_LOCKS],
}

impl OsMap {
    fn new(file: fs::File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let map = Self::map(&file, length)?;
        Ok(Self { file, map: RwLock::new(map), pages: std::array::from_fn(|_| RwLock::new(())) })
    }

    fn map(file: &fs::File, length: u64) -> io::Result<Option<Arc<MmapRaw>>> {
        if length == 0 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let map = MmapOptions::new().len(length).map_raw(file)?;
        // Else the first touch of a page reads those around it, megabytes of a sparse file that nobody asked for. Where
        // the advice is not taken, only time is lost.
        let _ = map.advise(Advice::Random);
        Ok(Some(Arc::new(map)))
    }

    fn read_guard(&self) -> RwLockReadGuard<'_, Option<Arc<MmapRaw>>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a range has a page that this lock is for.
fn needs_lock(lock: usize, offset: u64, length: usize) -> bool {
    let (first, last) = (offset / PAGE_BYTES, (offset + length.max(1) as u64 - 1) / PAGE_BYTES);
    let locks = PAGE_LOCKS as u64;
    (lock as u64 + locks - first % locks) % locks <= last - first
}

/// Where `length` bytes at `offset` begin. Panics unless they lie within the map.
fn range_start(map: Option<&Arc<MmapRaw>>, offset: u64, length: usize) -> *mut u8 {
    if length == 0 {
        return std::ptr::NonNull::dangling().as_ptr();
    }
    let map = map.expect("an access to an empty map");
    let offset = usize::try_from(offset).expect("an offset within the address space");
    assert!(
        offset.checked_add(length).is_some_and(|end| end <= map.len()),
        "an access past the end of a map"
    );
    // SAFETY: offset < map.len(), so the pointer stays within the one mapping it was derived from.
    unsafe { map.as_mut_ptr().add(offset) }
}

impl Map for OsMap {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        let map = self.read_guard();
        let from = range_start(map.as_ref(), offset, buffer.len());
        let _held: [_; PAGE_LOCKS] = std::array::from_fn(|lock| {
            let lock = needs_lock(lock, offset, buffer.len()).then(|| self.pages[lock].read());
            lock.map(|guard| guard.unwrap_or_else(PoisonError::into_inner))
        });
        // SAFETY: `from` is valid for reads of `buffer.len()` bytes (range_start), and `buffer` is ordinary memory that
        // cannot overlap it. No store to its pages runs at the same time: stores hold their locks for writing. The file is changed by
        // no one else: the directory is locked to this process and only this map is made of it.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
    }

    fn prefetch(&self, offset: u64, length: u64) {
        let map = self.read_guard();
        let range = (usize::try_from(offset), usize::try_from(length));
        if let (Some(map), (Ok(offset), Ok(length))) = (map.as_ref(), range) {
            // Best effort: what is not read ahead is read when it is touched.
            let _ = map.advise_range(Advice::WillNeed, offset, length);
        }
    }

    fn store(&self, offset: u64, data: &[u8]) {
        let map = self.read_guard();
        let to = range_start(map.as_ref(), offset, data.len());
        let _held: [_; PAGE_LOCKS] = std::array::from_fn(|lock| {
            let lock = needs_lock(lock, offset, data.len()).then(|| self.pages[lock].write());
            lock.map(|guard| guard.unwrap_or_else(PoisonError::into_inner))
        });
        // SAFETY: as in `load`; the pages' locks are held for writing, so neither a load of them nor another store runs.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    fn flush(&self) -> io::Result<()> {
        // The kernel, not this program, reads the pages here: stores may go on meanwhile.
        let map = self.read_guard().clone();
        if let Some(map) = map {
            map.flush()?;
        }
        self.file.sync_data()
    }

    fn len(&self) -> u64 {
        self.read_guard().as_ref().map_or(0, |map| map.len() as u64)
    }

    fn grow(&self, new_length: u64) -> io::Result<()> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if new_length > map.as_ref().map_or(0, |map| map.len() as u64) {
            self.file.set_len(new_length)?;
            *map = Self::map(&self.file, new_length)?;
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        allocate(&self.file, offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_needs_the_locks_of_its_pages() {
        for first in 0..40u64 {
            for pages in 1..20 {
                let needs = |lock: &usize| needs_lock(*lock, first * PAGE_BYTES + 7, pages * 4096 - 7);
                let found: Vec<usize> = (0..PAGE_LOCKS).filter(needs).collect();
                let mut expected: Vec<usize> =
                    (first..first + pages as u64).map(|p| (p % 16) as usize).collect();
                expected.sort_unstable();
                expected.dedup();
                assert_eq!(found, expected);
            }
        }
    }
}
