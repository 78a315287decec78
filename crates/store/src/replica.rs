//! One replica on the disk: its state as appended, its state as applied, its map, its overlay and its layers.

use crate::format::checkpoint::ReplicaState;
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::format::record::{Body, Record};
use crate::layer::{LayerInfo, LayerMap};
use crate::layer_index::LayerIndex;
use crate::map::ExtentMap;
use crate::overlay::Overlay;
use crate::pool::{Pool, PoolChunk};
use crate::possible::LAYER_MAX;
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{ExtentIndex, ReplicaId, Seq, Version};
use std::collections::BTreeMap;

/// What records make of a replica, its extents apart.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) meta: Bytes,
    pub(crate) position: Seq,
    /// From the oldest to the newest.
    pub(crate) layers: Vec<LayerInfo>,
    /// The number of the layer made last.
    pub(crate) last_layer: Layer,
    pub(crate) dropped: bool,
}

impl State {
    fn change(&mut self, record: &Record) {
        if let Some(position) = record.position {
            self.position = position;
        }
        match &record.body {
            Body::Meta(meta) | Body::Create { meta, .. } => self.meta = meta.clone(),
            Body::Drop => self.dropped = true,
            Body::Snapshot { layer, snapshot } => {
                self.last_layer = *layer;
                self.layers.push(LayerInfo {
                    layer: *layer,
                    snapshot: *snapshot,
                    seq: self.position,
                    deleted: false,
                    folded: ExtentIndex(0),
                });
            }
            Body::Delete { layer } => self.layer_mut(*layer).into_iter().for_each(|info| info.deleted = true),
            Body::Fold { layer, through: Some(through), .. } => {
                self.layer_mut(*layer).into_iter().for_each(|info| info.folded = ExtentIndex(through.0 + 1));
            }
            Body::Fold { layer, through: None, .. } => self.layers.retain(|info| info.layer != *layer),
            Body::Extents { .. } | Body::Zero { .. } => {}
        }
    }

    fn layer_mut(&mut self, layer: Layer) -> Option<&mut LayerInfo> {
        self.layers.iter_mut().find(|info| info.layer == layer)
    }
}

pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) segment_bytes: u64,
    /// What its extents are before they are written here: those of another replica's layer.
    pub(crate) base: Option<MapId>,
    /// With every record appended.
    pub(crate) live: State,
    /// With every record applied: what a checkpoint says (E3). `None` before the creation.
    pub(crate) applied: Option<State>,
    /// The record that dropped it. It stays here, invisible, until a checkpoint past that (E2), or for its clones.
    pub(crate) dropped: Option<Lsn>,
    /// The last durable checkpoint names it: it must be there should the disk be opened again now.
    pub(crate) listed: bool,
    /// A job looks for its slots, after the drop.
    pub(crate) reclaiming: bool,
    pub(crate) map: ExtentMap,
    /// E1: changes that are not in the map yet.
    pub(crate) overlay: Overlay,
    /// Of the layers in `live`, and of those whose end was not applied yet.
    pub(crate) layer_maps: BTreeMap<Layer, LayerMap>,
    /// Which of them may keep an extent.
    pub(crate) layer_index: LayerIndex,
    pub(crate) extents_allocated: u64,
}

impl Replica {
    pub(crate) fn new(id: ReplicaId, segment_bytes: u64, base: Option<MapId>, map: ExtentMap) -> Self {
        Self {
            id,
            segment_bytes,
            base,
            live: State::default(),
            applied: None,
            dropped: None,
            listed: false,
            reclaiming: false,
            map,
            overlay: Overlay::default(),
            layer_maps: BTreeMap::new(),
            layer_index: LayerIndex::default(),
            extents_allocated: 0,
        }
    }

