//! N1, N2: a snapshot shows what the volume was at one moment between the question for it and its records. Of each block it has a
//! value that was not overwritten by then, and nothing that was asked for later; and if it has a write, it has every other that was
//! answered before that one was asked for, on whatever block.
//!
//! That it is the same on all replicas is looked at in `replicas_converge.rs`. What a lossy attachment may have lost before a
//! snapshot was asked for is left out.

use crate::queue::Nanos;
use quoin_cluster::Volume;
use quoin_history::{History, Operation, What};
use quoin_types::SnapshotId;
use std::collections::BTreeMap;

/// Between what moments a snapshot was taken.
#[derive(Clone, Copy)]
struct Window {
    /// The managers knew of it, and no gateway did.
    asked: Nanos,
    /// A record of it was on its way: it was placed before.
    placed: Option<Nanos>,
    /// The attachment that took it.
    epoch: u64,
}

/// When the snapshots were taken.
#[derive(Default)]
pub(crate) struct Windows(BTreeMap<SnapshotId, Window>);

impl Windows {
    pub(super) fn volume_is(&mut self, volume: &Volume, now: Nanos) {
        for snapshot in &volume.snapshots {
            let new = Window { asked: now, placed: None, epoch: 0 };
            let window = self.0.entry(snapshot.id).or_insert(new);
            window.epoch = snapshot.epoch.map_or(window.epoch, |epoch| epoch.0);
        }
    }

    pub(super) fn placed(&mut self, id: SnapshotId, now: Nanos) {
        if let Some(window) = self.0.get_mut(&id) {
            window.placed.get_or_insert(now);
        }
    }
}

/// The writes that clients have asked for, by register.
pub(crate) struct Writes<'a> {
    by_register: BTreeMap<u64, Vec<(u64, &'a Operation)>>,
    history: &'a History,
}

impl<'a> Writes<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        let mut by_register: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for operation in history.operations() {
            if let What::Write { block, value, .. } = operation.what {
                by_register.entry(block).or_default().push((value, operation));
            }
        }
        Self { by_register, history }
    }

    fn on(&self, register: u64) -> &[(u64, &'a Operation)] {
        self.by_register.get(&register).map(Vec::as_slice).unwrap_or_default()
    }

    fn of_value(&self, register: u64, value: u64) -> Option<&'a Operation> {
        self.on(register).iter().find(|(written, _)| *written == value).map(|(_, write)| *write)
    }

    /// Judges a snapshot by all registers that it shows.
    pub(crate) fn judge(
        &self,
        id: SnapshotId,
        shown: &[(u64, u64)],
        windows: &Windows,
    ) -> Result<(), String> {
        let Some(window) = windows.0.get(&id).copied() else {
            return Err(format!("snapshot {id} is no cut: nobody has asked for it"));
        };
        let Some(placed) = window.placed else {
            return Err(format!("snapshot {id} is no cut: it is kept, and was never placed"));
        };
        // Everything that was answered before a write that it has, is in it as well.
        let mut has_all_before = window.asked;
        for (register, value) in shown.iter().copied().filter(|(_, value)| *value != 0) {
            let Some(write) = self.of_value(register, value) else {
                return Err(format!(
                    "snapshot {id} is no cut: {register} shows {value}, which nobody wrote there"
                ));
            };
            if write.start_ns > placed {
                return Err(format!(
                    "snapshot {id} is no cut: it was placed at {placed}, and has the {write}, which came later"
                ));
            }
            has_all_before = has_all_before.max(write.start_ns);
        }
        let missing = shown.iter().find_map(|(register, value)| {
            self.missing(*register, *value, has_all_before, placed, window.epoch).map(|write| (*value, write))
        });
        match missing {
            None => Ok(()),
            Some((value, write)) => Err(format!(
                "snapshot {id} is no cut: it shows {value}, and lacks the {write}, which was answered before {has_all_before}, \
                 when something was asked for that it has"
            )),
        }
    }

    /// A write that a register must show by a moment, and does not: the value that it shows was overwritten by it.
    fn missing(
        &self,
        register: u64,
        shown: u64,
        by: Nanos,
        placed: Nanos,
        epoch: u64,
    ) -> Option<&'a Operation> {
        // When what is shown was done for certain; nothing, if it may have been done at any time up to now.
        let mut shown_since = (shown == 0).then_some(0);
        for (_, write) in
            self.on(register).iter().filter(|(value, write)| *value == shown && write.start_ns <= placed)
        {
            shown_since = shown_since.max(Some(write.end_ns?));
        }
        let shown_since = shown_since?;
        let kept_from = self.history.lossy().range(..=epoch).next_back().copied().unwrap_or_default();
        let writes = self.on(register).iter().map(|(_, write)| *write);
        let mut writes = writes.filter(|write| write.epoch >= kept_from && write.start_ns > shown_since);
        writes.find(|write| write.end_ns.is_some_and(|end| end < by))
    }
}
