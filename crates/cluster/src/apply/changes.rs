//! Changes of who votes in a segment (rule C1): filling, joint, done, one step and one generation at a time.
//!
//! A step is taken from the configuration that its proposer saw, or not at all. What it must have seen besides (learners
//! that are filled, a joint configuration that is settled) was told by the gateway of the present attachment, so those
//! steps are also refused once that attachment has ended.

use super::living;
use crate::command::{Outcome, SegmentAt, SegmentChange};
use crate::refusal::Refusal;
use crate::rules;
use crate::segment::{Change, ChangeStage, Replica, ReplicaState, Segment};
use crate::state::State;
use crate::volume::Volume;
use quoin_types::limits::REPLICAS_MAX;
use quoin_types::{Epoch, NodeId, ReplicaId, SegmentId, VolumeId};
use std::collections::BTreeSet;

/// Every change begins by filling, also one that only removes: the leader lets it go on when a majority of those who stay
/// is in sync, so that no client waits for a copy that is not there.
pub(super) fn begin(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    replicas: Option<u32>,
    asked: &[SegmentChange],
) -> Result<Outcome, Refusal> {
    let volume = living(state, id)?;
    check_epoch(volume, epoch)?;
    let indices: BTreeSet<u32> = asked.iter().map(|change| change.at.index).collect();
    if indices.len() != asked.len() {
        return Err(invalid("a segment is named twice"));
    }
    for change in asked {
        check_change(state, volume, change)?;
    }
    check_wanted(volume, replicas, asked)?;
    let added: Vec<Vec<Replica>> = asked.iter().map(|change| new_replicas(state, &change.add)).collect();
    state.change_volume(id, |volume| {
        if let Some(replicas) = replicas {
            volume.replicas = replicas;
            // A policy for more copies than there will be says nothing about fewer.
            volume.min_replicas = volume.min_replicas.filter(|min| *min <= replicas);
        }
        for (change, added) in asked.iter().zip(added) {
            let segment = &mut volume.segments[change.at.index as usize];
            let add = added.iter().map(|replica| replica.id).collect();
            segment.replicas.extend(added);
            segment.step(Some(Change { add, remove: change.remove.clone(), stage: ChangeStage::Filling }));
        }
    });
    Ok(Outcome::Volume(id))
}

fn check_change(state: &State, volume: &Volume, asked: &SegmentChange) -> Result<(), Refusal> {
    let segment = seen(volume, asked.at)?;
    let id = SegmentId { volume: volume.id, index: asked.at.index };
    if segment.change.is_some() {
        return Err(Refusal::Changing(id));
    }
    if !segment.voters_exist() {
        return Err(Refusal::VolumeNotReady(volume.name.clone()));
    }
    let voters: BTreeSet<ReplicaId> = segment.voters().map(|replica| replica.id).collect();
    let removed: BTreeSet<ReplicaId> = asked.remove.iter().copied().collect();
    if let Some(replica) = removed.difference(&voters).next() {
        return Err(Refusal::NoVoter { segment: id, replica: *replica });
    }
    let added: BTreeSet<NodeId> = asked.add.iter().copied().collect();
    if added.len() != asked.add.len() || removed.len() != asked.remove.len() {
        return Err(invalid("a node or replica is named twice"));
    }
    for node in &added {
        let known = state.nodes.get(node).ok_or(Refusal::NodeUnknown(*node))?;
        // One that is to be dropped counts, too: until it is gone, its node would have two. One that leaves in this very
        // change does not: it has failed, and is made anew where it was.
        let stays = |replica: &&Replica| !removed.contains(&replica.id);
        if segment.replicas.iter().filter(stays).any(|replica| replica.node == *node) {
            return Err(Refusal::NodeHasReplica { segment: id, node: known.name.clone() });
        }
        if !known.health.is_online() {
            return Err(Refusal::NodeNotOnline(known.name.clone()));
        }
    }
    let next = voters.len() - removed.len() + added.len();
    if next == 0 || next > REPLICAS_MAX || (added.is_empty() && removed.is_empty()) {
        return Err(invalid("a change leaves from 1 to 7 replicas, and changes something"));
    }
    Ok(())
}

/// A new number of copies is one that all segments have in the end.
fn check_wanted(volume: &Volume, replicas: Option<u32>, asked: &[SegmentChange]) -> Result<(), Refusal> {
    let Some(wanted) = replicas else { return Ok(()) };
    rules::check_replicas(wanted)?;
    if let Some(growing_to_bytes) = volume.growing_to_bytes {
        return Err(Refusal::VolumeGrowing { name: volume.name.clone(), growing_to_bytes });
    }
    for (index, segment) in (0..).zip(&volume.segments) {
        let change = asked.iter().find(|change| change.at.index == index);
        let (added, removed) = change.map_or((0, 0), |change| (change.add.len(), change.remove.len()));
        if segment.next_voters().count() + added != wanted as usize + removed {
            return Err(invalid("the number of replicas would not be that of every segment"));
        }
    }
    Ok(())
}

fn new_replicas(state: &mut State, nodes: &[NodeId]) -> Vec<Replica> {
    let mut replicas = Vec::with_capacity(nodes.len());
    for node in nodes {
        let disk = state.nodes[node].disk;
        replicas.push(Replica { id: state.next_replica(), node: *node, disk, state: ReplicaState::Creating });
    }
    replicas
}

