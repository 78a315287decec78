//! The layers of one replica: what its extents were at a snapshot, kept when they were first changed after it.
//!
//! A snapshot sees, for each extent, what its own layer keeps, else what the next newer layer keeps, and so on, at last what
//! the replica is now. So making one changes nothing, and reading the replica as it is costs the same whatever the number of
//! its snapshots. (docs/decisions/2026-11-21-layers-keep-what-was.md)

use crate::format::Salt;
use crate::format::checkpoint::LayerState;
use crate::format::entry::{Cell, Layer, MapId};
use crate::pool::{self, CHUNK_ENTRIES, Pool, PoolChunk, bit};
use crate::{Error, Lsn};
use quoin_disk::Map;
use quoin_types::collections::HashMap;
use quoin_types::{ExtentIndex, Seq, SnapshotId};
use std::collections::BTreeMap;

/// A layer as its replica knows it: what changes by records alone.
#[derive(Clone, Debug)]
pub(crate) struct LayerInfo {
    pub(crate) layer: Layer,
    pub(crate) snapshot: SnapshotId,
    /// The replica's position when it was made.
    pub(crate) seq: Seq,
    /// It is no snapshot any more.
    pub(crate) deleted: bool,
    /// The extents before this one were given up by a fold.
    pub(crate) folded: ExtentIndex,
}

impl LayerInfo {
    /// As a checkpoint says it.
    pub(crate) fn state(&self, map: Option<&LayerMap>) -> LayerState {
        let LayerInfo { layer, snapshot, seq, deleted, folded } = self.clone();
        LayerState {
            layer,
            snapshot,
            seq,
            deleted,
            folded,
            chunks: map.map(LayerMap::places).unwrap_or_default(),
        }
    }

    /// From a checkpoint.
    pub(crate) fn of(state: &LayerState) -> Self {
        let LayerState { layer, snapshot, seq, deleted, folded, .. } = *state;
        Self { layer, snapshot, seq, deleted, folded }
    }
}

/// The entries of a layer.
pub(crate) struct LayerMap {
    id: MapId,
    chunks: BTreeMap<u32, Chunk>,
    /// E1: entries that are not in the pool yet, and their records.
    overlay: HashMap<ExtentIndex, (Lsn, Cell)>,
    /// How many replicas have this layer as their base.
    pub(crate) clones: u32,
}

#[derive(Clone, Copy)]
struct Chunk {
    place: PoolChunk,
    /// Which of its entries, stored or in the overlay, are not empty.
    present: u128,
}

/// A chunk of a layer, to be read on any thread, once its entries are in the pool.
pub(crate) struct LayerChunk {
    map: MapId,
    number: u32,
    chunk: Chunk,
}

impl LayerChunk {
    /// The entries that are not empty, `None` for damaged ones.
    pub(crate) fn cells(
        &self,
        pool: &dyn Map,
        salt: Salt,
    ) -> impl Iterator<Item = (ExtentIndex, Option<Cell>)> {
        let LayerChunk { map, number, chunk } = *self;
        chunk.extents(number).map(move |extent| (extent, pool::load(pool, salt, chunk.place, map, extent)))
    }
}

impl Chunk {
    fn extents(self, number: u32) -> impl Iterator<Item = ExtentIndex> {
        let present = (0..CHUNK_ENTRIES).filter(move |index| self.present >> index & 1 == 1);
        present.map(move |index| ExtentIndex(number * CHUNK_ENTRIES + index))
    }
}

impl LayerMap {
    pub(crate) fn new(id: MapId) -> Self {
        Self { id, chunks: BTreeMap::new(), overlay: HashMap::default(), clones: 0 }
    }

    /// With the chunks that a checkpoint names; [`LayerMap::find_present`] must follow when all records are applied.
    pub(crate) fn open(id: MapId, chunks: &[(u32, PoolChunk)], pool: &mut Pool) -> Result<Self, Error> {
        let mut this = Self::new(id);
        for (chunk, place) in chunks {
            if !pool.mark_used(*place) {
                return Err(Error::corrupt(
                    this.name(),
                    format!("its chunk {} is another layer's, or does not exist", place.0),
                ));
            }
            this.chunks.insert(*chunk, Chunk { place: *place, present: 0 });
        }
        Ok(this)
    }

    fn name(&self) -> String {
        format!("the map of layer {} of replica {}", self.id.layer.0, self.id.replica)
    }

    /// Recovery: looks at all entries from `from` on, and visits those that are not empty, `None` for damaged ones.
    pub(crate) fn find_present(
        &mut self,
        pool: &Pool,
        from: ExtentIndex,
        mut visit: impl FnMut(ExtentIndex, Option<Cell>),
    ) {
        for (number, chunk) in &mut self.chunks {
            for extent in (number * CHUNK_ENTRIES..(number + 1) * CHUNK_ENTRIES).map(ExtentIndex) {
                let cell = pool.load(chunk.place, self.id, extent);
                if extent >= from && cell != Some(Cell::Empty) {
                    chunk.present |= bit(extent);
                    visit(extent, cell);
                }
            }
        }
    }

