//! What may happen next.

use crate::node::Pull;
use crate::state::{Bounds, GATEWAYS, Gateway, NODES, State};

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
        if state.left.breaks > 0 && link.open {
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
        (Some(Pull::Question(question)), Some(source))
            if state.nodes[source].get().answer(question).is_some() =>
        {
            actions.push(Action::Asked(node));
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
