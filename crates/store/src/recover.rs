//! Recovery: the last checkpoint, then the journal's records in order, then a look at every map entry.

use crate::checkpoint::needed;
use crate::engine::Engine;
use crate::format::Salt;
use crate::format::checkpoint::Checkpoint;
use crate::format::entry::{Layer, MapId};
use crate::format::record::{Body, Record};
use crate::layer::LayerMap;
use crate::map::ExtentMap;
use crate::open::read_checkpoint;
use crate::possible::{check_checkpoint, is_segment};
use crate::reader::Reader;
use crate::replica::Replica;
use crate::{Error, Opened, tail};
use quoin_disk::Dir;
use quoin_types::collections::HashMap;
use quoin_types::{ExtentIndex, ReplicaId, Seq};

/// How much block data is gathered before it is applied: bounds memory, and lets neighbours be written together.
const GROUP_BYTES: usize = 16 << 20;

/// The later of the two checkpoints. If one is not valid, a crash may have torn it, and the other counts; that the journal
/// then still begins where the other says is proven by [`Engine::recover`]'s look at the rest of the ring.
pub(crate) fn load_checkpoint(dir: &dyn Dir, salt: Salt) -> Result<Checkpoint, Error> {
    let (even, odd) = (read_checkpoint(dir, 0, salt)?, read_checkpoint(dir, 1, salt)?);
    let latest = even.into_iter().chain(odd).max_by_key(|checkpoint| checkpoint.number);
    let latest =
        latest.ok_or_else(|| Error::corrupt("the checkpoint", "neither of its two files is valid"))?;
    check_checkpoint(&latest)?;
    Ok(latest)
}

impl Engine {
    /// Brings data and maps to the journal's end, and rebuilds what is kept in memory only.
    pub(crate) fn recover(&mut self, mut start: Checkpoint, opened: &mut Opened) -> Result<(), Error> {
        for state in std::mem::take(&mut start.replicas) {
            let chunks = state.chunks.clone();
            let map = ExtentMap::open(&*self.dir, self.salt, state.id, state.segment_bytes, chunks)?;
            self.replicas.insert(state.id, Replica::open(state, map, &mut self.pool)?);
        }
        let ring = self.journal.ring().clone();
        // What is read must be what the device has (E4): a page that only the cache has may be gone next time.
        for file in ring.files() {
            let reread = || file.sync().and_then(|()| file.drop_cached(0, ring.geometry().file_bytes));
            reread().map_err(Error::io("reading the journal"))?;
        }
        self.data.sync().map_err(Error::io("syncing data"))?;
        let end = tail::find_end(Reader::new(ring.clone(), self.salt, &start), &*self.data)?;
        let mut reader = Reader::new(ring, self.salt, &start);
        reader.limit = end;
        self.replay(&mut reader, opened)?;
        (self.accepted, self.durable) = (end, end);
        (self.applied, self.applied_position) = (end, reader.position);
        (opened.end, opened.replayed_bytes) = (end, reader.position - start.position);
        let there = self.replicas.values().filter(|replica| replica.dropped.is_none());
        let needed = needed(there.map(|replica| replica.id), |id| self.replicas.get(&id)?.base);
        let all = std::mem::take(&mut self.replicas).into_iter();
        let gone: HashMap<ReplicaId, Replica>;
        (self.replicas, gone) = all.partition(|(id, _)| needed.contains(id));
        let layers = gone.into_values().flat_map(|replica| replica.layer_maps.into_values());
        layers.flat_map(LayerMap::into_chunks).for_each(|chunk| self.pool.release(chunk));
        let bases: Vec<Option<MapId>> = self.replicas.values().map(|replica| replica.base).collect();
        bases.into_iter().for_each(|base| self.count_clone(base, 1));
        self.find_deleted();
        self.rebuild_slots(opened)
    }

    fn replay(&mut self, reader: &mut Reader, opened: &mut Opened) -> Result<(), Error> {
        let mut group = Vec::new();
        let mut group_bytes = 0;
        while let Some((records, whole)) = reader.next_batch()? {
            opened.replayed_records += records.len() as u64;
            for record in records {
                self.prepare_replay(&record)?;
                group_bytes += record.body.data_bytes();
                group.push(record);
            }
            if group_bytes >= GROUP_BYTES {
                self.redo(std::mem::take(&mut group))?;
                group_bytes = 0;
            }
            if !whole {
                break;
            }
        }
        self.redo(group)
    }

