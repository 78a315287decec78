//! What was written but is not yet in data file and map (E1): reads look here first.

use crate::Lsn;
use crate::format::BLOCK;
use crate::format::entry::Entry;
use bytes::Bytes;
use foldhash::fast::FixedState;
use quoin_types::ExtentIndex;
use std::collections::HashMap;

/// One replica's extents with changes that were not applied yet.
#[derive(Default)]
pub(crate) struct Overlay {
    extents: HashMap<ExtentIndex, OverlayExtent, FixedState>,
}

/// One extent.
pub(crate) struct OverlayExtent {
    /// As of the last record.
    pub(crate) entry: Entry,
    /// That record.
    lsn: Lsn,
    /// Data not in place yet, in order of the records: for a block, the last run that covers it counts.
    runs: Vec<OverlayRun>,
}

struct OverlayRun {
    lsn: Lsn,
    first_block: u32,
    data: Bytes,
}

impl Overlay {
    pub(crate) fn get(&self, extent: ExtentIndex) -> Option<&OverlayExtent> {
        self.extents.get(&extent)
    }

    /// The extents from `from` on with their versions, in order.
    pub(crate) fn sorted_from(&self, from: ExtentIndex) -> Vec<(ExtentIndex, Entry)> {
        let all = self.extents.iter().filter(|(extent, _)| **extent >= from);
        let mut list: Vec<_> = all.map(|(extent, overlay)| (*extent, overlay.entry)).collect();
        list.sort_unstable_by_key(|(extent, _)| *extent);
        list
    }

    /// The extent is now this.
    pub(crate) fn put_entry(&mut self, lsn: Lsn, extent: ExtentIndex, entry: Entry) {
        match self.extents.get_mut(&extent) {
            Some(overlay) => (overlay.entry, overlay.lsn) = (entry, lsn),
            None => {
                self.extents.insert(extent, OverlayExtent { entry, lsn, runs: Vec::new() });
            }
        }
    }

    /// These blocks of the extent, whose entry was put already, hold this data.
    pub(crate) fn put_run(&mut self, lsn: Lsn, extent: ExtentIndex, first_block: u32, data: Bytes) {
        if let Some(overlay) = self.extents.get_mut(&extent) {
            overlay.runs.push(OverlayRun { lsn, first_block, data });
        }
    }

    /// The extent has a new slot: no data that came before belongs to it.
    pub(crate) fn clear_runs(&mut self, extent: ExtentIndex) {
        if let Some(overlay) = self.extents.get_mut(&extent) {
            overlay.runs.clear();
        }
    }

    /// The data that this record brought is in the extent's slot now.
    pub(crate) fn placed(&mut self, lsn: Lsn, extent: ExtentIndex) {
        if let Some(overlay) = self.extents.get_mut(&extent) {
            overlay.runs.retain(|run| run.lsn != lsn);
        }
    }

    /// Everything up to `lsn` of this extent is in data file and map now.
    pub(crate) fn applied(&mut self, lsn: Lsn, extent: ExtentIndex) {
        let Some(overlay) = self.extents.get_mut(&extent) else { return };
        if overlay.lsn <= lsn {
            self.extents.remove(&extent);
        } else {
            overlay.runs.retain(|run| run.lsn > lsn);
        }
    }
}

impl OverlayExtent {
    /// The data from this block on, as far as one run goes; `None` if the block is in the data file.
    pub(crate) fn data_from(&self, block: u32) -> Option<Bytes> {
        let covers = |run: &OverlayRun| {
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
    use quoin_types::Seq;

    #[test]
    fn the_last_run_counts_until_it_is_applied() {
        let mut overlay = Overlay::default();
        let extent = ExtentIndex(3);
        overlay.put_entry(Lsn(1), extent, Entry::zeroed(Seq(1)));
        overlay.put_run(Lsn(1), extent, 2, vec![1; 4 * BLOCK].into());
        overlay.put_entry(Lsn(2), extent, Entry::zeroed(Seq(2)));
        overlay.put_run(Lsn(2), extent, 4, vec![2; BLOCK].into());
        let found = |overlay: &Overlay, block| {
            overlay.get(extent).unwrap().data_from(block).map(|d| (d[0], d.len() / BLOCK))
        };
        let all: Vec<_> = (0..8).map(|block| found(&overlay, block)).collect();
        assert_eq!(all, [None, None, Some((1, 2)), Some((1, 1)), Some((2, 1)), Some((1, 1)), None, None]);
        overlay.applied(Lsn(1), extent);
        assert_eq!((found(&overlay, 2), found(&overlay, 4)), (None, Some((2, 1))));
        overlay.applied(Lsn(2), extent);
        assert!(overlay.get(extent).is_none());
    }
}
