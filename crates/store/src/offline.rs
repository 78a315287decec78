//! The offline check: a disk that no engine has open, read and verified without changing a byte of it.

use crate::format::checkpoint::{self, Checkpoint, ReplicaState};
use crate::format::entry::{Cell, ENTRY_BYTES};
use crate::format::starts::{self, Starts};
use crate::format::{BLOCK, Salt};
use crate::found::{Found, FoundReplicas, Piece};
use crate::journal::Ring;
use crate::open::{DATA, lock, read_identity, read_whole};
use crate::reader::Reader;
use crate::report::{Part, Problem, Progress, Report};
use crate::scrub::harm_of_blocks;
use crate::slots::Slots;
use crate::{Damage, Error, Harm, Identity, map, pool, recover, tail};
use quoin_disk::{Dir, File, Lock, OpenMode};
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A disk, read.
pub(crate) struct Offline {
    dir: Arc<dyn Dir>,
    _lock: Lock,
    identity: Identity,
    pub(crate) salt: Salt,
    checkpoint: Checkpoint,
    ring: Ring,
    data: Arc<dyn File>,
}

/// Verifies everything on a disk that no process uses, changing nothing: superblock, record of starts, checkpoints, journal,
/// every map entry, every block. What is wrong is in the report; an error says that the directory cannot be looked at:
/// it is in use, is no disk, or one of another version. Tells now and then how far it is.
pub fn check(dir: &Arc<dyn Dir>, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    let mut report = Report::default();
    let offline = match Offline::open(dir, &mut report) {
        Ok(offline) => offline,
        Err(error) if report.problems.is_empty() => return Err(error),
        Err(_) => return Ok(report),
    };
    report.identity = Some(offline.identity.clone());
    report.checkpoint = offline.checkpoint.lsn;
    let starts = read_whole(&**dir, starts::NAME);
    match starts.and_then(|content| Starts::latest(&content.unwrap_or_default(), offline.salt)) {
        Ok(starts) => (report.starts, report.clean) = (starts.count, starts.clean),
        Err(error) => report.add(Part::Starts, error)?,
    }
    // The older one may be torn by a crash, and the next checkpoint overwrites it: only its absence is a problem.
    for number in 0..2 {
        if let Err(error) = dir.open(checkpoint::file_name(number), OpenMode::Existing) {
            report.add(Part::Checkpoint, Error::io(checkpoint::file_name(number))(error))?;
        }
    }
    match offline.replay(&mut report) {
        Ok(found) => offline.check_replicas(&found, &mut report, progress)?,
        Err(error) => report.add(Part::Journal, error)?,
    }
    Ok(report)
}

impl Offline {
    /// What is wrong with the disk, so that it cannot be opened, is in the report as well.
    pub(crate) fn open(dir: &Arc<dyn Dir>, report: &mut Report) -> Result<Self, Error> {
        let note = |part, error: Error, report: &mut Report| match report.add(part, error) {
            Ok(()) => Error::corrupt("the disk", "see the report"),
            Err(error) => error,
        };
        let identity = read_identity(&**dir).map_err(|error| note(Part::Superblock, error, report))?;
        let lock = lock(&**dir)?;
        let salt = Salt::of_disk(identity.disk);
        let checkpoint = recover::load_checkpoint(&**dir, salt);
        let checkpoint = checkpoint.map_err(|error| note(Part::Checkpoint, error, report))?;
        let ring = Ring::open(&**dir, checkpoint.geometry);
        let ring = ring.map_err(|error| note(Part::Journal, error, report))?;
        let data = dir.open(DATA, OpenMode::Existing).map_err(Error::io(DATA));
        let data = data.map_err(|error| note(Part::Data, error, report))?;
        Ok(Self { dir: dir.clone(), _lock: lock, identity, salt, checkpoint, ring, data })
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::new(self.ring.clone(), self.salt, &self.checkpoint)
    }

    /// All replicas as the journal's end leaves them.
    pub(crate) fn replay(&self, report: &mut Report) -> Result<FoundReplicas, Error> {
        let mut replicas =
            FoundReplicas::of(&self.checkpoint.replicas, self.identity.capacity_bytes / EXTENT_BYTES);
        report.end = tail::find_end(self.reader(), &*self.data)?;
        report.records = report.end.0 - self.checkpoint.lsn.0;
        let mut reader = self.reader();
        reader.limit = report.end;
        while let Some((records, whole)) = reader.next_batch()? {
            for record in &records {
                replicas.replay(record).ok_or_else(|| {
                    Error::corrupt("the journal", format!("record {} does not fit its replica", record.lsn))
                })?;
            }
            if !whole {
                break;
            }
        }
        replicas.forget_dropped();
        report.verified_bytes += reader.position - self.checkpoint.position;
        Ok(replicas)
    }

