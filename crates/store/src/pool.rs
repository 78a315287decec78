//! The maps of layers: chunks of entries, of all layers of all replicas, in one memory-mapped file. A layer has chunks only
//! where something was overwritten since its snapshot, so a snapshot costs nothing until then.
//!
//! Which chunk is whose stands in the checkpoint, and is rebuilt by replay for what came after. As for slots (E2), a chunk
//! is not used again before a checkpoint past the record that freed it.

use crate::Error;
use crate::format::entry::{Cell, ENTRY_BYTES, EntryBytes, MapId};
use crate::format::{BLOCK, FORMAT_VERSION, Salt, check_version};
use crate::map::no_space_or;
use quoin_disk::{Dir, File, Map};
use quoin_types::ExtentIndex;
use std::io;
use std::sync::Arc;

/// Entries of a chunk: 8 MiB of a segment.
pub(crate) const CHUNK_ENTRIES: u32 = 128;
const CHUNK_BYTES: usize = CHUNK_ENTRIES as usize * ENTRY_BYTES;
const HEADER_BYTES: u64 = BLOCK as u64;
const MAGIC: &[u8; 8] = b"QUOINLYR";
/// By how many chunks the file grows at least: 192 KiB. It grows by half of what it has.
const GROW_CHUNKS_MIN: usize = 16;
/// The name of the file.
pub(crate) const NAME: &str = "layers";

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK));

/// The bit of an extent among those of its chunk.
pub(crate) fn bit(extent: ExtentIndex) -> u128 {
    1 << (extent.0 % CHUNK_ENTRIES)
}

/// The place of a chunk in the pool, counted in chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct PoolChunk(pub(crate) u32);

impl PoolChunk {
    /// Where an entry of the chunk is in the file.
    pub(crate) fn entry_offset(self, extent: ExtentIndex) -> u64 {
        self.byte_offset() + u64::from(extent.0 % CHUNK_ENTRIES) * ENTRY_BYTES as u64
    }

    fn byte_offset(self) -> u64 {
        HEADER_BYTES + u64::from(self.0) * CHUNK_BYTES as u64
    }
}

/// The file and which of its chunks are used.
pub(crate) struct Pool {
    map: Arc<dyn Map>,
    salt: Salt,
    used: Vec<bool>,
    /// No chunk before this one is free.
    free_hint: usize,
    dirty: bool,
}

impl Pool {
    /// The pool, with no chunk used as yet. An empty or missing file is a pool without chunks.
    pub(crate) fn open(dir: &dyn Dir, salt: Salt) -> Result<Self, Error> {
        let map = dir.open_map(NAME).map_err(Error::io(NAME))?;
        let mut found = [0; 16];
        if map.len() >= HEADER_BYTES {
            map.load(0, &mut found);
        }
        if &found[..8] == MAGIC {
            check_version(NAME, u32::from_le_bytes([found[8], found[9], found[10], found[11]]))?;
        }
        let count = map.len().saturating_sub(HEADER_BYTES) / CHUNK_BYTES as u64;
        Ok(Self { map, salt, used: vec![false; count as usize], free_hint: 0, dirty: false })
    }

    /// The file: stores of entries whose record is durable (E1) may come from any thread.
    pub(crate) fn file(&self) -> &Arc<dyn Map> {
        &self.map
    }

    /// The file, if it must be flushed; from now on it counts as flushed.
    pub(crate) fn take_dirty(&mut self) -> Option<Arc<dyn Map>> {
        std::mem::take(&mut self.dirty).then(|| self.map.clone())
    }

    /// Entries were stored to the file.
    pub(crate) fn set_dirty(&mut self) {
        self.dirty = true;
    }

    /// Marks a chunk that a checkpoint names. `false` if there is no such chunk, or it is used already.
    pub(crate) fn mark_used(&mut self, chunk: PoolChunk) -> bool {
        match self.used.get_mut(chunk.0 as usize) {
            Some(used) if !*used => {
                *used = true;
                true
            }
            _ => false,
        }
    }

