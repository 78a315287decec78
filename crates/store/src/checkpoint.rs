//! Checkpoints (E3): they bound the journal and the restart, and let freed slots be used again (E2).

use crate::engine::Engine;
use crate::format::checkpoint::{Checkpoint, ReplicaState};
use crate::format::entry::MapId;
use crate::replica::Replica;
use crate::slots::Slot;
use crate::task::{Task, Work};
use crate::{Error, Lsn};
use quoin_disk::{Dir, File, Map};
use quoin_types::ReplicaId;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// So many freed slots are worth a checkpoint: 256 MiB. Whole extents that are written again and again then go to slots
/// that were written before, which the filesystem need not give blocks, nor note as written with each sync.
const FREED_MANY: usize = 4096;

/// The wait for data, maps and the checkpoint's file, to be run on any thread, and then finished.
pub struct CheckpointJob {
    number: u64,
    task: Task<CheckpointWork>,
}

/// A [`CheckpointJob`] that was run.
pub struct CheckpointDone {
    number: u64,
}

pub(crate) struct CheckpointWork {
    data: Arc<dyn File>,
    maps: Vec<Arc<dyn Map>>,
    dir: Option<Arc<dyn Dir>>,
    file: Arc<dyn File>,
    content: Vec<u8>,
}

/// What a start would have to do again, in bytes written: a short record may stand for much, a copy or a long range of
/// zeroes. It bounds the time of a restart whatever the journal's size.
#[derive(Default)]
pub(crate) struct RedoWork {
    /// Of all records of this start.
    pub(crate) appended: u64,
    /// Of those that are applied.
    pub(crate) applied: u64,
    /// Of those that a checkpoint covers.
    covered: u64,
}

/// With as much to do again a checkpoint is worth it; with twice as much, nothing more is written before one.
const REDO_BYTES_MANY: u64 = 256 << 20;

impl RedoWork {
    fn is_much(&self) -> bool {
        self.appended - self.covered >= REDO_BYTES_MANY
    }

    pub(crate) fn is_too_much(&self) -> bool {
        self.appended - self.covered >= 2 * REDO_BYTES_MANY
    }
}

/// A checkpoint that was started and not finished. The engine keeps it, for a full journal cannot wait until someone
/// runs the job.
pub(crate) struct InFlight {
    number: u64,
    lsn: Lsn,
    position: u64,
    /// The replicas that it names.
    listed: BTreeSet<ReplicaId>,
    /// What was applied of [`RedoWork`] when it began.
    redone: u64,
    task: Task<CheckpointWork>,
}

impl Work for CheckpointWork {
    type Outcome = io::Result<()>;

    /// E3: first everything that the checkpoint says is in place, then the checkpoint.
    fn run(self) -> io::Result<()> {
        self.data.sync()?;
        flush_all(&self.maps)?;
        if let Some(dir) = &self.dir {
            dir.sync()?;
        }
        self.file.write_at(&self.content, 0)?;
        self.file.sync()
    }
}

/// More maps than this are flushed by several threads: each flush waits for a commit of the filesystem, and those of one
/// moment share one.
const MAPS_ALONE_MAX: usize = 16;
const FLUSH_THREADS: usize = 8;

fn flush_all(maps: &[Arc<dyn Map>]) -> io::Result<()> {
    if maps.len() <= MAPS_ALONE_MAX {
        return maps.iter().try_for_each(|map| map.flush());
    }
    std::thread::scope(|scope| {
        let share = maps.len().div_ceil(FLUSH_THREADS);
        let flush = |maps: &[Arc<dyn Map>]| maps.iter().try_for_each(|map| map.flush());
        let threads: Vec<_> = maps.chunks(share).map(|maps| scope.spawn(move || flush(maps))).collect();
        // A thread that panicked has flushed nothing that may be counted on.
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.into_iter().try_for_each(|result| result.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })
}

/// The replicas that are there by themselves, and those that they are clones of, dropped or not.
pub(crate) fn needed(
    there: impl Iterator<Item = ReplicaId>,
    base_of: impl Fn(ReplicaId) -> Option<MapId>,
) -> BTreeSet<ReplicaId> {
    let mut needed = BTreeSet::new();
    for id in there {
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| needed.insert(*id)) {
            next = base_of(id).map(|base| base.replica);
        }
    }
    needed
}

impl CheckpointJob {
    /// Waits until the device has it.
    pub fn run(self) -> CheckpointDone {
        self.task.run();
        CheckpointDone { number: self.number }
    }
}

