//! Is what the clients saw explained by one disk? Each block is a register with unique values, so Gibbons and Korach's
//! test is exact: every value has a zone, from the first end to the last start of its write and its reads; two forward
//! zones may not overlap, and a backward zone may not lie within a forward one.
//!
//! A lossy attachment (rule A2) begins an *era*: what was not durable before may be gone, and what was read of it too.

use quoin_types::{Seq, SnapshotId};
use quoin_wire::EpochStart;
use std::collections::{BTreeMap, BTreeSet};

const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
pub(crate) struct WriteOp {
    pub(crate) epoch: u64,
    pub(crate) blocks: Vec<u32>,
    pub(crate) invoked: u64,
    /// `NEVER` while unknown.
    pub(crate) acked: u64,
    /// Acknowledged as durable, or covered by a flush.
    pub(crate) durable: bool,
    /// Refused with nothing changed.
    pub(crate) void: bool,
    /// The seq it was given, once known.
    pub(crate) seq: u64,
}

#[derive(Clone, Debug)]
struct ReadOp {
    epoch: u64,
    block: u32,
    value: u64,
    invoked: u64,
    returned: u64,
}

/// All that clients asked and were told. Values are the numbers of write operations, from 1.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) writes: BTreeMap<u64, WriteOp>,
    reads: Vec<ReadOp>,
    /// Snapshots that are durable on a majority, with the epoch and seq of their record.
    pub(crate) snapshots: BTreeMap<SnapshotId, (u64, Seq)>,
    /// Epochs whose attachment was lossy and got started.
    pub(crate) lossy: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    first_end: u64,
    last_start: u64,
}

impl Checker {
    pub(crate) fn read(&mut self, epoch: u64, block: u32, value: u64, invoked: u64, returned: u64) {
        self.reads.push(ReadOp { epoch, block, value, invoked, returned });
    }

    /// How many blocks were read.
    pub(crate) fn reads(&self) -> usize {
        self.reads.len()
    }

    /// A flush by `epoch` was asked for at `invoked` and is done.
    pub(crate) fn flushed(&mut self, epoch: u64, invoked: u64) {
        // What a lossy attachment lost is not brought back by a flush.
        let since = self.lossy.range(..=epoch).next_back().copied().unwrap_or_default();
        let covered = |write: &&mut WriteOp| (since..=epoch).contains(&write.epoch) && write.acked <= invoked;
        self.writes.values_mut().filter(covered).for_each(|write| write.durable = true);
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

    /// Checks everything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut bounds: Vec<u64> = vec![0];
        bounds.extend(&self.lossy);
        bounds.push(NEVER);
        let mut by_block: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (number, write) in &self.writes {
            write.blocks.iter().for_each(|block| by_block.entry(*block).or_default().push(*number));
        }
        for read in &self.reads {
            by_block.entry(read.block).or_default();
        }
        for (block, writes) in &by_block {
            for era in bounds.windows(2) {
                self.check_block(*block, writes, era[0], era[1]).map_err(|problem| {
                    format!("block {block}, epochs {} to {}: {problem}", era[0], era[1])
                })?;
            }
        }
        Ok(())
    }

    fn check_block(&self, block: u32, writes: &[u64], from: u64, until: u64) -> Result<(), String> {
        let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
        zones.insert(0, Zone { value: 0, first_end: 0, last_start: 0 });
        // What a later durable write replaced before the era cannot come back in it.
        let durable =
            writes.iter().map(|number| &self.writes[number]).filter(|w| w.durable && w.epoch < from);
        let replaced_before = durable.map(|write| write.invoked).max().unwrap_or_default();
        for number in writes {
            let write = &self.writes[number];
            if write.epoch < until && !write.void {
                // Seen from an era that begins with epoch `from`, what may be lost may be nowhere.
                let survives = write.epoch >= from || write.durable || write.acked < replaced_before;
                let first_end = if survives { write.acked } else { NEVER };
                zones.insert(*number, Zone { value: *number, first_end, last_start: write.invoked });
            }
        }
        let mut read_values = BTreeSet::new();
        for read in
            self.reads.iter().filter(|read| read.block == block && (from..until).contains(&read.epoch))
        {
            let Some(zone) = zones.get_mut(&read.value) else {
                return Err(format!("{read:?} returned a value that was never written there"));
            };
            if self.writes.get(&read.value).is_some_and(|write| write.invoked > read.returned) {
                return Err(format!("{read:?} returned a value before it was written"));
            }
            read_values.insert(read.value);
            zone.first_end = zone.first_end.min(read.returned);
            zone.last_start = zone.last_start.max(read.invoked);
        }
        // A write without a known end that nobody saw may be nowhere.
        let zones =
            zones.into_values().filter(|zone| zone.first_end != NEVER || read_values.contains(&zone.value));
        check_zones(&zones.collect::<Vec<_>>()).map_err(|(a, b)| {
            let show = |zone: Zone| format!("{zone:?} of {:?}", self.writes.get(&zone.value));
            format!("no order explains {} and {}", show(a), show(b))
        })
    }
}

fn check_zones(zones: &[Zone]) -> Result<(), (Zone, Zone)> {
    let mut forward: Vec<Zone> =
        zones.iter().copied().filter(|zone| zone.first_end < zone.last_start).collect();
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[0].last_start > pair[1].first_end {
            return Err((pair[0], pair[1]));
        }
    }
    for backward in zones.iter().filter(|zone| zone.first_end >= zone.last_start) {
        let inside =
            |zone: &&Zone| zone.first_end < backward.last_start && backward.first_end < zone.last_start;
        if let Some(around) = forward.iter().find(inside) {
            return Err((*around, *backward));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(checker: &mut Checker, number: u64, invoked: u64, acked: u64) {
        let write =
            WriteOp { epoch: 1, blocks: vec![0], invoked, acked, durable: false, void: false, seq: 0 };
        checker.writes.insert(number, write);
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut checker = Checker::default();
        write(&mut checker, 1, 10, 20);
        write(&mut checker, 2, 30, 40);
        checker.read(1, 0, 1, 35, 45);
        assert_eq!(checker.check(), Ok(()), "the second write may come after the read");
        checker.read(1, 0, 1, 41, 45);
        assert!(checker.check().is_err());
    }

    #[test]
    fn what_was_seen_stays() {
        let mut checker = Checker::default();
        write(&mut checker, 1, 10, 20);
        write(&mut checker, 2, 30, NEVER);
        checker.read(1, 0, 2, 40, 50);
        assert_eq!(checker.check(), Ok(()));
        checker.read(1, 0, 1, 60, 70);
        assert!(checker.check().is_err());
    }

    #[test]
    fn a_lossy_attachment_keeps_what_was_durable() {
        let mut checker = Checker::default();
        write(&mut checker, 1, 10, 20);
        write(&mut checker, 2, 30, 40);
        checker.flushed(1, 25);
        write(&mut checker, 3, 50, 60);
        checker.lossy.insert(2);
        checker.read(2, 0, 2, 100, 110);
        assert_eq!(checker.check(), Ok(()), "the third was lost");
        checker.lossy.insert(3);
        checker.read(3, 0, 0, 120, 130);
        assert!(checker.check().is_err(), "the first was durable");
    }
}
