//! `cargo xtask bench`: builds what is measured, then runs the package `benches`.

use crate::checks::report;
use crate::tools;
use crate::workspace::{cargo, run};

/// Benchmarks of the whole system, which need the binary.
const WITH_BINARY: [&str; 2] = ["kill", "nbd"];

/// Runs these benchmarks with these options; `true` if all ran to their end.
pub(crate) fn run_all(which: &[&str], options: &[&str]) -> bool {
    if which.contains(&"nbd") && !report("tools", tools::run_for_bench) {
        return false;
    }
    if which.iter().any(|which| WITH_BINARY.contains(which))
        && !report("release build", || run(&mut cargo(&["build", "--release", "--package", "quoin"])))
    {
        return false;
    }
    which.iter().all(|which| {
        report(which, || {
            run(cargo(&["bench", "--quiet", "--package", "benches", "--bench", which, "--"]).args(options))
        })
    })
}
