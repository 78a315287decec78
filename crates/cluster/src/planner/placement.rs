//! Placement of new segments.
//!
//! Replica by replica, the best node is, in this order: one that has none of this segment's replicas yet; in a zone with
//! the fewest of them; with the most free space; with the fewest replicas in all; with the lowest id. Nodes whose free
//! space differs by less than a sixteenth of the greatest count as equally free: else the emptiest node would be given every
//! new volume until something is written to it. What is planned counts as used for the segments planned after it.

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
    Some(segments.iter().map(|bytes| place_segment(&mut nodes, replicas, *bytes)).collect())
}

fn place_segment(nodes: &mut [NodeLoad], replicas: usize, bytes: u64) -> Vec<NodeId> {
    let mut chosen: Vec<usize> = Vec::with_capacity(replicas);
    for _ in 0..replicas {
        let free_max = nodes.iter().map(|load| load.free_bytes).max().unwrap_or(0);
        let in_zone = |zone: &str| chosen.iter().filter(|index| nodes[**index].zone == zone).count();
        let rank = |index: usize| {
            let load = &nodes[index];
            (in_zone(&load.zone), steps_below(load.free_bytes, free_max), load.replicas, load.node)
        };
        let best = (0..nodes.len()).filter(|index| !chosen.contains(index)).min_by_key(|index| rank(*index));
        chosen.extend(best);
    }
    for index in &chosen {
        nodes[*index].free_bytes = nodes[*index].free_bytes.saturating_sub(bytes);
        nodes[*index].replicas += 1;
    }
    chosen.into_iter().map(|index| nodes[index].node).collect()
}

/// How many steps `free` is below the greatest, 0 for "as good as that".
fn steps_below(free: u64, free_max: u64) -> u128 {
    match u128::from(free_max) {
        0 => 0,
        max => (max - u128::from(free)) * FREE_STEPS / max,
    }
}
