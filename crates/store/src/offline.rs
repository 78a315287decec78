//! A disk that no engine has open, read without changing a byte of it: the offline check and the dump.

use crate::format::Salt;
use crate::format::checkpoint::{Checkpoint, ReplicaState};
use crate::format::entry::Entry;
use crate::format::record::{Body, Record};
use crate::format::starts::{self, Starts};
use crate::journal::Ring;
use crate::open::{DATA, lock, read_checkpoint, read_identity, read_whole};
use crate::reader::Reader;
use crate::scrub::harm_of_blocks;
use crate::slots::Slots;
use crate::{Damage, Error, Harm, Identity, Lsn, map, recover, tail};
use quoin_disk::{Dir, File, Lock, OpenMode};
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What [`check`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Who the disk is, if its superblock says.
    pub identity: Option<Identity>,
    /// How often it was opened.
    pub starts: u64,
    /// The last shutdown was clean.
    pub clean: bool,
    /// The record of the last valid checkpoint.
    pub checkpoint: Lsn,
    /// The last record of the journal that counts.
    pub end: Lsn,
    /// Records after the checkpoint: what the next start replays.
    pub records: u64,
    /// Replicas.
    pub replicas: u64,
    /// Extents that were ever touched.
    pub extents: u64,
    /// Blocks that hold data, each verified.
    pub blocks: u64,
    /// What is wrong, by name. Empty: all is well.
    pub problems: Vec<String>,
}

/// A replica as the next start would find it, from checkpoint and journal.
struct Found {
    state: ReplicaState,
    /// Created after the checkpoint: its map file says nothing.
    is_new: bool,
    /// Extents that the journal changes, and which of their blocks it brings itself.
    changes: BTreeMap<ExtentIndex, (Entry, u16)>,
}

/// A disk, read.
struct Offline {
    dir: Arc<dyn Dir>,
    _lock: Lock,
    identity: Identity,
    salt: Salt,
    checkpoint: Checkpoint,
    ring: Ring,
    data: Arc<dyn File>,
}

