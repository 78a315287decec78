//! Which replicas to add and which to remove, for what an operator wishes. What comes of it is one command; the state
//! machine checks it again.

use super::placement::{self, Beside, NodeLoad};
use crate::command::{Candidate, SegmentAt, SegmentChange};
use crate::refusal::Refusal;
use crate::segment::{Replica, Segment};
use crate::state::State;
use crate::volume::Volume;
use quoin_types::{NodeId, ReplicaId, SegmentId};

/// Copies that are to be on another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Of this segment alone; `None`: of all that have one there.
    pub segment: Option<u32>,
    /// Where they are.
    pub from: NodeId,
    /// Where they go; `None`: wherever it is best.
    pub to: Option<NodeId>,
}

/// Moves what a volume has on one node: each copy gets its successor where placement finds it best, in a zone that the
/// others are not in if there is one.
pub fn plan_move(
    state: &State,
    volume: &Volume,
    candidates: &[Candidate],
    wish: Move,
) -> Result<Vec<SegmentChange>, Refusal> {
    let mut nodes = placement::loads(state, candidates);
    if let Some(to) = wish.to {
        nodes.retain(|load| load.node == to);
        if nodes.is_empty() {
            return Err(Refusal::NodeNotOnline(name_of(state, to)));
        }
    }
    let mut planned = Vec::new();
    for (at, segment) in volume.segments_at() {
        let is_meant = wish.segment.is_none_or(|index| index == at.index);
        let leaving = segment.voters().find(|replica| replica.node == wish.from).filter(|_| is_meant);
        if let Some(leaving) = leaving {
            check_unchanged(volume, at, segment)?;
            let beside = beside(state, segment, &[leaving.id]);
            if let Some(to) = wish.to.filter(|to| beside.nodes.contains(to)) {
                let segment = SegmentId { volume: volume.id, index: at.index };
                return Err(Refusal::NodeHasReplica { segment, node: name_of(state, to) });
            }
            let add = place(&mut nodes, &beside, 1, volume)?;
            planned.push(SegmentChange { at, add, remove: vec![leaving.id] });
        }
    }
    if planned.is_empty() {
        return Err(Refusal::NodeHasNoReplica { node: name_of(state, wish.from) });
    }
    Ok(planned)
}

/// Brings every segment to so many copies. `worth` tells how much it would be missed; of several copies that are worth the
/// same, the one goes whose zone has the most of them. Nothing is planned for segments that are to have that number already.
pub fn plan_count(
    state: &State,
    volume: &Volume,
    candidates: &[Candidate],
    replicas: u32,
    worth: impl Fn(&Replica) -> u32,
) -> Result<Vec<SegmentChange>, Refusal> {
    let mut nodes = placement::loads(state, candidates);
    let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
    let mut planned = Vec::new();
    for (at, segment) in volume.segments_at() {
        let has = segment.next_voters().count();
        if has == wanted {
            continue;
        }
        check_unchanged(volume, at, segment)?;
        let remove = worst(state, segment, has.saturating_sub(wanted), &worth);
        let add = match wanted.saturating_sub(has) {
            0 => Vec::new(),
            missing => place(&mut nodes, &beside(state, segment, &[]), missing, volume)?,
        };
        planned.push(SegmentChange { at, add, remove });
    }
    Ok(planned)
}

fn check_unchanged(volume: &Volume, at: SegmentAt, segment: &Segment) -> Result<(), Refusal> {
    match segment.change {
        Some(_) => Err(Refusal::Changing(SegmentId { volume: volume.id, index: at.index })),
        None => Ok(()),
    }
}

fn beside<'a>(state: &'a State, segment: &Segment, leaving: &[ReplicaId]) -> Beside<'a> {
    let staying = segment.voters().filter(|replica| !leaving.contains(&replica.id));
    Beside {
        zones: staying.map(|replica| zone_of(state, replica.node)).collect(),
        nodes: segment.replicas.iter().map(|replica| replica.node).collect(),
    }
}

fn place(
    nodes: &mut [NodeLoad],
    beside: &Beside<'_>,
    replicas: usize,
    volume: &Volume,
) -> Result<Vec<NodeId>, Refusal> {
    let candidates = nodes.iter().filter(|load| !beside.nodes.contains(&load.node)).count();
    let placed =
        placement::place_beside(nodes, beside, replicas, volume.segment_bytes.min(volume.size_bytes));
    placed.ok_or(Refusal::TooFewOtherNodes {
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        candidates,
    })
}

/// The replicas that are missed the least, one after the other.
fn worst(state: &State, segment: &Segment, count: usize, worth: &impl Fn(&Replica) -> u32) -> Vec<ReplicaId> {
    let mut staying: Vec<&Replica> = segment.voters().collect();
    let mut removed = Vec::with_capacity(count);
    for _ in 0..count {
        let crowd = |replica: &Replica| {
            let zone = zone_of(state, replica.node);
            staying.iter().filter(|other| zone_of(state, other.node) == zone).count()
        };
        let rank = |replica: &Replica| (worth(replica), usize::MAX - crowd(replica), u64::MAX - replica.id.0);
        let Some(least) = staying.iter().map(|replica| (rank(replica), replica.id)).min() else { break };
        removed.push(least.1);
        staying.retain(|replica| replica.id != least.1);
    }
    removed
}

fn zone_of(state: &State, node: NodeId) -> &str {
    state.nodes().get(&node).map_or("", |node| node.zone.as_str())
}

fn name_of(state: &State, node: NodeId) -> String {
    state.nodes().get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
}
