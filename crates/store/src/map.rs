//! The extent map of one replica: a memory-mapped array of entries.
//!
//! Entries are stored only when the record that explains them is durable (E1); the overlay holds them until then. A
//! store torn by a loss of power is mended by replay, which stores every entry after the last checkpoint again (E3).

use crate::Error;
use crate::format::entry::{Cell, ENTRY_BYTES, Entry, EntryBytes, MapId};
use crate::format::{BLOCK, FORMAT_VERSION, Salt, check_version};
use crate::pool::empty_chunk;
use quoin_disk::{Dir, File, Map};
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};
use std::io::ErrorKind;
use std::sync::Arc;

/// Entries of a chunk: what is given blocks, and skipped by scans, at once. 64 MiB of a segment.
pub(crate) const CHUNK_ENTRIES: u32 = 1024;
const CHUNK_BYTES: usize = CHUNK_ENTRIES as usize * ENTRY_BYTES;
/// How many chunks a scan asks for while it looks at as many others: 1.5 MiB.
const PREFETCH_CHUNKS: usize = 16;
const HEADER_BYTES: u64 = BLOCK as u64;
const MAGIC: &[u8; 8] = b"QUOINMAP";

const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK));

/// The name of a replica's map file.
pub(crate) fn file_name(replica: ReplicaId) -> String {
    format!("map.{replica}")
}

/// The file of a map: may be used by any thread.
#[derive(Clone)]
pub(crate) struct MapFile {
    map: Arc<dyn Map>,
    replica: ReplicaId,
    salt: Salt,
    extents: u32,
}

/// A map as its owner knows it.
pub(crate) struct ExtentMap {
    file: MapFile,
    /// Per chunk: was it ever given an entry. Others are not read, and may have no blocks in the file.
    chunks: Vec<u64>,
    /// Per chunk: no entry of it, stored or in the overlay, has a higher version.
    version_bounds: Vec<Version>,
    /// Something was stored since the last flush began.
    dirty: bool,
}

