//! Placement of new segments, and of further replicas of those that there are.
//!
//! Replica by replica, the best node is, in this order: one that has none of this segment's replicas yet; in a zone with
//! the fewest of them; with the most free space; with the fewest replicas in all; with the lowest id. Nodes whose free
//! space differs by less than a sixteenth of the greatest count as equally free: else the emptiest node would be given every
//! new volume until something is written to it. What is planned counts as used for the segments planned after it.

use crate::command::Candidate;
use crate::state::State;
use quoin_types::NodeId;

/// A node that may be given replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLoad {
    /// The node.
    pub node: NodeId,
    /// Nodes of the same zone fail together. Nodes that name no zone form one.
    pub zone: String,
    /// The space it has left.
    pub free_bytes: u64,
    /// The replicas it has.
    pub replicas: u64,
}

/// Free space is compared in steps of the greatest free space divided by this.
const FREE_STEPS: u128 = 16;

/// Places `replicas` copies of each segment, given as the bytes it will use at most: the nodes of each, in the order they
/// were chosen. `None` if there are fewer nodes than replicas.
pub fn place(mut nodes: Vec<NodeLoad>, replicas: usize, segments: &[u64]) -> Option<Vec<Vec<NodeId>>> {
    if nodes.len() < replicas {
        return None;
    }
    nodes.sort_by_key(|load| load.node);
    let nobody = Beside::default();
    segments.iter().map(|bytes| place_beside(&mut nodes, &nobody, replicas, *bytes)).collect()
}

/// The candidates that the state knows, and knows to be online, each once. The leader names nodes that are online; between
/// its look and its entry one may have gone.
pub fn loads(state: &State, candidates: &[Candidate]) -> Vec<NodeLoad> {
    let mut loads: Vec<NodeLoad> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let known = state.nodes().get(&candidate.node);
        let repeated = loads.iter().any(|load| load.node == candidate.node);
        if let Some(node) = known.filter(|node| node.health.is_online() && !repeated) {
            loads.push(NodeLoad {
                node: candidate.node,
                zone: node.zone.clone(),
                free_bytes: candidate.free_bytes,
                replicas: state.replica_count_on(candidate.node) as u64,
            });
        }
    }
    loads
}

/// What a segment has already, when further replicas of it are placed.
#[derive(Clone, Default, Debug)]
pub struct Beside<'a> {
    /// The zones of the replicas that stay, each as often as it has one.
    pub zones: Vec<&'a str>,
    /// The nodes that have a replica, whatever becomes of it: none of them gets another one.
    pub nodes: Vec<NodeId>,
}

/// Places further replicas of one segment, in the order in which they were chosen, and counts them as used. `None` if there
/// are fewer nodes than that.
pub fn place_beside(
    nodes: &mut [NodeLoad],
    beside: &Beside<'_>,
    replicas: usize,
    bytes: u64,
) -> Option<Vec<NodeId>> {
    let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
    for _ in 0..replicas {
        let free_max = nodes.iter().map(|load| load.free_bytes).max().unwrap_or(0);
        let in_zone = |zone: &str| {
            let new = chosen.iter().filter(|index| nodes[**index].zone == zone).count();
            new + beside.zones.iter().filter(|other| **other == zone).count()
        };
        let rank = |index: usize| {
            let load = &nodes[index];
            (in_zone(&load.zone), steps_below(load.free_bytes, free_max), load.replicas, load.node)
        };
        let is_free = |index: &usize| !chosen.contains(index) && !beside.nodes.contains(&nodes[*index].node);
        chosen.push((0..nodes.len()).filter(is_free).min_by_key(|index| rank(*index))?);
    }
    for index in &chosen {
        nodes[*index].free_bytes = nodes[*index].free_bytes.saturating_sub(bytes);
        nodes[*index].replicas += 1;
    }
    Some(chosen.into_iter().map(|index| nodes[index].node).collect())
}

/// How many steps `free` is below the greatest, 0 for "as good as that".
fn steps_below(free: u64, free_max: u64) -> u128 {
    match u128::from(free_max) {
        0 => 0,
        max => (max - u128::from(free)) * FREE_STEPS / max,
    }
}