    /// The live map of a replica, with its header verified; `None` where the checkpoint does not know it.
    pub(crate) fn map_file(&self, found: &Found) -> Result<Option<Arc<dyn File>>, Error> {
        if found.is_new {
            return Ok(None);
        }
        self.open_map(found.state.id, found.state.segment_bytes).map(Some)
    }

    fn open_map(&self, id: ReplicaId, segment_bytes: u64) -> Result<Arc<dyn File>, Error> {
        let name = map::file_name(id);
        let file = self.dir.open(&name, OpenMode::Existing).map_err(Error::io(&*name))?;
        let mut header = [0; 40];
        file.read_at(&mut header, 0).map_err(Error::io(&*name))?;
        if header != map::header(self.salt, id, segment_bytes) {
            return Err(Error::corrupt(name, "its header is wrong"));
        }
        Ok(file)
    }

    /// The maps of layers.
    pub(crate) fn layers_file(&self) -> Result<Arc<dyn File>, Error> {
        self.dir.open(pool::NAME, OpenMode::Existing).map_err(Error::io(pool::NAME))
    }

    fn check_replicas(
        &self,
        all: &FoundReplicas,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let mut slots = Slots::new(self.identity.capacity_bytes / EXTENT_BYTES);
        let total = all.replicas.values().map(|found| found.pieces().len() as u64).sum();
        let mut done = 0;
        // A replica that the journal drops (or makes anew) is opened once more, so that its slots come back.
        let is_gone = |state: &&ReplicaState| all.replicas.get(&state.id).is_none_or(|found| found.is_new);
        for gone in self.checkpoint.replicas.iter().filter(is_gone) {
            if let Err(error) = self.open_map(gone.id, gone.segment_bytes) {
                report.add(Part::Map, error)?;
            }
        }
        for found in all.replicas.values() {
            report.replicas += 1;
            report.snapshots += found.state.layers.iter().filter(|layer| !layer.deleted).count() as u64;
            let file = match self.map_file(found) {
                Ok(file) => file,
                Err(error) => {
                    report.add(Part::Map, error)?;
                    done += found.pieces().len() as u64;
                    continue;
                }
            };
            for piece in found.pieces() {
                progress(Progress { verified_bytes: report.verified_bytes, done, total });
                match found.cells(self, file.as_deref(), piece) {
                    Ok(cells) => self.check_cells(all, found, piece, cells, &mut slots, report),
                    Err(error) => report.add(Part::Map, error)?,
                }
                done += 1;
            }
        }
        progress(Progress { verified_bytes: report.verified_bytes, done, total });
        Ok(())
    }

    fn check_cells(
        &self,
        all: &FoundReplicas,
        found: &Found,
        piece: Piece,
        cells: BTreeMap<ExtentIndex, Option<Cell>>,
        slots: &mut Slots,
        report: &mut Report,
    ) {
        let (replica, snapshot) = (found.state.id, found.snapshot_of(piece.layer));
        for (extent, cell) in cells {
            report.extents += 1;
            report.verified_bytes += ENTRY_BYTES as u64;
            let damage = |version, harm| Damage { replica, snapshot, extent, version, harm };
            let entry = match cell {
                Some(Cell::Entry(entry)) => entry,
                Some(Cell::Empty | Cell::AsBase) => continue,
                Some(Cell::Lost) | None => {
                    report.problems.push(Problem::new(Part::Map, damage(None, Harm::Entry)));
                    continue;
                }
            };
            if let Some(slot) = entry.slot
                && !slots.mark_used(slot)
            {
                let slot = slot.0;
                let message = format!(
                    "extent {extent} of replica {replica} names slot {slot}, which is another's or does not exist"
                );
                report.problems.push(Problem::new(Part::Map, message));
                continue;
            }
            let blocks = u64::from(entry.zero_mask.count_zeros());
            report.blocks += blocks;
            report.verified_bytes += blocks * BLOCK as u64;
            let on_disk = !entry.zero_mask & !entry.slot.map_or(0, |slot| all.elsewhere(slot));
            if let Some(harm) = harm_of_blocks(&*self.data, extent, &entry, on_disk) {
                report.problems.push(Problem::new(Part::Data, damage(Some(entry.version), harm)));
            }
        }
    }
}
