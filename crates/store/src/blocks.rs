//! The verb that tells what blocks are, without their data: from the maps alone.

use crate::Error;
use crate::engine::Engine;
use crate::format::entry::MapId;
use crate::pool::CHUNK_ENTRIES;
use crate::write::parts;
use quoin_types::block::{BlockRun, BlockRuns, BlockState};
use quoin_types::limits::BLOCK_RUNS_MAX;
use quoin_types::{ReplicaId, Seq, SnapshotId};

/// The most entries that one call looks at, beside those that it can skip in one go: half a millisecond's worth.
const LOOKED_AT_MAX: u32 = 8192;

impl Engine {
    /// What the blocks of a range are, as the last record left them: data, zeros or holes; with `since`, whether their
    /// extents have changed since that snapshot. Begins at `offset_bytes`, says something about one extent at least, and
    /// ends early rather than look at too much or say more than [`BLOCK_RUNS_MAX`] runs.
    ///
    /// A damaged entry counts as data, and as changed: nobody knows better.
    pub fn block_runs(
        &self,
        id: ReplicaId,
        since: Option<SnapshotId>,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<BlockRun>, Error> {
        self.check_range(id, offset_bytes, length_bytes, u64::MAX)?;
        let since = since.map(|snapshot| self.snapshot_seq(id, snapshot)).transpose()?;
        let untouched = if since.is_some() { BlockState::Unchanged } else { BlockState::Hole };
        let map = MapId::live(id);
        let chain = self.links(map);
        let mut runs = BlockRuns::default();
        let (mut looked_at, mut skip, mut is_first) = (0, false, true);
        for (extent, blocks) in parts(offset_bytes, length_bytes) {
            if is_first || extent.0.is_multiple_of(CHUNK_ENTRIES) {
                (skip, is_first) = (!chain.may_exceed(extent, since.unwrap_or(Seq::ZERO)), false);
            }
            if skip {
                runs.push(blocks.len() as u32, untouched);
                continue;
            }
            // An extent adds one run for each of its blocks at most.
            if looked_at == LOOKED_AT_MAX || runs.len() + blocks.len() > BLOCK_RUNS_MAX {
                break;
            }
            looked_at += 1;
            let entry = match self.seen(map, extent) {
                Ok(entry) => Some(entry),
                Err(Error::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            for block in blocks {
                let state = match (&entry, since) {
                    (Some(entry), Some(since)) if entry.version <= since => BlockState::Unchanged,
                    (_, Some(_)) => BlockState::Changed,
                    (Some(entry), None) if entry.slot.is_none() => BlockState::Hole,
                    (Some(entry), None) if entry.is_zero(block) => BlockState::Zero,
                    (_, None) => BlockState::Data,
                };
                runs.push(1, state);
            }
        }
        Ok(runs.into_vec())
    }

    fn snapshot_seq(&self, id: ReplicaId, snapshot: SnapshotId) -> Result<Seq, Error> {
        let layers = &self.replica_ref(id)?.live.layers;
        let info = layers.iter().find(|info| info.snapshot == snapshot && !info.deleted);
        Ok(info.ok_or(Error::UnknownSnapshot { replica: id, snapshot })?.seq)
    }
}
