//! A disk that no engine has open, read without changing a byte of it: the offline check and the dump.

use crate::format::checkpoint::{self, Checkpoint, ReplicaState};
use crate::format::entry::{ENTRY_BYTES, Entry};
use crate::format::record::{Body, Record};
use crate::format::starts::{self, Starts};
use crate::format::{BLOCK, Salt};
use crate::journal::Ring;
use crate::map::CHUNK_ENTRIES;
use crate::open::{DATA, lock, read_checkpoint, read_identity, read_whole};
use crate::reader::Reader;
use crate::scrub::harm_of_blocks;
use crate::slots::Slots;
use crate::{Damage, Error, Harm, Identity, Lsn, map, recover, tail};
use quoin_disk::{Dir, File, Lock, OpenMode};
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
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
    /// Bytes of map, journal and data that were read and verified.
    pub verified_bytes: u64,
    /// What is wrong, by name. Empty: all is well.
    pub problems: Vec<Problem>,
}

/// Which part of a disk something is wrong with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// Who the disk is.
    Superblock,
    /// The record of starts.
    Starts,
    /// Where the journal begins, and the replicas.
    Checkpoint,
    /// The records after the checkpoint.
    Journal,
    /// What the extents are, and where.
    Map,
    /// The content of blocks.
    Data,
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// With which part.
    pub part: Part,
    /// In words.
    pub message: String,
}

impl Problem {
    fn new(part: Part, message: impl fmt::Display) -> Self {
        Self { part, message: message.to_string() }
    }
}

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// As in the report.
    pub verified_bytes: u64,
    /// Pieces that are done, of nearly the same size, and of how many.
    pub done: u64,
    /// All pieces; 0 while it is not known.
    pub total: u64,
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

impl Report {
    /// Notes what an error says of the disk; one that says nothing of it is handed back.
    fn add(&mut self, part: Part, error: Error) -> Result<(), Error> {
        match &error {
            Error::Corrupt { .. } | Error::DurableLost { .. } => {}
            Error::Io { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => return Err(error),
                _ => {}
            },
            _ => return Err(error),
        }
        self.problems.push(Problem::new(part, error));
        Ok(())
    }
}

