//! What operators wish of a volume's copies. A call begins the change and answers; who has begun it watches the volume.

use super::cluster::{node_called, node_unknown, volume_of};
use super::failure::Failure;
use super::route::{Api, Call};
use crate::view::View;
use quoin_api::v1;
use quoin_cluster::planner::changes::{Move, plan_count, plan_move};
use quoin_cluster::{ChangeStage, Command, Refusal, Replica, SegmentAt, State, Volume};
use quoin_types::{ReplicaId, SegmentId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Code;

/// What is kept of a call's time for looking and proposing again.
const TIME_TO_RETRY: Duration = Duration::from_millis(200);

impl Api {
    pub(super) async fn move_replica(
        &self,
        call: Call,
        asked: v1::MoveReplicaRequest,
    ) -> Result<v1::Volume, Failure> {
        let candidates = self.candidates(call, 1).await?;
        let plan = |view: &View<'_>| {
            let node = |name: &str| {
                node_called(view.state, name).map(|node| node.id).ok_or_else(|| node_unknown(name))
            };
            let volume = named(view.state, &asked.volume)?;
            let to = if asked.to.is_empty() { None } else { Some(node(&asked.to)?) };
            let wish = Move { segment: asked.segment, from: node(&asked.from)?, to };
            let segments = plan_move(view.state, volume, &candidates, wish)?;
            let (volume, epoch) = (volume.id, volume.epoch);
            Ok(Plan::Do(Command::BeginChange { volume, epoch, replicas: None, segments }))
        };
        self.change(call, plan).await
    }

    pub(super) async fn set_replicas(
        &self,
        call: Call,
        asked: v1::SetReplicasRequest,
    ) -> Result<v1::Volume, Failure> {
        let candidates = self.candidates(call, asked.replicas).await?;
        let plan = |view: &View<'_>| {
            quoin_cluster::rules::check_replicas(asked.replicas)?;
            let volume = named(view.state, &asked.volume)?;
            let worth = worth(view, volume);
            let worth_of = |replica: &Replica| worth.get(&replica.id).copied().unwrap_or(0);
            let segments = plan_count(view.state, volume, &candidates, asked.replicas, worth_of)?;
            if segments.is_empty() && volume.replicas == asked.replicas {
                return Ok(Plan::Nothing(volume.id));
            }
            let (volume, epoch) = (volume.id, volume.epoch);
            Ok(Plan::Do(Command::BeginChange { volume, epoch, replicas: Some(asked.replicas), segments }))
        };
        self.change(call, plan).await
    }

    pub(super) async fn abort_change(
        &self,
        call: Call,
        asked: v1::AbortChangeRequest,
    ) -> Result<v1::Volume, Failure> {
        let plan = |view: &View<'_>| {
            let volume = named(view.state, &asked.volume)?;
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
        };
        self.change(call, plan).await
    }

    /// Proposes what is planned for the volume as it is; again, if it changed on the way. A call that is repeated because its
    /// answer was lost is not planned anew: by then, the plan would meet what it has done itself.
    async fn change(
        &self,
        call: Call,
        plan: impl Fn(&View<'_>) -> Result<Plan, Failure>,
    ) -> Result<v1::Volume, Failure> {
        loop {
            self.read_barrier(call).await?;
            let answered = self.shared.state().answer_to(call.request);
            let planned = match answered {
                Some(outcome) => Plan::Nothing(volume_of(outcome)?),
                None => self.view(|view| plan(&view))?,
            };
            let command = match planned {
                Plan::Nothing(volume) => return self.volume_by_id(volume),
                Plan::Do(command) => command,
            };
            match self.propose(call, command).await {
                Err(Failure::Status(status))
                    if status.code() == Code::Aborted && call.has_time_for(TIME_TO_RETRY) => {}
                Err(failure) => return Err(failure),
                Ok(outcome) => return self.volume_by_id(volume_of(outcome)?),
            }
        }
    }
}

/// What comes of a wish.
enum Plan {
    /// It is so already.
    Nothing(VolumeId),
    Do(Command),
}

fn named<'a>(state: &'a State, name: &str) -> Result<&'a Volume, Failure> {
    state.volume_named(name).ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()).into())
}

/// The segments that are being filled, and those that are past that.
fn changing(volume: &Volume) -> (Vec<SegmentAt>, Vec<SegmentAt>) {
    let (mut filling, mut joint) = (Vec::new(), Vec::new());
    for (index, segment) in (0..).zip(&volume.segments) {
        let at = SegmentAt { index, generation: segment.generation };
        match segment.change.as_ref().map(|change| change.stage) {
            Some(ChangeStage::Filling) => filling.push(at),
            Some(ChangeStage::Joint) => joint.push(at),
            None => {}
        }
    }
    (filling, joint)
}

/// How much each copy would be missed, from what is known of it at this moment.
fn worth(view: &View<'_>, volume: &Volume) -> BTreeMap<ReplicaId, u32> {
    let message = view.volume(volume);
    let replicas = message.segments.iter().flat_map(|segment| &segment.replicas);
    let worth = |replica: &v1::Replica| match replica.health() {
        v1::ReplicaHealth::InSync => 3,
        v1::ReplicaHealth::Unknown | v1::ReplicaHealth::Unspecified => 2,
        v1::ReplicaHealth::CatchingUp => 1,
        v1::ReplicaHealth::Missing | v1::ReplicaHealth::Failed => 0,
    };
    replicas.map(|replica| (ReplicaId(replica.id), worth(replica))).collect()
}
