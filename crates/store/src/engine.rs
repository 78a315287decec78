//! The engine's state, and what all its verbs share.
//!
//! The order of calls: mutations gather in a batch, which [`Engine::submit`] writes; [`crate::PlaceJob`]s write the data of
//! whole extents, and with the last of them the batch is *accepted* ([`Engine::commit`] does both at once); a
//! [`crate::SyncJob`] makes it *durable*; an [`crate::ApplyJob`] then brings it into data file and maps; a
//! [`crate::CheckpointJob`] lets the journal and freed slots be used again. There is one file per verb.

use crate::apply::{Applying, work_bytes};
use crate::checkpoint::{InFlight, RedoWork};
use crate::format::Salt;
use crate::format::entry::{Cell, Entry, MapId};
use crate::format::record::{Body, ExtentChange, Record, Run};
use crate::format::starts::Starts;
use crate::journal::Journal;
use crate::map::no_space_or;
use crate::place::Placements;
use crate::pool::{Pool, PoolChunk};
use crate::replica::Replica;
use crate::slot_data::SlotData;
use crate::slots::{Slot, SlotRun, Slots};
use crate::write_through::UnderWay;
use crate::{Error, Identity, Lsn, Space, Statistics};
use bytes::Bytes;
use quoin_disk::landing::Landing;
use quoin_disk::{Dir, File, Lock};
use quoin_types::collections::HashMap;
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, ExtentIndex, ReplicaId, Seq};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// One disk, open. See the crate's documentation for what it is and the module's for the order of calls.
pub struct Engine {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) _lock: Lock,
    pub(crate) identity: Identity,
    pub(crate) salt: Salt,
    pub(crate) boot: quoin_types::BootId,
    pub(crate) starts: Starts,
    pub(crate) starts_file: Arc<dyn File>,
    pub(crate) checkpoint_files: [Arc<dyn File>; 2],
    pub(crate) data: Arc<dyn File>,
    pub(crate) journal: Journal,
    pub(crate) slots: Slots,
    pub(crate) reserve_slots: u64,
    pub(crate) replicas: HashMap<ReplicaId, Replica>,
    /// Those that have deleted layers, which are to be folded.
    pub(crate) with_deleted: BTreeSet<ReplicaId>,
    /// The maps of their layers.
    pub(crate) pool: Pool,
    /// E1: data that is not in the data file yet.
    pub(crate) slot_data: SlotData,

    /// Every record up to here is in the journal files, and its data in the slots (survives a crash of the process).
    pub(crate) accepted: Lsn,
    /// Every record up to here survives loss of power.
    pub(crate) durable: Lsn,
    pub(crate) sync_under_way: bool,
    /// What that sync writes itself.
    pub(crate) write_through: Option<UnderWay>,
    /// Every record up to here is in data file and maps (E1: never above `durable`).
    pub(crate) applied: Lsn,
    /// Where the first batch after `applied` begins.
    pub(crate) applied_position: u64,
    /// Records that are neither applied nor being applied, in order.
    pub(crate) pending: VecDeque<Record>,
    /// Data that goes straight to new slots: of the batch, and on its way.
    pub(crate) placements: Placements,
    /// Where batches after `applied` end: last record, position in the journal.
    pub(crate) batch_ends: VecDeque<(Lsn, u64)>,
    /// Block data in `pending` and in the job under way: what the overlay holds in memory.
    pub(crate) unapplied_bytes: u64,
    pub(crate) applying: Option<Applying>,
    pub(crate) apply_number: u64,
    /// The filesystem refused to allocate slots, and has not given since what is kept ahead of the need: others use it, too.
    pub(crate) filesystem_full: bool,
    /// It is to be asked again.
    pub(crate) ask_filesystem: bool,

    /// The last durable checkpoint.
    pub(crate) checkpoint_number: u64,
    pub(crate) checkpoint_lsn: Lsn,
    pub(crate) checkpoint_in_flight: Option<InFlight>,
    pub(crate) redo_work: RedoWork,
    /// Files were created or removed since the directory was last synced.
    pub(crate) names_changed: bool,

    /// E2: slots freed by these records wait for a checkpoint past them…
    pub(crate) freed: VecDeque<(Lsn, Slot)>,
    /// The same for chunks of the pool.
    pub(crate) freed_chunks: VecDeque<(Lsn, PoolChunk)>,
    /// …and then for the reads begun before: those hold a clone of the first part, or of an earlier one.
    pub(crate) quarantine: VecDeque<(Arc<()>, Vec<Slot>)>,
    /// Held by the reads planned now.
    pub(crate) read_epoch: Arc<()>,
    pub(crate) landing: Arc<Landing>,

    /// The first failure of a write or sync. Nothing is accepted after it.
    pub(crate) poisoned: Option<String>,
    pub(crate) statistics: Statistics,
}

