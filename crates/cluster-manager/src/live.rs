//! What storage nodes and gateways said lately: heartbeats and health. In the leader's memory alone, gone with its term.
//! Time is a parameter.

use quoin_api::v1;
use quoin_cluster::{Candidate, Node, State, Volume};
use quoin_types::{DiskId, Epoch, GatewayId, InstanceId, Moment, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Reports missed in a row after which somebody is unreachable.
const MISSED_MAX: u32 = 3;
/// How long a gateway that reports no more is shown.
const GATEWAY_SHOWN: Duration = Duration::from_secs(600);

/// How somebody stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Reported within three intervals.
    Online,
    /// Not heard of by this leader, which is too new to draw conclusions.
    Unknown,
    /// Missed three reports.
    Unreachable,
}

/// A storage node's last heartbeat.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    pub(crate) at: Moment,
    pub(crate) used_bytes: u64,
    pub(crate) capacity_bytes: u64,
    /// Found damaged on its disk, and not repaired yet.
    pub(crate) damaged_extents: u64,
    /// It was the last one: the node has stopped.
    pub(crate) leaving: bool,
}

/// A gateway's last heartbeat.
#[derive(Clone, Debug)]
pub(crate) struct GatewayReport {
    pub(crate) at: Moment,
    pub(crate) instance: InstanceId,
    pub(crate) nbd_address: String,
    pub(crate) version: String,
    pub(crate) attachments: BTreeMap<VolumeId, v1::AttachmentReport>,
}

/// A registration that was refused.
#[derive(Clone, Debug)]
pub(crate) struct RefusedNode {
    pub(crate) at: Moment,
    pub(crate) why: String,
}

/// Why a volume cannot be taken from the gateway that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum InUse {
    /// It reports clients.
    Clients { gateway: GatewayId, clients: u32 },
    /// This leader is too new to know.
    NotKnownYet { gateway: GatewayId },
}

/// Everything live.
#[derive(Debug)]
pub(crate) struct Live {
    interval: Duration,
    term: u64,
    since: Moment,
    nodes: BTreeMap<NodeId, NodeReport>,
    gateways: BTreeMap<GatewayId, GatewayReport>,
    refused: BTreeMap<String, RefusedNode>,
}

impl Live {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            term: 0,
            since: Moment::ZERO,
            nodes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Forgets everything if the term is another one.
    pub(crate) fn begin_term(&mut self, term: u64, now: Moment) {
        if term != self.term {
            *self = Self { term, since: now, ..Self::new(self.interval) };
        }
    }

    /// How long somebody may be silent before being called unreachable.
    pub(crate) fn patience(&self) -> Duration {
        self.interval * MISSED_MAX
    }

    fn presence(&self, last: Option<Moment>, now: Moment) -> Presence {
        match last {
            Some(at) if now.since(at) <= self.patience() => Presence::Online,
            None if now.since(self.since) <= self.patience() => Presence::Unknown,
            _ => Presence::Unreachable,
        }
    }

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

    pub(crate) fn gateway_heard(&mut self, gateway: GatewayId, report: GatewayReport) {
        let now = report.at;
        self.gateways.retain(|_, known| now.since(known.at) < GATEWAY_SHOWN);
        self.gateways.insert(gateway, report);
    }

    pub(crate) fn gateways(&self) -> &BTreeMap<GatewayId, GatewayReport> {
        &self.gateways
    }

    pub(crate) fn gateway_presence(&self, gateway: &GatewayId, now: Moment) -> Presence {
        self.presence(self.gateways.get(gateway).map(|report| report.at), now)
    }

    /// What the attached gateway last reported about a volume, in its present attachment.
    pub(crate) fn attachment_report(&self, volume: &Volume) -> Option<&v1::AttachmentReport> {
        let attachment = volume.attachment.as_ref()?;
        let report = self.gateways.get(&attachment.gateway)?;
        report.attachments.get(&volume.id).filter(|report| Epoch(report.epoch) == attachment.epoch)
    }

    /// Whether taking a volume away would hurt somebody: another gateway that is alive and has clients on it.
    pub(crate) fn in_use(
        &self,
        volume: &Volume,
        by_other_than: Option<&GatewayId>,
        now: Moment,
    ) -> Option<InUse> {
        let attachment = volume.attachment.as_ref()?;
        if by_other_than == Some(&attachment.gateway) {
            return None;
        }
        let gateway = attachment.gateway.clone();
        match self.gateway_presence(&gateway, now) {
            Presence::Unreachable => None,
            Presence::Unknown => Some(InUse::NotKnownYet { gateway }),
            Presence::Online => {
                let clients = self.attachment_report(volume).map_or(0, |report| report.clients);
                (clients > 0).then_some(InUse::Clients { gateway, clients })
            }
        }
    }
}

/// Whether a heartbeat is of the process that registered last. Another one must register again, and will be refused.
pub(crate) fn is_registered(state: &State, node: NodeId, disk: DiskId, start_count: u64) -> bool {
    state.nodes().get(&node).is_some_and(|known| known.disk == disk && known.start_count == start_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(at: Moment) -> NodeReport {
        NodeReport { at, used_bytes: 0, capacity_bytes: 1, damaged_extents: 0, leaving: false }
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
