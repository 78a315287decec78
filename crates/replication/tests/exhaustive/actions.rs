//! What may happen next, and what then is.

use crate::node::{Pull, Sent};
use crate::state::{Ask, Bounds, GATEWAYS, Gateway, NODES, Part, State, gateway_config, instance_of};
use bytes::Bytes;
use quoin_replication::writer::{Completion, Credit, Links, Operation, Request, Segment, Token};
use quoin_types::{BLOCK_BYTES, Moment, NodeId, SessionId};
use quoin_wire::{Heartbeat, Message};

/// One step. Gateways and nodes by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// The gateway is given its epoch, and begins to attach.
    Attach(usize),
    /// Its client asks the next thing.
    Submit(usize),
    /// The first message of the session arrives.
    ToNode {
        gateway: usize,
        node: usize,
    },
    ToGateway {
        gateway: usize,
        node: usize,
    },
    /// All that the node wrote becomes durable.
    Sync(usize),
    /// The question of a replica that pulls reaches its peer; the answer reaches it.
    Asked(usize),
    Answered(usize),
    PullBreaks(usize),
    SessionBreaks {
        gateway: usize,
        node: usize,
    },
    Crash(usize),
    /// So many records that were not durable are left.
    PowerLoss {
        node: usize,
        kept: usize,
    },
    /// All lose all that was not durable, except perhaps one, which keeps it.
    PowerLossOfAll {
        lucky: Option<usize>,
    },
    Heartbeats(usize),
    Tick,
}

/// All that may happen in a state.
pub(crate) fn enabled(state: &State, bounds: &Bounds) -> Vec<Action> {
    let mut actions = Vec::with_capacity(16);
    for gateway in 0..GATEWAYS {
        gateway_actions(state, bounds, gateway, &mut actions);
    }
    for node in 0..NODES {
        node_actions(state, node, &mut actions);
    }
    if state.left.powers_of_all > 0 {
        actions.push(Action::PowerLossOfAll { lucky: None });
        let unsynced = |node: &usize| state.nodes[*node].get().tail() > 0;
        actions.extend((0..NODES).filter(unsynced).map(|node| Action::PowerLossOfAll { lucky: Some(node) }));
    }
    if state.left.ticks > 0 {
        actions.push(Action::Tick);
    }
    actions
}

fn gateway_actions(state: &State, bounds: &Bounds, gateway: usize, actions: &mut Vec<Action>) {
    let Some(part) = &state.gateways[gateway] else {
        if gateway == 0 || bounds.takeover {
            actions.push(Action::Attach(gateway));
        }
        return;
    };
    if part.get().segment.is_fenced() {
        return;
    }
    let Gateway { segment, asked } = part.get();
    // Before, what is asked only waits: asked when it begins to serve is the same.
    if *asked < bounds.asks[gateway].len() && segment.is_available() {
        actions.push(Action::Submit(gateway));
    }
    if state.left.heartbeats[gateway] > 0 && segment.is_available() {
        actions.push(Action::Heartbeats(gateway));
    }
    for (node, link) in state.links[gateway].iter().enumerate() {
        if !link.to_node.is_empty() {
            actions.push(Action::ToNode { gateway, node });
        }
        if !link.to_gateway.is_empty() {
            actions.push(Action::ToGateway { gateway, node });
        }
        if state.left.breaks > 0 {
            actions.push(Action::SessionBreaks { gateway, node });
        }
    }
}

