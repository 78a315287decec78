//! One replica on the disk: its state as appended, its state as applied, its map and its overlay.

use crate::format::entry::Entry;
use crate::format::record::{Body, Record};
use crate::map::ExtentMap;
use crate::overlay::Overlay;
use crate::{Error, Lsn};
use bytes::Bytes;
use quoin_types::{ExtentIndex, Seq};

/// The replication state that the engine keeps for its owner.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) meta: Bytes,
    pub(crate) position: Seq,
}

impl State {
    fn change(&mut self, record: &Record) {
        if let Body::Meta(meta) | Body::Create { meta, .. } = &record.body {
            self.meta = meta.clone();
        }
        if let Some(position) = record.position {
            self.position = position;
        }
    }
}

pub(crate) struct Replica {
    pub(crate) segment_bytes: u64,
    /// With every record appended.
    pub(crate) live: State,
    /// With every record applied: what a checkpoint says (E3). `None` before the creation and after the drop.
    pub(crate) applied: Option<State>,
    /// The record that dropped it. It stays here, invisible, until a checkpoint past that (E2).
    pub(crate) dropped: Option<Lsn>,
    /// A job looks for its slots, after the drop.
    pub(crate) reclaiming: bool,
    pub(crate) map: ExtentMap,
    /// E1: changes that are not in the map or the data file yet.
    pub(crate) overlay: Overlay,
    pub(crate) extents_allocated: u64,
}

impl Replica {
    pub(crate) fn new(segment_bytes: u64, map: ExtentMap) -> Self {
        Self {
            segment_bytes,
            live: State::default(),
            applied: None,
            dropped: None,
            reclaiming: false,
            map,
            overlay: Overlay::default(),
            extents_allocated: 0,
        }
    }

    /// The extent as the last record left it.
    pub(crate) fn current(&self, extent: ExtentIndex) -> Result<Entry, Error> {
        match self.overlay.get(extent) {
            Some(overlay) => Ok(overlay.entry),
            None => self.map.load(extent),
        }
    }

    /// Makes an appended record visible.
    pub(crate) fn enter(&mut self, record: &Record) {
        self.live.change(record);
        match &record.body {
            Body::Create { .. } | Body::Meta(_) => {}
            Body::Drop => self.dropped = Some(record.lsn),
            Body::Extents { changes, runs } => {
                for change in changes {
                    self.overlay.put_entry(record.lsn, change.extent, change.entry);
                    if change.placed_mask != 0 {
                        self.overlay.clear_runs(change.extent);
                    }
                    self.map.raise_bound(change.extent, 1, change.entry.version);
                }
                for run in runs {
                    self.overlay.put_run(record.lsn, run.extent, run.first_block, run.data.clone());
                }
            }
            Body::Zero { first, count, version } => {
                for extent in first.0..first.0 + count {
                    self.overlay.put_entry(record.lsn, ExtentIndex(extent), Entry::zeroed(*version));
                }
                self.map.raise_bound(*first, *count, *version);
            }
        }
    }

    /// What [`Replica::enter`] does for a record that is being replayed, and so goes straight to the map.
    pub(crate) fn replay_state(&mut self, record: &Record) {
        self.live.change(record);
        if let Body::Drop = &record.body {
            self.dropped = Some(record.lsn);
        }
    }

    /// The record is in data file and map, like everything up to `through`.
    pub(crate) fn applied(&mut self, record: &Record, through: Lsn) {
        match &record.body {
            Body::Drop => self.applied = None,
            Body::Create { .. } => self.applied.get_or_insert_default().change(record),
            _ => {
                if let Some(applied) = &mut self.applied {
                    applied.change(record);
                }
            }
        }
        match &record.body {
            Body::Extents { changes, .. } => {
                changes.iter().for_each(|change| self.overlay.applied(through, change.extent));
                self.map.set_dirty();
            }
            Body::Zero { first, count, .. } => {
                (first.0..first.0 + count)
                    .for_each(|extent| self.overlay.applied(through, ExtentIndex(extent)));
                self.map.set_dirty();
            }
            _ => {}
        }
    }
}
