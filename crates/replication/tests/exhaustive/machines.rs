//! What an event does to one machine. The machines are deterministic and a state is a product of theirs, so that each
//! has far fewer states than the whole: what a machine did once in a state is remembered, by hash.

use crate::digest::hash_of;
use crate::node::{Node, Pull};
use crate::state::{Ask, Bounds, Gateway, Letter, Part};
use bytes::Bytes;
use quoin_replication::writer::{Completion, Credit, Links, Operation, Request, Segment, Token, VoterHealth};
use quoin_types::collections::HashMap;
use quoin_types::{BLOCK_BYTES, Moment, NodeId, SessionId};
use quoin_wire::Message;
use std::rc::Rc;

/// Something happens at a node.
pub(crate) enum NodeEvent {
    Arrives(SessionId, Letter),
    Sync,
    /// The peer that it pulls from answers, but the answer is not here yet.
    PeerAnswers(Letter),
    AnswerArrives,
    PullBreaks,
    /// The process ends and starts again. With a number, power was lost and so many records are left.
    Restart(Option<usize>),
}

/// Something happens at a gateway.
pub(crate) enum GatewayEvent {
    Arrives(Letter),
    SessionUp(usize),
    Submit(usize),
    TimePasses,
}

pub(crate) struct NodeOutcome {
    pub(crate) node: Part<Node>,
    pub(crate) sent: Vec<(SessionId, Letter)>,
}

pub(crate) struct GatewayOutcome {
    pub(crate) gateway: Part<Gateway>,
    pub(crate) sent: Vec<(usize, Letter)>,
    pub(crate) completions: Vec<Completion>,
    /// A voter that it condemns.
    pub(crate) condemned: Option<String>,
}

/// The machines, and what they are known to do.
pub(crate) struct Machines<'a> {
    pub(crate) bounds: &'a Bounds,
    nodes: HashMap<u128, Rc<NodeOutcome>>,
    gateways: HashMap<u128, Rc<GatewayOutcome>>,
}

impl<'a> Machines<'a> {
    pub(crate) fn new(bounds: &'a Bounds) -> Self {
        Self { bounds, nodes: HashMap::default(), gateways: HashMap::default() }
    }

    /// How many different states and events of nodes, and of gateways, were met.
    pub(crate) fn met(&self) -> (usize, usize) {
        (self.nodes.len(), self.gateways.len())
    }

    /// `sync_at_once`: what happens is durable when it has happened.
    pub(crate) fn node(
        &mut self,
        node: &Part<Node>,
        event: &NodeEvent,
        sync_at_once: bool,
        now: Moment,
    ) -> Rc<NodeOutcome> {
        let event_key = match event {
            NodeEvent::Arrives(session, letter) => (0, session.0, letter.hash),
            NodeEvent::Sync => (1, 0, 0),
            NodeEvent::PeerAnswers(letter) => (2, 0, letter.hash),
            NodeEvent::AnswerArrives => (3, 0, 0),
            NodeEvent::PullBreaks => (4, 0, 0),
            NodeEvent::Restart(kept) => (5, kept.map_or(0, |kept| kept.saturating_add(1) as u64), 0),
        };
        let key = hash_of(&(node.hash, event_key, sync_at_once, now));
        let bounds = self.bounds;
        let known = self.nodes.entry(key);
        known.or_insert_with(|| Rc::new(at_node(bounds, node.clone(), event, sync_at_once, now))).clone()
    }

    pub(crate) fn gateway(
        &mut self,
        gateway: &Part<Gateway>,
        number: usize,
        event: &GatewayEvent,
        now: Moment,
    ) -> Rc<GatewayOutcome> {
        let event_key = match event {
            GatewayEvent::Arrives(letter) => (0, letter.hash),
            GatewayEvent::SessionUp(node) => (1, *node as u128),
            GatewayEvent::Submit(index) => (2, *index as u128),
            GatewayEvent::TimePasses => (3, 0),
        };
        let key = hash_of(&(gateway.hash, number, event_key, now));
        let bounds = self.bounds;
        let known = self.gateways.entry(key);
        known.or_insert_with(|| Rc::new(at_gateway(bounds, gateway.clone(), number, event, now))).clone()
    }
}

