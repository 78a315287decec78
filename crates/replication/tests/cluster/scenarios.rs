//! Scenarios by name, played in the same world as the random runs.

use crate::run::finish;
use crate::world::{MILLISECOND, Setup, World};
use quoin_types::Durability;

fn quiet_world(seed: u64) -> World {
    let setup = Setup {
        voters: 3,
        spares: 0,
        durability: Durability::Flush,
        retained_bytes_max: 1 << 20,
        delay_max: 200_000,
        peer_delay_max: 200_000,
        fault_gap: 0,
        chaos: 0,
        request_gap: 500_000,
        snapshots: 0,
    };
    let mut world = World::new(setup, seed);
    world.nodes.iter_mut().for_each(|node| node.refuses = false);
    world.run_until(100 * MILLISECOND);
    world
}

/// The storage node of the authority answers `Open` and then hangs, for longer than anyone waits. The other two are not
/// equal to it, so they were told to copy from it; they are a majority and can go on alone.
#[test]
fn an_authority_that_hangs_is_given_up() {
    let mut world = quiet_world(1);
    // Node 0 alone gets the last writes, node 1 fewer, node 2 the fewest: nobody is equal to node 0.
    world.cut_gateway(0, 2, 100 * MILLISECOND);
    world.run_until(world.now + 10 * MILLISECOND);
    world.cut_gateway(0, 1, 100 * MILLISECOND);
    world.run_until(world.now + 10 * MILLISECOND);
    world.stop_gateway(0);
    world.cut_gateway(1, 1, 30 * MILLISECOND);
    world.attach_later(0, true);
    while !world.gateways.get(1).is_some_and(|gateway| gateway.segment.is_promised()) {
        world.run_until(world.now + 50_000);
    }
    world.pause_node(0, 3_000 * MILLISECOND);
    world.run_until(world.now + 1_000 * MILLISECOND);
    assert!(world.gateways[1].segment.is_available(), "{:?}", world.gateways[1].segment);
    finish(&mut world).unwrap();
}

/// Power is lost by all while writes are on their way: what was flushed is there, and the attachment says that it is lossy.
#[test]
fn flushed_writes_survive_the_power() {
    let mut world = quiet_world(2);
    (0..3).for_each(|node| world.stop_node(node, true, 10 * MILLISECOND));
    world.stop_gateway(0);
    world.attach_later(MILLISECOND, true);
    world.run_until(world.now + 500 * MILLISECOND);
    assert!(world.gateways[1].segment.is_lossy() && world.gateways[1].segment.is_available());
    finish(&mut world).unwrap();
}

/// One of three loses power and comes back to the same gateway: nothing is lossy, and it ends settled.
#[test]
fn one_loss_of_power_is_made_good() {
    let mut world = quiet_world(3);
    world.stop_node(1, true, 10 * MILLISECOND);
    world.run_until(world.now + 300 * MILLISECOND);
    assert!(!world.nodes[1].replica.meta().shaken);
    world.stop_gateway(0);
    world.attach_later(0, true);
    finish(&mut world).unwrap();
    assert!(!world.gateways[1].segment.is_lossy());
}