pub(super) fn enter_joint(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    segments: &[SegmentAt],
) -> Result<Outcome, Refusal> {
    let is_filled = |segment: &Segment, change: &Change| {
        let mut learners = segment.replicas.iter().filter(|replica| change.add.contains(&replica.id));
        change.stage == ChangeStage::Filling && learners.all(|replica| replica.state == ReplicaState::Ready)
    };
    check_steps(attached(state, id, epoch)?, segments, is_filled)?;
    state.change_volume(id, |volume| {
        for at in segments {
            let segment = &mut volume.segments[at.index as usize];
            let joint = segment.change.take().map(|change| Change { stage: ChangeStage::Joint, ..change });
            segment.step(joint);
        }
    });
    Ok(Outcome::Volume(id))
}

pub(super) fn finish(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    segments: &[SegmentAt],
) -> Result<Outcome, Refusal> {
    let is_joint = |_: &Segment, change: &Change| change.stage == ChangeStage::Joint;
    check_steps(attached(state, id, epoch)?, segments, is_joint)?;
    state.change_volume(id, |volume| {
        for at in segments {
            let segment = &mut volume.segments[at.index as usize];
            if let Some(change) = segment.change.take() {
                segment.drop_replicas(&change.remove);
            }
            segment.step(None);
        }
    });
    Ok(Outcome::Volume(id))
}

/// The copies wanted are those that there are, if that was to be changed and nothing is any more.
pub(super) fn abort(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    segments: &[SegmentAt],
) -> Result<Outcome, Refusal> {
    let volume = living(state, id)?;
    check_epoch(volume, epoch)?;
    for at in segments {
        if seen(volume, *at)?.change.as_ref().is_some_and(|change| change.stage == ChangeStage::Joint) {
            return Err(Refusal::JointAlready(SegmentId { volume: id, index: at.index }));
        }
    }
    check_steps(volume, segments, |_, change| change.stage == ChangeStage::Filling)?;
    state.change_volume(id, |volume| {
        segments.iter().for_each(|at| volume.segments[at.index as usize].abort());
        let counts: BTreeSet<usize> =
            volume.segments.iter().map(|segment| segment.voters().count()).collect();
        if let (false, Some(count), 1) = (volume.is_changing(), counts.first(), counts.len()) {
            volume.replicas = u32::try_from(*count).unwrap_or(volume.replicas);
        }
    });
    Ok(Outcome::Volume(id))
}

/// Rule C3: of exactly two voters, if the volume's owner has said so, and the other one's node is gone. A change whose
/// learners are being filled goes on beside it.
pub(super) fn shrink(
    state: &mut State,
    id: VolumeId,
    epoch: Epoch,
    at: SegmentAt,
    remove: ReplicaId,
) -> Result<Outcome, Refusal> {
    let volume = attached(state, id, epoch)?;
    let segment = seen(volume, at)?;
    let may_not = |why| Refusal::MayNotShrink { segment: SegmentId { volume: id, index: at.index }, why };
    if volume.fewest_replicas() > 1 {
        return Err(may_not("its volume's policy wants more"));
    }
    let joint = segment.change.as_ref().is_some_and(|change| change.stage == ChangeStage::Joint);
    let voters: Vec<&Replica> = segment.voters().collect();
    let given_up = voters.iter().find(|replica| replica.id == remove);
    let (Some(given_up), false, 2) = (given_up, joint, voters.len()) else {
        return Err(may_not("only one of exactly two may be given up"));
    };
    if !segment.voters_exist() {
        return Err(may_not("its replicas do not exist yet"));
    }
    if state.nodes.get(&given_up.node).is_some_and(|node| node.health.is_online()) {
        return Err(may_not("the other one's storage node is online"));
    }
    state.change_volume(id, |volume| {
        let segment = &mut volume.segments[at.index as usize];
        segment.drop_replicas(&[remove]);
        let mut change = segment.change.take();
        if let Some(change) = &mut change {
            change.remove.retain(|id| *id != remove);
        }
        segment.step(change.filter(|change| !change.add.is_empty() || !change.remove.is_empty()));
        // What was to leave is the last one now: it stays.
        if segment.next_voters().next().is_none() {
            segment.change = None;
        }
    });
    Ok(Outcome::Volume(id))
}

fn invalid(why: &str) -> Refusal {
    Refusal::Invalid(why.to_owned(), "look at the volume and try again")
}

fn check_epoch(volume: &Volume, epoch: Epoch) -> Result<(), Refusal> {
    if volume.epoch == epoch { Ok(()) } else { Err(Refusal::AttachedMeanwhile(volume.name.clone())) }
}

/// The volume, if it is in this attachment.
fn attached(state: &State, id: VolumeId, epoch: Epoch) -> Result<&Volume, Refusal> {
    let volume = living(state, id)?;
    if volume.attachment.as_ref().is_some_and(|attachment| attachment.epoch == epoch) {
        Ok(volume)
    } else {
        Err(Refusal::AttachedMeanwhile(volume.name.clone()))
    }
}

/// The segment, if it is in this configuration. Segments that are not served yet are nobody's to change.
fn seen(volume: &Volume, at: SegmentAt) -> Result<&Segment, Refusal> {
    let id = SegmentId { volume: volume.id, index: at.index };
    let segment = volume.served_segments().get(at.index as usize).ok_or(Refusal::SegmentUnknown(id))?;
    if segment.generation == at.generation { Ok(segment) } else { Err(Refusal::ChangedMeanwhile(id)) }
}

/// Whether each of these segments may take its next step.
fn check_steps(
    volume: &Volume,
    segments: &[SegmentAt],
    may: impl Fn(&Segment, &Change) -> bool,
) -> Result<(), Refusal> {
    let mut named = BTreeSet::new();
    for at in segments {
        let segment = seen(volume, *at)?;
        let ready = segment.change.as_ref().is_some_and(|change| may(segment, change));
        if !ready || !named.insert(at.index) {
            return Err(Refusal::NotAtThisStep(SegmentId { volume: volume.id, index: at.index }));
        }
    }
    Ok(())
}
