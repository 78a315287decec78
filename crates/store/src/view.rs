//! What a view sees of an extent: the replica as it is, or as it was at a snapshot, down to what it is a clone of.

use crate::Error;
use crate::engine::Engine;
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::slots::Slot;
use quoin_types::{ExtentIndex, ReplicaId, SnapshotId, Version};

/// Which state of a replica is looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// As it is now.
    Live,
    /// As it was when the snapshot was made.
    Snapshot(SnapshotId),
}

/// An extent as it is, before a change.
pub(crate) struct Held {
    /// As reads see it.
    pub(crate) entry: Entry,
    /// The live map says so, not the base.
    is_own: bool,
    /// What the live map says is damaged.
    is_lost: bool,
    /// This layer must be given it, before.
    keeper: Option<Layer>,
    /// Clones see it, and may have records that copy from its slot.
    is_source: bool,
}

impl Held {
    /// Whether its slot is free when it is replaced: nobody else names it, nor sees it as it was.
    pub(crate) fn is_private(&self) -> bool {
        self.is_own && self.keeper.is_none()
    }

    /// Whether its slot may be written in place. What comes late (S1) changes what clones see as well, but not the slot:
    /// their records may copy from it, again and again (E3).
    pub(crate) fn is_writable(&self) -> bool {
        self.is_private() && !self.is_source
    }

    /// The slot that nobody looks at any more when the extent gets another one.
    pub(crate) fn freed(&self) -> Option<Slot> {
        self.entry.slot.filter(|_| self.is_private())
    }

    /// The slot that blocks must be copied from when some of them are changed.
    pub(crate) fn shared_slot(&self) -> Option<Slot> {
        self.entry.slot.filter(|_| !self.is_writable())
    }

    /// What a layer must be given.
    pub(crate) fn kept(&self) -> Option<(Layer, Cell)> {
        let cell = match (self.is_lost, self.is_own) {
            (true, _) => Cell::Lost,
            (false, true) => Cell::Entry(self.entry),
            (false, false) => Cell::AsBase,
        };
        self.keeper.map(|layer| (layer, cell))
    }

    /// A never-written extent whose layer must know that it was not.
    pub(crate) fn keeps_nothing_in(&self) -> Option<Layer> {
        self.keeper.filter(|_| !self.is_own && !self.is_lost)
    }
}

impl Engine {
    /// The map from which a view looks.
    pub(crate) fn map_of(&self, id: ReplicaId, view: View) -> Result<MapId, Error> {
        let replica = self.replica_ref(id)?;
        let View::Snapshot(snapshot) = view else { return Ok(MapId::live(id)) };
        let info = replica.live.layers.iter().find(|info| info.snapshot == snapshot && !info.deleted);
        let info = info.ok_or(Error::UnknownSnapshot { replica: id, snapshot })?;
        Ok(MapId { replica: id, layer: info.layer })
    }

    /// The extent as this map's view sees it, as the last record left it.
    pub(crate) fn seen(&self, from: MapId, extent: ExtentIndex) -> Result<Entry, Error> {
        let mut at = Some(from);
        while let Some(MapId { replica: id, layer }) = at {
            // Bases may be dropped, and are there for as long as somebody needs them.
            let replica = self.replicas.get(&id).ok_or(Error::UnknownReplica(id))?;
            if let Some(entry) = replica.seen_from(&self.pool, layer, extent)? {
                return Ok(entry);
            }
            at = replica.base;
        }
        Ok(Entry::UNTOUCHED)
    }

    /// The extent as it is, and whom that concerns should it become this version.
    pub(crate) fn held(&self, id: ReplicaId, extent: ExtentIndex, version: Version) -> Result<Held, Error> {
        let replica = self.replica_ref(id)?;
        let own = replica.own(extent)?;
        let is_own = own != Entry::UNTOUCHED;
        let entry = match replica.base {
            Some(base) if !is_own => self.seen(base, extent)?,
            _ => own,
        };
        let (keeper, is_source) = (replica.keeper(extent, version), replica.is_source(extent));
        Ok(Held { entry, is_own, is_lost: false, keeper, is_source })
    }

    /// As [`Engine::held`], where the extent is replaced as a whole: what it was may be damaged.
    pub(crate) fn replaced(
        &self,
        id: ReplicaId,
        extent: ExtentIndex,
        version: Version,
    ) -> Result<Held, Error> {
        match self.held(id, extent, version) {
            Err(Error::Corrupt { .. }) => {
                let replica = self.replica_ref(id)?;
                let (is_lost, keeper) = (replica.own(extent).is_err(), replica.keeper(extent, version));
                Ok(Held { entry: Entry::UNTOUCHED, is_own: false, is_lost, keeper, is_source: false })
            }
            held => held,
        }
    }

    /// The maps that a view looks at, one after the other.
    pub(crate) fn chain(&self, from: MapId) -> Vec<MapId> {
        let next = |map: &MapId| self.replicas.get(&map.replica).and_then(|replica| replica.base);
        std::iter::successors(Some(from), next).collect()
    }
}
