//! Operations, as clients saw them.

use std::collections::BTreeSet;
use std::fmt;

/// One block of one request of a client. A request of several blocks is as many operations with the same times: a disk
/// promises nothing about the order of the blocks within a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked. Only for people: a client may have several requests under way.
    pub client: u64,
    /// The attachment under which it was asked; 0 where that is not known. It matters only beside lossy attachments.
    pub epoch: u64,
    /// What was asked and answered.
    pub what: What,
    /// When it was asked, in nanoseconds of a clock that all clients of the history share.
    pub start_ns: u64,
    /// When the answer was there. `None` for an unknown outcome: a write may then take effect at any later time, or
    /// never; a read or a flush says nothing. Operations that are known to have changed nothing are left out of a history.
    pub end_ns: Option<u64>,
}

/// What an operation asked, and what a read was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The block was made to hold this value. 0 stands for zeroes (a trim is a write of 0) and may be written again and
    /// again; every other value is written to a block once.
    Write {
        /// Which block.
        block: u64,
        /// Stands for the content.
        value: u64,
        /// The answer promised durability by itself (FUA, or the mode `write-through`).
        durable: bool,
    },
    /// The block was seen to hold this value; 0 if it held zeroes.
    Read {
        /// Which block.
        block: u64,
        /// Stands for the content.
        value: u64,
    },
    /// All writes that were answered before it began, on all blocks, are durable now.
    Flush,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Write { block, value, .. } => write!(f, "write of {value} to block {block}")?,
            What::Read { block, value } => write!(f, "read of {value} from block {block}")?,
            What::Flush => write!(f, "flush")?,
        }
        write!(f, " by client {}, {} ns to ", self.client, self.start_ns)?;
        match self.end_ns {
            Some(end) => write!(f, "{end} ns")?,
            None => write!(f, "unknown")?,
        }
        if self.epoch != 0 { write!(f, ", epoch {}", self.epoch) } else { Ok(()) }
    }
}

/// What all clients of one volume asked and were told, in any order. Every block held zeroes before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
    lossy: BTreeSet<u64>,
}

impl History {
    /// Adds an operation.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// The attachment with this epoch was lossy (rule A2): what was not durable before may be gone.
    pub fn push_lossy(&mut self, epoch: u64) {
        self.lossy.insert(epoch);
    }

    /// All operations, in the order in which they were added.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The epochs of lossy attachments.
    pub fn lossy(&self) -> &BTreeSet<u64> {
        &self.lossy
    }

    /// For each operation, whether it is a write that was promised to be durable: by its own answer, or by that of a
    /// flush that began after it was answered. A flush speaks for its own and earlier epochs, back to the last lossy
    /// attachment: what that one lost, no flush brings back.
    pub fn durable(&self) -> Vec<bool> {
        let part_of = |epoch: u64| self.lossy.range(..=epoch).next_back().copied();
        let answered =
            self.operations.iter().filter(|flush| flush.what == What::Flush && flush.end_ns.is_some());
        let mut flushes: Vec<(Option<u64>, u64, u64)> =
            answered.map(|flush| (part_of(flush.epoch), flush.epoch, flush.start_ns)).collect();
        flushes.sort_unstable();
        // The last start of all flushes of the same part under the same or a later epoch.
        for at in (1..flushes.len()).rev() {
            let (part, _, start) = flushes[at];
            let before = &mut flushes[at - 1];
            if before.0 == part {
                before.2 = before.2.max(start);
            }
        }
        let covered = |write: &Operation, end: u64| {
            let part = part_of(write.epoch);
            let at = flushes.partition_point(|(other, epoch, _)| (*other, *epoch) < (part, write.epoch));
            flushes.get(at).is_some_and(|(other, _, start)| *other == part && end <= *start)
        };
        let durable = |operation: &Operation| match (operation.what, operation.end_ns) {
            (What::Write { durable, .. }, Some(end)) => durable || covered(operation, end),
            _ => false,
        };
        self.operations.iter().map(durable).collect()
    }
}
