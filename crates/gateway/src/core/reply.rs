//! What clients ask of a volume, and what they are told.

use bytes::Bytes;
use quoin_types::SnapshotId;
use quoin_types::block::BlockState;
use quoin_types::limits::BLOCK_RUNS_MAX;

/// What the answer to one question about blocks takes, at most.
const STATUS_BYTES: usize = BLOCK_RUNS_MAX * size_of::<StatusExtent>();

/// A client's request, by the number that the shell gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

/// What a client asks of a volume. Offsets and lengths are bytes of the volume, of any alignment; the caller has checked
/// that they are within it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientOperation {
    /// Reads.
    Read {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
    /// Writes. Blocks of 4 KiB are written atomically.
    Write {
        /// First byte.
        offset: u64,
        /// What.
        data: Bytes,
        /// Whether it must be durable before it is answered (FUA).
        durable: bool,
    },
    /// Zeros. Whole extents give their space back.
    Zero {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Whether it must be durable before it is answered (FUA).
        durable: bool,
        /// Whether space is taken, or kept, for all of it: the zeros are written.
        allocate: bool,
    },
    /// Tells that the bytes are no longer needed: whole blocks read as zeros from now on, the rest is left as it is.
    Trim {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Whether it must be durable before it is answered (FUA).
        durable: bool,
    },
    /// Answered when everything answered before is durable.
    Flush,
    /// Asks what the bytes are, without their data.
    Status {
        /// First byte.
        offset: u64,
        /// How many bytes. The answer may tell of fewer, and always tells of some.
        length: u64,
        /// What is asked of each of them: what is allocated, or what has changed since a snapshot.
        about: Vec<Option<SnapshotId>>,
    },
}

impl ClientOperation {
    /// What it holds, or will hold, in memory.
    pub fn memory_bytes(&self) -> usize {
        match self {
            ClientOperation::Read { length, .. } => *length as usize,
            ClientOperation::Write { data, .. } => data.len(),
            ClientOperation::Status { about, .. } => about.len() * STATUS_BYTES,
            _ => 512,
        }
    }
}

/// The answer to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// The bytes read, in order.
    Read(Vec<Bytes>),
    /// What the bytes are: for each question, from the first byte on.
    Status(Vec<Vec<StatusExtent>>),
}

/// Bytes that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// How many; never 0.
    pub length: u64,
    /// What their blocks are.
    pub state: BlockState,
}
