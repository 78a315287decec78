//! Memory that the processes of one machine share: each has some of its own, which it writes, and which others map to read
//! what is lent to them (`memfd_create(2)`).
//!
//! The owner seals it, so that it never shrinks and no reader is killed for a page that is gone (SIGBUS), and hands out a descriptor that
//! is for reading only.

use crate::landing::CHUNK_BYTES_MAX;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsRawFd;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

/// The most that another process may share with this one: address space, not memory.
const PEER_BYTES_MAX: u64 = 4 << 30;

/// Own memory, in blocks of [`CHUNK_BYTES_MAX`]. What no block uses takes no memory.
#[derive(Debug)]
pub(crate) struct Arena {
    file: OwnedFd,
    /// The same file, to be read.
    to_read: OwnedFd,
    map: MmapRaw,
    unused: Mutex<Vec<usize>>,
}

/// A block of it.
#[derive(Debug)]
pub(crate) struct ArenaBlock {
    arena: Arc<Arena>,
    offset: usize,
}

impl Arena {
    /// One of so many bytes, a multiple of a block.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let file = create()?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Nor does anybody open it for writing, but for root.
        rustix::fs::fchmod(&file, Mode::RUSR)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let to_read = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Without huge pages it is slower, not wrong.
        let _ = map.advise(Advice::HugePage);
        let unused = (0..bytes / CHUNK_BYTES_MAX).rev().map(|block| block * CHUNK_BYTES_MAX).collect();
        Ok(Self { file, to_read, map, unused: Mutex::new(unused) })
    }

    /// A block that nobody uses; `None` if there is none, or no memory for it.
    pub(crate) fn take(self: &Arc<Self>) -> Option<ArenaBlock> {
        let offset = self.unused.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let block = ArenaBlock { arena: self.clone(), offset };
        // Its pages now, and an error if there are none, rather than a signal at the first touch.
        let populated = match self.map.advise_range(Advice::PopulateWrite, offset, CHUNK_BYTES_MAX) {
            // Before Linux 5.14: without huge pages.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let (offset, length) = (offset as u64, CHUNK_BYTES_MAX as u64);
                rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, length).is_ok()
            }
            result => result.is_ok(),
        };
        populated.then_some(block)
    }

    /// For those who read it.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.to_read.as_fd()
    }

    /// Where in it these bytes are; `None` if they are not.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<u64> {
        let offset = bytes.as_ptr().addr().checked_sub(self.map.as_ptr().addr())?;
        (offset.checked_add(bytes.len())? <= self.map.len()).then_some(offset as u64)
    }
}

/// A file in memory that nobody can execute, if the kernel knows that (Linux 6.3).
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("quoin", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create("quoin", flags)?),
        created => Ok(created?),
    }
}

impl ArenaBlock {
    /// Where it begins: [`CHUNK_BYTES_MAX`] bytes are mapped there, as long as it exists.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: blocks lie within the one mapping that the pointer is derived from.
        unsafe { self.arena.map.as_mut_ptr().add(self.offset) }
    }
}

impl Drop for ArenaBlock {
    fn drop(&mut self) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // What is not given back to the system is used again.
        let _ = rustix::fs::fallocate(&self.arena.file, hole, self.offset as u64, CHUNK_BYTES_MAX as u64);
        self.arena.unused.lock().unwrap_or_else(PoisonError::into_inner).push(self.offset);
    }
}

/// What another process of this machine shares, mapped to be read.
#[derive(Debug)]
pub struct PeerMemory {
    map: MmapRaw,
}

