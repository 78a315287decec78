//! Put a whole extent: what resync brings, and what repairs a damaged one.

use crate::engine::{Engine, SlotEffects};
use crate::extents::ExtentContent;
use crate::format::BLOCK;
use crate::format::entry::{ALL_ZERO, Cell, Entry, MapId};
use crate::format::record::{self, Body, ExtentChange, Run};
use crate::slots::Slot;
use crate::view::{Held, View};
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId, SnapshotId, Version};

impl Engine {
    /// Replaces an extent by a peer's, but for the blocks of `keep_blocks`, which were written live since the join (rule
    /// S1). `data` holds the blocks that `zero_mask` does not name, in order; those to keep are passed over. The version
    /// becomes the given one, or the higher of both if anything is kept. A version of zero with all blocks zero returns
    /// the extent to never-touched. With nothing to keep this replaces a damaged entry too. May use the reserve (W5).
    #[expect(clippy::too_many_arguments, reason = "an extent has that many parts")]
    pub fn put_extent(
        &mut self,
        id: ReplicaId,
        extent: ExtentIndex,
        version: Version,
        keep_blocks: u16,
        checksums: &[u32; 16],
        zero_mask: u16,
        data: Bytes,
    ) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let segment_bytes = self.replica_ref(id)?.segment_bytes;
        if extent.byte_offset() >= segment_bytes {
            return Err(Error::OutOfRange { offset: extent.byte_offset(), length: EXTENT_BYTES });
        }
        if data.len() != zero_mask.count_zeros() as usize * BLOCK {
            return Err(Error::Misaligned { what: "the extent's data" });
        }
        self.check_record(record::HEADER_BYTES + 2 * record::CHANGE_BYTES + data.len())?;
        let held = match keep_blocks {
            0 => self.replaced(id, extent, version)?,
            _ => self.held(id, extent, version)?,
        };
        let mut entry = merge(held.entry, version, keep_blocks, checksums, zero_mask);
        self.prepare_maps(id, std::iter::once((extent, &held)))?;
        let mut effects = self.slot_for(&held, keep_blocks, &mut entry)?;
        let (mask, mut runs) = taken_runs(entry.slot, keep_blocks, zero_mask, data);
        let mut changes = Vec::from_iter(self.kept_change(id, extent, &held));
        let mut change = self.live_change(id, extent, entry);
        if entry.slot == held.entry.slot {
            change.data_mask = mask;
        } else if keep_blocks == 0 {
            effects.placed = std::mem::take(&mut runs);
            change.placed_mask = mask;
        } else {
            change.data_mask = mask;
            change.copy_from = held.entry.slot.filter(|_| entry.zero_mask | mask != ALL_ZERO);
        }
        changes.push(change);
        self.append(id, None, Body::Extents { changes, runs }, effects)
    }

    /// The slot that the new entry needs, or gives back: a new one where there is space. Only blocks to be kept hold on to
    /// the old one, if nobody else looks at it.
    fn slot_for(&mut self, held: &Held, keep_blocks: u16, entry: &mut Entry) -> Result<SlotEffects, Error> {
        let freed = Vec::from_iter(held.freed());
        if entry.zero_mask == ALL_ZERO {
            return Ok(SlotEffects { freed, ..SlotEffects::default() });
        }
        let in_place = held.entry.slot.filter(|_| held.is_writable());
        if in_place.is_some() && keep_blocks != 0 {
            entry.slot = in_place;
            return Ok(SlotEffects::default());
        }
        // Half of the reserve stays for what has its number.
        match self.take_slots(1, self.reserve_slots / 2) {
            Err(Error::NoSpace) if in_place.is_some() => {
                entry.slot = in_place;
                Ok(SlotEffects::default())
            }
            Err(error) => Err(error),
            Ok(slots) => {
                entry.slot = slots.first().copied();
                Ok(SlotEffects { taken: 1, freed, ..SlotEffects::default() })
            }
        }
    }

    /// Mends an extent as a snapshot sees it, by what a peer's same snapshot holds: for a damaged entry anything, for
    /// damaged data the version that it says it is (rule R3). Fails with [`Error::Superseded`] where the version is another
    /// one, or no layer keeps the extent: the snapshot then sees what the replica is now, and [`Engine::put_extent`] of
    /// that mends both. May use the reserve.
    pub fn repair_snapshot(
        &mut self,
        id: ReplicaId,
        snapshot: SnapshotId,
        content: &ExtentContent,
    ) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let ExtentContent { extent, version, zero_mask, checksums, data } = content;
        let superseded = Error::Superseded { replica: id, extent: *extent };
        let Some((map, old)) = self.kept_for(self.map_of(id, View::Snapshot(snapshot))?, *extent) else {
            return Err(superseded);
        };
        if old.is_some_and(|old| !matches!(old, Cell::Entry(entry) if entry.version == *version)) {
            return Err(superseded);
        }
        if data.len() != zero_mask.count_zeros() as usize * BLOCK {
            return Err(Error::Misaligned { what: "the extent's data" });
        }
        let mut entry = merge(Entry::UNTOUCHED, *version, 0, checksums, *zero_mask);
        let mut effects = SlotEffects {
            freed: old.and_then(|old| old.slot()).into_iter().collect(),
            ..SlotEffects::default()
        };
        if entry.zero_mask != ALL_ZERO {
            entry.slot = self.take_slots(1, 0)?.first().copied();
            effects.taken = 1;
        }
        let (mask, runs) = taken_runs(entry.slot, 0, *zero_mask, data.clone());
        effects.placed = runs;
        let change = ExtentChange { placed_mask: mask, ..self.change(map, *extent, Cell::Entry(entry)) };
        self.append(id, None, Body::Extents { changes: vec![change], runs: Vec::new() }, effects)
    }

    /// The layer that keeps the extent for this view, and what it keeps, `None` if that is damaged; nothing if none does.
    fn kept_for(&self, view: MapId, extent: ExtentIndex) -> Option<(MapId, Option<Cell>)> {
        let layers = self.replicas.get(&view.replica)?.layer_maps.range(view.layer..);
        let (layer, map) = layers.into_iter().find(|(_, map)| map.holds(extent))?;
        let cell = map.get(&self.pool, extent).filter(|cell| *cell != Cell::Lost);
        Some((MapId { layer: *layer, ..view }, cell))
    }
}

