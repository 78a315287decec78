//! `cargo xtask sim`: the simulator, built as fast as it can be, with what is asked of it.

use crate::workspace;

/// Seeds that nobody has tried, each time everything is tested.
const FRESH_SEEDS: [(&str, &str); 13] = [
    ("default", "700"),
    ("moments", "300"),
    ("power", "200"),
    ("takeovers", "200"),
    ("wipes", "200"),
    ("replacements", "200"),
    ("stewards", "100"),
    ("shrink", "100"),
    ("tails", "100"),
    ("rollbacks", "100"),
    ("snapshots", "100"),
    ("full", "100"),
    ("trouble", "100"),
];

/// Runs it; `true` if nothing failed.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let mut command =
        workspace::cargo(&["run", "--quiet", "--profile", "sim", "--package", "quoin-simulator", "--"]);
    workspace::run(command.args(arguments))
}

/// The seeds that once found something, and fresh ones.
pub(crate) fn check() -> Result<(), String> {
    run(&["--regressions", "crates/simulator/seeds.txt"])?;
    FRESH_SEEDS.iter().try_for_each(|(scenario, seeds)| run(&["--seeds", seeds, "--scenario", scenario]))
}
