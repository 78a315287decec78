//! A replica as the next start would find it: what the checkpoint says, and what the journal's records make of that. Read
//! without changing a byte of the disk.

use crate::checkpoint::needed;
use crate::format::checkpoint::{LayerState, ReplicaState};
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::format::record::{Body, Record};
use crate::offline::Offline;
use crate::possible::{LAYER_MAX, is_segment};
use crate::slots::Slot;
use crate::{Error, map, pool};
use quoin_disk::File;
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};

/// The replica.
pub(crate) struct Found {
    pub(crate) state: ReplicaState,
    /// Created after the checkpoint: its map file says nothing.
    pub(crate) is_new: bool,
    /// Entries that the journal changes.
    changes: BTreeMap<(Layer, ExtentIndex), Cell>,
}

/// A piece of a map, which is looked at as one: a chunk of the live map or of a layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Piece {
    pub(crate) layer: Layer,
    number: u32,
}

impl Piece {
    fn of(layer: Layer, extent: ExtentIndex) -> Self {
        Self { layer, number: extent.0 / Self::entries(layer) }
    }

    fn entries(layer: Layer) -> u32 {
        if layer == Layer::LIVE { map::CHUNK_ENTRIES } else { pool::CHUNK_ENTRIES }
    }

    fn first(self) -> ExtentIndex {
        ExtentIndex(self.number * Self::entries(self.layer))
    }

    fn end(self) -> ExtentIndex {
        ExtentIndex(self.first().0.saturating_add(Self::entries(self.layer)))
    }
}

/// All replicas of a disk.
pub(crate) struct FoundReplicas {
    pub(crate) replicas: BTreeMap<ReplicaId, Found>,
    /// The blocks of slots that are not there yet, for the journal brings them or has them copied.
    elsewhere: BTreeMap<Slot, u16>,
    /// How many slots the disk has.
    slots: u64,
}

impl FoundReplicas {
    /// Those of the checkpoint, on a disk of so many slots.
    pub(crate) fn of(states: &[ReplicaState], slots: u64) -> Self {
        let found =
            |state: &ReplicaState| Found { state: state.clone(), is_new: false, changes: BTreeMap::new() };
        let replicas = states.iter().map(|state| (state.id, found(state))).collect();
        Self { replicas, elsewhere: BTreeMap::new(), slots }
    }

    /// What a record makes of them; `None` if it does not fit them.
    pub(crate) fn replay(&mut self, record: &Record) -> Option<()> {
        let id = record.replica;
        if let Body::Create { segment_bytes, base, .. } = record.body {
            let is_taken = self.replicas.contains_key(&id);
            if is_taken || !is_segment(segment_bytes) || base.is_some_and(|base| !self.has_layer(base)) {
                return None;
            }
            let state = ReplicaState { id, segment_bytes, base, ..ReplicaState::default() };
            self.replicas.insert(id, Found { state, is_new: true, changes: BTreeMap::new() });
        }
        let found = self.replicas.get_mut(&id)?;
        if let Some(position) = record.position {
            found.state.position = position;
        }
        found.replay(&record.body)?;
        for change in record.body.changes() {
            if change.cell.slot().into_iter().chain(change.copy_from).any(|slot| slot.0 >= self.slots) {
                return None;
            }
            if let Some(slot) = change.cell.slot() {
                let copied = change.copy().map_or(0, |copy| copy.mask);
                *self.elsewhere.entry(slot).or_default() |= change.data_mask | copied;
            }
        }
        Some(())
    }

    fn has_layer(&self, map: MapId) -> bool {
        self.replicas.get(&map.replica).is_some_and(|found| found.has_layer(map.layer))
    }

    /// The blocks of a slot that are not to be looked for there.
    pub(crate) fn elsewhere(&self, slot: Slot) -> u16 {
        self.elsewhere.get(&slot).copied().unwrap_or(0)
    }

    /// Leaves out the replicas that were dropped and are nobody's base.
    pub(crate) fn forget_dropped(&mut self) {
        let there = self.replicas.values().filter(|found| !found.state.dropped).map(|found| found.state.id);
        let needed = needed(there, |id| self.replicas.get(&id)?.state.base);
        self.replicas.retain(|id, _| needed.contains(id));
    }
}

impl Found {
    fn extents(&self) -> u32 {
        self.state.segment_bytes.div_ceil(EXTENT_BYTES) as u32
    }

