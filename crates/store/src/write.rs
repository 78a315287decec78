//! Verbs that change a replica from its owner's stream: create, drop, meta, write.

use crate::engine::{Engine, SlotEffects};
use crate::format::BLOCK;
use crate::format::entry::{ALL_ZERO, Layer, MapId};
use crate::format::record::{self, Body, ExtentChange, Run};
use crate::map::ExtentMap;
use crate::replica::Replica;
use crate::slots::Slot;
use crate::view::Held;
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::limits::{SEGMENT_BYTES_DEFAULT, WRITE_BYTES_MAX};
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq};
use std::ops::Range;

/// All blocks of an extent: written to a new slot, not through the journal.
const WHOLE: Range<u32> = 0..16;

/// The part of a range that lies in one extent: its blocks, within the extent.
pub(crate) fn parts(offset: u64, length: u64) -> impl Iterator<Item = (ExtentIndex, Range<u32>)> {
    let end = offset + length;
    (offset / EXTENT_BYTES..end.div_ceil(EXTENT_BYTES)).map(move |extent| {
        let start = extent * EXTENT_BYTES;
        let first = offset.saturating_sub(start) / BLOCK_BYTES;
        let last = (end - start).min(EXTENT_BYTES) / BLOCK_BYTES;
        (ExtentIndex(extent as u32), first as u32..last as u32)
    })
}

fn mask(blocks: &Range<u32>) -> u16 {
    blocks.clone().fold(0, |mask, block| mask | 1 << block)
}

