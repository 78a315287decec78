//! Snapshots and clones: made in no time, read as any replica, given up in the background.

use crate::engine::{Engine, SlotEffects};
use crate::format::entry::{Cell, Layer, MapId};
use crate::format::record::{Body, ExtentChange};
use crate::pool::CHUNK_ENTRIES;
use crate::view::View;
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId};

/// A snapshot of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Which one.
    pub id: SnapshotId,
    /// The replica's position when it was made: it holds the writes up to there.
    pub seq: Seq,
    /// How many extents were changed since, up to the next snapshot, and are kept for it (and for older ones).
    pub extents_kept: u64,
    /// How many replicas are clones of it.
    pub clones: u32,
}

impl Engine {
    /// Makes a snapshot of the replica as the last record left it, which `seq` numbers like a write. Costs one record,
    /// whatever the replica's size.
    pub fn create_snapshot(&mut self, id: ReplicaId, snapshot: SnapshotId, seq: Seq) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let live = &self.replica_ref(id)?.live;
        if live.layers.iter().any(|info| info.snapshot == snapshot && !info.deleted) {
            return Err(Error::SnapshotExists { replica: id, snapshot });
        }
        if live.layers.len() >= SNAPSHOTS_MAX {
            return Err(Error::TooManySnapshots { replica: id });
        }
        let layer = Layer(live.last_layer.0 + 1);
        self.append(id, Some(seq), Body::Snapshot { layer, snapshot }, SlotEffects::default())
    }

    /// Deletes a snapshot. From then on it cannot be read; what it kept is given up by [`Engine::fold`], once it has no
    /// clones. Replicas that are its clones stay as they are.
    pub fn delete_snapshot(&mut self, id: ReplicaId, snapshot: SnapshotId) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let layer = self.map_of(id, View::Snapshot(snapshot))?.layer;
        self.with_deleted.insert(id);
        self.append(id, None, Body::Delete { layer }, SlotEffects::default())
    }

    /// Creates a replica that begins as a snapshot of another one on this disk, at least as large, and with that one's
    /// position. Costs one record; extents are shared until either side changes them.
    pub fn clone_replica(
        &mut self,
        id: ReplicaId,
        segment_bytes: u64,
        meta: Bytes,
        source: ReplicaId,
        snapshot: SnapshotId,
    ) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let base = self.map_of(source, View::Snapshot(snapshot))?;
        let parent = self.replica_ref(source)?;
        if segment_bytes < parent.segment_bytes {
            return Err(Error::OutOfRange { offset: 0, length: segment_bytes });
        }
        let info = parent.live.layers.iter().find(|info| info.layer == base.layer);
        let seq = info.map(|info| info.seq);
        self.create(id, segment_bytes, Some(base), seq, meta)
    }

    /// The replica's snapshots, from the oldest to the newest.
    pub fn snapshots(&self, id: ReplicaId) -> Result<Vec<Snapshot>, Error> {
        let replica = self.replica_ref(id)?;
        let layers = replica.live.layers.iter().filter(|info| !info.deleted);
        let snapshots = layers.map(|info| {
            let map = replica.layer_maps.get(&info.layer);
            Snapshot {
                id: info.snapshot,
                seq: info.seq,
                extents_kept: map.map_or(0, |map| map.count()),
                clones: map.map_or(0, |map| map.clones),
            }
        });
        Ok(snapshots.collect())
    }

    /// Gives up a little of what deleted snapshots kept: at most 128 extents. Says whether there was anything to do; call
    /// it again until there is not, giving way to clients.
    pub fn fold(&mut self) -> Result<bool, Error> {
        self.ensure_healthy()?;
        let Some((id, layer, into)) = self.next_fold() else { return Ok(false) };
        self.fold_chunk(id, layer, into)?;
        Ok(true)
    }

    /// Whether [`Engine::fold`] has something to do.
    pub fn has_folding(&self) -> bool {
        self.next_fold().is_some()
    }

    /// The oldest deleted layer that no clone needs, of any replica, and the next older one.
    fn next_fold(&self) -> Option<(ReplicaId, Layer, Option<Layer>)> {
        self.with_deleted.iter().find_map(|id| {
            let replica = self.replica_ref(*id).ok()?;
            let layers = &replica.live.layers;
            let is_unused = |layer: &Layer| replica.layer_maps.get(layer).is_some_and(|map| map.clones == 0);
            let index = layers.iter().position(|info| info.deleted && is_unused(&info.layer))?;
            let older = index.checked_sub(1).map(|older| layers[older].layer);
            Some((*id, layers[index].layer, older))
        })
    }

    /// Notes which replicas have deleted layers.
    pub(crate) fn find_deleted(&mut self) {
        let with_deleted =
            self.replicas.iter().filter(|(_, replica)| replica.live.layers.iter().any(|info| info.deleted));
        self.with_deleted = with_deleted.map(|(id, _)| *id).collect();
    }

    /// Folds the next chunk of a layer: what the older layer lacks, and so looks for here, moves there; the rest goes.
    fn fold_chunk(&mut self, id: ReplicaId, layer: Layer, into: Option<Layer>) -> Result<Lsn, Error> {
        let replica = self.replica_ref(id)?;
        let Some(map) = replica.layer_maps.get(&layer) else { return Err(Error::UnknownReplica(id)) };
        let Some(chunk) = map.chunks_from(0).next() else {
            return self.append_fold(id, layer, None, Vec::new(), Vec::new());
        };
        let (mut moved, mut freed) = (Vec::new(), Vec::new());
        for extent in map.extents_of(chunk) {
            let cell = map.get(&self.pool, extent).unwrap_or(Cell::Lost);
            let older = into.and_then(|older| Some((older, replica.layer_maps.get(&older)?)));
            match older {
                Some((older, its_map)) if !its_map.holds(extent) => {
                    moved.push(self.change(MapId { replica: id, layer: older }, extent, cell));
                }
                _ => freed.extend(cell.slot()),
            }
        }
        let through = ExtentIndex((chunk + 1) * CHUNK_ENTRIES - 1);
        self.append_fold(id, layer, Some(through), moved, freed)
    }

    fn append_fold(
        &mut self,
        id: ReplicaId,
        layer: Layer,
        through: Option<ExtentIndex>,
        changes: Vec<ExtentChange>,
        freed: Vec<crate::slots::Slot>,
    ) -> Result<Lsn, Error> {
        let replica = self.replicas.get_mut(&id).ok_or(Error::UnknownReplica(id))?;
        for change in &changes {
            replica.prepare_store(&mut self.pool, change.layer, change.extent, 1)?;
        }
        let body = Body::Fold { layer, through, changes };
        let lsn = self.append(id, None, body, SlotEffects { freed, ..SlotEffects::default() })?;
        if through.is_none() && !self.replica_ref(id)?.live.layers.iter().any(|info| info.deleted) {
            self.with_deleted.remove(&id);
        }
        Ok(lsn)
    }

    /// A clone of this layer has come, or has gone for good.
    pub(crate) fn count_clone(&mut self, base: Option<MapId>, change: i32) {
        let Some(MapId { replica, layer }) = base else { return };
        let parent = self.replicas.get_mut(&replica);
        if let Some(map) = parent.and_then(|parent| parent.layer_maps.get_mut(&layer)) {
            map.clones = map.clones.saturating_add_signed(change);
        }
    }
}
