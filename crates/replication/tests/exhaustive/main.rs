//! Every run of the real state machines within small bounds: three replicas, two gateways, a few writes and reads.

mod actions;
mod check;
mod digest;
mod explore;
mod node;
mod state;

use explore::explore;
use quoin_types::Durability;
use state::{Ask, Bounds, Faults};

const NONE: Faults =
    Faults { breaks: 0, crashes: 0, powers: 0, powers_of_all: 0, pulls: 0, ticks: 0, heartbeats: [0, 0] };

const TAKEOVER: Bounds = Bounds {
    name: "takeover",
    asks: [&[Ask::Write(0)], &[Ask::Write(0)]],
    served: true,
    takeover: true,
    syncs: false,
    durability: Durability::Flush,
    retained_bytes_max: 1 << 20,
    hedged: false,
    faults: NONE,
};

fn run(bounds: Bounds) {
    let begun = std::time::Instant::now();
    match explore(&bounds) {
        Ok(count) => println!("{}: {count:?} in {:?}", bounds.name, begun.elapsed()),
        Err(problem) => panic!("{problem}"),
    }
}

#[test]
fn takeover() {
    run(TAKEOVER);
}