    fn replay(&mut self, body: &Body) -> Option<()> {
        let extents = self.extents();
        for change in body.changes() {
            if change.extent.0 >= extents || !self.has_layer(change.layer) {
                return None;
            }
            self.changes.insert((change.layer, change.extent), change.cell);
        }
        match body {
            Body::Zero { first, count, version, keep_in } => {
                let end = first.0.checked_add(*count).filter(|end| *end <= extents)?;
                keep_in.is_none_or(|layer| self.has_layer(layer)).then_some(())?;
                for extent in (first.0..end).map(ExtentIndex) {
                    self.changes.insert((Layer::LIVE, extent), Cell::Entry(Entry::zeroed(*version)));
                    keep_in.map(|layer| self.changes.insert((layer, extent), Cell::AsBase));
                }
            }
            Body::Drop => self.state.dropped = true,
            Body::Snapshot { layer, snapshot } => {
                let (layer, snapshot, seq) = (*layer, *snapshot, self.state.position);
                let is_next = layer > self.state.last_layer && layer <= LAYER_MAX;
                (is_next && self.state.layers.len() < SNAPSHOTS_MAX).then_some(())?;
                self.state.last_layer = layer;
                self.state.layers.push(LayerState { layer, snapshot, seq, ..LayerState::default() });
            }
            Body::Delete { layer } => self.layer_mut(*layer)?.deleted = true,
            Body::Fold { layer, through: Some(through), .. } => {
                let folded = ExtentIndex(through.0 + 1);
                self.changes.retain(|(of, extent), _| of != layer || *extent >= folded);
                self.layer_mut(*layer)?.folded = folded;
            }
            Body::Fold { layer, through: None, .. } => {
                self.layer_mut(*layer)?;
                self.changes.retain(|(of, _), _| of != layer);
                self.state.layers.retain(|state| state.layer != *layer);
            }
            Body::Create { .. } | Body::Meta(_) | Body::Extents { .. } => {}
        }
        Some(())
    }

    fn has_layer(&self, layer: Layer) -> bool {
        layer == Layer::LIVE || self.state.layers.iter().any(|state| state.layer == layer)
    }

    fn layer_mut(&mut self, layer: Layer) -> Option<&mut LayerState> {
        self.state.layers.iter_mut().find(|state| state.layer == layer)
    }

    /// The snapshot that a layer keeps things for; `None` for what the replica is now.
    pub(crate) fn snapshot_of(&self, layer: Layer) -> Option<SnapshotId> {
        self.state.layers.iter().find(|state| state.layer == layer).map(|state| state.snapshot)
    }

    /// Whether the live map may have entries in this chunk.
    fn has_stored(&self, chunk: u32) -> bool {
        self.state.chunks.get((chunk / 64) as usize).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// The pieces of maps that have entries, stored or in the journal.
    pub(crate) fn pieces(&self) -> BTreeSet<Piece> {
        let chunks = self.extents().div_ceil(map::CHUNK_ENTRIES);
        let live = (0..chunks).filter(|chunk| self.has_stored(*chunk));
        let live = live.map(|number| Piece { layer: Layer::LIVE, number });
        let of_layer = |state: &LayerState| {
            let layer = state.layer;
            state.chunks.iter().map(move |(number, _)| Piece { layer, number: *number }).collect::<Vec<_>>()
        };
        let changed = self.changes.keys().map(|(layer, extent)| Piece::of(*layer, *extent));
        live.chain(self.state.layers.iter().flat_map(of_layer)).chain(changed).collect()
    }

    /// The entries of a piece, in order, but for empty ones; `None` for damaged ones. `live` is the file of the live map.
    pub(crate) fn cells(
        &self,
        disk: &Offline,
        live: Option<&dyn File>,
        piece: Piece,
    ) -> Result<BTreeMap<ExtentIndex, Option<Cell>>, Error> {
        let mut cells = BTreeMap::new();
        let id = MapId { replica: self.state.id, layer: piece.layer };
        if piece.layer != Layer::LIVE {
            cells.extend(self.layer_cells(disk, id, piece)?);
        } else if let Some(file) = live.filter(|_| self.has_stored(piece.number)) {
            let read = map::read_chunk(file, disk.salt, id.replica, piece.number);
            cells.extend(read.map_err(Error::io(map::file_name(id.replica)))?);
        }
        let changed = self.changes.range((piece.layer, piece.first())..(piece.layer, piece.end()));
        cells.extend(changed.map(|((_, extent), cell)| (*extent, Some(*cell))));
        Ok(cells)
    }

    fn layer_cells(
        &self,
        disk: &Offline,
        id: MapId,
        piece: Piece,
    ) -> Result<Vec<(ExtentIndex, Option<Cell>)>, Error> {
        let state = self.state.layers.iter().find(|state| state.layer == piece.layer);
        let place = state.and_then(|state| state.chunks.iter().find(|(number, _)| *number == piece.number));
        let (Some(state), Some((number, place))) = (state, place) else { return Ok(Vec::new()) };
        let read = pool::read_chunk(&*disk.layers_file()?, disk.salt, id, *number, *place);
        let read = read.map_err(Error::io(pool::NAME))?;
        Ok(read.into_iter().filter(|(extent, _)| *extent >= state.folded).collect())
    }
}