impl Engine {
    /// A checkpoint of all that is applied, if one is worth it: the journal is half full, or slots that a checkpoint
    /// would free are wanted, or many. With `force`, whenever there is anything to gain. `None` while one is under way.
    pub fn start_checkpoint(&mut self, force: bool) -> Option<CheckpointJob> {
        if self.checkpoint_in_flight.is_some()
            || self.poisoned.is_some()
            || self.applied <= self.checkpoint_lsn
        {
            return None;
        }
        let journal_half_full = self.journal.used() >= self.journal.ring().bytes() / 2;
        let is_applied = |lsn: Lsn| lsn <= self.applied;
        let space_is_short = self.slots.free() < self.reserve_slots + self.slots.count() / 16;
        let many_wait = self.freed.get(FREED_MANY - 1).is_some_and(|(lsn, _)| is_applied(*lsn));
        let slots_wait = || {
            self.freed.front().is_some_and(|(lsn, _)| is_applied(*lsn))
                || self.replicas.values().any(|replica| {
                    replica.dropped.is_some_and(|by| by > self.checkpoint_lsn && is_applied(by))
                })
        };
        let worth_it = force
            || journal_half_full
            || self.redo_work.is_much()
            || many_wait
            || (space_is_short && slots_wait());
        worth_it.then(|| self.begin_checkpoint())
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        let number = self.checkpoint_number + 1;
        let checkpoint = self.checkpoint_content(number);
        let listed = checkpoint.replicas.iter().map(|replica| replica.id).collect();
        let content = checkpoint.encode(self.salt);
        let maps = self.replicas.values_mut().filter_map(|replica| replica.map.take_dirty());
        let work = CheckpointWork {
            data: self.data.clone(),
            maps: maps.chain(self.pool.take_dirty()).collect(),
            dir: std::mem::take(&mut self.names_changed).then(|| self.dir.clone()),
            file: self.checkpoint_files[(number % 2) as usize].clone(),
            content,
        };
        let task = Task::new(work);
        let (lsn, position) = (self.applied, self.applied_position);
        self.checkpoint_in_flight = Some(InFlight {
            number,
            lsn,
            position,
            listed,
            redone: self.redo_work.applied,
            task: task.clone(),
        });
        CheckpointJob { number, task }
    }

    /// The state of all replicas as applied.
    fn checkpoint_content(&self, number: u64) -> Checkpoint {
        let is_there = |replica: &&Replica| replica.applied.as_ref().is_some_and(|applied| !applied.dropped);
        let there = self.replicas.values().filter(is_there).map(|replica| replica.id);
        let needed = needed(there, |id| self.replicas.get(&id)?.base);
        let replicas: Vec<ReplicaState> =
            needed.iter().filter_map(|id| self.replicas.get(id)?.state()).collect();
        Checkpoint {
            number,
            lsn: self.applied,
            position: self.applied_position,
            incarnation: self.journal.incarnation(),
            geometry: self.journal.ring().geometry(),
            replicas,
        }
    }

    /// Takes note of a checkpoint: journal files are recycled, freed slots come back.
    #[expect(clippy::needless_pass_by_value, reason = "a job is finished once")]
    pub fn finish_checkpoint(&mut self, done: CheckpointDone) -> Result<(), Error> {
        self.ensure_healthy()?;
        match &self.checkpoint_in_flight {
            Some(in_flight) if in_flight.number == done.number => self.harvest_checkpoint(),
            // A full journal could not wait for this one; it was finished then.
            _ => Ok(()),
        }
    }

    /// Ends the checkpoint under way, running it here if nobody did.
    fn harvest_checkpoint(&mut self) -> Result<(), Error> {
        let Some(in_flight) = self.checkpoint_in_flight.take() else { return Ok(()) };
        if let Some(Err(error)) = in_flight.task.harvest() {
            return Err(self.poison(Error::io("writing a checkpoint")(error)));
        }
        self.checkpoint_number = in_flight.number;
        self.checkpoint_lsn = in_flight.lsn;
        self.redo_work.covered = in_flight.redone;
        for (id, replica) in &mut self.replicas {
            replica.listed = in_flight.listed.contains(id);
        }
        self.statistics.checkpoints += 1;
        self.journal.recycle(in_flight.position);
        self.free_slots(in_flight.lsn);
        Ok(())
    }

    /// A checkpoint of all that is accepted, here and now.
    pub(crate) fn checkpoint_now(&mut self) -> Result<(), Error> {
        self.harvest_checkpoint()?;
        self.sync_now()?;
        self.apply_now()?;
        self.begin_checkpoint();
        self.harvest_checkpoint()
    }

    /// E2: a checkpoint past their records is durable; now only reads begun before hold these slots. Those of dropped
    /// replicas follow when a job has looked for them.
    fn free_slots(&mut self, lsn: Lsn) {
        let chunks = self.freed_chunks.partition_point(|(freed_by, _)| *freed_by <= lsn);
        self.freed_chunks.drain(..chunks).for_each(|(_, chunk)| self.pool.release(chunk));
        let count = self.freed.partition_point(|(freed_by, _)| *freed_by <= lsn);
        let slots: Vec<Slot> = self.freed.drain(..count).map(|(_, slot)| slot).collect();
        self.quarantine_slots(slots);
        self.reap();
    }

    /// E2: these slots wait for the reads begun before.
    pub(crate) fn quarantine_slots(&mut self, slots: Vec<Slot>) {
        if !slots.is_empty() {
            let epoch = std::mem::replace(&mut self.read_epoch, Arc::new(()));
            self.quarantine.push_back((epoch, slots));
        }
    }

    /// E2: gives back the slots that no read can use any more.
    pub(crate) fn reap(&mut self) {
        while let Some((epoch, _)) = self.quarantine.front_mut() {
            // In order: a read holds the epoch it began in, and may use slots of every later one.
            if Arc::get_mut(epoch).is_none() {
                return;
            }
            let Some((_, slots)) = self.quarantine.pop_front() else { return };
            slots.into_iter().for_each(|slot| self.slots.release(slot));
        }
    }
}