impl Engine {
    /// Creates an empty replica of a segment of whole blocks, at most 16 GiB.
    pub fn create_replica(&mut self, id: ReplicaId, segment_bytes: u64, meta: Bytes) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        self.create(id, segment_bytes, None, None, meta)
    }

    /// Creates a replica, of a base if there is one, which is counted.
    pub(crate) fn create(
        &mut self,
        id: ReplicaId,
        segment_bytes: u64,
        base: Option<MapId>,
        position: Option<Seq>,
        meta: Bytes,
    ) -> Result<Lsn, Error> {
        if !segment_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::Misaligned { what: "the segment" });
        }
        if segment_bytes == 0 || segment_bytes > SEGMENT_BYTES_DEFAULT {
            return Err(Error::OutOfRange { offset: 0, length: segment_bytes });
        }
        if self.replicas.contains_key(&id) {
            return Err(Error::ReplicaExists(id));
        }
        let body = Body::Create { segment_bytes, base, meta };
        self.check_record(body.own_bytes())?;
        let map = ExtentMap::create(&*self.dir, self.salt, id, segment_bytes)?;
        self.names_changed = true;
        self.replicas.insert(id, Replica::new(id, segment_bytes, base, map));
        self.count_clone(base, 1);
        self.append(id, position, body, SlotEffects::default())
    }

    /// Drops a replica. Its slots come back, and its map file goes, when a checkpoint past this record is durable (E2).
    pub fn drop_replica(&mut self, id: ReplicaId) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        self.replica_ref(id)?;
        self.append(id, None, Body::Drop, SlotEffects::default())
    }

    /// Replaces the replica's opaque state, and its position if one is given.
    pub fn put_meta(&mut self, id: ReplicaId, meta: Bytes, position: Option<Seq>) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        self.replica_ref(id)?;
        let body = Body::Meta(meta);
        self.check_record(body.own_bytes())?;
        self.append(id, position, body, SlotEffects::default())
    }

    /// Writes whole blocks, at most 1 MiB, as one record: all of it or nothing survives. Sets the replica's position,
    /// and the version of the extents touched, to `seq`. `checksums` are the CRC-32 of the blocks; they must have been
    /// verified by whoever received them, for they are not computed again here, and recovery and reads trust nothing
    /// else. May use the reserve: what leaves that alone is that nobody is promised it ([`Space::reserve_bytes`](crate::Space)).
    pub fn write(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        offset_bytes: u64,
        checksums: &[u32],
        data: Bytes,
    ) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        let length = data.len() as u64;
        self.check_range(id, offset_bytes, length, WRITE_BYTES_MAX)?;
        if checksums.len() != data.len() / BLOCK {
            return Err(Error::Misaligned { what: "the list of checksums" });
        }
        let extents = length.div_ceil(EXTENT_BYTES) as usize + 1;
        self.check_record(record::HEADER_BYTES + 2 * extents * record::CHANGE_BYTES + data.len())?;
        let mut edits = Vec::with_capacity(extents);
        for (extent, blocks) in parts(offset_bytes, length) {
            let held =
                if blocks == WHOLE { self.replaced(id, extent, seq)? } else { self.held(id, extent, seq)? };
            edits.push((extent, blocks, held));
        }
        self.prepare_maps(id, edits.iter().map(|(extent, _, held)| (*extent, held)))?;
        let (new_slots, replaces) = self.slots_for_write(&edits)?;
        let mut new_slots = new_slots.into_iter();

        let mut effects = SlotEffects { taken: new_slots.len() as u64, ..SlotEffects::default() };
        let mut changes = Vec::with_capacity(edits.len());
        let mut runs = Vec::with_capacity(edits.len());
        let (mut checksums, mut rest) = (checksums.iter(), data);
        for (extent, blocks, held) in edits {
            let first_block = blocks.start;
            let (mask, is_whole) = (mask(&blocks), blocks == WHOLE);
            let data = rest.split_to(blocks.len() * BLOCK);
            let mut entry = held.entry;
            for (block, checksum) in blocks.zip(checksums.by_ref()) {
                entry.set_data(block, *checksum);
            }
            entry.version = seq;
            let new_slot = if wants_slot(&held, is_whole && replaces) { new_slots.next() } else { None };
            let Some(slot) = new_slot.or(held.entry.slot) else { return Err(Error::NoSpace) };
            if new_slot.is_some() {
                effects.freed.extend(held.freed());
                entry.slot = new_slot;
            }
            changes.extend(self.kept_change(id, extent, &held));
            let mut change = self.live_change(id, extent, entry);
            if is_whole && new_slot.is_some() {
                effects.placed.push(Run { slot, first_block, data });
                change.placed_mask = mask;
            } else {
                runs.push(Run { slot, first_block, data: apart(data, length) });
                change.data_mask = mask;
                change.copy_from = held.shared_slot().filter(|_| entry.zero_mask | mask != ALL_ZERO);
            }
            changes.push(change);
        }
        self.append(id, Some(seq), Body::Extents { changes, runs }, effects)
    }

    /// Slots for the extents that need one, and for those that are written whole: all of the latter or, where space is
    /// short, none; it says which.
    fn slots_for_write(
        &mut self,
        edits: &[(ExtentIndex, Range<u32>, Held)],
    ) -> Result<(Vec<Slot>, bool), Error> {
        let needed = edits.iter().filter(|(.., held)| wants_slot(held, false)).count() as u64;
        let all = edits.iter().filter(|(_, blocks, held)| wants_slot(held, *blocks == WHOLE)).count() as u64;
        if all > needed {
            match self.take_slots(all, self.reserve_slots) {
                Err(Error::NoSpace) => {}
                other => return other.map(|slots| (slots, true)),
            }
        }
        self.take_slots(needed, 0).map(|slots| (slots, false))
    }

    /// Sees to it that the entries of these extents can be stored, and those that layers must keep.
    pub(crate) fn prepare_maps<'a>(
        &mut self,
        id: ReplicaId,
        extents: impl Iterator<Item = (ExtentIndex, &'a Held)>,
    ) -> Result<(), Error> {
        let replica = self.replicas.get_mut(&id).ok_or(Error::UnknownReplica(id))?;
        for (extent, held) in extents {
            replica.prepare_store(&mut self.pool, Layer::LIVE, extent, 1)?;
            if let Some((layer, _)) = held.kept() {
                replica.prepare_store(&mut self.pool, layer, extent, 1)?;
            }
        }
        Ok(())
    }

    /// The change that gives a layer what it must keep.
    pub(crate) fn kept_change(
        &self,
        id: ReplicaId,
        extent: ExtentIndex,
        held: &Held,
    ) -> Option<ExtentChange> {
        let (layer, cell) = held.kept()?;
        Some(self.change(MapId { replica: id, layer }, extent, cell))
    }
}

/// A part of what was written, which is held in memory until it is applied: a small one of a large write is copied, so that it
/// does not hold all of it.
fn apart(part: Bytes, whole_bytes: u64) -> Bytes {
    if part.len() as u64 * 4 <= whole_bytes { Bytes::copy_from_slice(&part) } else { part }
}

/// Whether the extent needs a slot for a write, or wants a new one.
fn wants_slot(held: &Held, replace: bool) -> bool {
    replace || held.entry.slot.is_none() || !held.is_writable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_extents() {
        let cut: Vec<_> = parts(60 << 10, 72 << 10).map(|(extent, blocks)| (extent.0, blocks)).collect();
        assert_eq!(cut, [(0, 15..16), (1, 0..16), (2, 0..1)]);
        assert_eq!(parts(8192, 4096).collect::<Vec<_>>(), [(ExtentIndex(0), 2..3)]);
        assert_eq!(mask(&(2..5)), 0b11100);
    }
}