/// A replica as its owner sees it: with all records appended so far.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaView<'a> {
    /// The opaque replication state.
    pub meta: &'a Bytes,
    /// The seq of the last write.
    pub position: Seq,
    /// The size of its segment.
    pub segment_bytes: u64,
    /// How many extents have a slot, those that its snapshots keep included.
    pub extents_allocated: u64,
}

/// How many slots are given blocks at once when one is needed now.
const BACKED_INLINE: u64 = 64;

/// What a record does to the slots of its replica.
#[derive(Default)]
pub(crate) struct SlotEffects {
    pub(crate) taken: u64,
    pub(crate) freed: Vec<Slot>,
    /// Data for slots that were taken.
    pub(crate) placed: Vec<Run>,
}

impl Engine {
    /// Who the disk is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of this start (rule C2).
    pub fn start_count(&self) -> u64 {
        self.starts.count
    }

    /// Everything up to here survives a crash of the process.
    pub fn accepted(&self) -> Lsn {
        self.accepted
    }

    /// Memory that large data is read to. What is to be written arrives best there, too.
    pub fn landing(&self) -> &Arc<Landing> {
        &self.landing
    }

    /// Everything up to here survives loss of power.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Everything up to here is in data file and maps.
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// Whether records wait for [`Engine::submit`].
    pub fn has_uncommitted(&self) -> bool {
        !self.journal.is_batch_empty()
    }

