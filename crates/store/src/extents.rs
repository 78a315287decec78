//! Verbs of resync and of space: which extents changed, what an extent holds, how many slots a write would take.

use crate::Error;
use crate::engine::Engine;
use crate::format::entry::{Entry, Layer, MapId};
use crate::pool::CHUNK_ENTRIES;
use crate::read::{ReadPlan, Verdict};
use crate::replica::Replica;
use crate::view::View;
use crate::write::parts;
use bytes::Bytes;
use quoin_types::{BLOCK_BYTES, BlockIndex, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};

/// A read of a whole extent for a peer, planned: as [`ReadPlan`].
pub struct ExtentPlan {
    extent: ExtentIndex,
    plan: ReadPlan,
}

/// A whole extent, as [`Engine::put_extent`] takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentContent {
    /// Which one.
    pub extent: ExtentIndex,
    /// Its version; zero if it was never touched.
    pub version: Version,
    /// Bit set: the block reads as zeros and is not in `data`.
    pub zero_mask: u16,
    /// Of the blocks in `data`; 0 for the others.
    pub checksums: [u32; 16],
    /// The other blocks, in order.
    pub data: Bytes,
}

/// How the read of an extent ended.
#[must_use]
pub enum ExtentOutcome {
    /// All of it, verified.
    Data(ExtentContent),
    /// It changed meanwhile: run this one.
    Retry(ExtentPlan),
    /// A block does not match its checksum: the disk has damaged it.
    Mismatch {
        /// The first such block.
        block: BlockIndex,
        /// The extent's version.
        version: Version,
    },
}

impl ExtentPlan {
    /// As [`ReadPlan::try_cached`].
    pub fn try_cached(&mut self) -> Result<bool, Error> {
        self.plan.try_cached()
    }

    /// As [`ReadPlan::run`].
    pub fn run(&mut self) {
        self.plan.run();
    }
}

impl Engine {
    /// Plans the read of a whole extent.
    pub fn read_extent(
        &mut self,
        id: ReplicaId,
        view: View,
        extent: ExtentIndex,
    ) -> Result<ExtentPlan, Error> {
        let segment_bytes = self.replica_ref(id)?.segment_bytes;
        let offset = extent.byte_offset();
        if offset >= segment_bytes {
            return Err(Error::OutOfRange { offset, length: EXTENT_BYTES });
        }
        self.statistics.reads += 1;
        Ok(ExtentPlan { extent, plan: self.plan(id, view, offset, EXTENT_BYTES, true)? })
    }

    /// Ends the read of an extent.
    pub fn finish_extent(&mut self, plan: ExtentPlan) -> Result<ExtentOutcome, Error> {
        let extent = plan.extent;
        Ok(match self.verify(plan.plan)? {
            Verdict::Good(data, _, entries) => {
                let entry = entries.first().copied().unwrap_or(Entry::UNTOUCHED);
                let Entry { version, zero_mask, checksums, .. } = entry;
                ExtentOutcome::Data(ExtentContent { extent, version, zero_mask, checksums, data })
            }
            Verdict::Retry(plan) => ExtentOutcome::Retry(ExtentPlan { extent, plan }),
            Verdict::Mismatch(block, version) => ExtentOutcome::Mismatch { block, version },
        })
    }

    /// The extents from `from` on whose version in this view is above `since`, in order, at most `max`. A damaged entry is
    /// among them, with the highest version there is: nobody knows its own, so it may have changed.
    pub fn changed_since(
        &self,
        id: ReplicaId,
        view: View,
        since: Version,
        from: ExtentIndex,
        max: usize,
    ) -> Result<Vec<(ExtentIndex, Version)>, Error> {
        let mut found = Vec::new();
        if max > 0 {
            self.scan_changed(id, view, since, from, |extent, version| {
                found.push((extent, version));
                found.len() < max
            })?;
        }
        Ok(found)
    }

