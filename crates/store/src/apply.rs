//! From durable to applied: what the journal holds is brought into data file and maps, and space is given and taken
//! back, all by a job that may run on any thread: the engine's owner never waits for the filesystem.

use crate::engine::Engine;
use crate::format::entry::{Cell, ENTRY_BYTES, EntryBytes, Layer, MapId};
use crate::format::record::{Body, Copy, ExtentChange, Record};
use crate::format::{BLOCK, Salt};
use crate::layer::{LayerChunk, LayerMap};
use crate::map::{self, MapFile, no_space_or};
use crate::pool::{self, PoolChunk};
use crate::slots::{Slot, SlotRun};
use crate::task::{Task, Work};
use crate::{Error, Lsn};
use quoin_disk::{Dir, File, Map};
use quoin_types::collections::HashMap;
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, ExtentIndex, ReplicaId};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// How much block data one job writes: bounds the time until its overlay entries go.
const APPLY_BYTES_MAX: u64 = 16 << 20;
/// Fewer free slots with blocks than this: more are given blocks, ahead of the need. 128 MiB: when the filesystem turns out
/// to be full, what one busy gateway was promised is still there.
const READY_LOW: u64 = 2048;
/// More free slots with blocks than this: the rest goes back to the filesystem. 512 MiB: twice what a checkpoint is made for.
const READY_HIGH: u64 = 8192;
/// How many neighbouring slots one job gives blocks: 32 MiB.
const ALLOCATE_AHEAD: u64 = 512;
/// As many of a filesystem that was full: 4 MiB.
const ALLOCATE_AGAIN: u64 = 64;

/// Work on data file and maps, to be run on any thread, and then finished.
pub struct ApplyJob {
    number: u64,
    task: Task<ApplyWork>,
}

/// An [`ApplyJob`] that was run.
pub struct ApplyDone {
    number: u64,
}

impl ApplyJob {
    /// Does the work; may wait for the device.
    pub fn run(self) -> ApplyDone {
        self.task.run();
        ApplyDone { number: self.number }
    }
}

/// A job that was started and not finished. The engine keeps it, for a full journal cannot wait until someone runs it.
pub(crate) struct Applying {
    number: u64,
    /// The end of the last batch among the records.
    through: (Lsn, u64),
    records: Arc<Vec<Record>>,
    task: Task<ApplyWork>,
}

pub(crate) struct ApplyWork {
    dir: Arc<dyn Dir>,
    data: Arc<dyn File>,
    maps: HashMap<ReplicaId, MapFile>,
    pool: Arc<dyn Map>,
    salt: Salt,
    /// E1: all of them are durable.
    records: Arc<Vec<Record>>,
    /// Their entries of layers, in order, and where these go.
    kept: Vec<(PoolChunk, ExtentIndex, EntryBytes)>,
    allocate: Option<SlotRun>,
    /// E2: past their checkpoint, and no read uses them.
    punch: Vec<SlotRun>,
    /// Maps of replicas that are gone, past the checkpoint: their slots come back, then their files go.
    reclaim: Vec<Reclaim>,
}

/// What a job came to.
#[derive(Default)]
pub(crate) struct Applied {
    data_bytes: u64,
    entries: u64,
    allocated: Option<(SlotRun, Result<(), Error>)>,
    punched: Vec<(SlotRun, bool)>,
    reclaimed: Vec<(ReplicaId, Vec<Slot>)>,
}

/// A replica that is gone: where its slots are named.
struct Reclaim {
    id: ReplicaId,
    map: MapFile,
    chunks: Vec<u32>,
    /// Of its layers, whose entries are all in the pool.
    layers: Vec<LayerChunk>,
}

impl Work for ApplyWork {
    type Outcome = Result<Applied, Error>;

    fn run(self) -> Self::Outcome {
        let mut applied = Applied::default();
        if let Some(run) = self.allocate {
            // Failing is fine: whoever needs a slot tries again, and says so if there is no space.
            let result = self.data.allocate(run.byte_offset(), run.bytes());
            let result = result.map_err(|error| no_space_or(error, "allocating data slots ahead"));
            applied.allocated = Some((run, result));
        }
        applied.data_bytes = write_in_place(&*self.data, &self.records)?;
        applied.data_bytes += copy_blocks(&*self.data, &self.records)?;
        for record in self.records.iter() {
            applied.entries += self.maps.get(&record.replica).map_or(0, |map| store_entries(map, record));
        }
        for (chunk, extent, entry) in &self.kept {
            pool::store(&*self.pool, *chunk, *extent, entry);
        }
        applied.entries += self.kept.len() as u64;
        for run in &self.punch {
            let punched = self.data.punch(run.byte_offset(), run.bytes());
            if let Err(error) = &punched {
                tracing::warn!(%error, "space of freed slots could not be given back to the filesystem");
            }
            applied.punched.push((*run, punched.is_ok()));
        }
        for Reclaim { id, map, chunks, layers } in self.reclaim {
            let kept = layers.iter().flat_map(|chunk| chunk.cells(&*self.pool, self.salt));
            let mut slots: Vec<Slot> = kept.filter_map(|(_, cell)| cell?.slot()).collect();
            map.scan(chunks, ExtentIndex(0), |_, entry| {
                slots.extend(entry.and_then(|entry| entry.slot));
                true
            });
            let name = map::file_name(id);
            self.dir.remove(&name).map_err(Error::io(format!("removing {name}")))?;
            applied.reclaimed.push((id, slots));
        }
        Ok(applied)
    }
}

