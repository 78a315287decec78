//! Space credits (rule W5): what several gateways are granted of a disk with little room.

mod support;

use quoin_storage_node::node::{Node, Output};
use quoin_types::{InstanceId, Moment};
use quoin_wire::{Message, Speaker};
use support::node;

const EXTENTS: u64 = 100;

/// A new gateway's credit.
fn credit_of(node: &mut Node, gateway: u8) -> u64 {
    let session = node.on_session(Speaker::Gateway(InstanceId([gateway; 16])));
    let told = node.outputs().into_iter().filter_map(|output| match output {
        Output::Send(to, Message::Positions(positions)) if to == session => Some(positions.credit),
        _ => None,
    });
    told.last().expect("a new session is told its credit")
}

#[test]
fn a_gateway_that_uses_nothing_leaves_some_for_others() {
    let mut node = node(EXTENTS);
    let credits: Vec<u64> = (1..=4).map(|gateway| credit_of(&mut node, gateway)).collect();
    assert_eq!(credits, [50, 25, 13, 6]);
    for _ in 0..10 {
        node.tick(Moment::ZERO).unwrap();
    }
    assert!(credit_of(&mut node, 5) > 0, "ticks give nobody more than a half");
    assert!(credits.iter().sum::<u64>() <= EXTENTS, "no more than there is");
}