impl ExtentMap {
    /// A new map, replacing a file of that name if there is one.
    pub(crate) fn create(
        dir: &dyn Dir,
        salt: Salt,
        replica: ReplicaId,
        segment_bytes: u64,
    ) -> Result<Self, Error> {
        let name = file_name(replica);
        match dir.remove(&name) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io(name)(error)),
            _ => {}
        }
        let mut this = Self::prepare(dir, salt, replica, segment_bytes, Vec::new())?;
        this.allocate(0, HEADER_BYTES)?;
        this.file.map.store(0, &header(salt, replica, segment_bytes));
        this.dirty = true;
        Ok(this)
    }

    /// A map that is there, with the chunks that a checkpoint says are in use.
    pub(crate) fn open(
        dir: &dyn Dir,
        salt: Salt,
        replica: ReplicaId,
        segment_bytes: u64,
        chunks: Vec<u64>,
    ) -> Result<Self, Error> {
        let mut this = Self::prepare(dir, salt, replica, segment_bytes, chunks)?;
        let expected = header(salt, replica, segment_bytes);
        let mut found = [0; 40];
        this.file.map.load(0, &mut found);
        if &found[..8] == MAGIC {
            check_version(
                &file_name(replica),
                u32::from_le_bytes([found[8], found[9], found[10], found[11]]),
            )?;
        }
        if found != expected {
            // Every entry says itself whether it is right: what a header adds is the version.
            tracing::error!(%replica, "the header of an extent map is damaged; it is written anew");
            this.allocate(0, HEADER_BYTES)?;
            this.file.map.store(0, &expected);
            this.dirty = true;
        }
        Ok(this)
    }

    fn prepare(
        dir: &dyn Dir,
        salt: Salt,
        replica: ReplicaId,
        segment_bytes: u64,
        mut chunks: Vec<u64>,
    ) -> Result<Self, Error> {
        let extents = segment_bytes.div_ceil(EXTENT_BYTES) as u32;
        let chunk_count = extents.div_ceil(CHUNK_ENTRIES) as usize;
        let name = file_name(replica);
        let map = dir.open_map(&name).map_err(Error::io(&*name))?;
        map.grow(HEADER_BYTES + (chunk_count * CHUNK_BYTES) as u64).map_err(Error::io(&*name))?;
        chunks.resize(chunk_count.div_ceil(64), 0);
        let version_bounds = vec![Seq::ZERO; chunk_count];
        let file = MapFile { map, replica, salt, extents };
        Ok(Self { file, chunks, version_bounds, dirty: false })
    }

    pub(crate) fn extents(&self) -> u32 {
        self.file.extents
    }

    pub(crate) fn file(&self) -> &MapFile {
        &self.file
    }

    pub(crate) fn chunks(&self) -> &[u64] {
        &self.chunks
    }

    /// The file, if it must be flushed; from now on it counts as flushed.
    pub(crate) fn take_dirty(&mut self) -> Option<Arc<dyn Map>> {
        std::mem::take(&mut self.dirty).then(|| self.file.map.clone())
    }

    fn allocate(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.file.map.allocate(offset, length).map_err(|error| no_space_or(error, "allocating an extent map"))
    }

    fn chunk_in_use(&self, chunk: u32) -> bool {
        self.chunks[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1
    }

    /// Sees to it that storing the entries of these extents cannot fail for lack of space. Entries of chunks that are new
    /// become empty, and are no zeros: a page that was lost is not taken for extents that were never touched.
    pub(crate) fn prepare_store(&mut self, first: ExtentIndex, count: u32) -> Result<(), Error> {
        for chunk in first.0 / CHUNK_ENTRIES..(first.0 + count).div_ceil(CHUNK_ENTRIES) {
            if !self.chunk_in_use(chunk) {
                let (offset, first) = (chunk_offset(chunk), ExtentIndex(chunk * CHUNK_ENTRIES));
                self.allocate(offset, CHUNK_BYTES as u64)?;
                let id = MapId::live(self.file.replica);
                self.file.map.store(offset, &empty_chunk(self.file.salt, id, first, CHUNK_ENTRIES));
                self.chunks[(chunk / 64) as usize] |= 1 << (chunk % 64);
                self.dirty = true;
            }
        }
        Ok(())
    }

    /// Notes that these extents have, or will have, this version.
    pub(crate) fn raise_bound(&mut self, first: ExtentIndex, count: u32, version: Version) {
        for chunk in first.0 / CHUNK_ENTRIES..(first.0 + count).div_ceil(CHUNK_ENTRIES) {
            let bound = &mut self.version_bounds[chunk as usize];
            *bound = (*bound).max(version);
        }
    }

    /// Entries were stored to the file.
    pub(crate) fn set_dirty(&mut self) {
        self.dirty = true;
    }

    /// The stored entry; an error if it is damaged.
    pub(crate) fn load(&self, extent: ExtentIndex) -> Result<Entry, Error> {
        if !self.chunk_in_use(extent.0 / CHUNK_ENTRIES) {
            return Ok(Entry::UNTOUCHED);
        }
        self.file.load(extent).ok_or_else(|| self.damaged(extent))
    }

    /// The error for a damaged entry, by name.
    pub(crate) fn damaged(&self, extent: ExtentIndex) -> Error {
        Error::corrupt(
            format!("the map entry of extent {extent} of replica {}", self.file.replica),
            "its checksum is wrong",
        )
    }

    /// Visits all stored entries of touched extents from `from` on, in order, in chunks that may hold a version above
    /// `since`. A damaged entry comes as `None`. The visitor says whether to go on.
    pub(crate) fn scan(
        &self,
        from: ExtentIndex,
        since: Option<Version>,
        visit: impl FnMut(ExtentIndex, Option<Entry>) -> bool,
    ) {
        self.file.scan(self.chunks_to_scan(from, since), from, visit);
    }

    /// Whether an extent of its chunk may have a version above `since`, for all that this map says.
    pub(crate) fn may_exceed(&self, extent: ExtentIndex, since: Version) -> bool {
        let chunk = extent.0 / CHUNK_ENTRIES;
        self.chunk_in_use(chunk) && self.version_bounds[chunk as usize] > since
    }

    /// The chunks that may hold entries.
    pub(crate) fn chunks_in_use(&self) -> Vec<u32> {
        self.chunks_to_scan(ExtentIndex(0), None).collect()
    }

    /// The chunks that hold extents from `from` on and may hold versions above `since`, all in use ones for `None`.
    fn chunks_to_scan(&self, from: ExtentIndex, since: Option<Version>) -> impl Iterator<Item = u32> {
        (from.0 / CHUNK_ENTRIES..self.version_bounds.len() as u32).filter(move |chunk| {
            self.chunk_in_use(*chunk)
                && since.is_none_or(|since| self.version_bounds[*chunk as usize] > since)
        })
    }
}