/// E3: redo stores even what is there already. Says how many entries.
fn store_entries(map: &MapFile, record: &Record) -> u64 {
    match &record.body {
        Body::Extents { changes, .. } => {
            let live = || changes.iter().filter(|change| change.layer == Layer::LIVE);
            live().for_each(|change| map.store(change.extent, &change.encoded));
            live().count() as u64
        }
        Body::Zero { first, count, version, .. } => map.store_zeroed(*first, *count, *version),
        _ => 0,
    }
}

/// Writes the records' block data to the slots: the last one of each block, neighbours together. Says how many bytes.
fn write_in_place(data: &dyn File, records: &[Record]) -> Result<u64, Error> {
    let mut blocks: Vec<(u64, usize, &[u8])> = Vec::new();
    for record in records {
        for run in record.body.runs() {
            let start = run.byte_offset();
            for (index, block) in run.data.chunks(BLOCK).enumerate() {
                blocks.push((start + index as u64 * BLOCK_BYTES, blocks.len(), block));
            }
        }
    }
    blocks.sort_unstable_by_key(|(offset, order, _)| (*offset, *order));
    let mut last_of_each: Vec<(u64, &[u8])> = Vec::with_capacity(blocks.len());
    for (offset, _, block) in blocks {
        match last_of_each.last_mut() {
            Some(last) if last.0 == offset => last.1 = block,
            _ => last_of_each.push((offset, block)),
        }
    }
    for neighbours in last_of_each.chunk_by(|a, b| a.0 + BLOCK_BYTES == b.0) {
        let slices: Vec<IoSlice<'_>> = neighbours.iter().map(|(_, block)| IoSlice::new(block)).collect();
        data.write_vectored_at(&slices, neighbours[0].0).map_err(Error::io("writing data"))?;
    }
    Ok(last_of_each.len() as u64 * BLOCK_BYTES)
}

/// Copies what extents have in common with what snapshots keep, but for blocks that these records bring. What cannot be
/// read becomes zeros, which do not match its checksum: it is as damaged as it was.
fn copy_blocks(data: &dyn File, records: &[Record]) -> Result<u64, Error> {
    let copies: Vec<Copy> =
        records.iter().flat_map(|record| record.body.changes()).filter_map(ExtentChange::copy).collect();
    if copies.is_empty() {
        return Ok(0);
    }
    let mut brought: HashMap<Slot, u16> = copies.iter().map(|copy| (copy.to, 0)).collect();
    for run in records.iter().flat_map(|record| record.body.runs()) {
        if let Some(mask) = brought.get_mut(&run.slot) {
            let blocks = run.first_block..run.first_block + (run.data.len() / BLOCK) as u32;
            *mask |= blocks.fold(0, |mask, block| mask | 1 << block);
        }
    }
    let mut buffer = vec![0; EXTENT_BYTES as usize];
    let mut bytes = 0;
    for Copy { from, to, mask } in copies {
        let wanted = mask & !brought.get(&to).copied().unwrap_or(0);
        for blocks in runs_of(wanted) {
            let (start, length) = (u64::from(blocks.start) * BLOCK_BYTES, blocks.len() * BLOCK);
            let buffer = &mut buffer[..length];
            if data.read_at(buffer, from.byte_offset() + start).is_err() {
                read_one_by_one(data, from.byte_offset() + start, buffer);
            }
            data.write_at(buffer, to.byte_offset() + start).map_err(Error::io("writing data"))?;
            bytes += length as u64;
        }
    }
    Ok(bytes)
}

/// Reads what of these blocks can be read: of a device's bad sector no other block suffers.
fn read_one_by_one(data: &dyn File, start: u64, buffer: &mut [u8]) {
    for (offset, block) in (start..).step_by(BLOCK).zip(buffer.chunks_mut(BLOCK)) {
        if let Err(error) = data.read_at(block, offset) {
            tracing::error!(%error, offset, "a block that a snapshot shares cannot be read");
            block.fill(0);
        }
    }
}

