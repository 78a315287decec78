//! What the offline check says.

use crate::{Error, Identity, Lsn};
use std::fmt;
use std::io::ErrorKind;

/// What [`crate::check`] found.
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
    pub(crate) fn new(part: Part, message: impl fmt::Display) -> Self {
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

impl Report {
    /// Notes what an error says of the disk; one that says nothing of it is handed back.
    pub(crate) fn add(&mut self, part: Part, error: Error) -> Result<(), Error> {
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
