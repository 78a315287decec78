//! The one way in which the state changes. One file per group of verbs; each checks everything first and then changes, so
//! that a refused command leaves no trace.

mod attachments;
mod changes;
mod health;
mod managers;
mod nodes;
mod replicas;
mod snapshots;
mod volumes;

pub use managers::{put_manager, remove_manager};
pub use nodes::{check_next_start, check_unformatted_disk};

use crate::command::{Command, Outcome, Proposal};
use crate::refusal::Refusal;
use crate::state::State;
use crate::volume::Volume;
use quoin_types::{ClusterId, VolumeId};
use std::collections::BTreeMap;

/// Carries out an entry of the log: once, however often its request was proposed.
pub fn apply_proposal(state: &mut State, proposal: &Proposal) -> Result<Outcome, Refusal> {
    if let Some(outcome) = state.answered.get(proposal.request) {
        return Ok(outcome);
    }
    let outcome = apply(state, &proposal.command)?;
    state.answered.insert(proposal.request, outcome);
    Ok(outcome)
}

/// Carries out a command. On a refusal the state is as it was.
pub fn apply(state: &mut State, command: &Command) -> Result<Outcome, Refusal> {
    // The revision is that of the change being made; a refused command gives it back.
    state.revision += 1;
    let result = dispatch(state, command);
    if result.is_err() {
        state.revision -= 1;
    }
    result
}

fn dispatch(state: &mut State, command: &Command) -> Result<Outcome, Refusal> {
    match command {
        Command::InitCluster { cluster_id, managers } => init_cluster(state, *cluster_id, managers),
        Command::RegisterNode(node) => nodes::register(state, node),
        Command::ReportReplicas { node, disk, created, dropped } => {
            replicas::report(state, *node, *disk, created, dropped)
        }
        Command::CreateVolume {
            name,
            size_bytes,
            segment_bytes,
            replicas,
            min_replicas,
            durability,
            candidates,
        } => {
            let wanted = volumes::Wanted {
                name,
                size_bytes: *size_bytes,
                segment_bytes: *segment_bytes,
                replicas: *replicas,
                min_replicas: *min_replicas,
                durability: *durability,
            };
            volumes::create(state, &wanted, candidates)
        }
        Command::DeleteVolume { name, expected_epoch } => volumes::delete(state, name, *expected_epoch),
        Command::ResizeVolume { name, size_bytes, candidates } => {
            volumes::resize(state, name, *size_bytes, candidates)
        }
        Command::Attach { volume, gateway, instance, expected_epoch } => {
            attachments::attach(state, volume, gateway, *instance, *expected_epoch)
        }
        Command::Detach { volume, gateway, epoch, clean } => {
            attachments::detach(state, volume, gateway, *epoch, *clean)
        }
        Command::AssignSteward { volume, gateway, instance, expected_epoch } => {
            attachments::assign_steward(state, *volume, gateway, *instance, *expected_epoch)
        }
        Command::MarkLossy { volume, epoch } => attachments::mark_lossy(state, *volume, *epoch),
        Command::BeginChange { volume, epoch, replicas, segments } => {
            changes::begin(state, *volume, *epoch, *replicas, segments)
        }
        Command::EnterJoint { volume, epoch, segments } => {
            changes::enter_joint(state, *volume, *epoch, segments)
        }
        Command::FinishChange { volume, epoch, segments } => {
            changes::finish(state, *volume, *epoch, segments)
        }
        Command::AbortChange { volume, epoch, segments } => changes::abort(state, *volume, *epoch, segments),
        Command::Shrink { volume, epoch, segment, remove } => {
            changes::shrink(state, *volume, *epoch, *segment, *remove)
        }
        Command::BeginSnapshot { volume, name } => snapshots::begin(state, volume, name),
        Command::CommitSnapshot { volume, snapshot, epoch } => {
            snapshots::commit(state, *volume, *snapshot, *epoch)
        }
        Command::DeleteSnapshot { volume, name } => snapshots::delete(state, volume, name),
        Command::ChangeHealth { at, changes } => Ok(health::change(state, *at, changes)),
    }
}

fn init_cluster(
    state: &mut State,
    cluster_id: ClusterId,
    managers: &BTreeMap<u64, String>,
) -> Result<Outcome, Refusal> {
    if let Some(known) = state.cluster_id {
        return Err(Refusal::ClusterExists(known));
    }
    state.cluster_id = Some(cluster_id);
    state.managers = managers.clone();
    Ok(Outcome::Done)
}

/// The volume, unless it is gone or a tombstone.
fn living(state: &State, id: VolumeId) -> Result<&Volume, Refusal> {
    state.volumes.get(&id).filter(|volume| !volume.deleting).ok_or(Refusal::VolumeGone(id))
}
