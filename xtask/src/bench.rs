//! `cargo xtask bench`: builds what is measured, then runs the package `benches`.

use crate::checks::report;
use crate::workspace::{cargo, run};

/// Runs these benchmarks; `true` if all ran to their end.
pub(crate) fn run_all(which: &[&str]) -> bool {
    if which.contains(&"kill")
        && !report("release build", || run(&mut cargo(&["build", "--release", "--package", "quoin"])))
    {
        return false;
    }
    which.iter().all(|which| {
        report(which, || run(&mut cargo(&["bench", "--quiet", "--package", "benches", "--bench", which])))
    })
}
