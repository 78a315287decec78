//! Who may write. Epochs only rise, and each belongs to one attachment (rules A, W4).

use crate::command::{Outcome, Previous};
use crate::refusal::Refusal;
use crate::rules;
use crate::state::State;
use crate::volume::{Attachment, VolumeStage};
use quoin_types::{Epoch, GatewayId, InstanceId, VolumeId};

pub(super) fn attach(
    state: &mut State,
    name: &str,
    gateway: &GatewayId,
    instance: InstanceId,
    expected_epoch: Epoch,
) -> Result<Outcome, Refusal> {
    rules::check_member_name(&gateway.0, "a gateway")?;
    let volume = state.volume_named(name).ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()))?;
    if volume.stage() != VolumeStage::Ready {
        return Err(Refusal::VolumeNotReady(name.to_owned()));
    }
    if volume.epoch != expected_epoch {
        return Err(Refusal::AttachedMeanwhile(name.to_owned()));
    }
    Ok(begin_epoch(state, volume.id, gateway, instance, false))
}

/// Rule C4. A real attachment is never ended by this: it ends by a detach, or by another one.
pub(super) fn assign_steward(
    state: &mut State,
    id: VolumeId,
    gateway: &GatewayId,
    instance: InstanceId,
    expected_epoch: Epoch,
) -> Result<Outcome, Refusal> {
    rules::check_member_name(&gateway.0, "a gateway")?;
    let volume = super::living(state, id)?;
    if volume.stage() != VolumeStage::Ready {
        return Err(Refusal::VolumeNotReady(volume.name.clone()));
    }
    if volume.epoch != expected_epoch {
        return Err(Refusal::AttachedMeanwhile(volume.name.clone()));
    }
    if volume.attachment.as_ref().is_some_and(|at| !at.steward) {
        return Err(Refusal::NoStewardNeeded(id));
    }
    Ok(begin_epoch(state, id, gateway, instance, true))
}

fn begin_epoch(
    state: &mut State,
    id: VolumeId,
    gateway: &GatewayId,
    instance: InstanceId,
    steward: bool,
) -> Outcome {
    let (mut epoch, mut previous) = (Epoch::ZERO, None);
    state.change_volume(id, |volume| {
        epoch = volume.epoch.next();
        previous =
            volume.attachment.as_ref().map(|old| Previous { epoch: old.epoch, instance: old.instance });
        let gateway = gateway.clone();
        volume.set_attachment(Some(Attachment { gateway, instance, epoch, lossy: false, steward }));
    });
    Outcome::Attached { volume: id, epoch, previous }
}

/// Idempotent: an attachment that has ended, by whatever, is left as it is.
pub(super) fn detach(
    state: &mut State,
    name: &str,
    gateway: &GatewayId,
    epoch: Epoch,
    clean: bool,
) -> Result<Outcome, Refusal> {
    let Some(volume) = state.volume_named(name) else { return Ok(Outcome::Done) };
    let current = volume.attachment.as_ref().is_some_and(|at| at.epoch == epoch && at.gateway == *gateway);
    if current {
        let id = volume.id;
        state.change_volume(id, |volume| {
            volume.set_attachment(None);
            volume.dirty = !clean;
        });
    }
    Ok(Outcome::Done)
}

/// Idempotent; an attachment that has ended is not marked. What clients took for accepted may be gone with it, a steward's
/// included: the run is broken.
pub(super) fn mark_lossy(state: &mut State, id: VolumeId, epoch: Epoch) -> Result<Outcome, Refusal> {
    let attachment = state.volumes.get(&id).and_then(|volume| volume.attachment.as_ref());
    if attachment.is_some_and(|at| at.epoch == epoch && !at.lossy) {
        state.change_volume(id, |volume| {
            if let Some(attachment) = &mut volume.attachment {
                attachment.lossy = true;
            }
            if let Some(run) = &mut volume.run {
                run.since = epoch;
            }
        });
    }
    Ok(Outcome::Done)
}
