//! A disk that no engine has open, read without changing a byte of it: the offline check and the dump.

use crate::format::Salt;
use crate::format::checkpoint::{Checkpoint, LayerState, ReplicaState};
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::format::record::{Body, ExtentChange, Record};
use crate::format::starts::{self, Starts};
use crate::found::FoundReplicas;
use crate::journal::Ring;
use crate::open::{DATA, lock, read_checkpoint, read_identity, read_whole};
use crate::reader::Reader;
use crate::scrub::harm_of_blocks;
use crate::slots::Slots;
use crate::{Damage, Error, Harm, Identity, Lsn, recover, tail};
use quoin_disk::{Dir, File, Lock, OpenMode};
use quoin_types::EXTENT_BYTES;
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
    /// Their snapshots.
    pub snapshots: u64,
    /// Extents that were ever touched.
    pub extents: u64,
    /// Blocks that hold data, each verified.
    pub blocks: u64,
    /// What is wrong, by name. Empty: all is well.
    pub problems: Vec<String>,
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
    for found in offline.replay(&mut Report::default())?.replicas.into_values() {
        write!(out, "{}", ReplicaLines(&found.state)).map_err(text)?;
        for ((layer, extent), cell) in found.entries(&offline.dir, offline.salt)? {
            writeln!(out, "  {}extent {extent}: {}", LayerPrefix(layer), CellText(cell)).map_err(text)?;
        }
    }
    Ok(())
}

/// What a replica is a clone of.
struct BaseText(Option<MapId>);

impl fmt::Display for BaseText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(MapId { replica, layer }) = self.0 else { return Ok(()) };
        write!(f, "a clone of layer {} of replica {replica}, ", layer.0)
    }
}

/// Which layer an extent is of, unless it is what the replica is now.
struct LayerPrefix(Layer);

impl fmt::Display for LayerPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Layer::LIVE { Ok(()) } else { write!(f, "layer {} ", self.0.0) }
    }
}

/// An entry of a map.
struct CellText(Option<Cell>);

impl fmt::Display for CellText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Cell::Entry(Entry { slot, version, zero_mask, .. })) => {
                match slot {
                    Some(slot) => write!(f, "slot {}", slot.0)?,
                    None => write!(f, "no slot")?,
                }
                write!(f, ", version {version}, zero {zero_mask:016b}")
            }
            Some(Cell::Empty) => write!(f, "never written"),
            Some(Cell::AsBase) => write!(f, "not written then"),
            Some(Cell::Lost) => write!(f, "lost"),
            None => write!(f, "its map entry is damaged"),
        }
    }
}

/// A replica, without its extents.
struct ReplicaLines<'a>(&'a ReplicaState);

impl fmt::Display for ReplicaLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplicaState { id, segment_bytes, base, dropped, position, layers, .. } = self.0;
        let dropped = if *dropped { ", dropped, kept for its clones" } else { "" };
        writeln!(f, "replica {id}: {segment_bytes} bytes, {}position {position}{dropped}", BaseText(*base))?;
        for LayerState { layer, snapshot, seq, deleted, folded, .. } in layers {
            let deleted =
                if *deleted { format!(", deleted, folded to extent {folded}") } else { String::new() };
            writeln!(f, "  layer {}: snapshot {snapshot} at {seq}{deleted}", layer.0)?;
        }
        Ok(())
    }
}

/// A record in one line.
struct Line<'a>(&'a Record);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { lsn, replica, position, body } = self.0;
        write!(f, "record {lsn}: replica {replica}, ")?;
        match body {
            Body::Create { segment_bytes, base, meta } => {
                write!(f, "create, {segment_bytes} bytes, {}meta of {} bytes", BaseText(*base), meta.len())?;
            }
            Body::Drop => write!(f, "drop")?,
            Body::Meta(meta) => write!(f, "meta of {} bytes", meta.len())?,
            Body::Extents { .. } => write!(f, "extents")?,
            Body::Zero { first, count, version, .. } => {
                write!(f, "zero, {count} from {first}, version {version}")?;
            }
            Body::Snapshot { layer, snapshot } => write!(f, "snapshot {snapshot}, layer {}", layer.0)?,
            Body::Delete { layer } => write!(f, "layer {} deleted", layer.0)?,
            Body::Fold { layer, through: Some(through), .. } => {
                write!(f, "layer {} folded to extent {through}", layer.0)?;
            }
            Body::Fold { layer, through: None, .. } => write!(f, "layer {} gone", layer.0)?,
        }
        for change in body.changes() {
            let ExtentChange { extent, layer, data_mask, placed_mask, cell, .. } = change;
            let (prefix, cell) = (LayerPrefix(*layer), CellText(Some(*cell)));
            write!(f, " [{prefix}{extent}: {cell}, data {data_mask:04x} placed {placed_mask:04x}")?;
            change.copy_from.map_or(Ok(()), |slot| write!(f, " copied from slot {}", slot.0))?;
            write!(f, "]")?;
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
    fn replay(&self, report: &mut Report) -> Result<FoundReplicas, Error> {
        let mut replicas = FoundReplicas::of(&self.checkpoint.replicas);
        report.end = tail::find_end(self.reader(), &*self.data)?;
        report.records = report.end.0 - self.checkpoint.lsn.0;
        let mut reader = self.reader();
        reader.limit = report.end;
        while let Some((records, whole)) = reader.next_batch()? {
            records.iter().try_for_each(|record| replicas.replay(record))?;
            if !whole {
                break;
            }
        }
        replicas.forget_dropped();
        Ok(replicas)
    }

    fn check_replicas(
        &self,
        all: &FoundReplicas,
        report: &mut Report,
        problems: &mut Vec<String>,
    ) -> Result<(), Error> {
        let mut slots = Slots::new(self.identity.capacity_bytes / EXTENT_BYTES);
        for (&replica, found) in &all.replicas {
            report.replicas += 1;
            report.snapshots += found.state.layers.iter().filter(|layer| !layer.deleted).count() as u64;
            let entries = match found.entries(&self.dir, self.salt) {
                Ok(entries) => entries,
                Err(error @ (Error::Corrupt { .. } | Error::Io { .. })) => {
                    problems.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            for ((layer, extent), cell) in entries {
                report.extents += 1;
                let snapshot = found.state.layers.iter().find(|state| state.layer == layer);
                let snapshot = snapshot.map(|state| state.snapshot);
                let damage = |version, harm| Damage { replica, snapshot, extent, version, harm }.to_string();
                let entry = match cell {
                    Some(Cell::Entry(entry)) => entry,
                    Some(Cell::Empty | Cell::AsBase) => continue,
                    Some(Cell::Lost) | None => {
                        problems.push(damage(None, Harm::Entry));
                        continue;
                    }
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
                let on_disk = !entry.zero_mask & !entry.slot.map_or(0, |slot| all.elsewhere(slot));
                let harm = harm_of_blocks(&*self.data, extent, &entry, on_disk);
                problems.extend(harm.map(|harm| damage(Some(entry.version), harm)));
            }
        }
        Ok(())
    }
}
