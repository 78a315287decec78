//! Snapshots, as operators ask for them.

use super::request::Refused;
use super::step::{Context, Point, Step, Until, other_request};
use super::volumes::TIME_TO_ANSWER;
use quoin_api::v1;
use quoin_cluster::codec::snapshot;
use quoin_cluster::{Command, Outcome, Refusal, SnapshotState};
use quoin_types::SnapshotId;

/// Answered when the snapshot is ready, or, when the time is up or nobody wants to wait, with how far it is.
pub(super) fn create(
    asked: &v1::CreateSnapshotRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    let id = match point {
        Point::Applied(result) => snapshot_of(result?)?,
        Point::Look(Until::Taken(id)) => id,
        Point::Begun | Point::Current | Point::Look(_) => {
            let (volume, name) = (asked.volume.clone(), asked.name.clone());
            return Ok(Step::Propose(Command::BeginSnapshot { volume, name }));
        }
    };
    let volume = cx.state.volume_named(&asked.volume);
    let known = volume.and_then(|volume| volume.snapshots.iter().find(|snapshot| snapshot.id == id));
    let known = known.ok_or(Refusal::SnapshotEnded)?;
    if known.state != SnapshotState::Ready && !asked.no_wait && cx.has_time_for(TIME_TO_ANSWER) {
        return Ok(Step::Wait(Until::Taken(id)));
    }
    Ok(Step::Answer(snapshot::to_message(known).into()))
}

pub(super) fn delete(asked: &v1::DeleteSnapshotRequest, point: Point) -> Result<Step, Refused> {
    match point {
        Point::Applied(result) => {
            snapshot_of(result?)?;
            Ok(Step::Answer(v1::DeleteSnapshotReply {}.into()))
        }
        _ => {
            let (volume, name) = (asked.volume.clone(), asked.name.clone());
            Ok(Step::Propose(Command::DeleteSnapshot { volume, name }))
        }
    }
}

fn snapshot_of(outcome: Outcome) -> Result<SnapshotId, Refused> {
    match outcome {
        Outcome::Snapshot(id) => Ok(id),
        _ => Err(other_request()),
    }
}
