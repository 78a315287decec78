//! `cargo xtask sim`: the simulator, built as fast as it can be, with what is asked of it; and the seeds that `cargo xtask test` tries.

use crate::workspace;
use std::num::NonZero;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Seeds that nobody has tried, for each state of the crates.
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

/// Runs it; an error if anything failed.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let mut command =
        workspace::cargo(&["run", "--quiet", "--profile", "sim", "--package", "quoin-simulator", "--"]);
    workspace::run(command.args(arguments))
}

/// The seeds that once found something, and fresh ones: the same for all who try the same crates, so that what passes here
/// passes there. All scenarios run, whichever failed. In the profile of the unit tests, which have built nearly all of it: it
/// runs a third as fast as [`run`] does, for less than that takes to build.
pub(crate) fn check() -> Result<(), String> {
    let mut build = workspace::cargo(&["build", "--quiet", "--package", "quoin-simulator", "--target-dir"]);
    workspace::run(build.arg(workspace::target()).env_remove("CARGO_BUILD_TARGET"))?;
    let from = crates().as_deref().and_then(first_seed).map(|seed| seed.to_string());
    let mut runs = vec![vec!["--regressions", "crates/simulator/seeds.txt"]];
    for (scenario, seeds) in FRESH_SEEDS {
        let from = from.iter().flat_map(|seed| ["--from", seed]);
        runs.push(["--scenario", scenario, "--seeds", seeds].into_iter().chain(from).collect());
    }
    let (runs, failed) = (Mutex::new(runs.into_iter()), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(arguments) = next(&runs) {
                    failed.fetch_add(usize::from(!simulate(&arguments)), Ordering::Relaxed);
                }
            });
        }
    });
    match failed.into_inner() {
        0 => Ok(()),
        failed => Err(format!("{failed} of its runs: see above for the seeds, and how to repeat them")),
    }
}

fn next<T>(of: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    of.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Runs what has been built, and shows what it said in one piece; `true` if nothing failed.
fn simulate(arguments: &[&str]) -> bool {
    let binary = workspace::target().join("debug/quoin-sim");
    match Command::new(&binary).args(arguments).current_dir(workspace::root()).output() {
        Ok(ran) => {
            print!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            ran.status.success()
        }
        Err(error) => {
            println!("{} cannot be started: {error}", binary.display());
            false
        }
    }
}

/// What git calls the crates of the commit that is checked out, in hexadecimal digits. `None` in a tree without history: its seeds
/// are anybody's.
fn crates() -> Option<String> {
    let asked = Command::new("git")
        .args(["rev-parse", "HEAD:crates"])
        .current_dir(workspace::root())
        .output()
        .ok()?;
    asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).trim().to_owned())
}

/// The first of their fresh seeds: the leading 48 bits.
fn first_seed(name: &str) -> Option<u64> {
    u64::from_str_radix(name.get(..12)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_of_the_crates_has_seeds_of_its_own() {
        assert_eq!(first_seed("0000000000ff5cd8e22d2a9cd0a5d8ad29ad7d28"), Some(255));
        assert_ne!(first_seed("a71c90c00000"), first_seed("a71c90c00001"));
        assert_eq!(first_seed("no commit"), None);
    }
}
