//! Memory in which large data arrives, from a socket or a disk, and from which a device takes it
//! ([`File::write_direct_at`](crate::File::write_direct_at)) as it is.
//!
//! Blocks of 2 MiB, made of huge pages where the kernel has some, are cut into chunks that begin at a page. A chunk is filled by its one
//! owner and then frozen to [`Bytes`]. A block whose last chunk is gone is used again, for its pages are there and may be in
//! a processor's cache; a few are kept for that, and the rest is given back. So the memory used is what is under way, and a little more.
//!
//! Blocks may come from memory that other processes of the machine can map ([`Landing::share`]).

use crate::shared::{Arena, ArenaBlock};
use bytes::{Buf, Bytes};
use memmap2::{Advice, MmapMut, MmapRaw};
use rustix::fd::BorrowedFd;
use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::slice;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The longest chunk: a block, and a huge page.
pub const CHUNK_BYTES_MAX: usize = 2 << 20;
/// Where chunks begin: at multiples of this, in memory.
const PAGE_BYTES: usize = 4096;
/// The most blocks that are kept without being used.
const FREE_BLOCKS_MAX: usize = 16;

/// Gives chunks of memory out, to any thread.
#[derive(Debug, Default)]
pub struct Landing {
    current: Mutex<Current>,
    pool: Arc<Pool>,
}

/// The block of which chunks are taken, and how much of it is.
#[derive(Debug, Default)]
struct Current {
    block: Option<Arc<Block>>,
    taken: usize,
}

/// Where blocks come from, and go to.
#[derive(Debug, Default)]
struct Pool {
    free: Mutex<Vec<Memory>>,
    /// Memory that other processes can map, if this is shared.
    arena: OnceLock<Arc<Arena>>,
}

/// The memory of a block.
#[derive(Debug)]
enum Memory {
    Own(MmapRaw),
    Shared(ArenaBlock),
}

/// A block, shared by its chunks.
#[derive(Debug)]
struct Block {
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    pool: Arc<Pool>,
}

/// Memory of one owner, to be filled from its start to its end.
#[derive(Debug)]
pub struct Chunk {
    piece: Piece,
    filled: usize,
}

/// A part of a block that is in no other piece which exists at the same time ([`Landing::take`] sees to that).
#[derive(Debug)]
struct Piece {
    block: Arc<Block>,
    start: usize,
    length: usize,
}

impl Landing {
    /// From now on takes blocks from so many bytes (a multiple of [`CHUNK_BYTES_MAX`]) that other processes can map, as long as there
    /// are some. To be called once.
    ///
    /// # Errors
    /// The system does not know such memory, or lets this process have none.
    pub fn share(&self, bytes: usize) -> io::Result<()> {
        let arena = Arc::new(Arena::new(bytes)?);
        assert!(self.pool.arena.set(arena).is_ok(), "memory is shared once");
        Ok(())
    }

    /// The memory that other processes can map; `None` if it is not shared.
    pub fn shared(&self) -> Option<BorrowedFd<'_>> {
        self.pool.arena.get().map(|arena| arena.file())
    }

    /// Where in the memory that other processes can map these bytes are; `None` if they are not.
    pub fn offset_of(&self, bytes: &[u8]) -> Option<u64> {
        self.pool.arena.get()?.offset_of(bytes)
    }

    /// Takes memory for so many bytes, at most [`CHUNK_BYTES_MAX`], that begins at a page. As with any allocation, the process ends
    /// where there is none.
    pub fn take(&self, length: usize) -> Chunk {
        self.take_of(length, false).expect("there is memory of the own kind")
    }

    /// As [`Landing::take`], but only of the memory that other processes can map; `None` if no block of that is left.
    pub fn take_shared(&self, length: usize) -> Option<Chunk> {
        self.take_of(length, true)
    }

    fn take_of(&self, length: usize, only_shared: bool) -> Option<Chunk> {
        assert!(length <= CHUNK_BYTES_MAX, "a chunk of {length} bytes");
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Current { block, taken } = &mut *current;
        if block.as_mut().is_some_and(|block| Arc::get_mut(block).is_some()) {
            // All its chunks are gone.
            *taken = 0;
        }
        // One of memory that is only this process's own is used to its end, and then no more while there is another kind.
        let is_wanted = |block: &Block| {
            block.memory().is_shared() || !only_shared && (*taken > 0 || !self.pool.is_shared())
        };
        let fits = |block: &Arc<Block>| length <= CHUNK_BYTES_MAX - *taken && is_wanted(block);
        let block = match block {
            Some(block) if fits(block) => block,
            block => {
                let new = Pool::take(&self.pool, only_shared)?;
                *taken = 0;
                block.insert(Arc::new(new))
            }
        };
        let start = *taken;
        *taken = (start + length).next_multiple_of(PAGE_BYTES);
        Some(Chunk { piece: Piece { block: block.clone(), start, length }, filled: 0 })
    }
}

