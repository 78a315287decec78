//! Trim and write-zeroes.

use crate::engine::{Engine, SlotEffects};
use crate::format::entry::{ALL_ZERO, Entry, Layer};
use crate::format::record::{Body, CHANGE_BYTES, ExtentChange, HEADER_BYTES};
use crate::slots::Slot;
use crate::view::Held;
use crate::write::parts;
use crate::{Error, Lsn};
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};
use std::ops::Range;

/// The most extents that one record zeroes: 256 MiB. Bounds the time that applying one record takes.
const ZERO_EXTENTS_MAX: u32 = 4096;
/// The most of those that layers must keep, and that are named one by one.
const KEPT_EXTENTS_MAX: u32 = 128;

/// What zeroing a whole extent means for layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// This one must know that the extent was as in the base.
    KeepsNothing(Layer),
    /// One must keep its entry.
    Kept,
}

impl Kind {
    fn extents_max(self) -> u32 {
        if self == Kind::Kept { KEPT_EXTENTS_MAX } else { ZERO_EXTENTS_MAX }
    }
}

impl Engine {
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
        let after = end.div_ceil(EXTENT_BYTES) as u32;
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
            let (run, kind) = self.like_first(id, seq, whole.clone())?;
            let position = (run.end == whole.end && partial.is_empty()).then_some(seq);
            whole.start = run.end;
            last = match kind {
                Kind::Plain => self.zero_alike(id, seq, run, None, position)?,
                Kind::KeepsNothing(layer) => self.zero_alike(id, seq, run, Some(layer), position)?,
                Kind::Kept => self.zero_kept(id, seq, run, position)?,
            };
        }
        if partial.is_empty() { Ok(last) } else { self.zero_parts(id, seq, partial.into_iter()) }
    }

    /// The extents from the first on that one record can zero.
    fn like_first(
        &self,
        id: ReplicaId,
        version: Version,
        extents: Range<u32>,
    ) -> Result<(Range<u32>, Kind), Error> {
        let kind = self.kind(id, version, ExtentIndex(extents.start))?;
        let max = extents.end.min(extents.start.saturating_add(kind.extents_max()));
        let mut end = extents.start + 1;
        while end < max && self.kind(id, version, ExtentIndex(end))? == kind {
            end += 1;
        }
        Ok((extents.start..end, kind))
    }

    fn kind(&self, id: ReplicaId, version: Version, extent: ExtentIndex) -> Result<Kind, Error> {
        if self.replica_ref(id)?.live.layers.is_empty() {
            return Ok(Kind::Plain);
        }
        let held = self.replaced(id, extent, version)?;
        Ok(match (held.keeps_nothing_in(), held.kept()) {
            (Some(layer), _) => Kind::KeepsNothing(layer),
            (None, Some(_)) => Kind::Kept,
            (None, None) => Kind::Plain,
        })
    }

    /// Zeroes whole extents: one short record whatever their number, for their entries are all alike.
    fn zero_alike(
        &mut self,
        id: ReplicaId,
        version: Version,
        extents: Range<u32>,
        keep_in: Option<Layer>,
        position: Option<Seq>,
    ) -> Result<Lsn, Error> {
        let mut freed = Vec::new();
        for extent in extents.clone().map(ExtentIndex) {
            freed.extend(self.own_slot(id, extent)?);
        }
        let (first, count) = (ExtentIndex(extents.start), extents.len() as u32);
        let replica = self.replicas.get_mut(&id).ok_or(Error::UnknownReplica(id))?;
        for layer in [Some(Layer::LIVE), keep_in].into_iter().flatten() {
            replica.prepare_store(&mut self.pool, layer, first, count)?;
        }
        let body = Body::Zero { first, count, version, keep_in };
        self.append(id, position, body, SlotEffects { freed, ..SlotEffects::default() })
    }

    /// Zeroes whole extents whose entries a layer must keep.
    fn zero_kept(
        &mut self,
        id: ReplicaId,
        version: Version,
        extents: Range<u32>,
        position: Option<Seq>,
    ) -> Result<Lsn, Error> {
        let held: Result<Vec<_>, Error> = extents
            .map(ExtentIndex)
            .map(|extent| Ok((extent, self.replaced(id, extent, version)?)))
            .collect();
        let held = held?;
        self.prepare_maps(id, held.iter().map(|(extent, held)| (*extent, held)))?;
        let changes = held.iter().flat_map(|(extent, held)| {
            let now = self.live_change(id, *extent, Entry::zeroed(version));
            self.kept_change(id, *extent, held).into_iter().chain([now])
        });
        let changes: Vec<ExtentChange> = changes.collect();
        let freed = held.iter().filter_map(|(_, held)| held.freed()).collect();
        let effects = SlotEffects { freed, ..SlotEffects::default() };
        self.append(id, position, Body::Extents { changes, runs: Vec::new() }, effects)
    }

    /// Zeroes parts of extents, without a slot for those that have none. What somebody else looks at is copied first; may
    /// use the reserve (W5).
    fn zero_parts(
        &mut self,
        id: ReplicaId,
        seq: Seq,
        parts: impl Iterator<Item = (ExtentIndex, Range<u32>)>,
    ) -> Result<Lsn, Error> {
        let mut edits: Vec<(ExtentIndex, Held, Entry)> = Vec::new();
        for (extent, blocks) in parts {
            let held = self.held(id, extent, seq)?;
            let mut entry = Entry { version: seq, ..held.entry };
            blocks.for_each(|block| entry.set_zero(block));
            edits.push((extent, held, entry));
        }
        let wants_slot = |held: &Held, entry: &Entry| entry.zero_mask != ALL_ZERO && !held.is_private();
        self.check_record(HEADER_BYTES + 2 * edits.len() * CHANGE_BYTES)?;
        self.prepare_maps(id, edits.iter().map(|(extent, held, _)| (*extent, held)))?;
        let count = edits.iter().filter(|(_, held, entry)| wants_slot(held, entry)).count() as u64;
        let mut slots = self.take_slots(count, 0)?.into_iter();

        let mut effects = SlotEffects { taken: count, ..SlotEffects::default() };
        let mut changes = Vec::new();
        for (extent, held, mut entry) in edits {
            changes.extend(self.kept_change(id, extent, &held));
            let mut copy_from = None;
            if entry.zero_mask == ALL_ZERO {
                effects.freed.extend(held.freed());
                entry.slot = None;
            } else if wants_slot(&held, &entry) {
                (copy_from, entry.slot) = (held.entry.slot, slots.next());
            }
            changes.push(ExtentChange { copy_from, ..self.live_change(id, extent, entry) });
        }
        self.append(id, Some(seq), Body::Extents { changes, runs: Vec::new() }, effects)
    }

    /// The slot that replacing the whole extent frees, where no layer keeps it. That of a damaged entry is not known: it
    /// comes back with the next start, which finds no entry that names it.
    fn own_slot(&self, id: ReplicaId, extent: ExtentIndex) -> Result<Option<Slot>, Error> {
        match self.replica_ref(id)?.own(extent) {
            Ok(entry) => Ok(entry.slot),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
