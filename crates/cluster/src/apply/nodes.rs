//! Storage nodes: who they are and which disk they have.

use crate::command::{Outcome, RegisterNode};
use crate::health::Health;
use crate::refusal::Refusal;
use crate::rules;
use crate::segment::{Replica, ReplicaState, Segment};
use crate::state::{Node, State};
use quoin_types::{DiskId, NodeId, ReplicaId, ReplicaRole, StartMark, VolumeId};
use std::collections::BTreeSet;

/// Whether a node of this name may come with a disk that is not formatted yet: not while its known disk holds replicas
/// (rule C2). Asked before the disk is formatted; the registration that follows decides.
pub fn check_unformatted_disk(state: &State, name: &str) -> Result<(), Refusal> {
    rules::check_member_name(name, "a node")?;
    match state.node_named(name) {
        Some(node) => check_old_disk_is_free(state, node, "that is not formatted"),
        None => Ok(()),
    }
}

/// Whether a node's disk may make the start that is asked for (rule C2). Asked before anything on the disk is changed, so that one
/// that is refused stays what it is, and is refused for ever; the registration that follows the start decides.
/// `last_mark` is that of the disk's last start: if its number is the one known here, it must have been that very start.
pub fn check_next_start(state: &State, asked: &RegisterNode, last_mark: StartMark) -> Result<(), Refusal> {
    check_asked(state, asked)?;
    let known = state.node_named(&asked.name);
    check_disk(state, asked, known)?;
    let Some(node) = known.filter(|node| node.disk == asked.disk) else { return Ok(()) };
    // Whoever has made it already has no question.
    check_start_is_new(asked, node)?;
    let known_mark = node.instance.map_or(StartMark::default(), StartMark::from);
    if asked.start_count == node.start_count + 1 && !known_mark.may_be(last_mark) {
        return Err(Refusal::DiskCloned {
            name: node.name.clone(),
            disk: node.disk,
            start_count: node.start_count,
        });
    }
    Ok(())
}

pub(super) fn register(state: &mut State, asked: &RegisterNode) -> Result<Outcome, Refusal> {
    check_asked(state, asked)?;
    let known = state.node_named(&asked.name).cloned();
    check_disk(state, asked, known.as_ref())?;
    let id = match &known {
        Some(node) => node.id,
        None => state.next_node(),
    };
    if let Some(node) = &known
        && node.disk != asked.disk
    {
        retire_disk(state, node, asked.disk);
    }
    state.nodes.insert(id, node_of(id, asked));
    let moved =
        known.is_none_or(|known| known.data_address != asked.data_address || known.name != asked.name);
    if moved {
        state.node_moved(id);
    }
    Ok(Outcome::Node(id))
}

fn check_asked(state: &State, asked: &RegisterNode) -> Result<(), Refusal> {
    let this = state.cluster_id.ok_or(Refusal::ClusterNotInitialised)?;
    if asked.cluster_id != this {
        return Err(Refusal::OtherCluster { disk_of: asked.cluster_id, this });
    }
    rules::check_member_name(&asked.name, "a node")?;
    rules::check_text(&asked.data_address, "data address")?;
    rules::check_text(&asked.admin_address, "admin address")?;
    rules::check_text(&asked.zone, "zone")?;
    rules::check_text(&asked.version, "version")
}

/// Rule C2: the disk must be the node's own, at a start that is not known yet, or a new one where nothing is lost by it.
fn check_disk(state: &State, asked: &RegisterNode, known: Option<&Node>) -> Result<(), Refusal> {
    if state.retired_disks.contains_key(&asked.disk) {
        return Err(Refusal::DiskRetired(asked.disk));
    }
    if let Some(owner) = state.node_of_disk(asked.disk)
        && owner.name != asked.name
    {
        let (owner, name) = (owner.name.clone(), asked.name.clone());
        return Err(Refusal::DiskOfOtherNode { disk: asked.disk, owner, name });
    }
    match known {
        Some(node) if node.disk == asked.disk => check_start(asked, node),
        Some(node) => check_old_disk_is_free(state, node, &asked.disk.to_string()),
        None => Ok(()),
    }
}

fn check_start(asked: &RegisterNode, node: &Node) -> Result<(), Refusal> {
    let again =
        asked.start_count == node.start_count && asked.instance.is_some() && asked.instance == node.instance;
    if again { Ok(()) } else { check_start_is_new(asked, node) }
}