    /// As a checkpoint has it.
    pub(crate) fn open(state: ReplicaState, map: ExtentMap, pool: &mut Pool) -> Result<Self, Error> {
        let mut this = Self::new(state.id, state.segment_bytes, state.base, map);
        for layer in &state.layers {
            let id = MapId { replica: state.id, layer: layer.layer };
            this.layer_maps.insert(layer.layer, LayerMap::open(id, &layer.chunks, pool)?);
        }
        this.live = State {
            meta: state.meta,
            position: state.position,
            layers: state.layers.iter().map(LayerInfo::of).collect(),
            last_layer: state.last_layer,
            dropped: state.dropped,
        };
        this.dropped = state.dropped.then_some(Lsn(0));
        this.applied = Some(this.live.clone());
        Ok(this)
    }

    /// What a checkpoint says of it; `None` before its creation is applied.
    pub(crate) fn state(&self) -> Option<ReplicaState> {
        let applied = self.applied.as_ref()?;
        let layers = applied.layers.iter().map(|info| info.state(self.layer_maps.get(&info.layer)));
        Some(ReplicaState {
            id: self.id,
            segment_bytes: self.segment_bytes,
            base: self.base,
            dropped: applied.dropped,
            position: applied.position,
            last_layer: applied.last_layer,
            layers: layers.collect(),
            chunks: self.map.chunks().to_vec(),
            meta: applied.meta.clone(),
        })
    }

    /// What the live map says of the extent, as the last record left it.
    pub(crate) fn own(&self, extent: ExtentIndex) -> Result<Entry, Error> {
        match self.overlay.get(extent) {
            Some(entry) => Ok(entry),
            None => self.map.load(extent),
        }
    }

    /// What the view from `layer` (the live one included) upwards says of the extent; `None`: it is as in the base.
    pub(crate) fn seen_from(
        &self,
        pool: &Pool,
        layer: Layer,
        extent: ExtentIndex,
    ) -> Result<Option<Entry>, Error> {
        if layer != Layer::LIVE {
            let among = self.layer_index.may_keep(layer, extent);
            for (_, map) in among.flat_map(|layers| self.layer_maps.range(layers)) {
                match map.load(pool, extent)? {
                    Cell::Empty | Cell::Lost => {}
                    Cell::Entry(entry) => return Ok(Some(entry)),
                    Cell::AsBase => return Ok(None),
                }
            }
        }
        if extent.0 >= self.map.extents() {
            return Ok(None);
        }
        let own = self.own(extent)?;
        Ok(Some(own).filter(|own| *own != Entry::UNTOUCHED))
    }

    /// The layer that must be given what the live map holds of the extent before that becomes this version: the newest one
    /// that somebody can look from, that is older than the version, and sees the live map. Older ones then see it there.
    pub(crate) fn keeper(&self, extent: ExtentIndex, version: Version) -> Option<Layer> {
        for info in self.live.layers.iter().rev() {
            let Some(map) = self.layer_maps.get(&info.layer) else { continue };
            if map.holds(extent) {
                return None;
            }
            let is_looked_from = !info.deleted || map.clones > 0;
            if is_looked_from && info.seq < version {
                return Some(info.layer);
            }
        }
        None
    }

    /// Whether clones see what the live map holds of the extent.
    pub(crate) fn is_source(&self, extent: ExtentIndex) -> bool {
        let newest_first = self.layer_maps.values().rev();
        newest_first.take_while(|map| !map.holds(extent)).any(|map| map.clones > 0)
    }

    /// Whether other replicas have its layers as their base.
    pub(crate) fn is_base(&self) -> bool {
        self.layer_maps.values().any(|map| map.clones > 0)
    }

    /// Sees to it that the entries of these extents can be stored. A layer that is gone needs nothing.
    pub(crate) fn prepare_store(
        &mut self,
        pool: &mut Pool,
        layer: Layer,
        first: ExtentIndex,
        count: u32,
    ) -> Result<(), Error> {
        if layer == Layer::LIVE {
            return self.map.prepare_store(first, count);
        }
        let Some(map) = self.layer_maps.get_mut(&layer) else { return Ok(()) };
        (first.0..first.0 + count).try_for_each(|extent| map.prepare_store(pool, ExtentIndex(extent)))
    }

