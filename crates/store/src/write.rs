//! Verbs that change a replica from its owner's stream: create, drop, meta, write, zero.

use crate::engine::{Engine, SlotEffects};
use crate::format::BLOCK;
use crate::format::entry::{ALL_ZERO, Entry};
use crate::format::record::{self, Body, ExtentChange, Run};
use crate::map::ExtentMap;
use crate::replica::Replica;
use crate::slots::Slot;
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::limits::{SEGMENT_BYTES_DEFAULT, WRITE_BYTES_MAX};
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};
use std::ops::Range;

/// The most extents that one record zeroes: 256 MiB. Bounds the time that applying one record takes.
const ZERO_EXTENTS_MAX: u32 = 4096;

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
        if !segment_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::Misaligned { what: "the segment" });
        }
        if segment_bytes == 0 || segment_bytes > SEGMENT_BYTES_DEFAULT {
            return Err(Error::OutOfRange { offset: 0, length: segment_bytes });
        }
        if self.replicas.contains_key(&id) {
            return Err(Error::ReplicaExists(id));
        }
        let body = Body::Create { segment_bytes, meta };
        self.check_record(body.own_bytes())?;
        let map = ExtentMap::create(&*self.dir, self.salt, id, segment_bytes)?;
        self.names_changed = true;
        self.replicas.insert(id, Replica::new(segment_bytes, map));
        self.append(id, None, body, SlotEffects::default())
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
    /// else.
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
        self.check_record(record::HEADER_BYTES + extents * record::CHANGE_BYTES + data.len())?;
        let mut edits = Vec::with_capacity(extents);
        for (extent, blocks) in parts(offset_bytes, length) {
            edits.push((extent, blocks, self.current(id, extent)?));
        }
        let first = edits[0].0;
        self.replica_mut(id)?.map.prepare_store(first, edits.len() as u32)?;
        let (new_slots, replaces) = self.slots_for_write(&edits)?;
        let mut new_slots = new_slots.into_iter();

        let mut effects = SlotEffects { taken: new_slots.len() as u64, ..SlotEffects::default() };
        let mut changes = Vec::with_capacity(edits.len());
        let mut runs = Vec::with_capacity(edits.len());
        let (mut checksums, mut rest) = (checksums.iter(), data);
        for (extent, blocks, mut entry) in edits {
            let first_block = blocks.start;
            let (mask, is_whole) = (mask(&blocks), blocks == WHOLE);
            let data = rest.split_to(blocks.len() * BLOCK);
            for (block, checksum) in blocks.zip(checksums.by_ref()) {
                entry.set_data(block, *checksum);
            }
            entry.version = seq;
            let wants_slot = entry.slot.is_none() || (is_whole && replaces);
            let new_slot = if wants_slot { new_slots.next() } else { None };
            let Some(slot) = new_slot.or(entry.slot) else { return Err(Error::NoSpace) };
            if new_slot.is_some() {
                effects.freed.extend(entry.slot.replace(slot));
            }
            let run = Run { extent, slot, first_block, data };
            if is_whole && new_slot.is_some() {
                effects.placed.push(run);
                changes.push(self.change(id, extent, 0, mask, entry));
            } else {
                runs.push(run);
                changes.push(self.change(id, extent, mask, 0, entry));
            }
        }
        self.append(id, Some(seq), Body::Extents { changes, runs }, effects)
    }

    /// Slots for the extents that have none, and for those that are written whole: all of the latter or, where space is
    /// short, none; it says which.
    fn slots_for_write(
        &mut self,
        edits: &[(ExtentIndex, Range<u32>, Entry)],
    ) -> Result<(Vec<Slot>, bool), Error> {
        let count = |wanted: &dyn Fn(&Range<u32>, &Entry) -> bool| {
            edits.iter().filter(|(_, blocks, entry)| wanted(blocks, entry)).count() as u64
        };
        let needed = count(&|_, entry| entry.slot.is_none());
        let replaced = count(&|blocks, entry| entry.slot.is_some() && *blocks == WHOLE);
        if replaced > 0 {
            match self.take_slots(needed + replaced, self.reserve_slots) {
                Err(Error::NoSpace) => {}
                other => return other.map(|slots| (slots, true)),
            }
        }
        self.take_slots(needed, self.reserve_slots).map(|slots| (slots, false))
    }

    pub(crate) fn change(
        &self,
        id: ReplicaId,
        extent: ExtentIndex,
        data_mask: u16,
        placed_mask: u16,
        entry: Entry,
    ) -> ExtentChange {
        ExtentChange { extent, data_mask, placed_mask, entry, encoded: entry.encode(self.salt, id, extent) }
    }

    /// Makes whole blocks read as zeros (trim and write-zeroes). Extents that become zero as a whole give their slot
    /// back and keep an entry with version `seq` (rule S3). A long range becomes several records, of which only the
    /// last sets the position: after a crash between them, the write was not made, and is made again.
    pub fn zero(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Lsn, Error> {
        self.ensure_healthy()?;
        self.check_range(id, offset_bytes, length_bytes, u64::MAX)?;
        let end = offset_bytes + length_bytes;
        let first = ExtentIndex((offset_bytes / EXTENT_BYTES) as u32);
        let after = end.div_ceil(EXTENT_BYTES) as u32;
        self.replica_mut(id)?.map.prepare_store(first, after - first.0)?;

        let mut whole = offset_bytes.div_ceil(EXTENT_BYTES) as u32..(end / EXTENT_BYTES) as u32;
        if end == self.replica_ref(id)?.segment_bytes && offset_bytes <= u64::from(after - 1) * EXTENT_BYTES {
            whole.end = after;
        }
        if whole.is_empty() {
            return self.zero_parts(id, seq, parts(offset_bytes, length_bytes));
        }
        let ends: Vec<_> =
            parts(offset_bytes, length_bytes).take(1).chain(parts(end - BLOCK_BYTES, BLOCK_BYTES)).collect();
        let mut partial = Vec::new();
        if ends[0].0.0 < whole.start {
            partial.push(ends[0].clone());
        }
        if ends[1].0.0 >= whole.end {
            partial.push((ends[1].0, 0..ends[1].1.end));
        }
        let mut last = Lsn(0);
        while !whole.is_empty() {
            let stop = whole.end.min(whole.start + ZERO_EXTENTS_MAX);
            let position = (stop == whole.end && partial.is_empty()).then_some(seq);
            last = self.zero_whole(id, seq, whole.start..stop, position)?;
            whole.start = stop;
        }
        if partial.is_empty() { Ok(last) } else { self.zero_parts(id, seq, partial.into_iter()) }
    }

    /// Zeroes whole extents: one short record whatever their number, for their entries are all alike.
    fn zero_whole(
        &mut self,
        id: ReplicaId,
        version: Version,
        extents: Range<u32>,
        position: Option<Seq>,
    ) -> Result<Lsn, Error> {
        let mut freed = Vec::new();
        for extent in extents.clone().map(ExtentIndex) {
            freed.extend(self.current_slot(id, extent)?);
        }
        let body = Body::Zero { first: ExtentIndex(extents.start), count: extents.len() as u32, version };
        self.append(id, position, body, SlotEffects { freed, ..SlotEffects::default() })
    }

    /// Zeroes parts of extents, without a slot for those that have none.
    fn zero_parts(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        parts: impl Iterator<Item = (ExtentIndex, Range<u32>)>,
    ) -> Result<Lsn, Error> {
        let mut changes = Vec::new();
        let mut freed = Vec::new();
        for (extent, blocks) in parts {
            let mut entry = self.current(id, extent)?;
            blocks.for_each(|block| entry.set_zero(block));
            entry.version = seq;
            if entry.zero_mask == ALL_ZERO {
                freed.extend(entry.slot.take());
            }
            changes.push(self.change(id, extent, 0, 0, entry));
        }
        self.append(
            id,
            Some(seq),
            Body::Extents { changes, runs: Vec::new() },
            SlotEffects { freed, ..SlotEffects::default() },
        )
    }

    /// The slot that replacing the whole extent frees. That of a damaged entry is not known: it comes back with the
    /// next start, which finds no entry that names it.
    pub(crate) fn current_slot(&self, id: ReplicaId, extent: ExtentIndex) -> Result<Option<Slot>, Error> {
        match self.current(id, extent) {
            Ok(entry) => Ok(entry.slot),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
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
