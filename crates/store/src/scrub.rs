//! Scrub: looks at every map entry and every block of all replicas, lap after lap, at the rate that the caller gives.
//!
//! It only finds: [`Engine::put_extent`] mends (rule R3).

use crate::engine::Engine;
use crate::format::BLOCK;
use crate::format::entry::{Cell, ENTRY_BYTES, Entry, Layer, MapId};
use crate::pool::CHUNK_ENTRIES;
use quoin_disk::File;
use quoin_types::{BlockIndex, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, SnapshotId, Version};
use std::fmt;
use std::sync::Arc;

/// Where a scrub is. It keeps no hold on anything: replicas may come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scrub {
    replica: ReplicaId,
    /// Which of its maps: the live one first.
    layer: Layer,
    next: ExtentIndex,
    laps: u64,
}

impl Scrub {
    /// How often everything was looked at.
    pub fn laps(&self) -> u64 {
        self.laps
    }
}

/// A step of a scrub: to be run on any thread, and then finished. Dropping it is fine.
pub struct ScrubJob {
    data: Arc<dyn File>,
    /// E2: while this is held, no slot that the step reads is used for anything else.
    _epoch: Arc<()>,
    extents: Vec<(MapId, ExtentIndex, Entry)>,
    found: Vec<(MapId, ExtentIndex)>,
    suspects: Vec<(MapId, ExtentIndex, Entry, Harm)>,
    report: ScrubReport,
}

/// What a step found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Extents looked at.
    pub extents: u64,
    /// Bytes of map and data looked at.
    pub bytes: u64,
    /// Extents left out, for they are being written: the next lap looks again.
    pub skipped: u64,
    /// What is damaged.
    pub damaged: Vec<Damage>,
}

/// What is wrong with an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// Its map entry does not match its checksum: what it held is not known.
    Entry,
    /// This block (of the segment) does not match its checksum.
    Block(BlockIndex),
    /// The device does not give its data.
    Unreadable,
}

/// A damaged extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Whose.
    pub replica: ReplicaId,
    /// The snapshot that it is kept for; `None` where it is what the replica is now.
    pub snapshot: Option<SnapshotId>,
    /// Which.
    pub extent: ExtentIndex,
    /// Its version, which a repair must name (rule R3); `None` where nobody knows it.
    pub version: Option<Version>,
    /// What is wrong.
    pub harm: Harm,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (replica, extent) = (self.replica, self.extent);
        match self.harm {
            Harm::Entry => write!(f, "the map entry of extent {extent} of replica {replica} is damaged"),
            Harm::Block(block) => {
                write!(f, "block {block} (extent {extent}) of replica {replica} is damaged")
            }
            Harm::Unreadable => write!(f, "extent {extent} of replica {replica} cannot be read"),
        }?;
        self.snapshot.map_or(Ok(()), |snapshot| write!(f, " (kept for snapshot {snapshot})"))
    }
}

impl ScrubJob {
    fn add(&mut self, map: MapId, extent: ExtentIndex, entry: Entry) {
        self.report.extents += 1;
        self.report.bytes += ENTRY_BYTES as u64 + u64::from(entry.zero_mask.count_zeros()) * BLOCK as u64;
        self.extents.push((map, extent, entry));
    }

    /// An entry without data, which is right.
    fn add_entry(&mut self) {
        self.report.extents += 1;
        self.report.bytes += ENTRY_BYTES as u64;
    }

    fn add_damaged(&mut self, map: MapId, extent: ExtentIndex) {
        self.add_entry();
        self.found.push((map, extent));
    }

    /// The extent is being written.
    fn skip(&mut self) {
        self.report.skipped += 1;
        self.report.bytes += ENTRY_BYTES as u64;
    }

    /// Reads and verifies; waits for the device, not only for the page cache.
    pub fn run(&mut self) {
        for (map, extent, entry) in std::mem::take(&mut self.extents) {
            self.suspects.extend(harm_of(&*self.data, extent, &entry).map(|harm| (map, extent, entry, harm)));
        }
    }
}

fn harm_of(data: &dyn File, extent: ExtentIndex, entry: &Entry) -> Option<Harm> {
    // Where that fails the cache is verified: better than nothing.
    let _ = entry.slot.map(|slot| data.drop_cached(slot.byte_offset(), EXTENT_BYTES));
    harm_of_blocks(data, extent, entry, !entry.zero_mask)
}

/// The first thing that is wrong with these blocks of an extent.
pub(crate) fn harm_of_blocks(data: &dyn File, extent: ExtentIndex, entry: &Entry, mask: u16) -> Option<Harm> {
    let slot = entry.slot?;
    let mut buffer = [0; BLOCK];
    for block in (0..16).filter(|block| mask >> block & 1 == 1) {
        if data.read_at(&mut buffer, slot.byte_offset() + u64::from(block) * BLOCK as u64).is_err() {
            return Some(Harm::Unreadable);
        }
        if crc32fast::hash(&buffer) != entry.checksums[block as usize] {
            return Some(Harm::Block(BlockIndex(extent.first_block().0 + block)));
        }
    }
    None
}