impl Pool {
    /// A block that nobody uses: the last that was given back, else one of memory that other processes can map, else of memory
    /// that they cannot.
    fn take(pool: &Arc<Self>, only_shared: bool) -> Option<Block> {
        // They are all shared or none is, but for what was given back before there was something to share.
        let used_before = {
            let mut free = pool.free.lock().unwrap_or_else(PoisonError::into_inner);
            let at = free.iter().rposition(|memory| memory.is_shared() == pool.is_shared());
            at.map(|at| free.remove(at))
        };
        let new_shared = || pool.arena.get()?.take().map(Memory::Shared);
        let own = || (!only_shared).then(|| Memory::Own(map()));
        let memory = used_before.or_else(new_shared).or_else(own)?;
        Some(Block { memory: Some(memory), pool: pool.clone() })
    }

    fn is_shared(&self) -> bool {
        self.arena.get().is_some()
    }
}

fn map() -> MmapRaw {
    let Ok(memory) = MmapMut::map_anon(CHUNK_BYTES_MAX) else {
        handle_alloc_error(Layout::new::<[u8; CHUNK_BYTES_MAX]>());
    };
    // Without huge pages it is slower, not wrong.
    let _ = memory.advise(Advice::HugePage);
    memory.into()
}

impl Memory {
    /// Where it begins: [`CHUNK_BYTES_MAX`] bytes are mapped there, as long as it exists.
    fn as_mut_ptr(&self) -> *mut u8 {
        match self {
            Self::Own(memory) => memory.as_mut_ptr(),
            Self::Shared(block) => block.as_mut_ptr(),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

impl Block {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("a block that is not dropped")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let is_worth_it = self.memory().is_shared() || !self.pool.is_shared();
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if is_worth_it && free.len() < FREE_BLOCKS_MAX {
            free.extend(self.memory.take());
        }
    }
}

impl Chunk {
    /// What is to be filled yet. What it holds is of no meaning: whatever arrived there before.
    pub fn unfilled(&mut self) -> &mut [u8] {
        let filled = self.filled;
        &mut self.piece.bytes_mut()[filled..]
    }

    /// Takes note that so many bytes more were filled. Panics if that is past the end.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.piece.length - self.filled, "filled past the end of a chunk");
        self.filled += bytes;
    }

    /// Fills it with what the input has, as far as there is room, and takes that off its front.
    pub fn fill_from(&mut self, input: &mut impl Buf) {
        let bytes = input.remaining().min(self.piece.length - self.filled);
        input.copy_to_slice(&mut self.unfilled()[..bytes]);
        self.advance(bytes);
    }

    /// Whether nothing is left to be filled.
    pub fn is_full(&self) -> bool {
        self.filled == self.piece.length
    }

    /// Makes it something to share. Panics unless all of it was filled: nobody sees what arrived there before.
    pub fn freeze(self) -> Bytes {
        assert!(self.is_full(), "a chunk is shared before it is full");
        Bytes::from_owner(self.piece)
    }
}

impl Piece {
    /// Where it begins.
    fn start(&self) -> *mut u8 {
        debug_assert!(self.start + self.length <= CHUNK_BYTES_MAX);
        // SAFETY: `take` cuts pieces within the block: the pointer stays within the one mapping that it was derived from,
        // or at its end.
        unsafe { self.block.memory().as_mut_ptr().add(self.start) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are mapped there, readable, writable and initialized (such memory begins as zeros), for as long as
        // the block is, which `self` holds. No other piece that exists has any of them, and `self` is borrowed for as long.
        unsafe { slice::from_raw_parts_mut(self.start(), self.length) }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; and they are changed only through a piece that is borrowed for that alone.
        unsafe { slice::from_raw_parts(self.start(), self.length) }
    }
}

#[cfg(test)]
impl Landing {
    /// How many there are that no chunk holds.
    fn free_blocks(&self) -> usize {
        self.pool.free.lock().unwrap().len()
    }

