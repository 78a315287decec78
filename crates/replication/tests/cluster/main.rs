//! A deterministic cluster around the real protocol: replicas, gateways, clients, faults, and checks of what clients saw.
//!
//! `QUOIN_SEEDS=50000` runs more seeds, `QUOIN_SEED=17` one, `QUOIN_TRACE=1` prints its events.

mod checker;
mod gateway;
mod node;
mod rng;
mod run;
mod scenarios;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_clusters_keep_every_promise() {
    if let Some(seed) = number("QUOIN_SEED") {
        run::run(seed).unwrap();
        return;
    }
    let first = number("QUOIN_SEED_FROM").unwrap_or(0);
    let seeds = number("QUOIN_SEEDS").unwrap_or(8_000);
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run::run(seed)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => failures.push(format!("seed {seed}: {problem}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                failures.push(format!("seed {seed}: a panic: {}", text.unwrap_or_default()));
            }
        }
        if failures.len() >= 5 {
            break;
        }
    }
    assert!(failures.is_empty(), "run one with QUOIN_SEED=n QUOIN_TRACE=1\n{}", failures.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run::fingerprint(7), run::fingerprint(7));
    assert_ne!(run::fingerprint(7), run::fingerprint(8));
}
