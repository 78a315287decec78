//! Volumes come, grow and go.

use crate::command::{Candidate, Outcome};
use crate::planner::placement;
use crate::refusal::Refusal;
use crate::rules;
use crate::segment::{Replica, ReplicaState, Segment};
use crate::state::State;
use crate::volume::{Volume, VolumeStage, segment_count};
use quoin_types::{Durability, Epoch, Generation, NodeId};

/// What a new volume shall be.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) size_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) replicas: u32,
    pub(super) min_replicas: Option<u32>,
    pub(super) durability: Durability,
}

pub(super) fn create(
    state: &mut State,
    wanted: &Wanted<'_>,
    candidates: &[Candidate],
) -> Result<Outcome, Refusal> {
    rules::check_volume_name(wanted.name)?;
    rules::check_size(wanted.size_bytes, wanted.segment_bytes)?;
    rules::check_replicas(wanted.replicas)?;
    rules::check_min_replicas(wanted.min_replicas, wanted.replicas)?;
    if state.volume_named(wanted.name).is_some() {
        return Err(Refusal::VolumeExists(wanted.name.to_owned()));
    }
    let sizes = segment_sizes(wanted.size_bytes, wanted.segment_bytes, 0);
    let placed = plan(state, candidates, wanted.replicas, &sizes)?;
    let segments = new_segments(state, &placed);
    let id = state.next_volume();
    state.insert_volume(Volume {
        id,
        name: wanted.name.to_owned(),
        size_bytes: wanted.size_bytes,
        segment_bytes: wanted.segment_bytes,
        replicas: wanted.replicas,
        min_replicas: wanted.min_replicas,
        durability: wanted.durability,
        deleting: false,
        growing_to_bytes: None,
        epoch: Epoch::ZERO,
        attachment: None,
        run: None,
        dirty: false,
        segments,
        snapshots: Vec::new(),
        revision: 0,
    });
    Ok(Outcome::Volume(id))
}

pub(super) fn delete(
    state: &mut State,
    name: &str,
    expected_epoch: Option<Epoch>,
) -> Result<Outcome, Refusal> {
    let volume = state.volume_named(name).ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()))?;
    if expected_epoch.is_some_and(|expected| expected != volume.epoch) {
        return Err(Refusal::AttachedMeanwhile(name.to_owned()));
    }
    let id = volume.id;
    state.change_volume(id, |volume| {
        volume.deleting = true;
        volume.set_attachment(None);
        volume.snapshots.clear();
        volume.growing_to_bytes = None;
        volume.segments.iter_mut().for_each(|segment| segment.change = None);
        volume.replicas_mut().for_each(|replica| replica.state = ReplicaState::Dropping);
    });
    Ok(Outcome::Volume(id))
}

pub(super) fn resize(
    state: &mut State,
    name: &str,
    size_bytes: u64,
    candidates: &[Candidate],
) -> Result<Outcome, Refusal> {
    let volume = state.volume_named(name).ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()))?;
    rules::check_size(size_bytes, volume.segment_bytes)?;
    check_growth(volume, size_bytes)?;
    let (id, replicas) = (volume.id, volume.replicas);
    let sizes = segment_sizes(size_bytes, volume.segment_bytes, volume.segments.len());
    let placed = plan(state, candidates, replicas, &sizes)?;
    let added = new_segments(state, &placed);
    state.change_volume(id, |volume| {
        volume.segments.extend(added);
        let ready =
            volume.stage() == VolumeStage::Ready && volume.served_segments().len() == volume.segments.len();
        if ready {
            volume.size_bytes = size_bytes;
        } else if size_bytes > volume.size_bytes {
            volume.growing_to_bytes = Some(size_bytes);
        }
    });
    Ok(Outcome::Volume(id))
}

fn check_growth(volume: &Volume, asked_bytes: u64) -> Result<(), Refusal> {
    let name = volume.name.clone();
    if asked_bytes < volume.size_bytes {
        return Err(Refusal::Shrinking { name, size_bytes: volume.size_bytes, asked_bytes });
    }
    match volume.growing_to_bytes {
        Some(growing_to_bytes) if asked_bytes < growing_to_bytes => {
            Err(Refusal::VolumeGrowing { name, growing_to_bytes })
        }
        _ => Ok(()),
    }
}

/// How much of each segment from `first` on is used by a volume of the given size.
fn segment_sizes(size_bytes: u64, segment_bytes: u64, first: usize) -> Vec<u64> {
    (first as u64..segment_count(size_bytes, segment_bytes))
        .map(|index| segment_bytes.min(size_bytes - index * segment_bytes))
        .collect()
}

fn plan(
    state: &State,
    candidates: &[Candidate],
    replicas: u32,
    sizes: &[u64],
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    let loads = placement::loads(state, candidates);
    if sizes.is_empty() {
        return Ok(Vec::new());
    }
    let available = loads.len();
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    placement::place(loads, wanted, sizes).ok_or(Refusal::TooFewNodes { replicas, candidates: available })
}

/// Gives ids to planned replicas. The planner names only nodes that exist.
fn new_segments(state: &mut State, placed: &[Vec<NodeId>]) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(placed.len());
    for nodes in placed {
        let mut replicas = Vec::with_capacity(nodes.len());
        for node in nodes {
            let disk = state.nodes[node].disk;
            let id = state.next_replica();
            replicas.push(Replica { id, node: *node, disk, state: ReplicaState::Creating });
        }
        segments.push(Segment { generation: Generation(1), replicas, change: None });
    }
    segments
}
