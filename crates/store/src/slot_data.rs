//! What belongs into slots and is not there yet (E1): reads look here before they look into the data file.

use crate::Lsn;
use crate::format::BLOCK;
use crate::slots::Slot;
use bytes::Bytes;
use quoin_types::collections::HashMap;

/// Slots with data that was not applied yet.
#[derive(Default)]
pub(crate) struct SlotData {
    slots: HashMap<Slot, Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// In order of the records: for a block, the last run that covers it counts.
    runs: Vec<WaitingRun>,
    /// The slot that all other blocks come from, and the record that says so.
    copy: Option<(Lsn, Slot)>,
}

struct WaitingRun {
    lsn: Lsn,
    first_block: u32,
    data: Bytes,
}

/// Where a block is.
pub(crate) enum Source {
    /// Here: the data from the block on, as far as one run goes.
    Memory(Bytes),
    /// In the data file, in this slot.
    File(Slot),
}

impl SlotData {
    /// These blocks of the slot hold this data.
    pub(crate) fn put_run(&mut self, lsn: Lsn, slot: Slot, first_block: u32, data: Bytes) {
        self.slots.entry(slot).or_default().runs.push(WaitingRun { lsn, first_block, data });
    }

    /// The slot, which is new, is as that one but for the runs that follow.
    pub(crate) fn put_copy(&mut self, lsn: Lsn, slot: Slot, from: Slot) {
        self.slots.entry(slot).or_default().copy = Some((lsn, from));
    }

    /// The data that this record brought is in the slot now.
    pub(crate) fn placed(&mut self, lsn: Lsn, slot: Slot) {
        self.retain(slot, |run| run.lsn != lsn);
    }

    /// Everything up to `lsn` of this slot is in the data file now.
    pub(crate) fn applied(&mut self, lsn: Lsn, slot: Slot) {
        if let Some(waiting) = self.slots.get_mut(&slot) {
            waiting.copy = waiting.copy.filter(|(copied_by, _)| *copied_by > lsn);
            self.retain(slot, |run| run.lsn > lsn);
        }
    }

    fn retain(&mut self, slot: Slot, keep: impl FnMut(&WaitingRun) -> bool) {
        let Some(waiting) = self.slots.get_mut(&slot) else { return };
        waiting.runs.retain(keep);
        if waiting.runs.is_empty() && waiting.copy.is_none() {
            self.slots.remove(&slot);
        }
    }

    /// Where a block of the slot is.
    pub(crate) fn source(&self, slot: Slot, block: u32) -> Source {
        let mut at = slot;
        while let Some(waiting) = self.slots.get(&at) {
            match (waiting.data_from(block), waiting.copy) {
                (Some(data), _) if at == slot => return Source::Memory(data),
                // What follows in that run may have been written over in the copy.
                (Some(data), _) => return Source::Memory(data.slice(..BLOCK)),
                (None, Some((_, from))) => at = from,
                (None, None) => break,
            }
        }
        Source::File(at)
    }
}

impl Waiting {
    fn data_from(&self, block: u32) -> Option<Bytes> {
        let covers = |run: &WaitingRun| {
            run.first_block <= block && ((block - run.first_block) as usize) * BLOCK < run.data.len()
        };
        let index = self.runs.iter().rposition(covers)?;
        let run = &self.runs[index];
        // A later run may cover blocks further on: stop before it.
        let later =
            self.runs[index + 1..].iter().map(|run| run.first_block).filter(|first| *first > block).min();
        let start = (block - run.first_block) as usize * BLOCK;
        let end = later
            .map_or(run.data.len(), |first| run.data.len().min((first - run.first_block) as usize * BLOCK));
        Some(run.data.slice(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(data: &SlotData, slot: Slot) -> Vec<Result<(u8, usize), u64>> {
        let one = |block| match data.source(slot, block) {
            Source::Memory(data) => Ok((data[0], data.len() / BLOCK)),
            Source::File(slot) => Err(slot.0),
        };
        (0..8).map(one).collect()
    }

    #[test]
    fn the_last_run_counts_until_it_is_applied() {
        let mut data = SlotData::default();
        data.put_run(Lsn(1), Slot(3), 2, vec![1; 4 * BLOCK].into());
        data.put_run(Lsn(2), Slot(3), 4, vec![2; BLOCK].into());
        let all = [Err(3), Err(3), Ok((1, 2)), Ok((1, 1)), Ok((2, 1)), Ok((1, 1)), Err(3), Err(3)];
        assert_eq!(found(&data, Slot(3)), all);
        data.applied(Lsn(1), Slot(3));
        assert_eq!(found(&data, Slot(3))[2..5], [Err(3), Err(3), Ok((2, 1))]);
        data.applied(Lsn(2), Slot(3));
        assert!(data.slots.is_empty());
    }

    #[test]
    fn a_copy_is_read_through_until_it_is_made() {
        let mut data = SlotData::default();
        data.put_run(Lsn(1), Slot(3), 0, vec![1; 2 * BLOCK].into());
        data.put_copy(Lsn(2), Slot(4), Slot(3));
        data.put_run(Lsn(2), Slot(4), 1, vec![2; BLOCK].into());
        data.put_copy(Lsn(3), Slot(5), Slot(4));
        data.put_run(Lsn(3), Slot(5), 3, vec![3; BLOCK].into());
        assert_eq!(found(&data, Slot(5))[..4], [Ok((1, 1)), Ok((2, 1)), Err(3), Ok((3, 1))]);
        data.applied(Lsn(2), Slot(3));
        data.applied(Lsn(2), Slot(4));
        assert_eq!(found(&data, Slot(5))[..4], [Err(4), Err(4), Err(4), Ok((3, 1))]);
        data.applied(Lsn(3), Slot(5));
        assert!(data.slots.is_empty());
    }
}