    /// What the verbs did before they appended the record.
    fn prepare_replay(&mut self, record: &Record) -> Result<(), Error> {
        let id = record.replica;
        let damaged =
            || Error::corrupt("the journal", format!("record {} does not fit its replica", record.lsn));
        if let Body::Create { segment_bytes, base, .. } = &record.body {
            // Whatever was stored there is stored again by the records that follow (E3). A dropped replica is known for as
            // long as a checkpoint or a clone needs it, and its id is not used again before: no replica is its own base.
            let is_taken = self.replicas.contains_key(&id);
            let has_base = base.is_none_or(|base| self.has_layer(base));
            if is_taken || !is_segment(*segment_bytes) || !has_base {
                return Err(damaged());
            }
            let map = ExtentMap::create(&*self.dir, self.salt, id, *segment_bytes)?;
            self.replicas.insert(id, Replica::new(id, *segment_bytes, *base, map));
        }
        let capacity = self.slots.count();
        let replica = self.replicas.get_mut(&id).ok_or_else(damaged)?;
        let extents = replica.map.extents();
        for change in record.body.changes() {
            let slots = change.cell.slot().into_iter().chain(change.copy_from);
            if change.extent.0 >= extents
                || slots.into_iter().any(|slot| slot.0 >= capacity)
                || !replica.has_layer(change.layer)
            {
                return Err(damaged());
            }
            replica.prepare_store(&mut self.pool, change.layer, change.extent, 1)?;
        }
        if let Body::Zero { first, count, keep_in, .. } = &record.body {
            let has_layer = keep_in.is_none_or(|layer| replica.has_layer(layer));
            if first.0.checked_add(*count).is_none_or(|end| end > extents) || !has_layer {
                return Err(damaged());
            }
            for layer in [Some(Layer::LIVE), *keep_in].into_iter().flatten() {
                replica.prepare_store(&mut self.pool, layer, *first, *count)?;
            }
        }
        if !replica.allows(&record.body) {
            return Err(damaged());
        }
        replica.change_state(record);
        Ok(())
    }

    fn has_layer(&self, map: MapId) -> bool {
        self.replicas.get(&map.replica).is_some_and(|replica| replica.has_layer(map.layer))
    }

    /// Reads all maps: which slots are used, which entries are damaged.
    fn rebuild_slots(&mut self, opened: &mut Opened) -> Result<(), Error> {
        let mut ids: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        ids.sort_unstable();
        let Engine { slots, replicas, pool, .. } = self;
        for id in ids {
            let Some(replica) = replicas.get_mut(&id) else { continue };
            let (mut allocated, mut bounds, mut twice) = (0, Vec::new(), None);
            replica.map.scan(ExtentIndex(0), None, |extent, entry| {
                let Some(entry) = entry else {
                    tracing::error!(replica = %id, %extent, "a map entry is damaged; the extent cannot be read");
                    opened.damaged.push((id, extent));
                    // Nobody knows its version: no scan may pass over it.
                    bounds.push((extent, Seq(u64::MAX)));
                    return true;
                };
                bounds.push((extent, entry.version));
                if let Some(slot) = entry.slot {
                    allocated += 1;
                    if !slots.mark_used(slot) {
                        twice = Some((extent, slot));
                    }
                }
                true
            });
            let Replica { live, layer_maps, layer_index, .. } = replica;
            for info in &live.layers {
                let Some(map) = layer_maps.get_mut(&info.layer) else { continue };
                let snapshot = info.snapshot;
                map.find_present(pool, info.folded, |extent, cell| {
                    layer_index.add(info.layer, extent);
                    let Some(cell) = cell else {
                        tracing::error!(replica = %id, %snapshot, %extent, "a snapshot's map entry is damaged");
                        return;
                    };
                    if let Some(slot) = cell.slot() {
                        allocated += 1;
                        if !slots.mark_used(slot) {
                            twice = Some((extent, slot));
                        }
                    }
                });
            }
            if let Some((extent, slot)) = twice {
                let what = format!("the map entry of extent {extent} of replica {id}");
                return Err(Error::corrupt(
                    what,
                    format!("slot {} is another extent's, or does not exist", slot.0),
                ));
            }
            replica.extents_allocated = allocated;
            for (extent, version) in bounds {
                replica.map.raise_bound(extent, 1, version);
            }
        }
        Ok(())
    }
}