fn check_start_is_new(asked: &RegisterNode, node: &Node) -> Result<(), Refusal> {
    if asked.start_count > node.start_count {
        return Ok(());
    }
    Err(Refusal::StartCountNotAbove {
        name: node.name.clone(),
        disk: node.disk,
        start_count: asked.start_count,
        known: node.start_count,
    })
}

/// Replicas that are to be dropped anyway do not count: they are gone with the disk. Neither do learners: nobody relies on
/// what they have; nor the copies of segments that nobody has written to yet.
fn check_old_disk_is_free(state: &State, node: &Node, new_disk: &str) -> Result<(), Refusal> {
    let is_kept = |segment: &Segment, replica: &Replica| {
        replica.disk == node.disk && segment.role(replica).is_some_and(ReplicaRole::votes)
    };
    let on_disk = state.replicas_on(node.id);
    let kept = on_disk
        .filter(|(volume, id, _, replica)| {
            let segment = volume.usable_segments().get(id.index as usize);
            segment.is_some_and(|segment| is_kept(segment, replica))
        })
        .count();
    if kept == 0 {
        return Ok(());
    }
    Err(Refusal::DiskReplaced {
        name: node.name.clone(),
        disk: new_disk.to_owned(),
        known: node.disk,
        replicas: kept,
    })
}

/// The old disk is known to be gone: what it was to drop is dropped, and it never comes back under its id. A change that
/// was filling a learner on it is given up: that replica's id dies with its data.
fn retire_disk(state: &mut State, node: &Node, new_disk: DiskId) {
    state.retired_disks.insert(node.disk, node.id);
    for volume in volumes_on(state, node.id, node.disk) {
        begin_anew(state, volume, node, new_disk);
        state.change_volume(volume, |volume| {
            for segment in &mut volume.segments {
                let lost = |(replica, role): (&Replica, _)| {
                    replica.disk == node.disk && role == ReplicaRole::Learner
                };
                if segment.members().any(lost) {
                    segment.abort();
                }
                segment.replicas.retain(|replica| replica.disk != node.disk);
            }
        });
    }
}

/// Copies of segments that nobody has written to yet (their volume is being created, or grows) are made on the new disk,
/// under new ids (rule C2). Nothing is lost with them, and without them the segments would never be ready.
fn begin_anew(state: &mut State, volume: VolumeId, node: &Node, new_disk: DiskId) {
    let Some(known) = state.volumes.get(&volume).filter(|volume| !volume.deleting) else { return };
    let first = known.usable_segments().len();
    let lost = |segment: &Segment| segment.voters().find(|replica| replica.disk == node.disk).map(|r| r.id);
    let lost: Vec<Option<ReplicaId>> = known.segments[first..].iter().map(lost).collect();
    let anew: Vec<Option<(ReplicaId, ReplicaId)>> =
        lost.into_iter().map(|lost| lost.map(|lost| (lost, state.next_replica()))).collect();
    state.change_volume(volume, |volume| {
        for (segment, anew) in volume.segments[first..].iter_mut().zip(anew) {
            let Some((lost, id)) = anew else { continue };
            let state = ReplicaState::Creating;
            let its = segment.replicas.iter_mut().filter(|replica| replica.id == lost);
            its.for_each(|replica| *replica = Replica { id, node: node.id, disk: new_disk, state });
            let mut change = segment.change.take();
            let leaving = change.iter_mut().flat_map(|change| &mut change.remove);
            leaving.filter(|leaving| **leaving == lost).for_each(|leaving| *leaving = id);
            segment.step(change);
        }
    });
}

fn volumes_on(state: &State, node: NodeId, disk: DiskId) -> BTreeSet<VolumeId> {
    let here = state.replicas_on(node).filter(|(.., replica)| replica.disk == disk);
    here.map(|(volume, ..)| volume.id).collect()
}

fn node_of(id: NodeId, asked: &RegisterNode) -> Node {
    Node {
        id,
        name: asked.name.clone(),
        disk: asked.disk,
        start_count: asked.start_count,
        instance: asked.instance,
        data_address: asked.data_address.clone(),
        admin_address: asked.admin_address.clone(),
        zone: asked.zone.clone(),
        capacity_bytes: asked.capacity_bytes,
        version: asked.version.clone(),
        // Whatever it was before: it has just spoken.
        health: Health::Online,
    }
}
