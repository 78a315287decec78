//! The raft log as raft-rs reads it: in memory in front of the store, which it is always equal to once a batch is written.
//!
//! The log is short (it is compacted every thousand entries or so), so all of it is kept in memory.

use super::store::{Batch, Compacted, Store, StoreError};
use quoin_disk::Dir;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::{BTreeSet, VecDeque};

/// Entries kept behind a snapshot, for followers that are only a little late.
const TAIL: u64 = 256;

/// The log, the snapshot it continues, and what a member must not forget.
pub(crate) struct Log {
    store: Store,
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: Snapshot,
    compacted: Compacted,
    entries: VecDeque<Entry>,
}

impl Log {
    /// Opens the log in `directory`. In an empty one, the cluster begins with `voters`; without any, this member waits to be
    /// taken in by one that there is.
    pub(crate) fn open(directory: &dyn Dir, voters: &[u64]) -> Result<Self, StoreError> {
        let (store, loaded) = Store::open(directory)?;
        let mut log = Self {
            store,
            hard_state: loaded.hard_state,
            conf_state: loaded.conf_state,
            snapshot: loaded.snapshot,
            compacted: loaded.compacted,
            entries: loaded.entries.into(),
        };
        if !log.snapshot.is_empty() {
            // The members as of the snapshot: the entries after it, applied again, bring the later ones. Whatever
            // another version noted beside it may be later than these entries, and would be changed twice.
            log.conf_state = log.snapshot.get_metadata().get_conf_state().clone();
        } else if log.conf_state == ConfState::default() && !voters.is_empty() {
            log.conf_state = ConfState { voters: voters.to_vec(), ..ConfState::default() };
            log.store.write(&Batch { conf_state: Some(&log.conf_state), ..Batch::default() })?;
        }
        if log.hard_state.commit < log.snapshot_index() || log.hard_state.commit > log.last() {
            return Err(StoreError::Damaged("the commit index is outside the log"));
        }
        Ok(log)
    }

    /// The last entry that the snapshot covers; 0 without one.
    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    /// The state in the snapshot; `None` without one.
    pub(crate) fn snapshot_data(&self) -> Option<&[u8]> {
        (!self.snapshot.is_empty()).then_some(self.snapshot.data.as_slice())
    }

    /// The members, as of the last entry applied.
    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Appends entries and notes the hard state, durably, together.
    pub(crate) fn append(
        &mut self,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<(), StoreError> {
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        self.store.write(&Batch {
            entries: &entries,
            hard_state: Some(&self.hard_state),
            ..Batch::default()
        })?;
        if let Some(first) = entries.first() {
            let keep = first.index.saturating_sub(self.compacted.index + 1);
            self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        self.entries.extend(entries);
        Ok(())
    }

    /// Notes that more is committed. Not made durable by itself: after a restart the leader says it again.
    pub(crate) fn note_commit(&mut self, commit: u64) {
        self.hard_state.commit = self.hard_state.commit.max(commit);
    }

    /// Whether the members are others than those of the snapshot.
    pub(crate) fn snapshot_has_other_members(&self) -> bool {
        let sets = |state: &ConfState| -> [BTreeSet<u64>; 2] {
            [&state.voters, &state.learners].map(|ids| ids.iter().copied().collect())
        };
        sets(self.snapshot.get_metadata().get_conf_state()) != sets(&self.conf_state)
    }

    /// Notes who the members are after the entry that is being applied. They become durable with the next snapshot; after a
    /// restart the entry is applied again.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Takes a snapshot of the state after entry `applied`, durably, and lets go of the entries before it, but for a tail.
    pub(crate) fn compact(&mut self, applied: u64, data: Vec<u8>) -> Result<(), StoreError> {
        let term = self.term_of(applied).ok_or(StoreError::Damaged("an applied entry is not in the log"))?;
        let metadata = SnapshotMetadata { conf_state: Some(self.conf_state.clone()), index: applied, term };
        self.snapshot = Snapshot { data, metadata: Some(metadata) };
        self.hard_state.commit = self.hard_state.commit.max(applied);
        // The first entry is never kept: the first members stand in no entry, only in snapshots, so a member that is taken
        // in must begin with one.
        let index = applied.saturating_sub(TAIL).max(self.compacted.index).max(1);
        let term = self.term_of(index).ok_or(StoreError::Damaged("a kept entry is not in the log"))?;
        let compacted = Compacted { index, term };
        self.store.write(&Batch {
            hard_state: Some(&self.hard_state),
            snapshot: Some(&self.snapshot),
            compacted: Some(compacted),
            ..Batch::default()
        })?;
        let gone = usize::try_from(index - self.compacted.index).unwrap_or(usize::MAX);
        self.entries.drain(..gone.min(self.entries.len()));
        self.compacted = compacted;
        Ok(())
    }

    /// Takes over a snapshot from the leader, durably; it replaces the whole log.
    pub(crate) fn install(
        &mut self,
        snapshot: Snapshot,
        hard_state: Option<&HardState>,
    ) -> Result<(), StoreError> {
        let metadata = snapshot.get_metadata().clone();
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.hard_state.term = self.hard_state.term.max(metadata.term);
        self.conf_state = metadata.get_conf_state().clone();
        self.compacted = Compacted { index: metadata.index, term: metadata.term };
        self.snapshot = snapshot;
        self.entries.clear();
        self.store.write(&Batch {
            hard_state: Some(&self.hard_state),
            conf_state: Some(&self.conf_state),
            snapshot: Some(&self.snapshot),
            compacted: Some(self.compacted),
            clear: true,
            ..Batch::default()
        })
    }

    fn last(&self) -> u64 {
        self.compacted.index + self.entries.len() as u64
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        let offset = index.checked_sub(self.compacted.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).map(|entry| entry.term)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let offset = |index: u64| usize::try_from(index - self.compacted.index - 1).unwrap_or(usize::MAX);
        let mut entries: Vec<Entry> = self.entries.range(offset(low)..offset(high)).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index < self.compacted.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.snapshot.is_empty() || self.snapshot_index() < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_disk::MemDir;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry { index, term, ..Entry::default() }).collect()
    }

    #[test]
    fn a_compacted_log_keeps_a_tail_and_its_terms() {
        let directory = MemDir::new();
        let mut log = Log::open(&directory, &[1]).unwrap();
        log.append(entries(1..=300, 1), None).unwrap();
        log.append(entries(290..=400, 2), None).unwrap();
        log.compact(399, b"state".to_vec()).unwrap();
        let check = |log: &Log| {
            assert_eq!(log.first_index().unwrap(), 399 - TAIL + 1);
            assert_eq!(log.last_index().unwrap(), 400);
            assert_eq!(log.term(399 - TAIL).unwrap(), 1);
            assert_eq!((log.term(289).unwrap(), log.term(290).unwrap()), (1, 2));
            assert_eq!(log.term(100), Err(StorageError::Compacted.into()));
            assert_eq!(log.entries(395, 401, None, GetEntriesContext::empty(false)).unwrap().len(), 6);
            assert_eq!(log.snapshot(399, 2).unwrap().data, b"state");
            assert_eq!(log.hard_state.commit, 399);
        };
        check(&log);
        drop(log);
        check(&Log::open(&directory, &[1, 2, 3]).unwrap());
        assert_eq!(Log::open(&directory, &[1, 2, 3]).unwrap().conf_state().voters, [1]);
    }
}