impl PeerMemory {
    /// Maps it.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`]: it is not sealed, or too large. Or there is no room for it in this process.
    pub fn map(file: &OwnedFd) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let sealed = rustix::fs::fcntl_get_seals(file).map_err(|_| wrong("no memory that can be shared"))?;
        if !sealed.contains(SealFlags::SHRINK) {
            return Err(wrong("shared memory that could shrink"));
        }
        let bytes = rustix::fs::fstat(file)?.st_size.cast_unsigned();
        if bytes > PEER_BYTES_MAX {
            return Err(wrong("more shared memory than anybody needs"));
        }
        Ok(Self { map: MmapOptions::new().len(bytes as usize).map_raw_read_only(file)? })
    }

    /// A part of it; `None` if it has no such part. What that holds is of meaning while it is lent.
    pub fn get(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(length)? > self.map.len() {
            return None;
        }
        // SAFETY: so much is mapped there, readable, for as long as `self` is, and sealed against shrinking. Its owner, a
        // process of this cluster that reached a socket which only this user can, does not change what it has lent until it
        // has it back. Should it do so all the same, the bytes that are read are wrong, and are found to be by their checksums: nothing
        // else than data of volumes is lent, and nobody takes a length or an index from it.
        Some(unsafe { slice::from_raw_parts(self.map.as_ptr().add(offset), length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landing::Landing;

    const BYTES: usize = 4 * CHUNK_BYTES_MAX;

    #[test]
    fn what_one_writes_the_other_reads_where_it_is_said_to_be() {
        let landing = Landing::default();
        landing.share(BYTES).unwrap();
        let memory = landing.shared().unwrap();
        let peer = PeerMemory::map(&memory.try_clone_to_owned().unwrap()).unwrap();
        let mut chunk = landing.take(5000);
        chunk.unfilled().fill(7);
        chunk.advance(5000);
        let bytes = chunk.freeze();
        let slice = bytes.slice(4096..);
        let offset = landing.offset_of(&slice).unwrap();
        assert_eq!(peer.get(offset, slice.len()).unwrap(), slice);
        assert_eq!(landing.offset_of(&[7; 100]), None, "memory of another kind");
        assert!(peer.get(BYTES as u64, 0).is_some() && peer.get(BYTES as u64, 1).is_none());
        assert!(peer.get(u64::MAX, 1).is_none() && peer.get(1, usize::MAX).is_none());
    }

    #[test]
    fn blocks_are_used_again_and_when_all_are_used_the_memory_is_of_another_kind() {
        let landing = Landing::default();
        landing.share(BYTES).unwrap();
        let shared = |length| landing.take_shared(length);
        let chunks: Vec<_> = (0..4).map(|_| shared(CHUNK_BYTES_MAX).unwrap()).collect();
        assert!(shared(1).is_none());
        let other = landing.take(4096);
        drop(chunks);
        let again: Vec<_> = (0..4).map(|_| shared(CHUNK_BYTES_MAX).unwrap()).collect();
        assert!(shared(1).is_none());
        drop((other, again));
        let mut chunk = landing.take(1);
        chunk.advance(1);
        assert!(landing.offset_of(&chunk.freeze()).is_some(), "the other kind is for the worst times only");
        assert!(shared(1).is_some());
    }

    #[test]
    fn a_block_that_is_given_back_takes_no_memory() {
        let arena = Arc::new(Arena::new(BYTES).unwrap());
        let pages = || rustix::fs::fstat(&arena.file).unwrap().st_blocks;
        assert_eq!(pages(), 0);
        let block = arena.take().unwrap();
        assert!(pages() > 0);
        drop(block);
        assert_eq!(pages(), 0);
    }

    #[test]
    fn memory_that_could_hurt_its_reader_is_not_mapped() {
        let refused = |file: &OwnedFd| PeerMemory::map(file).unwrap_err().kind();
        assert_eq!(refused(&tempfile::tempfile().unwrap().into()), io::ErrorKind::InvalidData);
        let memory = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memory, 4096).unwrap();
        assert_eq!(refused(&memory), io::ErrorKind::InvalidData);
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
        assert!(PeerMemory::map(&memory).is_ok());
        rustix::fs::ftruncate(&memory, PEER_BYTES_MAX + 1).unwrap();
        assert_eq!(refused(&memory), io::ErrorKind::InvalidData);
    }

    #[test]
    fn who_is_given_it_cannot_write_to_it() {
        let arena = Arena::new(BYTES).unwrap();
        let file = arena.file().try_clone_to_owned().unwrap();
        assert!(MmapOptions::new().len(4096).map_raw(&file).is_err());
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(&file, 0).is_err() && rustix::fs::ftruncate(&arena.file, 0).is_err());
    }
}