    /// All replicas, in order of their ids.
    pub fn replicas(&self) -> impl Iterator<Item = (ReplicaId, ReplicaView<'_>)> {
        let mut ids: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| Some((id, self.replica(id)?)))
    }

    /// One replica.
    pub fn replica(&self, id: ReplicaId) -> Option<ReplicaView<'_>> {
        let replica = self.replica_ref(id).ok()?;
        Some(ReplicaView {
            meta: &replica.live.meta,
            position: replica.live.position,
            segment_bytes: replica.segment_bytes,
            extents_allocated: replica.extents_allocated,
        })
    }

    /// How the space is used.
    pub fn space(&self) -> Space {
        let (count, free) = (self.slots.count(), self.slots.free());
        let quarantined: usize = self.quarantine.iter().map(|(_, slots)| slots.len()).sum();
        let freeing = (self.freed.len() + quarantined) as u64;
        // What the filesystem does not give is not free, and of what it gave the reserve is a smaller part.
        let (free, reserve) = if self.filesystem_full {
            let ready = self.slots.ready();
            (ready, self.reserve_slots.min(ready / 8))
        } else {
            (free, self.reserve_slots)
        };
        Space {
            capacity_bytes: count * EXTENT_BYTES,
            used_bytes: (count - self.slots.free()) * EXTENT_BYTES,
            freeing_bytes: freeing * EXTENT_BYTES,
            free_bytes: free * EXTENT_BYTES,
            reserve_bytes: reserve * EXTENT_BYTES,
            filesystem_full: self.filesystem_full,
        }
    }

    /// The next job asks a filesystem that was full whether it still is.
    pub fn ask_filesystem(&mut self) {
        self.ask_filesystem = true;
    }

    /// Data of records that are in the journal and not in their place yet: it is held in memory, too.
    pub fn unapplied_bytes(&self) -> u64 {
        self.unapplied_bytes
    }

    /// Counters since the start.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    pub(crate) fn replica_ref(&self, id: ReplicaId) -> Result<&Replica, Error> {
        self.replicas.get(&id).filter(|replica| replica.dropped.is_none()).ok_or(Error::UnknownReplica(id))
    }

    pub(crate) fn ensure_healthy(&self) -> Result<(), Error> {
        match &self.poisoned {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    /// Remembers the failure for good, and hands it on.
    pub(crate) fn poison(&mut self, error: Error) -> Error {
        self.poisoned.get_or_insert_with(|| error.to_string());
        error
    }

    /// Refuses ranges that are not whole blocks of the segment, or too long.
    pub(crate) fn check_range(&self, id: ReplicaId, offset: u64, length: u64, max: u64) -> Result<(), Error> {
        let segment_bytes = self.replica_ref(id)?.segment_bytes;
        if !offset.is_multiple_of(BLOCK_BYTES) || !length.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::Misaligned { what: "the range" });
        }
        let end = offset.checked_add(length);
        if length == 0 || length > max || end.is_none_or(|end| end > segment_bytes) {
            return Err(Error::OutOfRange { offset, length });
        }
        Ok(())
    }

    /// Refuses a record that is too large for the journal.
    pub(crate) fn check_record(&self, bytes: usize) -> Result<(), Error> {
        if bytes as u64 > self.journal.record_bytes_max() {
            return Err(Error::OutOfRange { offset: 0, length: bytes as u64 });
        }
        Ok(())
    }

    /// Takes slots, all or none, and sees to it that writing to them cannot fail for lack of space. Leaves `reserve`
    /// slots free.
    pub(crate) fn take_slots(&mut self, count: u64, reserve: u64) -> Result<Vec<Slot>, Error> {
        let mut taken = Vec::new();
        if count == 0 {
            return Ok(taken);
        }
        if self.slots.free() < count + reserve {
            self.reap();
        }
        if self.slots.free() < count + reserve {
            return Err(Error::NoSpace);
        }
        while (taken.len() as u64) < count {
            let Some(slot) = self.slots.take() else { break };
            taken.push(slot);
            if let Err(error) = self.back_slot(slot) {
                for slot in taken {
                    self.slots.release(slot);
                }
                return Err(error);
            }
        }
        Ok(taken)
    }

    /// Gives the slot blocks in the data file, with its free neighbours while at it, where no [`crate::ApplyJob`] has done
    /// that ahead of the need.
    fn back_slot(&mut self, slot: Slot) -> Result<(), Error> {
        if self.slots.is_backed(slot) {
            return Ok(());
        }
        let mut run = self.slots.unbacked_run_at(slot, BACKED_INLINE);
        let mut result = self.data.allocate(run.byte_offset(), run.bytes());
        if result.is_err() {
            run = SlotRun { first: slot, count: 1 };
            result = self.data.allocate(run.byte_offset(), run.bytes());
        }
        let result = result.map_err(|error| no_space_or(error, "allocating data slots"));
        self.filesystem_full |= matches!(result, Err(Error::NoSpace));
        result?;
        self.slots.set_backed(run, true);
        self.statistics.slots_allocated_late += run.count;
        Ok(())
    }

    /// An entry of a record; its encoded form follows from it.
    pub(crate) fn change(&self, map: MapId, extent: ExtentIndex, cell: Cell) -> ExtentChange {
        ExtentChange {
            extent,
            layer: map.layer,
            copy_from: None,
            data_mask: 0,
            placed_mask: 0,
            cell,
            encoded: cell.encode(self.salt, map, extent),
        }
    }

    /// As [`Engine::change`], for what the extent is from now on.
    pub(crate) fn live_change(&self, id: ReplicaId, extent: ExtentIndex, entry: Entry) -> ExtentChange {
        self.change(MapId::live(id), extent, Cell::live(entry))
    }

    /// Adds a checked record to the batch and makes it visible to reads.
    pub(crate) fn append(
        &mut self,
        id: ReplicaId,
        position: Option<Seq>,
        body: Body,
        effects: SlotEffects,
    ) -> Result<Lsn, Error> {
        if !self.journal.fits_batch(body.own_bytes() + body.data_bytes()) || self.placements.is_full() {
            self.submit()?;
        }
        let record = self.journal.push(id, position, body);
        let lsn = record.lsn;
        self.statistics.records += 1;
        self.statistics.payload_bytes += record.body.data_bytes() as u64;
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.extents_allocated += effects.taken;
            replica.extents_allocated -= effects.freed.len() as u64;
            replica.enter(&record);
        }
        for copy in record.body.changes().iter().filter_map(ExtentChange::copy) {
            self.slot_data.put_copy(lsn, copy.to, copy.from);
        }
        for run in record.body.runs() {
            self.slot_data.put_run(lsn, run.slot, run.first_block, run.data.clone());
        }
        for run in effects.placed {
            self.slot_data.put_run(lsn, run.slot, run.first_block, run.data.clone());
            self.statistics.payload_bytes += run.data.len() as u64;
            self.placements.push(lsn, run);
        }
        self.freed.extend(effects.freed.into_iter().map(|slot| (lsn, slot)));
        self.unapplied_bytes += record.body.data_bytes() as u64;
        self.redo_work.appended += work_bytes(&record);
        self.pending.push_back(record);
        Ok(lsn)
    }
}