    /// Whether this layer, or the live map, is there.
    pub(crate) fn has_layer(&self, layer: Layer) -> bool {
        layer == Layer::LIVE || self.layer_maps.contains_key(&layer)
    }

    /// Whether a record that makes or changes layers can follow.
    pub(crate) fn allows(&self, body: &Body) -> bool {
        let layers = &self.live.layers;
        let is_live = |layer: &Layer| layers.iter().any(|info| info.layer == *layer);
        match body {
            Body::Snapshot { layer, .. } => {
                *layer > self.live.last_layer && *layer <= LAYER_MAX && layers.len() < SNAPSHOTS_MAX
            }
            Body::Delete { layer } | Body::Fold { layer, .. } => is_live(layer),
            _ => true,
        }
    }

    /// Makes an appended record visible.
    pub(crate) fn enter(&mut self, record: &Record) {
        self.change_state(record);
        for change in record.body.changes() {
            if change.layer != Layer::LIVE {
                self.keep(record.lsn, change.layer, change.extent, change.cell);
                continue;
            }
            let entry = match change.cell {
                Cell::Entry(entry) => entry,
                Cell::Empty | Cell::AsBase | Cell::Lost => Entry::UNTOUCHED,
            };
            self.overlay.put(record.lsn, change.extent, entry);
            self.map.raise_bound(change.extent, 1, entry.version);
        }
        if let Body::Zero { first, count, version, keep_in } = &record.body {
            for extent in (first.0..first.0 + count).map(ExtentIndex) {
                self.overlay.put(record.lsn, extent, Entry::zeroed(*version));
                if let Some(layer) = keep_in {
                    self.keep(record.lsn, *layer, extent, Cell::AsBase);
                }
            }
            self.map.raise_bound(*first, *count, *version);
        }
    }

    fn keep(&mut self, lsn: Lsn, layer: Layer, extent: ExtentIndex, cell: Cell) {
        if let Some(map) = self.layer_maps.get_mut(&layer) {
            map.put(lsn, extent, cell);
            self.layer_index.add(layer, extent);
        }
    }

    /// What [`Replica::enter`] does for a record that is being replayed, whose entries go straight to the maps.
    pub(crate) fn change_state(&mut self, record: &Record) {
        self.live.change(record);
        match &record.body {
            Body::Drop => self.dropped = Some(record.lsn),
            Body::Snapshot { layer, .. } => {
                let id = MapId { replica: self.id, layer: *layer };
                self.layer_maps.insert(*layer, LayerMap::new(id));
            }
            Body::Fold { layer, through, .. } => {
                self.layer_maps.get_mut(layer).into_iter().for_each(|map| map.forget(*through));
            }
            _ => {}
        }
    }

    /// The record is in data file and maps, like everything up to `through`. Returns chunks that are free with that.
    pub(crate) fn applied(&mut self, record: &Record, through: Lsn) -> Vec<PoolChunk> {
        self.applied.get_or_insert_default().change(record);
        for change in record.body.changes() {
            match self.layer_maps.get_mut(&change.layer) {
                Some(map) => map.applied(through, change.extent),
                None => self.overlay.applied(through, change.extent),
            }
        }
        match &record.body {
            Body::Zero { first, count, keep_in, .. } => {
                for extent in (first.0..first.0 + count).map(ExtentIndex) {
                    self.overlay.applied(through, extent);
                    if let Some(map) = keep_in.and_then(|layer| self.layer_maps.get_mut(&layer)) {
                        map.applied(through, extent);
                    }
                }
                self.map.set_dirty();
            }
            Body::Extents { .. } => self.map.set_dirty(),
            Body::Fold { layer, through: None, .. } => {
                let gone = self.layer_maps.remove(layer);
                if self.layer_maps.range(LayerIndex::group_of(*layer)).next().is_none() {
                    self.layer_index.forget_group_of(*layer);
                }
                return gone.into_iter().flat_map(LayerMap::into_chunks).collect();
            }
            _ => {}
        }
        Vec::new()
    }
}
