//! The sessions with storage nodes, as the segments see them.

use super::Output;
use quoin_replication::writer::{Credit, Links};
use quoin_types::collections::HashMap;
use quoin_types::{Moment, NodeId};
use quoin_wire::{Message, Positions};
use std::time::Duration;

/// A node that says nothing for so long, though it is asked for leases all the time, is cut loose.
const SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Link {
    address: String,
    up: bool,
    local: bool,
    /// W5: credit of the present session.
    granted: u64,
    spent: u64,
    /// What of it has arrived.
    used: u64,
    full: bool,
    heard_at: Moment,
    cut: Option<&'static str>,
}

impl Link {
    /// Whether the node has no room, and nothing is on its way to it: the answer to that would bring credit back, or say that there
    /// is none.
    fn is_full(&self) -> bool {
        self.full && self.used == self.spent
    }
}

/// All links, and what is queued on them.
#[derive(Debug, Default)]
pub(super) struct LinkTable {
    links: HashMap<NodeId, Link>,
    queued: Vec<Output>,
    /// Nodes that are to be asked for a sync, behind what is queued.
    to_sync: Vec<NodeId>,
}

impl LinkTable {
    /// Whether a session with a node is now needed that was not before.
    pub(super) fn need(&mut self, node: NodeId, address: &str) -> bool {
        if self.links.contains_key(&node) {
            return false;
        }
        self.links.insert(node, Link { address: address.into(), ..Link::default() });
        true
    }

    /// Whether that is news of a node that is needed.
    pub(super) fn set_address(&mut self, node: NodeId, address: &str) -> bool {
        match self.links.get_mut(&node) {
            Some(link) if link.address != address => {
                address.clone_into(&mut link.address);
                true
            }
            _ => false,
        }
    }

    pub(super) fn up(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> =
            self.links.iter().filter(|(_, link)| link.up).map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes
    }

    pub(super) fn session_up(&mut self, node: NodeId, local: bool, now: Moment) {
        let link = self.links.entry(node).or_default();
        *link = Link {
            address: std::mem::take(&mut link.address),
            up: true,
            local,
            heard_at: now,
            ..Link::default()
        };
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|link| link.up)
    }

    pub(super) fn is_local(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|link| link.local)
    }

    pub(super) fn session_down(&mut self, node: NodeId) {
        if let Some(link) = self.links.get_mut(&node) {
            *link = Link { address: std::mem::take(&mut link.address), ..Link::default() };
        }
    }

    pub(super) fn heard(&mut self, node: NodeId, now: Moment) {
        if let Some(link) = self.links.get_mut(&node) {
            link.heard_at = now;
        }
    }

    pub(super) fn check_silence(&mut self, node: NodeId, now: Moment) {
        if self.links.get(&node).is_some_and(|link| now.since(link.heard_at) > SILENCE_MAX) {
            self.cut(node, "it is silent");
        }
    }

    /// A message that no storage node sends.
    pub(super) fn protocol_error(&mut self, node: NodeId) {
        self.cut(node, "it does not speak the protocol");
    }

    /// Whether that changes what may be sent. There is less credit where the node serves nothing of this gateway any more.
    pub(super) fn set_credit(&mut self, node: NodeId, told: &Positions) -> bool {
        let Some(link) = self.links.get_mut(&node) else { return false };
        let was_full = link.is_full();
        let more = told.credit > link.granted;
        (link.granted, link.used, link.full) = (told.credit, told.used, told.full);
        more || link.is_full() != was_full
    }

    pub(super) fn push(&mut self, node: NodeId, message: Message) {
        if self.links.get(&node).is_some_and(|link| link.up && link.cut.is_none()) {
            self.queued.push(Output::Send(node, message));
        }
    }

    /// Takes what is queued.
    pub(super) fn take(&mut self, outputs: &mut Vec<Output>) {
        for node in std::mem::take(&mut self.to_sync) {
            self.push(node, Message::Sync);
        }
        outputs.append(&mut self.queued);
    }
}

impl Links for LinkTable {
    fn send(&mut self, node: NodeId, message: Message) {
        self.push(node, message);
    }

    fn credit(&self, node: NodeId, extents: u64) -> Credit {
        match self.links.get(&node) {
            Some(link) if link.spent + extents <= link.granted => Credit::Enough,
            Some(link) if link.is_full() => Credit::Full,
            _ => Credit::Later,
        }
    }

    fn spend(&mut self, node: NodeId, extents: u64) {
        if let Some(link) = self.links.get_mut(&node) {
            link.spent += extents;
        }
    }

    fn sync(&mut self, node: NodeId) {
        if !self.to_sync.contains(&node) {
            self.to_sync.push(node);
        }
    }

    fn cut(&mut self, node: NodeId, reason: &'static str) {
        if let Some(link) = self.links.get_mut(&node).filter(|link| link.up && link.cut.is_none()) {
            link.cut = Some(reason);
            self.queued.push(Output::Cut(node, reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn told(links: &mut LinkTable, credit: u64, used: u64, full: bool) -> bool {
        links.set_credit(NODE, &Positions { credit, used, full, replicas: Vec::new() })
    }

    /// Whichever segment's writes they are: what is on its way brings credit back, or the news that there is none.
    #[test]
    fn a_node_is_full_when_nothing_is_on_its_way_to_it() {
        let mut links = LinkTable::default();
        links.session_up(NODE, false, Moment::ZERO);
        assert_eq!(links.credit(NODE, 1), Credit::Later, "it has told nothing yet");
        assert!(told(&mut links, 3, 0, true));
        assert_eq!(links.credit(NODE, 3), Credit::Enough);
        links.spend(NODE, 3);
        assert_eq!(links.credit(NODE, 1), Credit::Later);
        assert!(!told(&mut links, 3, 2, true));
        assert_eq!(links.credit(NODE, 1), Credit::Later);
        assert!(told(&mut links, 3, 3, true), "who waits is to hear of it");
        assert_eq!(links.credit(NODE, 1), Credit::Full);
        assert!(told(&mut links, 5, 3, true));
        assert_eq!((links.credit(NODE, 2), links.credit(NODE, 3)), (Credit::Enough, Credit::Full));
        // The node serves nothing of this gateway any more, and then something again.
        assert!(told(&mut links, 3, 3, false));
        assert_eq!(links.credit(NODE, 1), Credit::Later);
        assert!(told(&mut links, 4, 3, false));
        assert_eq!(links.credit(NODE, 1), Credit::Enough);
    }
}
