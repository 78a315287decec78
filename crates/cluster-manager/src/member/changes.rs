//! What operators wish of a volume's copies. A request begins the change and is answered; who has begun it watches the volume.

use super::request::Refused;
use super::step::{Context, Point, Step, Until};
use super::volumes::{candidates, show, volume_of};
use quoin_api::v1;
use quoin_cluster::planner::changes::{Move, plan_count, plan_move};
use quoin_cluster::{ChangeStage, Command, Node, Refusal, RefusalKind, Replica, SegmentAt, State, Volume};
use quoin_types::{NodeId, ReplicaId, SegmentId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is kept of a request's time for looking and proposing again.
const TIME_TO_RETRY: Duration = Duration::from_millis(200);

/// What comes of a wish.
enum Plan {
    /// It is so already.
    Nothing(VolumeId),
    Do(Command),
    /// Not enough is known yet.
    Wait,
}

pub(super) fn move_replica(
    asked: &v1::MoveReplicaRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    change(point, cx, |cx| {
        let Some(candidates) = candidates(1, cx)? else { return Ok(Plan::Wait) };
        let node = |name: &str| Ok::<_, Refused>(node_called(cx.state, name)?.id);
        let volume = named(cx.state, &asked.volume)?;
        let to = if asked.to.is_empty() { None } else { Some(node(&asked.to)?) };
        let wish = Move { segment: asked.segment, from: node(&asked.from)?, to };
        let segments = plan_move(cx.state, volume, &candidates, wish)?;
        let (volume, epoch) = (volume.id, volume.epoch);
        Ok(Plan::Do(Command::BeginChange { volume, epoch, replicas: None, segments }))
    })
}

pub(super) fn set_replicas(
    asked: &v1::SetReplicasRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    change(point, cx, |cx| {
        let Some(candidates) = candidates(asked.replicas, cx)? else { return Ok(Plan::Wait) };
        quoin_cluster::rules::check_replicas(asked.replicas)?;
        let volume = named(cx.state, &asked.volume)?;
        let worth = worth(cx, volume);
        let worth_of = |replica: &Replica| worth.get(&replica.id).copied().unwrap_or(0);
        let segments = plan_count(cx.state, volume, &candidates, asked.replicas, worth_of)?;
        if segments.is_empty() && volume.replicas == asked.replicas {
            return Ok(Plan::Nothing(volume.id));
        }
        let (volume, epoch) = (volume.id, volume.epoch);
        Ok(Plan::Do(Command::BeginChange { volume, epoch, replicas: Some(asked.replicas), segments }))
    })
}

pub(super) fn abort(
    asked: &v1::AbortChangeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    change(point, cx, |cx| {
        let volume = named(cx.state, &asked.volume)?;
        let (filling, joint) = changing(volume);
        match (filling.is_empty(), joint.first()) {
            (true, Some(at)) => {
                Err(Refusal::JointAlready(SegmentId { volume: volume.id, index: at.index }).into())
            }
            (true, None) => Ok(Plan::Nothing(volume.id)),
            (false, _) => {
                let (volume, epoch) = (volume.id, volume.epoch);
                Ok(Plan::Do(Command::AbortChange { volume, epoch, segments: filling }))
            }
        }
    })
}

/// Proposes what is planned for the volume as it is; again, if it changed on the way.
/// A request that is repeated because its answer was lost is not planned anew: by then, the plan would meet what it has done
/// itself.
fn change(
    point: Point,
    cx: &mut Context<'_>,
    plan: impl Fn(&Context<'_>) -> Result<Plan, Refused>,
) -> Result<Step, Refused> {
    match point {
        Point::Begun => Ok(Step::Read),
        Point::Applied(Err(refusal))
            if refusal.kind() == RefusalKind::Stale && cx.has_time_for(TIME_TO_RETRY) =>
        {
            Ok(Step::Read)
        }
        Point::Applied(result) => show(volume_of(result?)?, cx),
        Point::Current | Point::Look(_) => {
            if let Some(outcome) = cx.state.answer_to(cx.request) {
                return show(volume_of(outcome)?, cx);
            }
            match plan(cx)? {
                Plan::Wait => Ok(Step::Wait(Until::Decidable)),
                Plan::Nothing(volume) => show(volume, cx),
                Plan::Do(command) => Ok(Step::Propose(command)),
            }
        }
    }
}

fn named<'a>(state: &'a State, name: &str) -> Result<&'a Volume, Refused> {
    state.volume_named(name).ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()).into())
}

/// The storage node of this name, or of this id in decimal.
pub(crate) fn node_called<'a>(state: &'a State, name: &str) -> Result<&'a Node, Refused> {
    let by_id = || state.nodes().get(&NodeId(name.parse().ok()?));
    state.node_named(name).or_else(by_id).ok_or_else(|| Refused {
        kind: RefusalKind::NotFound,
        message: format!("there is no storage node `{name}`"),
        hint: "`quoin node list` shows the nodes there are".to_owned(),
    })
}

/// The segments that are being filled, and those that are past that.
fn changing(volume: &Volume) -> (Vec<SegmentAt>, Vec<SegmentAt>) {
    let (mut filling, mut joint) = (Vec::new(), Vec::new());
    for (at, segment) in volume.segments_at() {
        match segment.change.as_ref().map(|change| change.stage) {
            Some(ChangeStage::Filling) => filling.push(at),
            Some(ChangeStage::Joint) => joint.push(at),
            None => {}
        }
    }
    (filling, joint)
}

/// How much each copy would be missed, from what is known of it at this moment.
fn worth(cx: &Context<'_>, volume: &Volume) -> BTreeMap<ReplicaId, u32> {
    let message = cx.view().volume(volume);
    let replicas = message.segments.iter().flat_map(|segment| &segment.replicas);
    let worth = |replica: &v1::Replica| match replica.health() {
        v1::ReplicaHealth::InSync => 3,
        v1::ReplicaHealth::Unknown | v1::ReplicaHealth::Unspecified => 2,
        v1::ReplicaHealth::CatchingUp => 1,
        v1::ReplicaHealth::Missing | v1::ReplicaHealth::Failed => 0,
    };
    replicas.map(|replica| (ReplicaId(replica.id), worth(replica))).collect()
}
