//! A replica as the next start would find it: what the checkpoint says, and what the journal's records make of that. Read
//! without changing a byte of the disk.

use crate::format::Salt;
use crate::format::checkpoint::{LayerState, ReplicaState};
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::format::record::{Body, Record};
use crate::slots::Slot;
use crate::{Error, map, pool};
use quoin_disk::{Dir, File, OpenMode};
use quoin_types::{ExtentIndex, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The replica.
pub(crate) struct Found {
    pub(crate) state: ReplicaState,
    /// Created after the checkpoint: its map file says nothing.
    is_new: bool,
    /// Entries that the journal changes.
    changes: BTreeMap<(Layer, ExtentIndex), Cell>,
}

/// All replicas of a disk.
#[derive(Default)]
pub(crate) struct FoundReplicas {
    pub(crate) replicas: BTreeMap<ReplicaId, Found>,
    /// The blocks of slots that are not there yet, for the journal brings them or has them copied.
    elsewhere: BTreeMap<Slot, u16>,
}

impl FoundReplicas {
    /// Those of the checkpoint.
    pub(crate) fn of(states: &[ReplicaState]) -> Self {
        let found =
            |state: &ReplicaState| Found { state: state.clone(), is_new: false, changes: BTreeMap::new() };
        let replicas = states.iter().map(|state| (state.id, found(state))).collect();
        Self { replicas, elsewhere: BTreeMap::new() }
    }

    /// What a record makes of them.
    pub(crate) fn replay(&mut self, record: &Record) -> Result<(), Error> {
        let id = record.replica;
        if let Body::Create { segment_bytes, base, .. } = record.body {
            let state = ReplicaState { id, segment_bytes, base, ..ReplicaState::default() };
            self.replicas.insert(id, Found { state, is_new: true, changes: BTreeMap::new() });
        }
        let Some(found) = self.replicas.get_mut(&id) else {
            return Err(Error::corrupt(
                "the journal",
                format!("record {} does not fit its replica", record.lsn),
            ));
        };
        if let Some(position) = record.position {
            found.state.position = position;
        }
        found.replay(&record.body);
        for change in record.body.changes() {
            if let Some(slot) = change.cell.slot() {
                let copied = change.copy().map_or(0, |copy| copy.mask);
                *self.elsewhere.entry(slot).or_default() |= change.data_mask | copied;
            }
        }
        Ok(())
    }

    /// The blocks of a slot that are not to be looked for there.
    pub(crate) fn elsewhere(&self, slot: Slot) -> u16 {
        self.elsewhere.get(&slot).copied().unwrap_or(0)
    }

    /// Leaves out the replicas that were dropped and are nobody's base.
    pub(crate) fn forget_dropped(&mut self) {
        let mut needed = BTreeSet::new();
        for found in self.replicas.values().filter(|found| !found.state.dropped) {
            let mut next = Some(found);
            while let Some(found) = next.filter(|found| needed.insert(found.state.id)) {
                next = found.state.base.and_then(|base| self.replicas.get(&base.replica));
            }
        }
        self.replicas.retain(|id, _| needed.contains(id));
    }
}

impl Found {
    fn replay(&mut self, body: &Body) {
        let changed = body.changes().iter().map(|change| ((change.layer, change.extent), change.cell));
        self.changes.extend(changed);
        match body {
            Body::Zero { first, count, version, keep_in } => {
                for extent in (first.0..first.0 + count).map(ExtentIndex) {
                    self.changes.insert((Layer::LIVE, extent), Cell::Entry(Entry::zeroed(*version)));
                    keep_in.map(|layer| self.changes.insert((layer, extent), Cell::AsBase));
                }
            }
            Body::Drop => self.state.dropped = true,
            Body::Snapshot { layer, snapshot } => {
                let (layer, snapshot, seq) = (*layer, *snapshot, self.state.position);
                self.state.layers.push(LayerState { layer, snapshot, seq, ..LayerState::default() });
            }
            Body::Delete { layer } => {
                self.layer_mut(*layer).into_iter().for_each(|state| state.deleted = true);
            }
            Body::Fold { layer, through: Some(through), .. } => {
                let folded = ExtentIndex(through.0 + 1);
                self.changes.retain(|(of, extent), _| of != layer || *extent >= folded);
                self.layer_mut(*layer).into_iter().for_each(|state| state.folded = folded);
            }
            Body::Fold { layer, through: None, .. } => {
                self.changes.retain(|(of, _), _| of != layer);
                self.state.layers.retain(|state| state.layer != *layer);
            }
            Body::Create { .. } | Body::Meta(_) | Body::Extents { .. } => {}
        }
    }

    fn layer_mut(&mut self, layer: Layer) -> Option<&mut LayerState> {
        self.state.layers.iter_mut().find(|state| state.layer == layer)
    }

    /// Its entries, in order of layers and extents, but for empty ones; `None` for damaged ones.
    pub(crate) fn entries(
        &self,
        dir: &Arc<dyn Dir>,
        salt: Salt,
    ) -> Result<BTreeMap<(Layer, ExtentIndex), Option<Cell>>, Error> {
        let mut entries = BTreeMap::new();
        let mut add = |layer, cells: Vec<(ExtentIndex, Option<Cell>)>| {
            entries.extend(cells.into_iter().map(|(extent, cell)| ((layer, extent), cell)));
        };
        let id = self.state.id;
        if !self.is_new {
            let name = map::file_name(id);
            let file = dir.open(&name, OpenMode::Existing).map_err(Error::io(&*name))?;
            let mut header = [0; 40];
            file.read_at(&mut header, 0).map_err(Error::io(&*name))?;
            if header != map::header(salt, id, self.state.segment_bytes) {
                return Err(Error::corrupt(name, "its header is wrong"));
            }
            let chunks = (0..self.state.chunks.len() as u32 * 64)
                .filter(|chunk| self.state.chunks[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1);
            for chunk in chunks {
                add(Layer::LIVE, map::read_chunk(&*file, salt, id, chunk).map_err(Error::io(&*name))?);
            }
        }
        if self.state.layers.iter().any(|state| !state.chunks.is_empty()) {
            let file = dir.open(pool::NAME, OpenMode::Existing).map_err(Error::io(pool::NAME))?;
            for state in &self.state.layers {
                add(state.layer, self.layer_cells(&*file, salt, state)?);
            }
        }
        entries.extend(self.changes.iter().map(|(place, cell)| (*place, Some(*cell))));
        Ok(entries)
    }

    fn layer_cells(
        &self,
        file: &dyn File,
        salt: Salt,
        state: &LayerState,
    ) -> Result<Vec<(ExtentIndex, Option<Cell>)>, Error> {
        let map = MapId { replica: self.state.id, layer: state.layer };
        let mut cells = Vec::new();
        for (number, place) in &state.chunks {
            let read = pool::read_chunk(file, salt, map, *number, *place).map_err(Error::io(pool::NAME))?;
            cells.extend(read.into_iter().filter(|(extent, _)| *extent >= state.folded));
        }
        Ok(cells)
    }
}
