//! What an action does to the whole.

use crate::actions::Action;
use crate::machines::{GatewayEvent, Machines, NodeEvent};
use crate::node::Pull;
use crate::state::{GATEWAYS, Gateway, NODES, Part, State, gateway_config, instance_of};
use quoin_replication::writer::Segment;
use quoin_types::{NodeId, SessionId};
use quoin_wire::{Heartbeat, Message};

/// Takes an action; `Err` tells which rule is broken.
pub(crate) fn apply(state: &mut State, machines: &mut Machines<'_>, action: Action) -> Result<(), String> {
    let left = &mut state.left;
    match action {
        Action::Attach(gateway) => {
            let segment = Segment::new(gateway_config(machines.bounds, gateway), state.now());
            state.gateways[gateway] = Some(Part::new(Gateway { segment, asked: 0 }));
            let bounds = machines.bounds;
            (0..NODES)
                .filter(|node| bounds.reaches(gateway, *node))
                .try_for_each(|node| session_begins(state, machines, gateway, node))
        }
        Action::Submit(gateway) => {
            let Some(part) = &state.gateways[gateway] else { return Ok(()) };
            let index = part.get().asked;
            state.seen.change(|seen| seen.submitted(machines.bounds, gateway, index));
            in_gateway(state, machines, gateway, &GatewayEvent::Submit(index))
        }
        Action::ToNode { gateway, node } => {
            let link = &mut state.links[gateway][node];
            let arrives = NodeEvent::Arrives(link.session, link.to_node.remove(0));
            in_node(state, machines, node, &arrives);
            Ok(())
        }
        Action::ToGateway { gateway, node } => {
            let letter = state.links[gateway][node].to_gateway.remove(0);
            in_gateway(state, machines, gateway, &GatewayEvent::Arrives(letter))
        }
        Action::Sync(node) => {
            in_node(state, machines, node, &NodeEvent::Sync);
            Ok(())
        }
        Action::Asked(node) => {
            let this = state.nodes[node].get();
            if let (Some(Pull::Question(question)), Some(source)) = (&this.pull, this.source())
                && let Some(answer) = state.nodes[source].get().answer(question)
            {
                in_node(state, machines, node, &NodeEvent::PeerAnswers(Part::new(answer)));
            }
            Ok(())
        }
        Action::Answered(node) => {
            in_node(state, machines, node, &NodeEvent::AnswerArrives);
            Ok(())
        }
        Action::PullBreaks(node) => {
            left.pulls -= 1;
            in_node(state, machines, node, &NodeEvent::PullBreaks);
            Ok(())
        }
        Action::SessionBreaks { gateway, node } => {
            left.breaks -= 1;
            session_begins(state, machines, gateway, node)
        }
        Action::Crash(node) => {
            left.crashes -= 1;
            restart(state, machines, node, None)
        }
        Action::PowerLoss { node, kept } => {
            left.powers -= 1;
            restart(state, machines, node, Some(kept))
        }
        Action::PowerLossOfAll { lucky } => {
            left.powers_of_all -= 1;
            let kept = |node: usize, state: &State| {
                if lucky == Some(node) { state.nodes[node].get().tail() } else { 0 }
            };
            (0..NODES).try_for_each(|node| restart(state, machines, node, Some(kept(node, state))))
        }
        Action::Heartbeats(gateway) => {
            left.heartbeats[gateway] -= 1;
            heartbeats(state, gateway);
            Ok(())
        }
        Action::Tick => {
            left.ticks -= 1;
            state.ticks += 1;
            (0..GATEWAYS)
                .try_for_each(|gateway| in_gateway(state, machines, gateway, &GatewayEvent::TimePasses))
        }
    }
}

/// A new session of a gateway and a node, instead of the one before.
fn session_begins(
    state: &mut State,
    machines: &mut Machines<'_>,
    gateway: usize,
    node: usize,
) -> Result<(), String> {
    state.sessions += 1;
    let link = &mut state.links[gateway][node];
    link.clear();
    (link.open, link.session) = (true, SessionId(state.sessions));
    in_gateway(state, machines, gateway, &GatewayEvent::SessionUp(node))
}

/// Something happens at a gateway; then what it wants is done, and its clients hear of it.
fn in_gateway(
    state: &mut State,
    machines: &mut Machines<'_>,
    gateway: usize,
    event: &GatewayEvent,
) -> Result<(), String> {
    let now = state.now();
    let Some(part) = &state.gateways[gateway] else { return Ok(()) };
    if part.get().segment.is_fenced() {
        return Ok(());
    }
    let outcome = machines.gateway(part, gateway, event, now);
    let segment = &outcome.gateway.get().segment;
    for (node, letter) in &outcome.sent {
        if state.seen.get().is_news(letter.get()) {
            state.seen.change(|seen| seen.sent(letter.get(), segment.is_lossy()))?;
        }
        state.post_to_node(gateway, *node, letter);
    }
    if segment.is_fenced() {
        // What it has sent may still arrive: in another run it does so before the gateway is fenced.
        for link in &mut state.links[gateway] {
            link.clear();
            link.open = false;
        }
    }
    state.gateways[gateway] = Some(outcome.gateway.clone());
    if let Some(reason) = &outcome.condemned {
        return Err(format!("an honest voter is condemned: {reason}"));
    }
    if !outcome.completions.is_empty() {
        let (nodes, bounds) = (&state.nodes, machines.bounds);
        let completed =
            |completion| state.seen.change(|seen| seen.completed(bounds, nodes, gateway, completion));
        outcome.completions.iter().try_for_each(completed)?;
    }
    Ok(())
}

/// Something happens at a node; then what it says goes on its way.
fn in_node(state: &mut State, machines: &mut Machines<'_>, node: usize, event: &NodeEvent) {
    // When no power can be lost any more, a late sync only delays answers, as a slow message does.
    let sync_at_once = state.left.powers == 0 && state.left.powers_of_all == 0;
    let outcome = machines.node(&state.nodes[node], event, sync_at_once, state.now());
    for (session, letter) in &outcome.sent {
        if let Message::OpenReply(reply) = letter.get()
            && reply.result.is_ok()
        {
            state.seen.change(|seen| seen.promised(node, reply.epoch));
        }
        state.post_to_gateway(node, *session, letter);
    }
    state.nodes[node] = outcome.node.clone();
}

/// A node's process ends and starts again: its sessions and pulls break, and those of it.
fn restart(
    state: &mut State,
    machines: &mut Machines<'_>,
    node: usize,
    kept: Option<usize>,
) -> Result<(), String> {
    if kept.is_some_and(|kept| kept < state.nodes[node].get().tail()) {
        state.seen.change(|seen| seen.lost_power());
    }
    in_node(state, machines, node, &NodeEvent::Restart(kept));
    for other in 0..NODES {
        if state.nodes[other].get().source() == Some(node) {
            in_node(state, machines, other, &NodeEvent::PullBreaks);
        }
    }
    for gateway in 0..GATEWAYS {
        if state.links[gateway][node].open {
            session_begins(state, machines, gateway, node)?;
        }
    }
    Ok(())
}

fn heartbeats(state: &mut State, gateway: usize) {
    let Some(part) = state.gateways[gateway].clone() else { return };
    for node in 0..NODES {
        let replicas: Vec<_> = part.get().segment.leases_wanted(NodeId(node as u64)).collect();
        if !replicas.is_empty() {
            let beat = Heartbeat { stamp: state.now().as_nanos(), instance: instance_of(gateway), replicas };
            state.post_to_node(gateway, node, &Part::new(Message::Heartbeat(beat)));
        }
    }
}
