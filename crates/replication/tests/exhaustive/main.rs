//! Every run of the real state machines within small bounds: three replicas, two gateways of which the second takes over,
//! a few writes and reads, and a fault or two.
//!
//! Each session keeps order and is independent of the others; every action that is possible is tried in every state. A
//! state that was met before is not gone through again. `QUOIN_EXHAUSTIVE=1` explores larger bounds too, for which an
//! optimized build is meant, and `QUOIN_BOUNDS=<words>` those whose name has the words.

mod actions;
mod apply;
mod bounds;
mod check;
mod digest;
mod explore;
mod machines;
mod node;
mod state;

use state::Bounds;

fn run(all: &[Bounds]) {
    let words = std::env::var("QUOIN_BOUNDS").unwrap_or_default();
    let mut sum = (0, 0);
    for bounds in all.iter().filter(|bounds| bounds.name.contains(&words)) {
        match explore::explore(bounds) {
            Ok(count) => {
                println!("{}: {count}", bounds.name);
                sum = (sum.0 + count.states, sum.1 + count.transitions);
            }
            Err(problem) => panic!("{}: {problem}", bounds.name),
        }
    }
    println!("in all {} states, {} transitions", sum.0, sum.1);
}

#[test]
fn every_run_within_small_bounds() {
    run(&bounds::SMALL);
}

#[test]
fn every_run_within_larger_bounds() {
    if std::env::var_os("QUOIN_EXHAUSTIVE").is_some() {
        run(&bounds::LARGE);
    }
}
