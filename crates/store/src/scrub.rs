//! Scrub: looks at every map entry and every block of all replicas, lap after lap, at the rate that the caller gives.
//!
//! It only finds: [`Engine::put_extent`] mends (rule R3).

use crate::engine::Engine;
use crate::format::BLOCK;
use crate::format::entry::{ENTRY_BYTES, Entry};
use quoin_disk::File;
use quoin_types::{BlockIndex, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};
use std::fmt;
use std::sync::Arc;

/// Where a scrub is. It keeps no hold on anything: replicas may come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scrub {
    replica: ReplicaId,
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
    extents: Vec<(ReplicaId, ExtentIndex, Entry)>,
    found: Vec<Damage>,
    suspects: Vec<(ReplicaId, ExtentIndex, Entry, Harm)>,
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
        }
    }
}

impl ScrubJob {
    /// Reads and verifies; waits for the device, not only for the page cache.
    pub fn run(&mut self) {
        for (id, extent, entry) in std::mem::take(&mut self.extents) {
            self.suspects.extend(harm_of(&*self.data, extent, &entry).map(|harm| (id, extent, entry, harm)));
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
                (scrub.replica, scrub.next) = (id, ExtentIndex(0));
            }
            if !self.scrub_replica(scrub, budget_bytes, &mut job) {
                return Some(job);
            }
            (scrub.replica, scrub.next) = (ReplicaId(id.0 + 1), ExtentIndex(0));
        }
        if job.report.bytes > 0 || job.report.skipped > 0 {
            return Some(job);
        }
        *scrub = Scrub { laps: scrub.laps + 1, ..Scrub::default() };
        None
    }

    /// Adds extents of one replica; `false` when the budget is used up before its end.
    fn scrub_replica(&mut self, scrub: &mut Scrub, budget_bytes: u64, job: &mut ScrubJob) -> bool {
        let Some(replica) = self.replicas.get_mut(&scrub.replica) else { return true };
        let (mut ended, mut damaged) = (true, Vec::new());
        replica.map.scan(scrub.next, None, |extent, entry| {
            if job.report.bytes >= budget_bytes {
                ended = false;
                scrub.next = extent;
                return false;
            }
            job.report.bytes += ENTRY_BYTES as u64;
            if replica.overlay.get(extent).is_some() {
                job.report.skipped += 1;
                return true;
            }
            job.report.extents += 1;
            match entry {
                Some(entry) => {
                    job.report.bytes += (16 - u64::from(entry.zero_mask.count_ones())) * BLOCK as u64;
                    job.extents.push((scrub.replica, extent, entry));
                }
                None => damaged.push(extent),
            }
            true
        });
        for extent in damaged {
            // Nobody knows its version: no list of changes may pass over it.
            replica.map.raise_bound(extent, 1, Seq(u64::MAX));
            job.found.push(Damage { replica: scrub.replica, extent, version: None, harm: Harm::Entry });
        }
        ended
    }

    /// Ends a step, having run it if nobody did. What was written meanwhile is no damage.
    pub fn finish_scrub(&mut self, mut job: ScrubJob) -> ScrubReport {
        job.run();
        let ScrubJob { found, suspects, mut report, .. } = job;
        report.damaged = found;
        for (replica, extent, entry, harm) in suspects {
            let is_unchanged = self.replica_ref(replica).is_ok_and(|state| {
                state.overlay.get(extent).is_none() && state.map.load(extent).is_ok_and(|now| now == entry)
            });
            if is_unchanged {
                report.damaged.push(Damage { replica, extent, version: Some(entry.version), harm });
            } else {
                report.skipped += 1;
            }
        }
        self.statistics.scrubbed_bytes += report.bytes;
        self.statistics.mismatches += report.damaged.len() as u64;
        report
    }
}
