//! What can go wrong, in few kinds.

use crate::options::Lsn;
use quoin_types::limits::SNAPSHOTS_MAX;
use quoin_types::{ClusterId, DiskId, ExtentIndex, ReplicaId, SnapshotId};
use std::io;

/// Why the engine refused or failed. Only [`Error::Io`] of a mutating call and [`Error::Poisoned`] end the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory holds a disk already; formatting it would destroy data.
    #[error("this directory is formatted already (disk {disk}); use an empty one")]
    AlreadyFormatted {
        /// The disk that is there.
        disk: DiskId,
    },
    /// The directory holds no disk.
    #[error("this directory is not a Quoin disk; format it first")]
    NotFormatted,
    /// The disk belongs to another cluster.
    #[error("this disk belongs to cluster {found}, not to {expected}")]
    WrongCluster {
        /// The cluster written on the disk.
        found: ClusterId,
        /// The cluster of the caller.
        expected: ClusterId,
    },
    /// A structure was written by a version of Quoin that this one does not know.
    #[error("{what} has format version {found}; this version of Quoin knows only {known}")]
    UnknownVersion {
        /// The structure.
        what: String,
        /// The version found.
        found: u32,
        /// The version known here.
        known: u32,
    },
    /// Another process uses the directory.
    #[error("another process uses this disk")]
    Locked,
    /// A structure on the disk is damaged. It is never served.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// The structure.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The journal ends before a record that was reported durable: the disk, or something below it, lied about a sync.
    #[error(
        "durable records were lost: the journal ends at {end}, but record {durable} was reported durable"
    )]
    DurableLost {
        /// The last record that could be read.
        end: Lsn,
        /// The record that must be there.
        durable: Lsn,
    },
    /// No space is left for this, the reserve set apart. Nothing was changed.
    #[error("no space left on this disk")]
    NoSpace,
    /// There is no such replica on this disk.
    #[error("replica {0} is not on this disk")]
    UnknownReplica(ReplicaId),
    /// The replica has no such snapshot.
    #[error("replica {replica} has no snapshot {snapshot}")]
    UnknownSnapshot {
        /// The replica.
        replica: ReplicaId,
        /// The snapshot asked for.
        snapshot: SnapshotId,
    },
    /// The replica has this snapshot already.
    #[error("replica {replica} has a snapshot {snapshot} already")]
    SnapshotExists {
        /// The replica.
        replica: ReplicaId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// The replica has as many snapshots as it may have, those that are still being folded included.
    #[error("replica {replica} has {SNAPSHOTS_MAX} snapshots, and can have no more; delete some")]
    TooManySnapshots {
        /// The replica.
        replica: ReplicaId,
    },
    /// A repair came for something that is not there any more.
    #[error("extent {extent} of replica {replica} is not what was to be repaired")]
    Superseded {
        /// The replica.
        replica: ReplicaId,
        /// The extent.
        extent: ExtentIndex,
    },
    /// The replica exists, or existed: ids are never reused.
    #[error("replica {0} exists on this disk already")]
    ReplicaExists(ReplicaId),
    /// A range passes the end of the segment, is empty, or is longer than one operation may be.
    #[error("bytes {offset}+{length} are outside of the segment or too many for one operation")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// A range is not made of whole blocks, or comes with the wrong number of checksums or bytes.
    #[error("{what} is not made of whole blocks")]
    Misaligned {
        /// What is wrong.
        what: &'static str,
    },
    /// An option does not make sense.
    #[error("option {what}")]
    Option {
        /// Which one, and why.
        what: &'static str,
    },
    /// An earlier write or sync failed; what it left is unknown, so nothing more is accepted until the disk is reopened.
    #[error("the disk failed before ({cause}); reopen it")]
    Poisoned {
        /// The failure that began it.
        cause: String,
    },
    /// The disk refused an operation.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { context: context.into(), source }
    }

    /// A damaged structure.
    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Error {
        Error::Corrupt { what: what.into(), detail: detail.into() }
    }
}