/// The peer's blocks, and our own where they are to be kept.
fn merge(own: Entry, version: Version, keep_blocks: u16, checksums: &[u32; 16], zero_mask: u16) -> Entry {
    let mut entry = Entry::zeroed(if keep_blocks == 0 { version } else { version.max(own.version) });
    for block in 0..16 {
        let keep = keep_blocks >> block & 1 == 1;
        let (zero, from) = if keep { (own.zero_mask, &own.checksums) } else { (zero_mask, checksums) };
        if zero >> block & 1 == 0 {
            entry.set_data(block, from[block as usize]);
        }
    }
    entry
}

/// The runs of blocks that are taken from the peer, and their mask.
fn taken_runs(slot: Option<Slot>, keep_blocks: u16, zero_mask: u16, mut data: Bytes) -> (u16, Vec<Run>) {
    let (mut data_mask, mut runs) = (0, Vec::<Run>::new());
    let Some(slot) = slot else { return (0, runs) };
    let mut block = 0;
    while block < 16 {
        let is_taken = |block: u32| block < 16 && (zero_mask | keep_blocks) >> block & 1 == 0;
        let first_block = block;
        while is_taken(block) {
            data_mask |= 1 << block;
            block += 1;
        }
        if block > first_block {
            runs.push(Run { slot, first_block, data: data.split_to((block - first_block) as usize * BLOCK) });
        }
        if block < 16 {
            if zero_mask >> block & 1 == 0 {
                drop(data.split_to(BLOCK));
            }
            block += 1;
        }
    }
    (data_mask, runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_and_zero_blocks_are_passed_over() {
        // Blocks 1, 2, 3 and 7 come with data, of which 2 is to be kept.
        let zero_mask = !0b1000_1110;
        let data: Vec<u8> = [1u8, 2, 3, 7].iter().flat_map(|byte| [*byte; BLOCK]).collect();
        let (mask, runs) = taken_runs(Some(Slot(0)), 0b100, zero_mask, data.into());
        assert_eq!(mask, 0b1000_1010);
        let found: Vec<_> =
            runs.iter().map(|run| (run.first_block, run.data.len() / BLOCK, run.data[0])).collect();
        assert_eq!(found, [(1, 1, 1), (3, 1, 3), (7, 1, 7)]);
    }
}
