//! The writes that a gateway keeps in memory, in order (rule W2).

use bytes::Bytes;
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES, Epoch, ReplicaId, Seq, SnapshotId};
use quoin_wire::{Message, Snapshot, Write, Zero};
use std::collections::VecDeque;

/// What is replicated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Whole blocks of data.
    Write {
        /// Where in the segment, in bytes.
        offset: u64,
        /// One per block.
        checksums: Vec<u32>,
        /// The blocks.
        data: Bytes,
    },
    /// Whole blocks that read as zeros from now on.
    Zero {
        /// Where in the segment, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// What the segment is at this place in the stream is kept (rule N1). Covers no byte of it.
    Snapshot(SnapshotId),
}

impl Operation {
    /// The bytes of the segment that it covers: offset and length.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Operation::Write { offset, data, .. } => (*offset, data.len() as u64),
            Operation::Zero { offset, length } => (*offset, *length),
            Operation::Snapshot(_) => (0, 0),
        }
    }

    /// Whether it covers any byte of a range.
    pub fn overlaps(&self, offset: u64, length: u64) -> bool {
        let (own, own_length) = self.range();
        own < offset + length && offset < own + own_length
    }

    /// Extents that it may allocate: what it costs in space credit (rule W5).
    pub fn extents_touched(&self) -> u64 {
        match self {
            Operation::Write { offset, data, .. } => {
                (offset + data.len() as u64).div_ceil(EXTENT_BYTES) - offset / EXTENT_BYTES
            }
            Operation::Zero { .. } | Operation::Snapshot(_) => 0,
        }
    }

    /// What it takes in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Operation::Write { data, .. } => data.len() + BLOCK_BYTES as usize / 16,
            Operation::Zero { .. } | Operation::Snapshot(_) => BLOCK_BYTES as usize / 16,
        }
    }

    /// The message that carries it to a replica.
    pub(crate) fn message(&self, replica: ReplicaId, epoch: Epoch, seq: Seq) -> Message {
        match self {
            Operation::Write { offset, checksums, data } => Message::Write(Write {
                replica,
                epoch,
                seq,
                offset: *offset,
                checksums: checksums.clone(),
                data: data.clone(),
            }),
            Operation::Zero { offset, length } => {
                Message::Zero(Zero { replica, epoch, seq, offset: *offset, length: *length })
            }
            Operation::Snapshot(id) => Message::Snapshot(Snapshot { replica, epoch, seq, snapshot: *id }),
        }
    }
}

/// The retained writes: consecutive seqs.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The seq of the front entry, or of the next one when empty.
    floor: Seq,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// W5: what all entries there ever were cost in credit.
    credit: u64,
}

/// A retained write.
#[derive(Clone, Debug)]
struct Entry {
    operation: Operation,
    /// What it and all before it cost in credit.
    credit: u64,
}

impl Log {
    /// Empty; the first write will be `next`.
    pub(crate) fn new(next: Seq) -> Self {
        Self { floor: next, entries: VecDeque::new(), bytes: 0, credit: 0 }
    }

    /// The lowest seq that can be re-sent.
    pub(crate) fn floor(&self) -> Seq {
        self.floor
    }

    /// The seq that the next write will have.
    pub(crate) fn next(&self) -> Seq {
        Seq(self.floor.0 + self.entries.len() as u64)
    }