    /// Takes a chunk for these extents of a layer and makes all its entries empty.
    pub(crate) fn take(&mut self, map: MapId, first: ExtentIndex) -> Result<PoolChunk, Error> {
        let free = self.used[self.free_hint..].iter().position(|used| !used);
        let index = match free {
            Some(ahead) => self.free_hint + ahead,
            None => self.grow()?,
        };
        let chunk = PoolChunk(index as u32);
        self.map
            .allocate(chunk.byte_offset(), CHUNK_BYTES as u64)
            .map_err(|error| no_space_or(error, "allocating a map of a layer"))?;
        self.map.store(chunk.byte_offset(), &empty_chunk(self.salt, map, first, CHUNK_ENTRIES));
        self.used[index] = true;
        self.free_hint = index + 1;
        self.dirty = true;
        Ok(chunk)
    }

    /// Makes room for more chunks and says which is the first.
    fn grow(&mut self) -> Result<usize, Error> {
        let first = self.used.len();
        let count = (first + GROW_CHUNKS_MIN.max(first / 2)) as u64;
        self.map.grow(HEADER_BYTES + count * CHUNK_BYTES as u64).map_err(Error::io(NAME))?;
        if first == 0 {
            self.map.allocate(0, HEADER_BYTES).map_err(|error| no_space_or(error, NAME))?;
            self.map.store(0, &header(self.salt));
        }
        self.used.resize(count as usize, false);
        Ok(first)
    }

    /// Gives a chunk back. The caller has seen to E2.
    pub(crate) fn release(&mut self, chunk: PoolChunk) {
        debug_assert!(self.used[chunk.0 as usize], "chunk {chunk:?} was free already");
        self.used[chunk.0 as usize] = false;
        self.free_hint = self.free_hint.min(chunk.0 as usize);
    }

    /// The stored entry; `None` if it is damaged.
    pub(crate) fn load(&self, chunk: PoolChunk, map: MapId, extent: ExtentIndex) -> Option<Cell> {
        load(&*self.map, self.salt, chunk, map, extent)
    }
}

/// The stored entry; `None` if it is damaged.
pub(crate) fn load(
    file: &dyn Map,
    salt: Salt,
    chunk: PoolChunk,
    map: MapId,
    extent: ExtentIndex,
) -> Option<Cell> {
    let mut bytes = [0; ENTRY_BYTES];
    file.load(chunk.entry_offset(extent), &mut bytes);
    Cell::decode(&bytes, salt, map, extent)
}

/// The entries of a chunk that are not empty, `None` for damaged ones, read from the file without mapping it.
pub(crate) fn read_chunk(
    file: &dyn File,
    salt: Salt,
    map: MapId,
    number: u32,
    place: PoolChunk,
) -> io::Result<Vec<(ExtentIndex, Option<Cell>)>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    file.read_at(&mut buffer, place.byte_offset())?;
    let extents = (number * CHUNK_ENTRIES..).map(ExtentIndex).zip(buffer.chunks_exact(ENTRY_BYTES));
    let cells = extents.map(|(extent, bytes)| (extent, Cell::decode(bytes, salt, map, extent)));
    Ok(cells.filter(|(_, cell)| *cell != Some(Cell::Empty)).collect())
}

/// Stores an entry whose record is durable (E1), in a chunk that was taken before.
pub(crate) fn store(file: &dyn Map, chunk: PoolChunk, extent: ExtentIndex, entry: &EntryBytes) {
    file.store(chunk.entry_offset(extent), entry);
}

/// A chunk whose entries are all empty, from this extent on. They are no zeros: a page that was lost is not taken for an
/// empty one.
pub(crate) fn empty_chunk(salt: Salt, map: MapId, first: ExtentIndex, entries: u32) -> Vec<u8> {
    let extents = (first.0..first.0 + entries).map(ExtentIndex);
    extents.flat_map(|extent| Cell::Empty.encode(salt, map, extent)).collect()
}

/// Magic, format version, checksum; the rest of the first block is zero.
fn header(salt: Salt) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    let checksum = salt.checksum(&[&bytes[..12]]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