impl MapFile {
    /// Stores an entry whose record is durable (E1), in a chunk that was prepared before.
    pub(crate) fn store(&self, extent: ExtentIndex, entry: &EntryBytes) {
        self.map.store(Self::offset(extent), entry);
    }

    /// Stores the entries of extents zeroed as a whole, and says how many.
    pub(crate) fn store_zeroed(&self, first: ExtentIndex, count: u32, version: Version) -> u64 {
        for extent in (first.0..first.0 + count).map(ExtentIndex) {
            let cell = Cell::Entry(Entry::zeroed(version));
            self.store(extent, &cell.encode(self.salt, MapId::live(self.replica), extent));
        }
        u64::from(count)
    }

    /// The stored entry; `None` if it is damaged.
    fn load(&self, extent: ExtentIndex) -> Option<Entry> {
        let mut bytes = [0; ENTRY_BYTES];
        self.map.load(Self::offset(extent), &mut bytes);
        decode(&bytes, self.salt, self.replica, extent)
    }

    /// As [`ExtentMap::scan`], in these chunks.
    pub(crate) fn scan(
        &self,
        chunks: impl IntoIterator<Item = u32>,
        from: ExtentIndex,
        mut visit: impl FnMut(ExtentIndex, Option<Entry>) -> bool,
    ) {
        let mut buffer = vec![0; CHUNK_BYTES];
        let chunks: Vec<u32> = chunks.into_iter().collect();
        let mut ahead = chunks.iter();
        for (index, chunk) in chunks.iter().copied().enumerate() {
            if index.is_multiple_of(PREFETCH_CHUNKS) {
                let window = if index == 0 { 2 * PREFETCH_CHUNKS } else { PREFETCH_CHUNKS };
                ahead.by_ref().take(window).for_each(|chunk| {
                    self.map.prefetch(chunk_offset(*chunk), CHUNK_BYTES as u64);
                });
            }
            self.map.load(chunk_offset(chunk), &mut buffer);
            for (extent, bytes) in (chunk * CHUNK_ENTRIES..self.extents).zip(buffer.chunks_exact(ENTRY_BYTES))
            {
                let extent = ExtentIndex(extent);
                if extent < from {
                    continue;
                }
                let entry = decode(bytes, self.salt, self.replica, extent);
                if entry != Some(Entry::UNTOUCHED) && !visit(extent, entry) {
                    return;
                }
            }
        }
    }

    fn offset(extent: ExtentIndex) -> u64 {
        HEADER_BYTES + u64::from(extent.0) * ENTRY_BYTES as u64
    }
}

fn chunk_offset(chunk: u32) -> u64 {
    HEADER_BYTES + u64::from(chunk) * CHUNK_BYTES as u64
}

/// Reads an entry of a live map; `None` if it is damaged.
fn decode(bytes: &[u8], salt: Salt, replica: ReplicaId, extent: ExtentIndex) -> Option<Entry> {
    match Cell::decode(bytes, salt, MapId::live(replica), extent)? {
        Cell::Empty => Some(Entry::UNTOUCHED),
        Cell::Entry(entry) => Some(entry),
        Cell::AsBase | Cell::Lost => None,
    }
}

/// The entries of one chunk of a map file, read without mapping it; `None` for damaged ones. Nothing of the file changes.
pub(crate) fn read_chunk(
    file: &dyn File,
    salt: Salt,
    replica: ReplicaId,
    chunk: u32,
) -> std::io::Result<Vec<(ExtentIndex, Option<Cell>)>> {
    let mut buffer = vec![0; CHUNK_BYTES];
    file.read_at(&mut buffer, chunk_offset(chunk))?;
    let entries = (chunk * CHUNK_ENTRIES..).map(ExtentIndex).zip(buffer.chunks_exact(ENTRY_BYTES));
    let decode = |(extent, bytes): (ExtentIndex, &[u8])| {
        (extent, Cell::decode(bytes, salt, MapId::live(replica), extent))
    };
    Ok(entries.map(decode).filter(|(_, cell)| *cell != Some(Cell::Empty)).collect())
}

/// A lack of space, or another failure.
pub(crate) fn no_space_or(error: std::io::Error, context: &str) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::io(context)(error),
    }
}

/// Magic, format version, checksum, replica, bytes of the segment; the rest of the first block is zero.
pub(crate) fn header(salt: Salt, replica: ReplicaId, segment_bytes: u64) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&replica.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&segment_bytes.to_le_bytes());
    let checksum = salt.checksum(&[&bytes[..12], &bytes[16..]]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
