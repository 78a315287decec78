//! Snapshots, as operators ask for them.

use super::failure::Failure;
use super::route::{Api, Call};
use quoin_api::v1;
use quoin_cluster::codec::snapshot;
use quoin_cluster::{Command, Outcome, Refusal, Snapshot, SnapshotState, Volume};
use quoin_types::SnapshotId;
use tonic::Status;

impl Api {
    /// Answers when the snapshot is ready, or, when the time is up or nobody wants to wait, with how far it is.
    pub(super) async fn create_snapshot(
        &self,
        call: Call,
        asked: v1::CreateSnapshotRequest,
    ) -> Result<v1::Snapshot, Failure> {
        let command = Command::BeginSnapshot { volume: asked.volume.clone(), name: asked.name };
        let id = snapshot_of(self.propose(call, command).await?)?;
        let volume = self.shared.state().volume_named(&asked.volume).map(|volume| volume.id);
        let volume = volume.ok_or(Refusal::SnapshotEnded)?;
        let is_decided = |volume: &Volume| {
            let known = find(volume, id);
            known.is_none_or(|snapshot| snapshot.state == SnapshotState::Ready)
        };
        if !asked.no_wait {
            self.wait_for_volume(call, volume, is_decided).await?;
        }
        let state = self.shared.state();
        let known = state.volumes().get(&volume).and_then(|volume| find(volume, id));
        Ok(snapshot::to_message(known.ok_or(Refusal::SnapshotEnded)?))
    }

    pub(super) async fn delete_snapshot(
        &self,
        call: Call,
        asked: v1::DeleteSnapshotRequest,
    ) -> Result<v1::DeleteSnapshotReply, Failure> {
        let command = Command::DeleteSnapshot { volume: asked.volume, name: asked.name };
        snapshot_of(self.propose(call, command).await?)?;
        Ok(v1::DeleteSnapshotReply {})
    }
}

fn find(volume: &Volume, id: SnapshotId) -> Option<&Snapshot> {
    volume.snapshots.iter().find(|snapshot| snapshot.id == id)
}

fn snapshot_of(outcome: Outcome) -> Result<SnapshotId, Failure> {
    match outcome {
        Outcome::Snapshot(id) => Ok(id),
        _ => Err(Status::invalid_argument("the request id belongs to another request").into()),
    }
}
