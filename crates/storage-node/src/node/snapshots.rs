//! Snapshots of replicas: taken in the stream, kept as the cluster manager says (rules N1–N3, N6).

use super::{Fatal, Node};
use quoin_store::{Engine, View};
use quoin_types::{ReplicaId, Seq, SessionId, SnapshotId};
use quoin_wire::{Refusal, Snapshot, SnapshotPoint};
use std::collections::BTreeSet;

/// Which snapshots of a replica the cluster manager wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptSnapshots {
    /// These.
    pub ids: BTreeSet<SnapshotId>,
    /// Others up to this id are deleted. Those above it are newer than this was said.
    pub up_to: SnapshotId,
}

impl KeptSnapshots {
    /// Whether a snapshot is wanted, as far as is known.
    pub fn wants(&self, snapshot: SnapshotId) -> bool {
        snapshot > self.up_to || self.ids.contains(&snapshot)
    }
}

/// Whose state a peer asks for.
pub(super) fn view(snapshot: Option<SnapshotId>) -> View {
    snapshot.map_or(View::Live, View::Snapshot)
}

impl Node {
    /// A snapshot in the stream: taken like a write, by a complete replica alone (rule N3).
    pub(super) fn on_snapshot(&mut self, session: SessionId, message: Snapshot) -> Result<(), Fatal> {
        let Snapshot { replica: id, epoch, seq, snapshot } = message;
        let replica = self.replicas.get(&id).ok_or(Refusal::UnknownReplica);
        let may_take = replica.and_then(|replica| replica.take_snapshot(session, epoch, seq));
        let make = |engine: &mut Engine| engine.create_snapshot(id, snapshot, seq);
        if self.append(session, (id, epoch, seq), (0, 0), may_take, make)? {
            self.took(id, seq, 0, 0)?;
            self.gathering.ask();
            // It may have been deleted before it came.
            self.prune_snapshots(id)?;
        }
        Ok(())
    }

    /// A replica's snapshots, from the oldest to the newest; none of a replica that is not here.
    pub(super) fn snapshots_of(&self, id: ReplicaId) -> Vec<SnapshotPoint> {
        let snapshots = self.engine.snapshots(id).unwrap_or_default();
        snapshots.into_iter().map(|snapshot| SnapshotPoint { id: snapshot.id, seq: snapshot.seq }).collect()
    }

    /// N6: what the cluster manager wants of a replica's snapshots, those that come later included.
    pub(super) fn keep_snapshots(&mut self, id: ReplicaId, kept: &KeptSnapshots) -> Result<(), Fatal> {
        if self.kept.get(&id) == Some(kept) {
            return Ok(());
        }
        self.kept.insert(id, kept.clone());
        self.prune_snapshots(id)
    }

    /// Deletes what is not wanted, after a snapshot has come.
    pub(super) fn prune_snapshots(&mut self, id: ReplicaId) -> Result<(), Fatal> {
        let Some(kept) = self.kept.get(&id) else { return Ok(()) };
        let unwanted = self.snapshots_of(id).into_iter().filter(|snapshot| !kept.wants(snapshot.id));
        let unwanted: Vec<SnapshotId> = unwanted.map(|snapshot| snapshot.id).collect();
        self.delete_snapshots(id, unwanted)
    }

    /// N4: an epoch starts from a mixed state, which ends before what a resync had brought: snapshots beyond its end belong
    /// to another history, and the seqs of this one are given anew.
    pub(super) fn delete_snapshots_beyond(&mut self, id: ReplicaId, end: Seq) -> Result<(), Fatal> {
        let beyond = self.snapshots_of(id).into_iter().filter(|snapshot| snapshot.seq > end);
        self.delete_snapshots(id, beyond.map(|snapshot| snapshot.id))
    }

    pub(super) fn delete_snapshots(
        &mut self,
        id: ReplicaId,
        snapshots: impl IntoIterator<Item = SnapshotId>,
    ) -> Result<(), Fatal> {
        snapshots
            .into_iter()
            .try_for_each(|snapshot| Ok(self.engine.delete_snapshot(id, snapshot).map(drop)?))
    }
}