/// How much applying a record writes.
pub(crate) fn work_bytes(record: &Record) -> u64 {
    let copies = record.body.changes().iter().filter_map(ExtentChange::copy).count() as u64;
    let entries = match &record.body {
        Body::Zero { count, keep_in, .. } => u64::from(*count) * if keep_in.is_some() { 2 } else { 1 },
        body => body.changes().len() as u64,
    };
    record.body.data_bytes() as u64 + copies * EXTENT_BYTES + entries * ENTRY_BYTES as u64
}

/// The runs of bits that are set.
fn runs_of(mask: u16) -> impl Iterator<Item = Range<u32>> {
    let is_set = move |block: u32| block < 16 && mask >> block & 1 == 1;
    (0..16).filter(move |block| is_set(*block) && (*block == 0 || !is_set(block - 1))).map(move |first| {
        let end = (first..16).find(|block| !is_set(*block)).unwrap_or(16);
        first..end
    })
}

impl Engine {
    /// Work on data file and maps, if there is any: durable records to apply, slots to give blocks ahead of need, space to
    /// give back. `None` while one is under way. Until it is finished reads see the records through the overlay; where it
    /// never is, a commit does the work itself when journal or overlay are full.
    pub fn start_apply(&mut self) -> Option<ApplyJob> {
        if self.applying.is_some() || self.poisoned.is_some() {
            return None;
        }
        self.reap();
        self.begin_apply(true)
    }

    /// Takes note of a job: its overlay entries go, its slots come.
    #[expect(clippy::needless_pass_by_value, reason = "a job is finished once")]
    pub fn finish_apply(&mut self, done: ApplyDone) -> Result<(), Error> {
        self.ensure_healthy()?;
        match &self.applying {
            Some(applying) if applying.number == done.number => self.harvest_apply(),
            // A full journal could not wait for this one; it was finished then.
            _ => Ok(()),
        }
    }

    fn begin_apply(&mut self, with_space: bool) -> Option<ApplyJob> {
        let (through, records) = self.take_durable();
        let mut work = self.work_on(Arc::new(records));
        if with_space {
            self.add_space_work(&mut work);
        }
        let is_idle = work.records.is_empty() && work.allocate.is_none() && work.punch.is_empty();
        if is_idle && work.reclaim.is_empty() {
            return None;
        }
        self.apply_number += 1;
        let number = self.apply_number;
        let records = work.records.clone();
        let task = Task::new(work);
        self.applying = Some(Applying { number, through, records, task: task.clone() });
        Some(ApplyJob { number, task })
    }

    fn add_space_work(&mut self, work: &mut ApplyWork) {
        let asks = std::mem::take(&mut self.ask_filesystem);
        if self.filesystem_full && asks {
            work.allocate = self.slots.unbacked_run(ALLOCATE_AGAIN);
            // All that is free may have its blocks by now.
            self.filesystem_full = work.allocate.is_some();
        } else if self.slots.ready() < READY_LOW && !self.filesystem_full {
            work.allocate = self.slots.unbacked_run(ALLOCATE_AHEAD);
        }
        if self.slots.ready() > READY_HIGH {
            work.punch = self.slots.take_surplus(self.slots.ready() - READY_HIGH);
        }
        for (id, replica) in &mut self.replicas {
            let is_gone = replica.dropped.is_some_and(|by| by <= self.checkpoint_lsn);
            if is_gone && !replica.listed && !replica.reclaiming && !replica.is_base() {
                replica.reclaiming = true;
                let (map, chunks) = (replica.map.file().clone(), replica.map.chunks_in_use());
                let layers = replica.layer_maps.values().flat_map(LayerMap::chunks).collect();
                work.reclaim.push(Reclaim { id: *id, map, chunks, layers });
            }
        }
    }

    /// E1: durable records, in order, in whole batches, up to a bound.
    fn take_durable(&mut self) -> ((Lsn, u64), Vec<Record>) {
        let (mut through, mut records, mut bytes) = ((self.applied, self.applied_position), Vec::new(), 0);
        while bytes < APPLY_BYTES_MAX
            && let Some(end) = self.batch_ends.pop_front_if(|(lsn, _)| *lsn <= self.durable)
        {
            let count = self.pending.partition_point(|record| record.lsn <= end.0);
            records.extend(self.pending.drain(..count).inspect(|record| bytes += work_bytes(record)));
            through = end;
        }
        (through, records)
    }