/// Writes what is on a disk that no process uses, for people: superblock, starts, checkpoints, records, map entries.
pub fn dump(dir: &Arc<dyn Dir>, out: &mut dyn fmt::Write) -> Result<(), Error> {
    let text = |_: fmt::Error| Error::io("writing the dump")(ErrorKind::WriteZero.into());
    let identity = read_identity(&**dir)?;
    let salt = Salt::of_disk(identity.disk);
    let held = lock(&**dir)?;
    writeln!(out, "superblock: {identity:?}").map_err(text)?;
    let starts = Starts::latest(&read_whole(&**dir, starts::NAME)?.unwrap_or_default(), salt);
    writeln!(out, "starts: {starts:?}").map_err(text)?;
    for number in 0..2 {
        let Some(checkpoint) = read_checkpoint(&**dir, number, salt)? else {
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
    drop(held);
    let offline = Offline::open(dir, &mut Report::default())?;
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
        let file = offline.map_file(id, &found)?;
        for chunk in found.chunks() {
            for (extent, entry) in entries(file.as_deref(), offline.salt, id, &found, chunk)? {
                match entry {
                    Some((Entry { slot, version, zero_mask, .. }, _)) => {
                        writeln!(out, "  extent {extent}: {slot:?}, version {version}, zero {zero_mask:016b}")
                    }
                    None => writeln!(out, "  extent {extent}: its map entry is damaged"),
                }
                .map_err(text)?;
            }
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
    /// What is wrong with the disk, so that it cannot be opened, is in the report as well.
    fn open(dir: &Arc<dyn Dir>, report: &mut Report) -> Result<Self, Error> {
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
        let slots = self.identity.capacity_bytes / EXTENT_BYTES;
        while let Some((records, whole)) = reader.next_batch()? {
            for record in &records {
                replay_record(&mut replicas, record, slots).ok_or_else(|| {
                    Error::corrupt("the journal", format!("record {} does not fit its replica", record.lsn))
                })?;
            }
            if !whole {
                break;
            }
        }
        report.verified_bytes += reader.position - self.checkpoint.position;
        Ok(replicas)
    }

    /// The map of a replica, with its header verified; `None` where the checkpoint does not know it.
    fn map_file(&self, id: ReplicaId, found: &Found) -> Result<Option<Arc<dyn File>>, Error> {
        if found.is_new {
            return Ok(None);
        }
        self.open_map(id, found.state.segment_bytes).map(Some)
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

    fn check_replicas(
        &self,
        found: &BTreeMap<ReplicaId, Found>,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let mut slots = Slots::new(self.identity.capacity_bytes / EXTENT_BYTES);
        let total = found.values().map(|found| found.chunks().len() as u64).sum();
        let mut done = 0;
        // A replica that the journal drops (or makes anew) is opened once more, so that its slots come back.
        let is_gone = |state: &&ReplicaState| found.get(&state.id).is_none_or(|found| found.is_new);
        for gone in self.checkpoint.replicas.iter().filter(is_gone) {
            if let Err(error) = self.open_map(gone.id, gone.segment_bytes) {
                report.add(Part::Map, error)?;
            }
        }
        for (&replica, found) in found {
            report.replicas += 1;
            let file = match self.map_file(replica, found) {
                Ok(file) => file,
                Err(error) => {
                    report.add(Part::Map, error)?;
                    done += found.chunks().len() as u64;
                    continue;
                }
            };
            for chunk in found.chunks() {
                progress(Progress { verified_bytes: report.verified_bytes, done, total });
                match entries(file.as_deref(), self.salt, replica, found, chunk) {
                    Ok(entries) => self.check_entries(replica, entries, &mut slots, report),
                    Err(error) => report.add(Part::Map, error)?,
                }
                done += 1;
            }
        }
        progress(Progress { verified_bytes: report.verified_bytes, done, total });
        Ok(())
    }

    fn check_entries(&self, replica: ReplicaId, entries: Entries, slots: &mut Slots, report: &mut Report) {
        for (extent, entry) in entries {
            report.extents += 1;
            report.verified_bytes += ENTRY_BYTES as u64;
            let damage = |version, harm| Damage { replica, extent, version, harm }.to_string();
            let Some((entry, in_journal)) = entry else {
                report.problems.push(Problem::new(Part::Map, damage(None, Harm::Entry)));
                continue;
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
            let on_disk = !entry.zero_mask & !in_journal;
            if let Some(harm) = harm_of_blocks(&*self.data, extent, &entry, on_disk) {
                report.problems.push(Problem::new(Part::Data, damage(Some(entry.version), harm)));
            }
        }
    }
}

/// Entries, in order, with the blocks that the journal brings; `None` for damaged ones.
type Entries = BTreeMap<ExtentIndex, Option<(Entry, u16)>>;

/// The entries of one chunk of a replica.
fn entries(
    file: Option<&dyn File>,
    salt: Salt,
    replica: ReplicaId,
    found: &Found,
    chunk: u32,
) -> Result<Entries, Error> {
    let mut entries = Entries::new();
    if let Some(file) = file
        && found.has_stored(chunk)
    {
        let read = map::read_chunk(file, salt, replica, chunk).map_err(Error::io(map::file_name(replica)))?;
        entries.extend(read.into_iter().map(|(extent, entry)| (extent, entry.map(|entry| (entry, 0)))));
    }
    let first = chunk * CHUNK_ENTRIES;
    let changes = found.changes.range(ExtentIndex(first)..ExtentIndex(first + CHUNK_ENTRIES));
    entries.extend(changes.map(|(extent, change)| (*extent, Some(*change))));
    Ok(entries)
}

impl Found {
    fn extents(&self) -> u32 {
        self.state.segment_bytes.div_ceil(EXTENT_BYTES) as u32
    }

    /// Whether the map file may have entries in this chunk.
    fn has_stored(&self, chunk: u32) -> bool {
        self.state.chunks.get((chunk / 64) as usize).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// The chunks that have entries, in the map file or in the journal.
    fn chunks(&self) -> BTreeSet<u32> {
        let stored = (0..self.extents().div_ceil(CHUNK_ENTRIES)).filter(|chunk| self.has_stored(*chunk));
        stored.chain(self.changes.keys().map(|extent| extent.0 / CHUNK_ENTRIES)).collect()
    }
}

/// What a record makes of the replicas; `None` if it does not fit them.
fn replay_record(replicas: &mut BTreeMap<ReplicaId, Found>, record: &Record, slots: u64) -> Option<()> {
    let id = record.replica;
    if let Body::Create { segment_bytes, .. } = record.body {
        if !recover::is_segment(segment_bytes) {
            return None;
        }
        let state = ReplicaState { id, segment_bytes, ..ReplicaState::default() };
        replicas.insert(id, Found { state, is_new: true, changes: BTreeMap::new() });
    }
    let found = replicas.get_mut(&id)?;
    let extents = found.extents();
    if let Some(position) = record.position {
        found.state.position = position;
    }
    match &record.body {
        Body::Extents { changes, .. } => {
            for change in changes {
                let entry = change.entry;
                if change.extent.0 >= extents || entry.slot.is_some_and(|slot| slot.0 >= slots) {
                    return None;
                }
                // What the journal brought before counts on, while the slot is the same.
                let before = found.changes.get(&change.extent).filter(|(old, _)| old.slot == entry.slot);
                let in_journal = before.map_or(0, |(_, mask)| *mask) | change.data_mask;
                found.changes.insert(change.extent, (entry, in_journal));
            }
        }
        Body::Zero { first, count, version } => {
            let end = first.0.checked_add(*count).filter(|end| *end <= extents)?;
            for extent in (first.0..end).map(ExtentIndex) {
                found.changes.insert(extent, (Entry::zeroed(*version), 0));
            }
        }
        Body::Drop => drop(replicas.remove(&id)),
        Body::Create { .. } | Body::Meta(_) => {}
    }
    Some(())
}
