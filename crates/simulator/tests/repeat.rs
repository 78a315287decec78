//! The simulator itself: the same seed gives the same run, here and in another process, and another seed another one.

use quoin_simulator::{Scenario, Trace, run};
use std::process::Command;

fn digest(scenario: &str, seed: u64) -> (u64, u64, u64) {
    let run = run(&Scenario::named(scenario).unwrap(), seed, Trace::default());
    assert_eq!(run.problem, None, "scenario {scenario}, seed {seed}");
    (run.digest, run.events, run.answered)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for scenario in ["default", "power", "wipes", "replacements", "rot", "moments"] {
        for seed in 1..4 {
            assert_eq!(digest(scenario, seed), digest(scenario, seed), "scenario {scenario}, seed {seed}");
        }
        assert_ne!(digest(scenario, 1), digest(scenario, 2), "scenario {scenario}");
    }
}

#[test]
fn another_process_runs_a_seed_in_the_same_way() {
    let output = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quoin-sim"));
        let output = command.args(["--seed", "7", "--scenario", "default"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("seed 7:")).map(str::to_owned);
        (line.expect("a line that tells of the run"), output.status.success())
    };
    let (line, succeeded) = output();
    assert!(succeeded, "{line}");
    assert_eq!(output(), (line, true));
}
