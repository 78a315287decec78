//! `cargo xtask test`: everything that must hold, step by step, and at the end what failed of it.

use crate::libtest::{self, Times};
use crate::outcome::Outcome;
use crate::{clock, lint, sim, tools, workspace};
use std::time::Duration;

/// All steps. A step that fails does not keep the others from running, unless they need it. The last lines tell what failed, and
/// how many tests and checks passed and failed; `true` if none failed.
pub(crate) fn run() -> bool {
    let begun = clock::now();
    let mut total = step("tools: what the end-to-end tests need", || check(tools::run()));
    if total.has_passed() {
        total = total
            .and(step("lint: the house rules", || check(lint::run())))
            .and(step("format", || {
                check(workspace::run(&mut workspace::cargo(&["fmt", "--all", "--check"])))
            }))
            .and(step("clippy", || check(workspace::run(&mut workspace::cargo(&CLIPPY)))))
            .and(step("unit and property tests", || {
                libtest::run(&mut workspace::cargo(&UNIT_TESTS), Times::Hidden)
            }))
            .and(step("simulator: known seeds and fresh ones", || check(sim::check())))
            .and(end_to_end());
    }
    println!("\n{} in all", minutes(begun.elapsed()));
    if total.ignored > 0 {
        println!("{} marked as measurements were not run", total.ignored);
    }
    for failure in &total.failures {
        println!("FAILED: {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failures.len());
    total.has_passed()
}

const CLIPPY: [&str; 6] = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-Dwarnings"];
const UNIT_TESTS: [&str; 5] = ["test", "--workspace", "--exclude", "quoin-e2e", "--no-fail-fast"];
const BUILD: [&str; 4] = ["build", "--release", "--package", "quoin"];
/// One at a time: they measure. The debug profile, whose dependencies the unit tests have built already.
const END_TO_END: [&str; 6] = ["test", "--package", "quoin-e2e", "--", "--test-threads=1", "--show-output"];

fn end_to_end() -> Outcome {
    let built = step("release build", || check(workspace::run(&mut workspace::cargo(&BUILD))));
    if !built.has_passed() {
        return built
            .and(step("end-to-end tests", || Outcome::failed("there is nothing to test".to_owned())));
    }
    built.and(step("end-to-end tests", || libtest::run(&mut workspace::cargo(&END_TO_END), Times::Shown)))
}

/// A single step by itself.
pub(crate) fn report(name: &str, run: impl FnOnce() -> Result<(), String>) -> bool {
    step(name, || check(run())).has_passed()
}

fn step(name: &str, run: impl FnOnce() -> Outcome) -> Outcome {
    println!("\n==== {name}");
    let begun = clock::now();
    let mut outcome = run();
    let word = if outcome.has_passed() { "passed" } else { "FAILED" };
    println!("==== {name}: {word} in {}", minutes(begun.elapsed()));
    for failure in &mut outcome.failures {
        *failure = format!("{name}: {failure}");
    }
    outcome
}

fn check(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome { passed: 1, ..Outcome::default() },
        Err(reason) => {
            println!("{reason}");
            Outcome::failed(reason)
        }
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_named_with_its_step() {
        let total = step("one", || check(Ok(()))).and(step("two", || Outcome::failed("bad".to_owned())));
        assert_eq!(total, Outcome { passed: 1, ignored: 0, failures: vec!["two: bad".to_owned()] });
        assert!(!total.has_passed() && Outcome::default().has_passed());
        assert_eq!(minutes(Duration::from_secs(61)), "1 min 1 s");
    }
}
