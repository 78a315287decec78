//! What people and tools ask about volumes, as far as it changes them.
//!
//! Replicas go to nodes that are online, and nowhere else: where a copy is put, it stays. A leader that is new has not heard
//! of every node yet. It waits for the rest, also if those that it has heard of would do, because the others may be in
//! zones that the copies should be spread over. That takes a heartbeat, or three if a node is gone, and at most most of
//! the request's time; then those that are online are taken, if they are enough.

use super::request::Refused;
use super::step::{Context, Point, Step, Until, other_request};
use crate::live::{Candidates, InUse};
use quoin_api::v1;
use quoin_cluster::{Candidate, Command, Outcome, RefusalKind, VolumeStage};
use quoin_types::VolumeId;
use quoin_types::limits::SEGMENT_BYTES_DEFAULT;
use std::time::Duration;

/// Copies of a volume whose creator does not say.
const REPLICAS_DEFAULT: u32 = 3;
/// What is kept of a request's time for placing the replicas and answering.
const TIME_TO_PLACE: Duration = Duration::from_millis(1000);
/// What is kept of a request's time for answering it.
pub(super) const TIME_TO_ANSWER: Duration = Duration::from_millis(500);

pub(super) fn create(
    asked: &v1::CreateVolumeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    match point {
        Point::Applied(result) => until_made(volume_of(result?)?, cx),
        Point::Look(Until::Made(id)) => until_made(id, cx),
        Point::Begun | Point::Current | Point::Look(_) => {
            let durability = v1::Durability::try_from(asked.durability)
                .map_err(|_| Refused::invalid("an unknown durability"))?
                .or_default();
            let or_default = |value, default| if value == 0 { default } else { value };
            let replicas = if asked.replicas == 0 { REPLICAS_DEFAULT } else { asked.replicas };
            let Some(candidates) = candidates(replicas, cx)? else {
                return Ok(Step::Wait(Until::Decidable));
            };
            Ok(Step::Propose(Command::CreateVolume {
                name: asked.name.clone(),
                size_bytes: asked.size_bytes,
                segment_bytes: or_default(asked.segment_bytes, SEGMENT_BYTES_DEFAULT),
                replicas,
                min_replicas: Some(asked.min_replicas).filter(|min| *min > 0),
                durability,
                candidates,
            }))
        }
    }
}

pub(super) fn resize(
    asked: &v1::ResizeVolumeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    match point {
        Point::Applied(result) => until_grown(volume_of(result?)?, cx),
        Point::Look(Until::Grown(id)) => until_grown(id, cx),
        Point::Begun | Point::Current | Point::Look(_) => {
            let (name, size_bytes) = (asked.name.clone(), asked.size_bytes);
            let volume = cx.state.volume_named(&name);
            let growing = volume.filter(|volume| volume.lacks_segments_for(size_bytes));
            let candidates = match growing.map(|volume| volume.replicas) {
                Some(replicas) => candidates(replicas, cx)?,
                None => Some(cx.live.candidates(cx.state, cx.now).online),
            };
            let Some(candidates) = candidates else { return Ok(Step::Wait(Until::Decidable)) };
            Ok(Step::Propose(Command::ResizeVolume { name, size_bytes, candidates }))
        }
    }
}

pub(super) fn delete(
    asked: &v1::DeleteVolumeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    let name = asked.name.clone();
    match point {
        Point::Applied(result) => {
            result?;
            Ok(Step::Answer(v1::DeleteVolumeReply {}.into()))
        }
        Point::Begun if asked.force => {
            Ok(Step::Propose(Command::DeleteVolume { name, expected_epoch: None }))
        }
        // Only looking at the present: if somebody attaches meanwhile, the command is refused. A retry of a deletion
        // that was carried out finds no volume, and is answered from the table of requests.
        Point::Begun => Ok(Step::Read),
        Point::Current | Point::Look(_) => {
            let volume = cx.state.volume_named(&name);
            let in_use = volume.and_then(|volume| cx.live.in_use(volume, None, cx.now));
            if let Some(in_use) = in_use {
                return Err(volume_in_use(&name, &in_use, "disconnect them, or delete with --force"));
            }
            let expected_epoch = volume.map(|volume| volume.epoch);
            Ok(Step::Propose(Command::DeleteVolume { name, expected_epoch }))
        }
    }
}

/// The nodes that so many copies of a segment may go to; `None` while it is worth waiting for more to be known.
pub(super) fn candidates(replicas: u32, cx: &Context<'_>) -> Result<Option<Vec<Candidate>>, Refused> {
    let Candidates { online, unknown } = cx.live.candidates(cx.state, cx.now);
    if unknown == 0 {
        return Ok(Some(online));
    }
    if cx.has_time_for(TIME_TO_PLACE) {
        return Ok(None);
    }
    if online.len() >= replicas as usize {
        return Ok(Some(online));
    }
    let message = format!(
        "{replicas} replicas need as many storage nodes: {} are online, and the new leader has not heard of {unknown} more yet",
        online.len()
    );
    Err(Refused::precondition(message, "try again in a few seconds"))
}

fn until_made(id: VolumeId, cx: &Context<'_>) -> Result<Step, Refused> {
    let creating = cx.state.volumes().get(&id).is_some_and(|volume| volume.stage() == VolumeStage::Creating);
    wait_or_show(id, creating, Until::Made(id), cx)
}

fn until_grown(id: VolumeId, cx: &Context<'_>) -> Result<Step, Refused> {
    let growing = cx.state.volumes().get(&id).is_some_and(|volume| volume.growing_to_bytes.is_some());
    wait_or_show(id, growing, Until::Grown(id), cx)
}

/// Answers with the volume once it is as wanted, or most of the request's time has passed.
fn wait_or_show(id: VolumeId, unfinished: bool, until: Until, cx: &Context<'_>) -> Result<Step, Refused> {
    if unfinished && cx.has_time_for(TIME_TO_ANSWER) {
        return Ok(Step::Wait(until));
    }
    show(id, cx)
}

/// Answers with the volume as it is.
pub(super) fn show(id: VolumeId, cx: &Context<'_>) -> Result<Step, Refused> {
    let volume = cx.state.volumes().get(&id);
    let volume = volume.map(|volume| cx.view().volume(volume)).ok_or_else(|| Refused {
        kind: RefusalKind::NotFound,
        message: "the volume has been deleted meanwhile".to_owned(),
        hint: String::new(),
    })?;
    Ok(Step::Answer(volume.into()))
}

/// The refusal to take a volume from clients that use it.
pub(super) fn volume_in_use(name: &str, in_use: &InUse, hint: &str) -> Refused {
    match in_use {
        InUse::Clients { gateway, clients } => Refused::precondition(
            format!("volume `{name}` is attached to gateway {gateway}, which has {clients} clients on it"),
            hint,
        ),
        InUse::NotKnownYet { gateway } => Refused::precondition(
            format!(
                "volume `{name}` is attached to gateway {gateway}, and it is not known yet whether clients use it"
            ),
            "try again in a few seconds",
        ),
    }
}

pub(super) fn volume_of(outcome: Outcome) -> Result<VolumeId, Refused> {
    match outcome {
        Outcome::Volume(id) => Ok(id),
        _ => Err(other_request()),
    }
}