    /// How many extents have a version above `since` in this view.
    pub fn count_changed_since(&self, id: ReplicaId, view: View, since: Version) -> Result<u64, Error> {
        let mut count = 0;
        self.scan_changed(id, view, since, ExtentIndex(0), |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    fn scan_changed(
        &self,
        id: ReplicaId,
        view: View,
        since: Version,
        from: ExtentIndex,
        visit: impl FnMut(ExtentIndex, Version) -> bool,
    ) -> Result<(), Error> {
        let (replica, map) = (self.replica_ref(id)?, self.map_of(id, view)?);
        if view == View::Live && replica.base.is_none() {
            scan_live(replica, since, from, visit);
            return Ok(());
        }
        self.scan_chain(replica, map, since, from, visit)
    }

    /// Looks at all extents one by one, but for those of which no map says anything new.
    fn scan_chain(
        &self,
        replica: &Replica,
        map: MapId,
        since: Version,
        from: ExtentIndex,
        mut visit: impl FnMut(ExtentIndex, Version) -> bool,
    ) -> Result<(), Error> {
        let chain = self.links(map);
        let mut skip = false;
        for extent in (from.0..replica.map.extents()).map(ExtentIndex) {
            // What says of one extent of a chunk of a layer says it of all; those of the live maps are larger still.
            if extent == from || extent.0.is_multiple_of(CHUNK_ENTRIES) {
                skip = !chain.may_exceed(extent, since);
            }
            if skip {
                continue;
            }
            let version = match self.seen(map, extent) {
                Ok(entry) => entry.version,
                Err(Error::Corrupt { .. }) => Seq(u64::MAX),
                Err(error) => return Err(error),
            };
            if version > since && !visit(extent, version) {
                break;
            }
        }
        Ok(())
    }

    /// The maps that a view looks at, to be skipped through.
    pub(crate) fn links(&self, from: MapId) -> Chain<'_> {
        let link = |map: MapId| Some((self.replicas.get(&map.replica)?, map.layer));
        Chain(self.chain(from).into_iter().filter_map(link).collect())
    }

    /// How many slots a write to this range would take (rule W5). All of them, where that is not known.
    pub fn touched(&self, id: ReplicaId, offset_bytes: u64, length_bytes: u64) -> u32 {
        let Ok(replica) = self.replica_ref(id) else { return 0 };
        let end = offset_bytes
            .saturating_add(length_bytes)
            .min(replica.segment_bytes.next_multiple_of(BLOCK_BYTES));
        if offset_bytes >= end {
            return 0;
        }
        let extents = parts(offset_bytes, end - offset_bytes);
        // Where layers keep what is there, and in a clone, the write takes a new slot.
        let new = extents.filter(|(extent, _)| {
            !self
                .held(id, *extent, Seq(u64::MAX))
                .is_ok_and(|held| held.is_private() && held.entry.slot.is_some())
        });
        new.count() as u32
    }
}

/// The maps that a view looks at, one after the other.
pub(crate) struct Chain<'a>(Vec<(&'a Replica, Layer)>);

impl Chain<'_> {
    /// Whether an extent of its chunk (of [`CHUNK_ENTRIES`]) may have a version above `since`, for all that the maps say.
    pub(crate) fn may_exceed(&self, extent: ExtentIndex, since: Version) -> bool {
        self.0.iter().any(|(replica, layer)| {
            let kept = (*layer != Layer::LIVE).then(|| replica.layer_maps.range(*layer..));
            extent.0 < replica.map.extents() && replica.map.may_exceed(extent, since)
                || kept.is_some_and(|mut maps| maps.any(|(_, map)| map.touches_chunk_of(extent)))
        })
    }
}

/// Merges map and overlay, in order, until `visit` says no.
fn scan_live(
    replica: &Replica,
    since: Version,
    from: ExtentIndex,
    mut visit: impl FnMut(ExtentIndex, Version) -> bool,
) {
    let mut pending = replica.overlay.sorted_from(from).into_iter().peekable();
    let mut wanted = |extent, version| version <= since || visit(extent, version);
    let mut stopped = false;
    replica.map.scan(from, Some(since), |extent, stored| {
        while let Some((before, entry)) = pending.next_if(|(other, _)| *other < extent) {
            if !wanted(before, entry.version) {
                stopped = true;
                return false;
            }
        }
        let newer = pending.next_if(|(other, _)| *other == extent);
        let known = newer.map(|(_, entry)| entry).or(stored);
        stopped = !wanted(extent, known.map_or(Seq(u64::MAX), |entry| entry.version));
        !stopped
    });
    while let (false, Some((extent, entry))) = (stopped, pending.next()) {
        stopped = !wanted(extent, entry.version);
    }
}