impl Engine {
    /// Plans the next step: extents of about `budget_bytes` of map and data together. `None` at the end of a lap.
    pub fn start_scrub(&mut self, scrub: &mut Scrub, budget_bytes: u64) -> Option<ScrubJob> {
        let mut job = ScrubJob {
            data: self.data.clone(),
            _epoch: self.read_epoch.clone(),
            extents: Vec::new(),
            found: Vec::new(),
            suspects: Vec::new(),
            report: ScrubReport::default(),
        };
        let mut ids: Vec<ReplicaId> =
            self.replicas().map(|(id, _)| id).filter(|id| *id >= scrub.replica).collect();
        ids.sort_unstable();
        for id in ids {
            if id != scrub.replica {
                *scrub = Scrub { replica: id, laps: scrub.laps, ..Scrub::default() };
            }
            if !self.scrub_replica(scrub, budget_bytes, &mut job) {
                return Some(job);
            }
            *scrub = Scrub { replica: ReplicaId(id.0 + 1), laps: scrub.laps, ..Scrub::default() };
        }
        if job.report.bytes > 0 || job.report.skipped > 0 {
            return Some(job);
        }
        *scrub = Scrub { laps: scrub.laps + 1, ..Scrub::default() };
        None
    }

    /// Adds extents of one replica; `false` when the budget is used up before its end.
    fn scrub_replica(&mut self, scrub: &mut Scrub, budget_bytes: u64, job: &mut ScrubJob) -> bool {
        if scrub.layer == Layer::LIVE {
            if !self.scrub_live(scrub, budget_bytes, job) {
                return false;
            }
            (scrub.layer, scrub.next) = (Layer(1), ExtentIndex(0));
        }
        self.scrub_layers(scrub, budget_bytes, job)
    }

    fn scrub_layers(&self, scrub: &mut Scrub, budget_bytes: u64, job: &mut ScrubJob) -> bool {
        let Some(replica) = self.replicas.get(&scrub.replica) else { return true };
        for (layer, map) in replica.layer_maps.range(scrub.layer..) {
            if *layer != scrub.layer {
                (scrub.layer, scrub.next) = (*layer, ExtentIndex(0));
            }
            let next = scrub.next;
            let extents = map.chunks_from(next.0 / CHUNK_ENTRIES).flat_map(|chunk| map.extents_of(chunk));
            for extent in extents.filter(|extent| *extent >= next) {
                if job.report.bytes >= budget_bytes {
                    scrub.next = extent;
                    return false;
                }
                let id = MapId { replica: scrub.replica, layer: *layer };
                match map.get(&self.pool, extent) {
                    _ if map.is_pending(extent) => job.skip(),
                    Some(Cell::Lost) | None => job.add_damaged(id, extent),
                    Some(Cell::Entry(entry)) => job.add(id, extent, entry),
                    Some(Cell::Empty | Cell::AsBase) => job.add_entry(),
                }
            }
        }
        true
    }

    fn scrub_live(&mut self, scrub: &mut Scrub, budget_bytes: u64, job: &mut ScrubJob) -> bool {
        let Some(replica) = self.replicas.get_mut(&scrub.replica) else { return true };
        let (mut ended, mut damaged) = (true, Vec::new());
        replica.map.scan(scrub.next, None, |extent, entry| {
            if job.report.bytes >= budget_bytes {
                ended = false;
                scrub.next = extent;
                return false;
            }
            match entry {
                _ if replica.overlay.get(extent).is_some() => job.skip(),
                Some(entry) => job.add(MapId::live(scrub.replica), extent, entry),
                None => damaged.push(extent),
            }
            true
        });
        for extent in damaged {
            // Nobody knows its version: no list of changes may pass over it.
            replica.map.raise_bound(extent, 1, Seq(u64::MAX));
            job.add_damaged(MapId::live(scrub.replica), extent);
        }
        ended
    }

    /// Ends a step, having run it if nobody did. What was written meanwhile is no damage.
    pub fn finish_scrub(&mut self, mut job: ScrubJob) -> ScrubReport {
        job.run();
        let ScrubJob { found, suspects, mut report, .. } = job;
        for (map, extent) in found {
            match self.damage(map, extent, None, Harm::Entry) {
                Some(damage) if self.is_damaged(map, extent) => report.damaged.push(damage),
                _ => report.skipped += 1,
            }
        }
        for (map, extent, entry, harm) in suspects {
            match self.damage(map, extent, Some(entry.version), harm) {
                Some(damage) if self.is_still(map, extent, entry) => report.damaged.push(damage),
                _ => report.skipped += 1,
            }
        }
        self.statistics.scrubbed_bytes += report.bytes;
        self.statistics.mismatches += report.damaged.len() as u64;
        report
    }

    /// Names what is wrong; `None` if the replica or layer is gone.
    fn damage(
        &self,
        map: MapId,
        extent: ExtentIndex,
        version: Option<Version>,
        harm: Harm,
    ) -> Option<Damage> {
        let replica = self.replica_ref(map.replica).ok()?;
        let snapshot = match map.layer {
            Layer::LIVE => None,
            layer => Some(replica.live.layers.iter().find(|info| info.layer == layer)?.snapshot),
        };
        Some(Damage { replica: map.replica, snapshot, extent, version, harm })
    }

    /// Whether the map's entry is still damaged, and nothing takes its place.
    fn is_damaged(&self, map: MapId, extent: ExtentIndex) -> bool {
        let Some(replica) = self.replicas.get(&map.replica) else { return false };
        match replica.layer_maps.get(&map.layer) {
            Some(layer) => matches!(layer.get(&self.pool, extent), None | Some(Cell::Lost)),
            None => replica.own(extent).is_err(),
        }
    }

    /// Whether the map still says this, and it is all on the disk.
    fn is_still(&self, map: MapId, extent: ExtentIndex, entry: Entry) -> bool {
        let Some(replica) = self.replicas.get(&map.replica) else { return false };
        match replica.layer_maps.get(&map.layer) {
            Some(layer) => {
                !layer.is_pending(extent) && layer.get(&self.pool, extent) == Some(Cell::Entry(entry))
            }
            None => {
                replica.overlay.get(extent).is_none()
                    && replica.map.load(extent).is_ok_and(|now| now == entry)
            }
        }
    }
}