    /// Its chunks, as a checkpoint names them.
    fn places(&self) -> Vec<(u32, PoolChunk)> {
        self.chunks.iter().map(|(number, chunk)| (*number, chunk.place)).collect()
    }

    /// Its chunks, given up.
    pub(crate) fn into_chunks(self) -> impl Iterator<Item = PoolChunk> {
        self.chunks.into_values().map(|chunk| chunk.place)
    }

    /// Where the extent's entry is in the pool, if its chunk is there.
    pub(crate) fn place_of(&self, extent: ExtentIndex) -> Option<PoolChunk> {
        self.chunks.get(&(extent.0 / CHUNK_ENTRIES)).map(|chunk| chunk.place)
    }

    /// Whether it keeps the extent.
    pub(crate) fn holds(&self, extent: ExtentIndex) -> bool {
        self.chunks.get(&(extent.0 / CHUNK_ENTRIES)).is_some_and(|chunk| chunk.present & bit(extent) != 0)
    }

    /// How many extents it keeps.
    pub(crate) fn count(&self) -> u64 {
        self.chunks.values().map(|chunk| u64::from(chunk.present.count_ones())).sum()
    }

    /// What it keeps of the extent; `None` if that is damaged.
    pub(crate) fn get(&self, pool: &Pool, extent: ExtentIndex) -> Option<Cell> {
        match self.chunks.get(&(extent.0 / CHUNK_ENTRIES)) {
            Some(chunk) if chunk.present & bit(extent) != 0 => match self.overlay.get(&extent) {
                Some((_, cell)) => Some(*cell),
                None => pool.load(chunk.place, self.id, extent),
            },
            _ => Some(Cell::Empty),
        }
    }

    /// As [`LayerMap::get`], with an error that says what is damaged.
    pub(crate) fn load(&self, pool: &Pool, extent: ExtentIndex) -> Result<Cell, Error> {
        match self.get(pool, extent) {
            Some(Cell::Lost) | None => Err(Error::corrupt(
                format!("the entry of extent {extent} in {}", self.name()),
                "its checksum is wrong",
            )),
            Some(cell) => Ok(cell),
        }
    }

    /// Whether an entry is not in the pool yet.
    pub(crate) fn is_pending(&self, extent: ExtentIndex) -> bool {
        self.overlay.contains_key(&extent)
    }

    /// Sees to it that storing the extent's entry cannot fail for lack of space.
    pub(crate) fn prepare_store(&mut self, pool: &mut Pool, extent: ExtentIndex) -> Result<(), Error> {
        let number = extent.0 / CHUNK_ENTRIES;
        if !self.chunks.contains_key(&number) {
            let place = pool.take(self.id, ExtentIndex(number * CHUNK_ENTRIES))?;
            self.chunks.insert(number, Chunk { place, present: 0 });
        }
        Ok(())
    }

    /// It keeps this from now on; its place was prepared.
    pub(crate) fn put(&mut self, lsn: Lsn, extent: ExtentIndex, cell: Cell) {
        if let Some(chunk) = self.chunks.get_mut(&(extent.0 / CHUNK_ENTRIES)) {
            chunk.present |= bit(extent);
            self.overlay.insert(extent, (lsn, cell));
        }
    }

    /// Everything up to `lsn` is in the pool now.
    pub(crate) fn applied(&mut self, lsn: Lsn, extent: ExtentIndex) {
        if self.overlay.get(&extent).is_some_and(|(since, _)| *since <= lsn) {
            self.overlay.remove(&extent);
        }
    }

    /// A fold has given up the extents up to this one, or all.
    pub(crate) fn forget(&mut self, through: Option<ExtentIndex>) {
        let end = through.map_or(u32::MAX, |extent| extent.0 / CHUNK_ENTRIES + 1);
        self.chunks.range_mut(..end).for_each(|(_, chunk)| chunk.present = 0);
    }

    /// The chunks that keep something, from this one on.
    pub(crate) fn chunks_from(&self, first: u32) -> impl Iterator<Item = u32> {
        self.chunks.range(first..).filter(|(_, chunk)| chunk.present != 0).map(|(number, _)| *number)
    }

    /// Whether the chunk of this extent keeps anything.
    pub(crate) fn touches_chunk_of(&self, extent: ExtentIndex) -> bool {
        self.chunks.get(&(extent.0 / CHUNK_ENTRIES)).is_some_and(|chunk| chunk.present != 0)
    }

    /// The extents of a chunk that it keeps.
    pub(crate) fn extents_of(&self, number: u32) -> Vec<ExtentIndex> {
        self.chunks.get(&number).into_iter().flat_map(|chunk| chunk.extents(number)).collect()
    }

    /// Its chunks that keep something.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = LayerChunk> {
        let present = self.chunks.iter().filter(|(_, chunk)| chunk.present != 0);
        present.map(|(number, chunk)| LayerChunk { map: self.id, number: *number, chunk: *chunk })
    }
}
