//! What is on a disk that no engine has open, for people.

use crate::Error;
use crate::format::Salt;
use crate::format::checkpoint::{Checkpoint, LayerState, ReplicaState};
use crate::format::entry::{Cell, Entry, Layer, MapId};
use crate::format::record::{Body, ExtentChange, Record};
use crate::format::starts::{self, Starts};
use crate::offline::Offline;
use crate::open::{lock, read_checkpoint, read_identity, read_whole};
use crate::report::Report;
use quoin_disk::Dir;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;

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
    for found in offline.replay(&mut Report::default())?.replicas.into_values() {
        write!(out, "{}", ReplicaLines(&found.state)).map_err(text)?;
        let file = offline.map_file(&found)?;
        for piece in found.pieces() {
            for (extent, cell) in found.cells(&offline, file.as_deref(), piece)? {
                writeln!(out, "  {}extent {extent}: {}", LayerPrefix(piece.layer), CellText(cell))
                    .map_err(text)?;
            }
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