    fn work_on(&self, records: Arc<Vec<Record>>) -> ApplyWork {
        let mut maps: HashMap<ReplicaId, MapFile> = HashMap::default();
        let mut kept = Vec::new();
        for record in records.iter() {
            if let Some(replica) = self.replicas.get(&record.replica) {
                maps.entry(record.replica).or_insert_with(|| replica.map.file().clone());
                self.add_kept(record, &replica.layer_maps, &mut kept);
            }
        }
        ApplyWork {
            dir: self.dir.clone(),
            data: self.data.clone(),
            maps,
            pool: self.pool.file().clone(),
            salt: self.salt,
            records,
            kept,
            allocate: None,
            punch: Vec::new(),
            reclaim: Vec::new(),
        }
    }

    /// The record's entries of layers. A layer that is gone by a later one needs none.
    fn add_kept(
        &self,
        record: &Record,
        layers: &BTreeMap<Layer, LayerMap>,
        kept: &mut Vec<(PoolChunk, ExtentIndex, EntryBytes)>,
    ) {
        let mut add = |layer: Layer, extent, entry: EntryBytes| {
            let place = layers.get(&layer).and_then(|map| map.place_of(extent));
            kept.extend(place.map(|place| (place, extent, entry)));
        };
        for change in record.body.changes() {
            add(change.layer, change.extent, change.encoded);
        }
        if let Body::Zero { first, count, keep_in: Some(layer), .. } = record.body {
            for extent in (first.0..first.0 + count).map(ExtentIndex) {
                let map = MapId { replica: record.replica, layer };
                add(layer, extent, Cell::AsBase.encode(self.salt, map, extent));
            }
        }
    }

    /// A filesystem that was full has given something: it is not full any more when it has given all that is kept ahead of
    /// the need, for others may have left it a little only.
    fn looks_up_again(&mut self) {
        let has_enough = self.slots.ready() >= READY_LOW || self.slots.ready() == self.slots.free();
        self.filesystem_full &= !has_enough;
        self.ask_filesystem = self.filesystem_full;
    }

    /// Ends the job under way, doing it here if nobody did.
    fn harvest_apply(&mut self) -> Result<(), Error> {
        let Some(applying) = self.applying.take() else { return Ok(()) };
        if let Some(outcome) = applying.task.harvest() {
            let applied = outcome.map_err(|error| self.poison(error))?;
            self.note_applied(&applying.records, &applied);
            self.note_space(applied);
        }
        (self.applied, self.applied_position) = applying.through;
        Ok(())
    }

    fn note_applied(&mut self, records: &[Record], applied: &Applied) {
        self.statistics.data_bytes += applied.data_bytes;
        self.statistics.entries_stored += applied.entries;
        let Some(through) = records.last().map(|record| record.lsn) else { return };
        for record in records {
            self.unapplied_bytes = self.unapplied_bytes.saturating_sub(record.body.data_bytes() as u64);
            self.redo_work.applied += work_bytes(record);
            let copies = record.body.changes().iter().filter_map(ExtentChange::copy).map(|copy| copy.to);
            for slot in record.body.runs().iter().map(|run| run.slot).chain(copies) {
                self.slot_data.applied(through, slot);
            }
            if let Some(replica) = self.replicas.get_mut(&record.replica) {
                let chunks = replica.applied(record, through);
                self.freed_chunks.extend(chunks.into_iter().map(|chunk| (record.lsn, chunk)));
            }
        }
        self.pool.set_dirty();
    }

    fn note_space(&mut self, applied: Applied) {
        match applied.allocated {
            Some((run, Ok(()))) => {
                self.slots.set_backed(run, true);
                self.looks_up_again();
            }
            Some((_, Err(Error::NoSpace))) => self.filesystem_full = true,
            Some((_, Err(_))) | None => {}
        }
        for (run, done) in applied.punched {
            if done {
                self.slots.set_backed(run, false);
                self.statistics.slots_punched += run.count;
            }
            run.slots().for_each(|slot| self.slots.release(slot));
        }
        for (id, slots) in applied.reclaimed {
            if let Some(replica) = self.replicas.remove(&id) {
                self.count_clone(replica.base, -1);
                let chunks = replica.layer_maps.into_values().flat_map(LayerMap::into_chunks);
                chunks.for_each(|chunk| self.pool.release(chunk));
            }
            self.with_deleted.remove(&id);
            self.names_changed = true;
            self.quarantine_slots(slots);
        }
    }

    /// Applies all that is durable, here and now, whatever job is under way.
    pub(crate) fn apply_now(&mut self) -> Result<(), Error> {
        self.harvest_apply()?;
        while self.begin_apply(false).is_some() {
            self.harvest_apply()?;
        }
        Ok(())
    }

    /// Recovery: applies these records again.
    pub(crate) fn redo(&mut self, records: Vec<Record>) -> Result<(), Error> {
        let records = Arc::new(records);
        let applied = self.work_on(records.clone()).run()?;
        self.note_applied(&records, &applied);
        Ok(())
    }
}