    /// The seq of the last write given.
    pub(crate) fn last(&self) -> Seq {
        self.next().previous()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, operation: Operation) -> Seq {
        let seq = self.next();
        self.bytes += operation.memory_bytes();
        self.credit += operation.extents_touched();
        self.entries.push_back(Entry { operation, credit: self.credit });
        seq
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Operation> {
        self.entry(seq).map(|entry| &entry.operation)
    }

    fn entry(&self, seq: Seq) -> Option<&Entry> {
        let index = seq.0.checked_sub(self.floor.0)?;
        self.entries.get(index as usize)
    }

    /// W5: what the writes after one cost in credit, in extents; of those that are retained.
    pub(crate) fn credit_after(&self, seq: Seq) -> u64 {
        let before = |entry: &Entry| entry.credit - entry.operation.extents_touched();
        let from = seq.next().max(self.floor);
        self.entry(from).map_or(0, |entry| self.credit - before(entry))
    }

    /// Drops the front entry.
    pub(crate) fn drop_front(&mut self) {
        if let Some(Entry { operation, .. }) = self.entries.pop_front() {
            self.bytes -= operation.memory_bytes();
            self.floor = self.floor.next();
        }
    }

    /// The highest seq above `committed` that covers any byte of the range (rule R1).
    pub(crate) fn last_overlapping(&self, committed: Seq, offset: u64, length: u64) -> Option<Seq> {
        let skip = (committed.next().0.saturating_sub(self.floor.0)) as usize;
        let overlaps = |entry: &Entry| entry.operation.overlaps(offset, length);
        let position = self.entries.iter().skip(skip).rposition(overlaps)?;
        Some(Seq(self.floor.0 + (skip + position) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zero(offset: u64, length: u64) -> Operation {
        Operation::Zero { offset, length }
    }

    #[test]
    fn numbers_without_gaps_and_finds_overlaps() {
        let mut log = Log::new(Seq(10));
        assert_eq!(log.push(zero(0, 4096)), Seq(10));
        assert_eq!(log.push(zero(4096, 8192)), Seq(11));
        assert_eq!(log.push(zero(0, 4096)), Seq(12));
        assert_eq!(log.last_overlapping(Seq(9), 0, 4096), Some(Seq(12)));
        assert_eq!(log.last_overlapping(Seq(9), 8192, 4096), Some(Seq(11)));
        assert_eq!(log.last_overlapping(Seq(11), 8192, 4096), None);
        assert_eq!(log.last_overlapping(Seq(9), 1 << 20, 4096), None);
        log.drop_front();
        assert_eq!((log.floor(), log.next()), (Seq(11), Seq(13)));
        assert_eq!(log.get(Seq(10)), None);
        assert_eq!(log.last_overlapping(Seq(9), 4096, 4096), Some(Seq(11)));
        log.drop_front();
        log.drop_front();
        assert_eq!((log.floor(), log.last(), log.bytes()), (Seq(13), Seq(12), 0));
    }

    #[test]
    fn a_snapshot_overlaps_nothing_and_costs_no_space() {
        let snapshot = Operation::Snapshot(SnapshotId(7));
        assert!(!snapshot.overlaps(0, 1 << 40) && !snapshot.overlaps(0, 4096));
        assert_eq!(snapshot.extents_touched(), 0);
        let mut log = Log::new(Seq(10));
        log.push(zero(0, 4096));
        log.push(snapshot);
        assert_eq!(log.last_overlapping(Seq(9), 0, 4096), Some(Seq(10)));
    }

    #[test]
    fn credit_is_counted_from_any_place() {
        let mut log = Log::new(Seq(10));
        for blocks in [1, 32] {
            let (checksums, data) = (vec![0; blocks], Bytes::from(vec![0; blocks * 4096]));
            log.push(Operation::Write { offset: 0, checksums, data });
            log.push(zero(0, 4096));
        }
        let after = [9, 10, 11, 12, 13, 14].map(|seq| log.credit_after(Seq(seq)));
        assert_eq!(after, [3, 2, 2, 0, 0, 0]);
        log.drop_front();
        assert_eq!(
            (log.credit_after(Seq(2)), log.credit_after(Seq(10)), log.credit_after(Seq(12))),
            (2, 2, 0)
        );
    }

    #[test]
    fn touched_extents_include_both_ends() {
        let write = |offset: u64, blocks: usize| Operation::Write {
            offset,
            checksums: vec![0; blocks],
            data: Bytes::from(vec![0; blocks * 4096]),
        };
        assert_eq!(write(0, 1).extents_touched(), 1);
        assert_eq!(write(61_440, 2).extents_touched(), 2);
        assert_eq!(write(0, 16).extents_touched(), 1);
        assert_eq!(write(4096, 16).extents_touched(), 2);
    }
}