    /// How many there are, if no chunk holds one.
    pub(crate) fn blocks(&self) -> usize {
        self.free_blocks() + usize::from(self.current.lock().unwrap().block.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(landing: &Landing, length: usize, with: u8) -> Bytes {
        let mut chunk = landing.take(length);
        // In two parts, as it comes from a socket.
        for part in [length / 3, length - length / 3] {
            assert!(part == 0 || !chunk.is_full());
            chunk.unfilled()[..part].fill(with);
            chunk.advance(part);
        }
        chunk.freeze()
    }

    #[test]
    fn chunks_begin_at_pages_and_share_nothing() {
        let landing = Landing::default();
        let lengths =
            [1, 4096, 4097, 65_536, 1 << 20, (1 << 20) - 4096, 3, CHUNK_BYTES_MAX, 0, 65_536, 1 << 20];
        let chunks: Vec<Bytes> =
            lengths.iter().zip(1..).map(|(length, with)| filled(&landing, *length, with)).collect();
        for ((chunk, length), with) in chunks.iter().zip(lengths).zip(1..) {
            assert_eq!(chunk.len(), length);
            assert!(chunk.as_ptr().addr().is_multiple_of(PAGE_BYTES));
            assert!(chunk.iter().all(|byte| *byte == with));
        }
    }

    #[test]
    fn an_input_fills_what_there_is_room_for_and_keeps_the_rest() {
        let mut chunk = Landing::default().take(10);
        let mut input = &b"four"[..];
        chunk.fill_from(&mut input);
        assert!(input.is_empty() && !chunk.is_full());
        input = b"and six, and more";
        chunk.fill_from(&mut input);
        assert_eq!((input, chunk.is_full()), (&b"x, and more"[..], true));
        assert_eq!(chunk.freeze(), b"fourand si"[..]);
    }

    #[test]
    fn two_chunks_are_filled_by_turns() {
        let landing = Landing::default();
        let (mut one, mut other) = (landing.take(8192), landing.take(8192));
        for _ in 0..2 {
            for (chunk, with) in [(&mut one, 1), (&mut other, 2)] {
                chunk.unfilled()[..4096].fill(with);
                chunk.advance(4096);
            }
        }
        let (one, other) = (one.freeze(), other.freeze());
        assert!(one.iter().all(|byte| *byte == 1) && other.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn a_block_is_used_again_when_its_last_slice_is_gone() {
        let landing = Landing::default();
        let whole = filled(&landing, CHUNK_BYTES_MAX, 1);
        let first = whole.as_ptr();
        let slice = whole.slice(4096..8192);
        drop(whole);
        assert_ne!(landing.take(1).unfilled().as_ptr(), first, "a slice of it is still there");
        assert!(slice.iter().all(|byte| *byte == 1));
        drop(slice);
        assert_eq!(landing.free_blocks(), 1);
        // The current block is empty, too, and is gone on with; then comes the free one.
        let other = landing.take(CHUNK_BYTES_MAX);
        assert_eq!(landing.take(1).unfilled().as_ptr(), first);
        drop(other);
    }

    #[test]
    fn the_current_block_begins_anew_when_all_its_chunks_are_gone() {
        let landing = Landing::default();
        let first = filled(&landing, 65_536, 1).as_ptr();
        for with in 0..100 {
            assert_eq!(filled(&landing, 65_536, with).as_ptr(), first);
        }
        assert_eq!(landing.free_blocks(), 0);
    }

    #[test]
    fn few_blocks_are_kept_and_the_last_used_comes_first() {
        let landing = Landing::default();
        let mut blocks: Vec<Bytes> = (0..30).map(|with| filled(&landing, CHUNK_BYTES_MAX, with)).collect();
        let next = landing.take(CHUNK_BYTES_MAX);
        let last = blocks.remove(3);
        let address = last.as_ptr();
        drop(last);
        assert_eq!(landing.free_blocks(), 1);
        assert_eq!(landing.take(CHUNK_BYTES_MAX).unfilled().as_ptr(), address);
        drop(blocks);
        drop(next);
        assert_eq!(landing.free_blocks(), FREE_BLOCKS_MAX);
    }

    #[test]
    fn threads_give_back_what_another_takes() {
        let landing = Landing::default();
        let (sender, receiver) = std::sync::mpsc::channel::<(Bytes, u8)>();
        let checker = std::thread::spawn(move || {
            for (bytes, with) in receiver {
                assert!(bytes.iter().all(|byte| *byte == with));
            }
        });
        for round in 0..200 {
            let with = (round % 251) as u8;
            sender.send((filled(&landing, 4096 * (1 + round * 7 % 300), with), with)).unwrap();
        }
        drop(sender);
        checker.join().unwrap();
        assert!(landing.free_blocks() <= FREE_BLOCKS_MAX);
    }

    #[test]
    #[should_panic(expected = "before it is full")]
    fn nobody_sees_what_was_not_filled() {
        let mut chunk = Landing::default().take(4096);
        chunk.advance(4095);
        let _ = chunk.freeze();
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn no_more_is_filled_than_there_is() {
        Landing::default().take(4096).advance(4097);
    }
}
