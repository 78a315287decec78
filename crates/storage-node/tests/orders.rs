//! Orders of a gateway that has lost the volume and does not know it yet.

#[path = "support/messages.rs"]
mod messages;
mod support;

use messages::{gateway, open, start};
use quoin_storage_node::node::{Node, Output};
use quoin_types::{Epoch, Moment, NodeId, ReplicaId, Seq, SessionId};
use quoin_wire::{Message, Point, Refusal, Resync, ResyncMode, ResyncReport, ResyncState, Source};
use support::{assignment, node};

const NOW: Moment = Moment::ZERO;
const REPLICA: ReplicaId = ReplicaId(1);

/// A gateway opens the replica under an epoch of the same number.
fn opened_by(node: &mut Node, number: u8) -> SessionId {
    let session = node.on_session(gateway(number));
    let open = open(REPLICA, number, Epoch(number.into()));
    node.on_message(session, Message::Open(open), NOW).unwrap();
    session
}

fn order(node: &mut Node, session: SessionId, epoch: u64) -> Vec<Output> {
    let epoch = Epoch(epoch);
    let order = Resync {
        replica: REPLICA,
        epoch,
        mode: ResyncMode::Join,
        common: Point::default(),
        history: start(REPLICA, epoch).history,
        join_at: Seq(8),
        source_mixed: false,
        source: Source { node: NodeId(2), address: "peer".into(), replica: ReplicaId(2) },
    };
    node.outputs();
    node.on_message(session, Message::Resync(order), NOW).unwrap();
    node.outputs()
}

/// Otherwise the replica would wait for ever: its gateway has heard of no end.
#[test]
fn an_order_under_a_former_epoch_does_not_end_the_resync_that_is_under_way() {
    let mut node = node(64);
    node.on_assignments(&[assignment(REPLICA, 16)], NOW).unwrap();
    let former = opened_by(&mut node, 1);
    let session = opened_by(&mut node, 2);
    let begun = order(&mut node, session, 2);
    let pulls = begun.iter().filter(|output| matches!(output, Output::ConnectPeer(..))).count();
    assert_eq!(pulls, 1);

    let refused = order(&mut node, former, 1);
    let state = ResyncState::Failed(Refusal::HigherEpoch(Epoch(2)));
    let is_told = |output: &Output| match output {
        Output::Send(to, Message::ResyncReport(ResyncReport { state: told, .. })) => {
            *to == former && *told == state
        }
        _ => false,
    };
    assert!(refused.iter().any(is_told));
    assert!(!refused.iter().any(|output| matches!(output, Output::ClosePeer(_))));

    let again = order(&mut node, session, 2);
    let closed = again.iter().position(|output| matches!(output, Output::ClosePeer(_)));
    let connected = again.iter().position(|output| matches!(output, Output::ConnectPeer(..)));
    assert!(closed.is_some() && closed < connected, "a new order of the same gateway takes its place");
}
