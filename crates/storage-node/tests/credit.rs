//! Space credits (rule W5): what several gateways are granted of a disk with little room.

use quoin_disk::{Dir, MemDir};
use quoin_replication::Timing;
use quoin_storage_node::node::{Limits, Node, NodeIdentity, Output};
use quoin_store::{Engine, Identity, Options};
use quoin_types::{BootId, ClusterId, DiskId, EXTENT_BYTES, InstanceId, Moment, NodeId};
use quoin_wire::{Message, Speaker};
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const EXTENTS: u64 = 100;

fn node() -> Node {
    let disk = DiskId([1; 16]);
    let dir: Arc<dyn Dir> = Arc::new(MemDir::new());
    let identity = Identity { cluster: CLUSTER, disk, capacity_bytes: EXTENTS * EXTENT_BYTES };
    Engine::format(dir.as_ref(), &identity).unwrap();
    let boot = BootId([1; 16]);
    let options = Options { journal_file_bytes: 64 << 10, journal_files: 4, reserve_bytes: 0 };
    let (engine, opened) = Engine::open(dir, None, boot, options).unwrap();
    let identity = NodeIdentity { cluster: CLUSTER, node: NodeId(1), disk, boot };
    let limits = Limits {
        resync_bytes_per_second: None,
        scrub_bytes_per_second: None,
        scrub_interval: Duration::ZERO,
    };
    Node::new(identity, engine, &opened, limits, Timing::default(), Moment::ZERO).unwrap()
}

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
    let mut node = node();
    let credits: Vec<u64> = (1..=4).map(|gateway| credit_of(&mut node, gateway)).collect();
    assert_eq!(credits, [50, 25, 13, 6]);
    for _ in 0..10 {
        node.tick(Moment::ZERO).unwrap();
    }
    assert!(credit_of(&mut node, 5) > 0, "ticks give nobody more than a half");
    assert!(credits.iter().sum::<u64>() <= EXTENTS, "no more than there is");
}
