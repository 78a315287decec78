//! What leaders conclude about storage nodes.

use crate::command::Outcome;
use crate::health::{Absence, ClusterTime, Health, HealthChange};
use crate::state::{Node, State};

/// Takes note of what a leader concluded at a moment. A conclusion about a node that has been started anew since the leader
/// looked, or that is known to be otherwise by now, is passed over: an entry that was long on its way must not call a new
/// start unreachable, and one that was proposed twice must not count an absence anew.
pub(super) fn change(state: &mut State, at: ClusterTime, changes: &[HealthChange]) -> Outcome {
    // A leader counts from the last reading, so it never reads less; an entry of an older one may, and time does not go
    // back for it.
    state.time = state.time.max(at);
    for change in changes {
        let node = state.nodes.get_mut(&change.node);
        let as_seen = |node: &&mut Node| {
            let start = (node.disk, node.start_count);
            start == (change.disk, change.start_count) && node.health.cause() == change.known
        };
        if let Some(node) = node.filter(as_seen) {
            node.health = match change.absent {
                None => Health::Online,
                Some(cause) => Health::Unreachable(Absence { cause, since: state.time }),
            };
        }
    }
    Outcome::Done
}