/// Verifies everything on a disk that no process uses, changing nothing: superblock, record of starts, checkpoints, journal,
/// every map entry, every block. What is wrong is in the report; an error says that the directory cannot be looked at.
pub fn check(dir: &Arc<dyn Dir>) -> Result<Report, Error> {
    let mut report = Report::default();
    let offline = match Offline::open(dir) {
        Ok(offline) => offline,
        Err(error @ (Error::Corrupt { .. } | Error::UnknownVersion { .. })) => {
            report.problems.push(error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.identity = Some(offline.identity.clone());
    report.checkpoint = offline.checkpoint.lsn;
    let mut problems = Vec::new();
    match Starts::latest(&read_whole(&**dir, starts::NAME)?.unwrap_or_default(), offline.salt) {
        Ok(starts) => (report.starts, report.clean) = (starts.count, starts.clean),
        Err(error) => problems.push(error.to_string()),
    }
    // The older one may be torn by a crash, and the next checkpoint overwrites it: it is no problem.
    match offline.replay(&mut report) {
        Ok(found) => offline.check_replicas(&found, &mut report, &mut problems)?,
        Err(error @ (Error::Corrupt { .. } | Error::DurableLost { .. })) => problems.push(error.to_string()),
        Err(error) => return Err(error),
    }
    report.problems = problems;
    Ok(report)
}

/// Writes what is on a disk that no process uses, for people: superblock, starts, checkpoints, records, map entries.
pub fn dump(dir: &Arc<dyn Dir>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    let offline = Offline::open(dir)?;
    let text = |_: fmt::Error| Error::io("writing the dump")(std::io::ErrorKind::WriteZero.into());
    writeln!(out, "superblock: {:?}", offline.identity).map_err(text)?;
    let starts = Starts::latest(&read_whole(&**dir, starts::NAME)?.unwrap_or_default(), offline.salt);
    writeln!(out, "starts: {starts:?}").map_err(text)?;
    for number in 0..2 {
        let Some(checkpoint) = read_checkpoint(&**dir, number, offline.salt)? else {
            writeln!(out, "checkpoint.{number}: not valid").map_err(text)?;
            continue;
        };
        let Checkpoint { number: count, lsn, position, incarnation, geometry, .. } = checkpoint;
        writeln!(
            out,
            "checkpoint.{number}: number {count}, lsn {lsn}, position {position}, incarnation {incarnation}, {geometry:?}"
        )
        .map_err(text)?;
    }
    let mut reader = offline.reader();
    while let Some((records, whole)) = reader.next_batch()? {
        for record in &records {
            writeln!(out, "{}", Line(record)).map_err(text)?;
        }
        if !whole {
            break;
        }
    }
    writeln!(out, "journal: ends at {}; durable to {} at least", reader.end(), reader.durable)
        .map_err(text)?;
    for (id, found) in offline.replay(&mut Report::default())? {
        let (segment_bytes, position) = (found.state.segment_bytes, found.state.position);
        writeln!(out, "replica {id}: {segment_bytes} bytes, position {position}").map_err(text)?;
        for (extent, entry) in offline.entries(id, &found)? {
            match entry {
                Some((Entry { slot, version, zero_mask, .. }, _)) => {
                    writeln!(out, "  extent {extent}: {slot:?}, version {version}, zero {zero_mask:016b}")
                }
                None => writeln!(out, "  extent {extent}: its map entry is damaged"),
            }
            .map_err(text)?;
        }
    }
    Ok(())
}

/// A record in one line.
struct Line<'a>(&'a Record);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { lsn, replica, position, body } = self.0;
        write!(f, "record {lsn}: replica {replica}, ")?;
        match body {
            Body::Create { segment_bytes, meta } => {
                write!(f, "create, {segment_bytes} bytes, meta of {} bytes", meta.len())?;
            }
            Body::Drop => write!(f, "drop")?,
            Body::Meta(meta) => write!(f, "meta of {} bytes", meta.len())?,
            Body::Extents { changes, .. } => {
                write!(f, "extents")?;
                for change in changes {
                    let (slot, version) = (change.entry.slot, change.entry.version);
                    let (data, placed) = (change.data_mask, change.placed_mask);
                    write!(
                        f,
                        " [{} version {version} {slot:?} data {data:04x} placed {placed:04x}]",
                        change.extent
                    )?;
                }
            }
            Body::Zero { first, count, version } => {
                write!(f, "zero, {count} from {first}, version {version}")?;
            }
        }
        position.map_or(Ok(()), |position| write!(f, ", position {position}"))
    }
}

impl Offline {
    fn open(dir: &Arc<dyn Dir>) -> Result<Self, Error> {
        let identity = read_identity(&**dir)?;
        let lock = lock(&**dir)?;
        let salt = Salt::of_disk(identity.disk);
        let checkpoint = recover::load_checkpoint(&**dir, salt)?;
        let ring = Ring::open(&**dir, checkpoint.geometry)?;
        let data = dir.open(DATA, OpenMode::Existing).map_err(Error::io(DATA))?;
        Ok(Self { dir: dir.clone(), _lock: lock, identity, salt, checkpoint, ring, data })
    }

    fn reader(&self) -> Reader {
        Reader::new(self.ring.clone(), self.salt, &self.checkpoint)
    }

    /// All replicas as the journal's end leaves them.
    fn replay(&self, report: &mut Report) -> Result<BTreeMap<ReplicaId, Found>, Error> {
        let known = self.checkpoint.replicas.iter().cloned();
        let known = known.map(|state| (state.id, Found { state, is_new: false, changes: BTreeMap::new() }));
        let mut replicas: BTreeMap<ReplicaId, Found> = known.collect();
        report.end = tail::find_end(self.reader(), &*self.data)?;
        report.records = report.end.0 - self.checkpoint.lsn.0;
        let mut reader = self.reader();
        reader.limit = report.end;
        while let Some((records, whole)) = reader.next_batch()? {
            for record in &records {
                replay_record(&mut replicas, record)?;
            }
            if !whole {
                break;
            }
        }
        Ok(replicas)
    }