fn node_actions(state: &State, node: usize, actions: &mut Vec<Action>) {
    let this = state.nodes[node].get();
    if this.needs_sync() {
        actions.push(Action::Sync(node));
    }
    match (&this.pull, this.source()) {
        (Some(Pull::Question(question)), Some(source)) => {
            if state.nodes[source].get().answer(question).is_some() {
                actions.push(Action::Asked(node));
            }
        }
        (Some(Pull::Answer(_)), _) => actions.push(Action::Answered(node)),
        _ => {}
    }
    if this.pull.is_some() && state.left.pulls > 0 {
        actions.push(Action::PullBreaks(node));
    }
    if state.left.crashes > 0 {
        actions.push(Action::Crash(node));
    }
    if state.left.powers > 0 {
        actions.extend((0..=this.tail()).map(|kept| Action::PowerLoss { node, kept }));
    }
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

/// Takes an action; `Err` tells which rule is broken.
pub(crate) fn apply(state: &mut State, bounds: &Bounds, action: Action) -> Result<(), String> {
    let left = &mut state.left;
    match action {
        Action::Attach(gateway) => {
            let segment = Segment::new(gateway_config(bounds, gateway), state.now());
            state.gateways[gateway] = Some(Part::new(Gateway { segment, asked: 0 }));
            (0..NODES).try_for_each(|node| session_begins(state, bounds, gateway, node))
        }
        Action::Submit(gateway) => submit(state, bounds, gateway),
        Action::ToNode { gateway, node } => {
            let link = &mut state.links[gateway][node];
            let (session, letter) = (link.session, link.to_node.remove(0));
            to_node(state, bounds, node, session, letter.get().clone())
        }
        Action::ToGateway { gateway, node } => {
            let letter = state.links[gateway][node].to_gateway.remove(0);
            let message = letter.get().clone();
            in_gateway(state, bounds, gateway, |segment, now, links| on_message(segment, message, now, links))
        }
        Action::Sync(node) => in_node(state, bounds, node, |node, out| node.sync(out)),
        Action::Asked(node) => {
            let this = state.nodes[node].get();
            let (Some(Pull::Question(question)), Some(source)) = (&this.pull, this.source()) else {
                return Err("nothing was asked".into());
            };
            let answer = state.nodes[source].get().answer(question).map(Pull::Answer);
            state.nodes[node].change(|node| node.pull = answer);
            Ok(())
        }
        Action::Answered(node) => in_node(state, bounds, node, |node, out| node.on_answer(out)),
        Action::PullBreaks(node) => {
            left.pulls -= 1;
            in_node(state, bounds, node, |node, out| node.fail_pull(out))
        }
        Action::SessionBreaks { gateway, node } => {
            left.breaks -= 1;
            session_begins(state, bounds, gateway, node)
        }
        Action::Crash(node) => {
            left.crashes -= 1;
            restart(state, bounds, node, None)
        }
        Action::PowerLoss { node, kept } => {
            left.powers -= 1;
            restart(state, bounds, node, Some(kept))
        }
        Action::PowerLossOfAll { lucky } => {
            left.powers_of_all -= 1;
            let kept = |node| if lucky == Some(node) { usize::MAX } else { 0 };
            (0..NODES).try_for_each(|node| restart(state, bounds, node, Some(kept(node))))
        }
        Action::Heartbeats(gateway) => {
            left.heartbeats[gateway] -= 1;
            heartbeats(state, gateway);
            Ok(())
        }
        Action::Tick => {
            left.ticks -= 1;
            state.ticks += 1;
            let attached = |gateway: &usize| state.gateways[*gateway].is_some();
            let attached: Vec<usize> = (0..GATEWAYS).filter(attached).collect();
            attached.into_iter().try_for_each(|gateway| in_gateway(state, bounds, gateway, |_, _, _| {}))
        }
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

/// A new session of a gateway and a node, instead of the one before.
fn session_begins(state: &mut State, bounds: &Bounds, gateway: usize, node: usize) -> Result<(), String> {
    state.sessions += 1;
    let session = SessionId(state.sessions);
    let link = &mut state.links[gateway][node];
    link.clear();
    (link.open, link.session) = (true, session);
    in_gateway(state, bounds, gateway, |segment, now, links| {
        segment.session_up(NodeId(node as u64), now, links);
    })
}

fn submit(state: &mut State, bounds: &Bounds, gateway: usize) -> Result<(), String> {
    let part = state.gateways[gateway].as_mut().expect("only a gateway that serves is asked");
    let index = part.change(|this| {
        this.asked += 1;
        this.asked - 1
    });
    let ask = bounds.asks[gateway][index];
    let number = bounds.write_number(gateway, index);
    state.seen.change(|seen| seen.submitted(bounds, gateway, index));
    let offset = |block: usize| block as u64 * BLOCK_BYTES;
    let request = match ask {
        Ask::Write(block) | Ask::Durable(block) => {
            let data = Bytes::copy_from_slice(&[number]);
            let operation = Operation::Write { offset: offset(block), checksums: Vec::new(), data };
            Request::Replicate { operation, durable: matches!(ask, Ask::Durable(_)) }
        }
        Ask::Flush => Request::Flush,
        Ask::Read(block) => Request::Read { offset: offset(block), length: BLOCK_BYTES as u32 },
    };
    in_gateway(state, bounds, gateway, |segment, now, links| {
        segment.submit(Token(index as u64), request, now, links);
    })
}

/// Something happens at a gateway; then what it wants is done, and its clients hear of it.
fn in_gateway(
    state: &mut State,
    bounds: &Bounds,
    gateway: usize,
    event: impl FnOnce(&mut Segment, Moment, &mut dyn Links),
) -> Result<(), String> {
    let now = state.now();
    let mut outbox = Outbox::default();
    let Some(part) = state.gateways[gateway].as_mut() else { return Ok(()) };
    let completions: Vec<Completion> = part.change(|this| {
        let segment = &mut this.segment;
        event(segment, now, &mut outbox);
        segment.tick(now, &mut outbox);
        if segment.is_promised() {
            segment.allow_serving(now, &mut outbox);
        }
        segment.completions().collect()
    });
    for (node, message) in outbox.0 {
        state.seen.change(|seen| seen.sent(&message, part.get().segment.is_lossy()))?;
        let link = &mut state.links[gateway][node];
        if link.open {
            link.to_node.push(crate::state::letter(message));
        }
    }
    if part.get().segment.is_fenced() {
        // What it has sent may still arrive; it did so before it was fenced, in another run.
        state.links[gateway].iter_mut().for_each(|link| {
            link.clear();
            link.open = false;
        });
    }
    if !completions.is_empty() {
        let nodes = &state.nodes;
        state.seen.change(|seen| {
            completions.iter().try_for_each(|completion| seen.completed(bounds, nodes, gateway, completion))
        })?;
    }
    Ok(())
}

fn to_node(
    state: &mut State,
    bounds: &Bounds,
    node: usize,
    session: SessionId,
    message: Message,
) -> Result<(), String> {
    let now = state.now();
    in_node(state, bounds, node, |node, out| node.on_message(session, message, now, out))
}

/// Something happens at a node; then what it says goes on its way.
fn in_node(
    state: &mut State,
    bounds: &Bounds,
    node: usize,
    event: impl FnOnce(&mut crate::node::Node, &mut Vec<Sent>),
) -> Result<(), String> {
    let mut out = Vec::new();
    state.nodes[node].change(|node| {
        event(node, &mut out);
        if !bounds.syncs && node.needs_sync() {
            node.sync(&mut out);
        }
    });
    for (_, message) in &out {
        if let Message::OpenReply(reply) = message
            && reply.result.is_ok()
        {
            state.seen.change(|seen| seen.promised(node, reply.epoch));
        }
    }
    state.deliver(node, out);
    Ok(())
}

/// A node's process ends and starts again: its sessions and pulls break, and those of it.
fn restart(state: &mut State, bounds: &Bounds, node: usize, kept: Option<usize>) -> Result<(), String> {
    let (now, timing) = (state.now(), bounds.timing());
    let lost = kept.is_some_and(|kept| kept < state.nodes[node].get().tail());
    if lost {
        state.seen.change(|seen| seen.lost_power());
    }
    in_node(state, bounds, node, |node, _| node.restart(kept, now, timing))?;
    for other in 0..NODES {
        if state.nodes[other].get().source() == Some(node) {
            in_node(state, bounds, other, |node, out| node.fail_pull(out))?;
        }
    }
    for gateway in 0..GATEWAYS {
        if state.links[gateway][node].open {
            session_begins(state, bounds, gateway, node)?;
        }
    }
    Ok(())
}

fn heartbeats(state: &mut State, gateway: usize) {
    let Some(part) = &state.gateways[gateway] else { return };
    let segment = &part.get().segment;
    let instance = instance_of(gateway);
    let beats: Vec<(usize, Message)> = (0..NODES)
        .filter_map(|node| {
            let replicas: Vec<_> = segment.leases_wanted(NodeId(node as u64)).collect();
            let beat = Heartbeat { stamp: state.now().as_nanos(), instance, replicas };
            (!beat.replicas.is_empty()).then_some((node, Message::Heartbeat(beat)))
        })
        .collect();
    beats.into_iter().for_each(|(node, beat)| state.post(gateway, node, beat));
}
