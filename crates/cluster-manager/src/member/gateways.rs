//! What gateways ask.

use super::nodes::instance_id;
use super::request::Refused;
use super::step::{Context, Point, Step, Until, other_request};
use super::volumes::volume_in_use;
use crate::live::{GatewayReport, InUse};
use crate::view;
use quoin_api::v1;
use quoin_cluster::rules::check_member_name;
use quoin_cluster::{Command, Outcome, Previous, Refusal, RefusalKind, State};
use quoin_types::{Epoch, GatewayId, VolumeId};
use std::time::Duration;

/// What is kept of a request's time for attaching, once it is known that it may be done.
const TIME_TO_ATTACH: Duration = Duration::from_millis(200);

pub(super) fn attach(asked: &v1::AttachRequest, point: Point, cx: &mut Context<'_>) -> Result<Step, Refused> {
    match point {
        Point::Begun => {
            instance_id(&asked.instance)?;
            Ok(Step::Read)
        }
        Point::Current | Point::Look(_) => may_attach(asked, cx),
        // Somebody else attached between the look and the command: look again.
        Point::Applied(Err(refusal)) if refusal.kind() == RefusalKind::Stale => Ok(Step::Read),
        Point::Applied(result) => match result? {
            Outcome::Attached { volume, epoch, previous } => attached(volume, epoch, previous, cx.state),
            _ => Err(other_request()),
        },
    }
}

/// Attaches in place of the attachment that was looked at. If it is not known yet whether clients would be hurt, this waits
/// until it is, as long as the request's time allows.
fn may_attach(asked: &v1::AttachRequest, cx: &mut Context<'_>) -> Result<Step, Refused> {
    let gateway = GatewayId(asked.gateway.clone());
    let volume = cx.state.volume_named(&asked.volume);
    let volume = volume.ok_or_else(|| Refusal::VolumeUnknown(asked.volume.clone()))?;
    let hint = "disconnect its clients first, or take the volume over, which cuts them off";
    match cx.live.in_use(volume, Some(&gateway), cx.now) {
        Some(InUse::NotKnownYet { .. }) if !asked.take_over && cx.has_time_for(TIME_TO_ATTACH) => {
            Ok(Step::Wait(Until::Decidable))
        }
        Some(in_use) if !asked.take_over => Err(volume_in_use(&asked.volume, &in_use, hint)),
        _ => {
            cx.live.attaching(volume.id, gateway.clone(), cx.now);
            Ok(Step::Propose(Command::Attach {
                volume: asked.volume.clone(),
                gateway,
                instance: instance_id(&asked.instance)?,
                expected_epoch: volume.epoch,
            }))
        }
    }
}

fn attached(id: VolumeId, epoch: Epoch, previous: Option<Previous>, state: &State) -> Result<Step, Refused> {
    let volume = state.volumes().get(&id);
    let current = volume.filter(|volume| volume.attachment.as_ref().is_some_and(|at| at.epoch == epoch));
    let volume = current.ok_or_else(|| {
        let message = format!("the attachment of epoch {epoch} has been replaced already");
        Refused::precondition(message, "look at the volume's attachment and try again")
    })?;
    let reply = v1::AttachReply {
        volume: Some(view::gateway_volume(volume)),
        nodes: view::node_addresses(state, std::iter::once(volume)),
        cluster_id: state.cluster_id().map(|id| id.0.to_vec()).unwrap_or_default(),
        previous_epoch: previous.map_or(0, |previous| previous.epoch.0),
        previous_instance: previous.map(|previous| previous.instance.0.to_vec()).unwrap_or_default(),
    };
    Ok(Step::Answer(reply.into()))
}

pub(super) fn detach(asked: &v1::DetachRequest, point: Point) -> Result<Step, Refused> {
    if let Point::Applied(result) = point {
        result?;
        return Ok(Step::Answer(v1::DetachReply {}.into()));
    }
    let (volume, gateway) = (asked.volume.clone(), GatewayId(asked.gateway.clone()));
    let (epoch, clean) = (Epoch(asked.epoch), asked.clean);
    Ok(Step::Propose(Command::Detach { volume, gateway, epoch, clean }))
}

/// Heard once. What it says that belongs into the state is proposed, one attachment after the other.
pub(super) fn heartbeat(
    asked: &v1::GatewayHeartbeatRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    match point {
        Point::Begun => {
            check_member_name(&asked.gateway, "a gateway")?;
            let by_volume = asked.attachments.iter().map(|report| (VolumeId(report.volume), report.clone()));
            let report = GatewayReport {
                at: cx.now,
                alone_since: cx.now,
                instance: instance_id(&asked.instance)?,
                nbd_address: asked.nbd_address.clone(),
                version: asked.version.clone(),
                attachments: by_volume.collect(),
            };
            cx.live.gateway_heard(GatewayId(asked.gateway.clone()), report);
        }
        Point::Applied(result) => drop(result?),
        Point::Current | Point::Look(_) => {}
    }
    let lossy = asked.attachments.iter().filter(|report| report.lossy);
    let mut lossy = lossy.map(|report| (VolumeId(report.volume), Epoch(report.epoch)));
    match lossy.find(|(volume, epoch)| is_news(cx.state, *volume, *epoch)) {
        Some((volume, epoch)) => Ok(Step::ProposeAlso(Command::MarkLossy { volume, epoch })),
        None => Ok(Step::Answer(v1::HeartbeatReply { known: true, leader: String::new() }.into())),
    }
}

/// Whether this attachment is not recorded as lossy yet.
fn is_news(state: &State, volume: VolumeId, epoch: Epoch) -> bool {
    let attachment = state.volumes().get(&volume).and_then(|volume| volume.attachment.as_ref());
    attachment.is_some_and(|attachment| attachment.epoch == epoch && !attachment.lossy)
}