fn at_node(
    bounds: &Bounds,
    mut node: Part<Node>,
    event: &NodeEvent,
    sync_at_once: bool,
    now: Moment,
) -> NodeOutcome {
    let mut sent = Vec::new();
    node.change(|node| {
        match event {
            NodeEvent::Arrives(session, letter) => {
                node.on_message(*session, letter.get().clone(), now, &mut sent);
            }
            NodeEvent::Sync => node.sync(&mut sent),
            NodeEvent::PeerAnswers(letter) => node.pull = Some(Pull::Answer(letter.get().clone())),
            NodeEvent::AnswerArrives => node.on_answer(&mut sent),
            NodeEvent::PullBreaks => node.fail_pull(&mut sent),
            NodeEvent::Restart(kept) => node.restart(*kept, now, bounds.timing()),
        }
        if sync_at_once && node.needs_sync() {
            node.sync(&mut sent);
        }
    });
    let sent = sent.into_iter().map(|(session, message)| (session, Part::new(message))).collect();
    NodeOutcome { node, sent }
}

fn at_gateway(
    bounds: &Bounds,
    mut gateway: Part<Gateway>,
    number: usize,
    event: &GatewayEvent,
    now: Moment,
) -> GatewayOutcome {
    let mut outbox = Outbox::default();
    let (completions, condemned) = gateway.change(|gateway| {
        let segment = &mut gateway.segment;
        match event {
            GatewayEvent::Arrives(letter) => on_message(segment, letter.get().clone(), now, &mut outbox),
            GatewayEvent::SessionUp(node) => segment.session_up(NodeId(*node as u64), now, &mut outbox),
            GatewayEvent::Submit(index) => {
                gateway.asked += 1;
                segment.submit(Token(*index as u64), request(bounds, number, *index), now, &mut outbox);
            }
            GatewayEvent::TimePasses => {}
        }
        segment.tick(now, &mut outbox);
        if segment.is_promised() {
            segment.allow_serving(now, &mut outbox);
        }
        let completions: Vec<Completion> = segment.completions().collect();
        let condemned = segment.status().into_iter().find_map(|voter| match voter.health {
            VoterHealth::Failed(reason) => Some(reason),
            _ => None,
        });
        (completions, condemned)
    });
    let sent = outbox.0.into_iter().map(|(node, message)| (node, Part::new(message))).collect();
    GatewayOutcome { gateway, sent, completions, condemned }
}

/// What a segment wants done, gathered during one call.
#[derive(Default)]
struct Outbox(Vec<(usize, Message)>);

impl Links for Outbox {
    fn send(&mut self, node: NodeId, message: Message) {
        self.0.push((node.0 as usize, message));
    }

    fn credit(&self, _node: NodeId, _extents: u64) -> Credit {
        Credit::Enough
    }

    fn spend(&mut self, _node: NodeId, _extents: u64) {}

    fn cut(&mut self, _node: NodeId, reason: &'static str) {
        panic!("nothing is late enough for {reason:?}");
    }
}

fn on_message(segment: &mut Segment, message: Message, now: Moment, links: &mut dyn Links) {
    match message {
        Message::OpenReply(reply) => segment.on_open_reply(reply, now, links),
        Message::StartEpochReply(reply) => segment.on_start_epoch_reply(&reply, now, links),
        Message::Positions(positions) => {
            positions.replicas.iter().for_each(|position| segment.on_position(position, now, links));
        }
        Message::Refused(refused) => segment.on_refused(&refused, now, links),
        Message::ReadReply(reply) => segment.on_read_reply(reply, now, links),
        Message::ResyncReport(report) => segment.on_resync_report(&report, now, links),
        Message::HeartbeatReply(reply) => {
            let stamp = Moment::from_nanos(reply.stamp);
            reply.granted.iter().for_each(|(replica, _)| segment.on_lease(*replica, stamp, now, links));
        }
        other => panic!("a node does not send {other:?}"),
    }
}

fn request(bounds: &Bounds, gateway: usize, index: usize) -> Request {
    let offset = |block: usize| block as u64 * BLOCK_BYTES;
    match bounds.asks[gateway][index] {
        ask @ (Ask::Write(block) | Ask::Durable(block)) => {
            let data = Bytes::copy_from_slice(&[bounds.write_number(gateway, index)]);
            let operation = Operation::Write { offset: offset(block), checksums: Vec::new(), data };
            Request::Replicate { operation, durable: matches!(ask, Ask::Durable(_)) }
        }
        Ask::Flush => Request::Flush,
        Ask::Read(block) => {
            Request::Read { offset: offset(block), length: BLOCK_BYTES as u32, in_order: false }
        }
    }
}
