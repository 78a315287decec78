//! What clients asked and were told, until `quoin-history` judges it.

use quoin_history::{History, Operation, What};
use quoin_types::{Seq, SnapshotId};
use quoin_wire::EpochStart;
use std::collections::{BTreeMap, BTreeSet};

/// A write as a client knows it, and what the test knows of it.
#[derive(Clone, Debug)]
pub(crate) struct WriteOp {
    pub(crate) epoch: u64,
    pub(crate) blocks: Vec<u32>,
    pub(crate) invoked: u64,
    /// `None` while unknown.
    pub(crate) acked: Option<u64>,
    /// Acknowledged as durable.
    pub(crate) durable: bool,
    /// Refused with nothing changed.
    pub(crate) void: bool,
    /// The seq it was given, once known.
    pub(crate) seq: u64,
}

/// All that clients asked and were told. Values are the numbers of write operations, from 1.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) writes: BTreeMap<u64, WriteOp>,
    /// Reads and flushes.
    others: Vec<Operation>,
    /// Snapshots that are durable on a majority, with the epoch and seq of their record.
    pub(crate) snapshots: BTreeMap<SnapshotId, (u64, Seq)>,
    /// Epochs whose attachment was lossy and got started.
    pub(crate) lossy: BTreeSet<u64>,
}

impl Checker {
    pub(crate) fn read(&mut self, epoch: u64, block: u32, value: u64, invoked: u64, returned: u64) {
        self.other(epoch, What::Read { block: block.into(), value }, invoked, returned);
    }

    /// A flush by `epoch` was asked for at `invoked` and is done.
    pub(crate) fn flushed(&mut self, epoch: u64, invoked: u64, returned: u64) {
        self.other(epoch, What::Flush, invoked, returned);
    }

    fn other(&mut self, epoch: u64, what: What, start_ns: u64, end_ns: u64) {
        self.others.push(Operation { client: epoch, epoch, what, start_ns, end_ns: Some(end_ns) });
    }

    /// How many blocks were read.
    pub(crate) fn reads(&self) -> usize {
        self.others.iter().filter(|operation| operation.what != What::Flush).count()
    }

    /// Checks everything; gives the numbers of the writes that were promised to be durable.
    pub(crate) fn check(&self) -> Result<BTreeSet<u64>, String> {
        let history = self.history();
        quoin_history::check(&history).map_err(|violation| violation.to_string())?;
        let durable = history.operations().iter().zip(history.durable()).filter(|(_, durable)| *durable);
        Ok(durable.filter_map(|(operation, _)| value_of_write(operation)).collect())
    }

    /// What each block is after this seq of a history: the last write to it, by its number. The dumb twin of snapshots.
    pub(crate) fn state_at(&self, seq: Seq, history: &[EpochStart]) -> BTreeMap<u32, u64> {
        let epoch_of =
            |seq: u64| history.iter().rev().find(|start| start.first.0 <= seq).map(|start| start.epoch.0);
        let is_in =
            |write: &WriteOp| (1..=seq.0).contains(&write.seq) && epoch_of(write.seq) == Some(write.epoch);
        let mut writes: Vec<_> = self.writes.iter().filter(|(_, write)| is_in(write)).collect();
        writes.sort_unstable_by_key(|(_, write)| write.seq);
        let blocks =
            writes.iter().flat_map(|(number, write)| write.blocks.iter().map(|block| (*block, **number)));
        blocks.collect()
    }

    fn history(&self) -> History {
        let mut history = History::default();
        for (number, write) in self.writes.iter().filter(|(_, write)| !write.void) {
            for block in &write.blocks {
                let what = What::Write { block: u64::from(*block), value: *number, durable: write.durable };
                let (client, start_ns, end_ns) = (write.epoch, write.invoked, write.acked);
                history.push(Operation { client, epoch: write.epoch, what, start_ns, end_ns });
            }
        }
        self.others.iter().for_each(|operation| history.push(*operation));
        self.lossy.iter().for_each(|epoch| history.push_lossy(*epoch));
        history
    }
}

fn value_of_write(operation: &Operation) -> Option<u64> {
    match operation.what {
        What::Write { value, .. } => Some(value),
        _ => None,
    }
}
