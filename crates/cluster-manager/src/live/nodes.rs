//! What storage nodes said lately, and what follows from it.

use super::{Live, Presence};
use quoin_cluster::{Candidate, Node, State};
use quoin_types::{DiskId, Moment, NodeId};
use std::time::Duration;

/// A storage node's last heartbeat.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    pub(crate) at: Moment,
    pub(crate) used_bytes: u64,
    pub(crate) capacity_bytes: u64,
    /// It was the last one: the node has stopped.
    pub(crate) leaving: bool,
}

/// A registration that was refused.
#[derive(Clone, Debug)]
pub(crate) struct RefusedNode {
    pub(crate) at: Moment,
    pub(crate) why: String,
}

impl Live {
    pub(crate) fn node_heard(&mut self, node: NodeId, report: NodeReport) {
        self.nodes.insert(node, report);
    }

    pub(crate) fn node_report(&self, node: NodeId) -> Option<&NodeReport> {
        self.nodes.get(&node)
    }

    pub(crate) fn node_presence(&self, node: NodeId, now: Moment) -> Presence {
        if self.has_left(node) {
            return Presence::Unreachable;
        }
        self.presence(self.nodes.get(&node).map(|report| report.at), now)
    }

    /// Whether a node has said that it stops, and nothing since.
    pub(crate) fn has_left(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|report| report.leaving)
    }

    /// How long a node has been silent, as far as this leader can tell.
    pub(crate) fn node_silence(&self, node: NodeId, now: Moment) -> Duration {
        now.since(self.nodes.get(&node).map_or(self.since, |report| report.at))
    }

    pub(crate) fn node_refused(&mut self, name: &str, why: String, at: Moment) {
        // Names come from whoever asks: the list stays short whatever they say.
        if self.refused.len() < 1024 || self.refused.contains_key(name) {
            self.refused.insert(name.to_owned(), RefusedNode { at, why });
        }
    }

    /// Why a node's registration was refused, if that is the last that was heard of it.
    pub(crate) fn refusal_of(&self, node: &Node) -> Option<&str> {
        let refused = self.refused.get(&node.name)?;
        let accepted_since = self.nodes.get(&node.id).is_some_and(|report| report.at > refused.at);
        (!accepted_since).then_some(refused.why.as_str())
    }

    /// Registrations that were refused under names that no node has.
    pub(crate) fn refused_strangers<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let stranger = |name: &str| state.node_named(name).is_none();
        self.refused
            .iter()
            .filter(move |(name, _)| stranger(name))
            .map(|(name, refused)| (name.as_str(), refused.why.as_str()))
    }

    /// A replacement or start was accepted.
    pub(crate) fn node_accepted(&mut self, name: &str) {
        self.refused.remove(name);
    }

    /// The nodes that may be given replicas: those online, and while this leader is new those not heard of yet.
    pub(crate) fn candidates(&self, state: &State, now: Moment) -> Vec<Candidate> {
        let usable = state.nodes().values().filter(|node| {
            self.node_presence(node.id, now) != Presence::Unreachable && self.refusal_of(node).is_none()
        });
        usable
            .map(|node| {
                let free_bytes = match self.nodes.get(&node.id) {
                    Some(report) => report.capacity_bytes.saturating_sub(report.used_bytes),
                    None => node.capacity_bytes,
                };
                Candidate { node: node.id, free_bytes }
            })
            .collect()
    }
}

/// Whether a heartbeat is of the process that registered last. Another one must register again, and will be refused.
pub(crate) fn is_registered(state: &State, node: NodeId, disk: DiskId, start_count: u64) -> bool {
    state.nodes().get(&node).is_some_and(|known| known.disk == disk && known.start_count == start_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(at: Moment) -> NodeReport {
        NodeReport { at, used_bytes: 0, capacity_bytes: 1, leaving: false }
    }

    #[test]
    fn a_new_leader_waits_before_it_calls_anyone_unreachable() {
        let start = Moment::ZERO + 100 * SECOND;
        let mut live = Live::new(SECOND);
        live.begin_term(1, start);
        let node = NodeId(1);
        assert_eq!(live.node_presence(node, start + 3 * SECOND), Presence::Unknown);
        assert_eq!(live.node_presence(node, start + 4 * SECOND), Presence::Unreachable);
        live.node_heard(node, report(start + 4 * SECOND));
        assert_eq!(live.node_presence(node, start + 7 * SECOND), Presence::Online);
        assert_eq!(live.node_presence(node, start + 8 * SECOND), Presence::Unreachable);
        live.node_heard(node, NodeReport { leaving: true, ..report(start + 8 * SECOND) });
        assert_eq!(live.node_presence(node, start + 8 * SECOND), Presence::Unreachable);
        live.begin_term(2, start + 9 * SECOND);
        assert_eq!(live.node_presence(node, start + 9 * SECOND), Presence::Unknown);
    }
}