    /// The entries of a replica, in order, with the blocks that the journal brings; `None` for damaged ones.
    fn entries(
        &self,
        id: ReplicaId,
        found: &Found,
    ) -> Result<BTreeMap<ExtentIndex, Option<(Entry, u16)>>, Error> {
        let mut entries = BTreeMap::new();
        if !found.is_new {
            let name = map::file_name(id);
            let file = self.dir.open(&name, OpenMode::Existing).map_err(Error::io(&*name))?;
            let mut header = [0; 40];
            file.read_at(&mut header, 0).map_err(Error::io(&*name))?;
            if header != map::header(self.salt, id, found.state.segment_bytes) {
                return Err(Error::corrupt(name, "its header is wrong"));
            }
            let chunks = (0..found.state.chunks.len() as u32 * 64)
                .filter(|chunk| found.state.chunks[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1);
            for chunk in chunks {
                let read = map::read_chunk(&*file, self.salt, id, chunk).map_err(Error::io(&*name))?;
                entries
                    .extend(read.into_iter().map(|(extent, entry)| (extent, entry.map(|entry| (entry, 0)))));
            }
        }
        entries.extend(found.changes.iter().map(|(extent, change)| (*extent, Some(*change))));
        Ok(entries)
    }

    fn check_replicas(
        &self,
        found: &BTreeMap<ReplicaId, Found>,
        report: &mut Report,
        problems: &mut Vec<String>,
    ) -> Result<(), Error> {
        let mut slots = Slots::new(self.identity.capacity_bytes / EXTENT_BYTES);
        for (&replica, found) in found {
            report.replicas += 1;
            let entries = match self.entries(replica, found) {
                Ok(entries) => entries,
                Err(error @ (Error::Corrupt { .. } | Error::Io { .. })) => {
                    problems.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (extent, entry) in entries {
                report.extents += 1;
                let damage = |version, harm| Damage { replica, extent, version, harm }.to_string();
                let Some((entry, in_journal)) = entry else {
                    problems.push(damage(None, Harm::Entry));
                    continue;
                };
                if let Some(slot) = entry.slot
                    && !slots.mark_used(slot)
                {
                    problems.push(format!(
                        "extent {extent} of replica {replica} names slot {}, which is another's or does not exist",
                        slot.0
                    ));
                }
                report.blocks += u64::from(entry.zero_mask.count_zeros());
                let on_disk = !entry.zero_mask & !in_journal;
                let harm = harm_of_blocks(&*self.data, extent, &entry, on_disk);
                problems.extend(harm.map(|harm| damage(Some(entry.version), harm)));
            }
        }
        Ok(())
    }
}

/// What a record makes of the replicas.
fn replay_record(replicas: &mut BTreeMap<ReplicaId, Found>, record: &Record) -> Result<(), Error> {
    let id = record.replica;
    if let Body::Create { segment_bytes, .. } = record.body {
        let state = ReplicaState { id, segment_bytes, ..ReplicaState::default() };
        replicas.insert(id, Found { state, is_new: true, changes: BTreeMap::new() });
    }
    let Some(found) = replicas.get_mut(&id) else {
        return Err(Error::corrupt("the journal", format!("record {} does not fit its replica", record.lsn)));
    };
    if let Some(position) = record.position {
        found.state.position = position;
    }
    match &record.body {
        Body::Extents { changes, .. } => {
            for change in changes {
                let entry = change.entry;
                // What the journal brought before counts on, while the slot is the same.
                let before = found.changes.get(&change.extent).filter(|(old, _)| old.slot == entry.slot);
                let in_journal = before.map_or(0, |(_, mask)| *mask) | change.data_mask;
                found.changes.insert(change.extent, (entry, in_journal));
            }
        }
        Body::Zero { first, count, version } => {
            for extent in (first.0..first.0 + count).map(ExtentIndex) {
                found.changes.insert(extent, (Entry::zeroed(*version), 0));
            }
        }
        Body::Drop => drop(replicas.remove(&id)),
        Body::Create { .. } | Body::Meta(_) => {}
    }
    Ok(())
}
