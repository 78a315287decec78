//! `cargo xtask sim`: the simulator, built as fast as it can be, with what is asked of it.

use crate::workspace;
use std::process::Command;

/// Seeds that nobody has tried, for each commit.
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

/// The seeds that once found something, and fresh ones: the same for all who try one commit, so that what passes here passes
/// there. All scenarios run, whichever failed.
pub(crate) fn check() -> Result<(), String> {
    run(&["--regressions", "crates/simulator/seeds.txt"])?;
    let first = commit().as_deref().and_then(first_seed).map(|seed| seed.to_string());
    let from: Vec<&str> = first.iter().flat_map(|seed| ["--from", seed]).collect();
    let failed = FRESH_SEEDS.iter().filter(|(scenario, seeds)| {
        run(&[&["--seeds", seeds, "--scenario", scenario], from.as_slice()].concat()).is_err()
    });
    match failed.map(|(scenario, _)| *scenario).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => Ok(()),
        failed => Err(format!("a seed of {failed}: see above how to repeat it")),
    }
}

/// The commit that is checked out, in hexadecimal digits. `None` in a tree without history: its seeds are anybody's.
fn commit() -> Option<String> {
    let asked =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(workspace::root()).output().ok()?;
    asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).trim().to_owned())
}

/// The first of a commit's fresh seeds: its leading 48 bits.
fn first_seed(commit: &str) -> Option<u64> {
    u64::from_str_radix(commit.get(..12)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_seeds_of_its_own() {
        assert_eq!(first_seed("0000000000ff5cd8e22d2a9cd0a5d8ad29ad7d28"), Some(255));
        assert_ne!(first_seed("a71c90c00000"), first_seed("a71c90c00001"));
        assert_eq!(first_seed("no commit"), None);
    }
}
