//! Entries of the live map that were changed and are not in it yet (E1): reads look here first. Their data is in
//! [`crate::slot_data`].

use crate::Lsn;
use crate::format::entry::Entry;
use quoin_types::ExtentIndex;
use quoin_types::collections::HashMap;

/// One replica's extents with changes that were not applied yet, each as of the last record, and that record.
#[derive(Default)]
pub(crate) struct Overlay {
    extents: HashMap<ExtentIndex, (Lsn, Entry)>,
}

impl Overlay {
    pub(crate) fn get(&self, extent: ExtentIndex) -> Option<Entry> {
        self.extents.get(&extent).map(|(_, entry)| *entry)
    }

    /// The extents from `from` on, in order.
    pub(crate) fn sorted_from(&self, from: ExtentIndex) -> Vec<(ExtentIndex, Entry)> {
        let all = self.extents.iter().filter(|(extent, _)| **extent >= from);
        let mut list: Vec<_> = all.map(|(extent, (_, entry))| (*extent, *entry)).collect();
        list.sort_unstable_by_key(|(extent, _)| *extent);
        list
    }

    /// The extent is now this.
    pub(crate) fn put(&mut self, lsn: Lsn, extent: ExtentIndex, entry: Entry) {
        self.extents.insert(extent, (lsn, entry));
    }

    /// Everything up to `lsn` of this extent is in the map now.
    pub(crate) fn applied(&mut self, lsn: Lsn, extent: ExtentIndex) {
        if self.extents.get(&extent).is_some_and(|(since, _)| *since <= lsn) {
            self.extents.remove(&extent);
        }
    }
}
