//! `cargo xtask test`: everything that must hold, step by step, and one line that sums it up.

use crate::{clock, lint, sim, tools, workspace};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a step has found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Count {
    passed: u64,
    failed: u64,
    /// Marked `#[ignore]` in the source: measurements, not checks.
    ignored: u64,
}

impl Count {
    const PASSED: Count = Count { passed: 1, failed: 0, ignored: 0 };
    const FAILED: Count = Count { passed: 0, failed: 1, ignored: 0 };

    fn and(self, other: Count) -> Count {
        Count {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

/// All steps. A step that fails does not keep the others from running, unless they need it. The last line tells how many
/// tests and checks passed and failed; `true` if none failed.
pub(crate) fn run() -> bool {
    let begun = clock::now();
    let mut total = step("tools: what the end-to-end tests need", || check(tools::run()));
    if total.failed == 0 {
        total = total
            .and(step("lint: the house rules", || check(lint::run())))
            .and(step("format", || {
                check(workspace::run(&mut workspace::cargo(&["fmt", "--all", "--check"])))
            }))
            .and(step("clippy", || check(workspace::run(&mut workspace::cargo(&CLIPPY)))))
            .and(step("unit and property tests", || tests(&mut workspace::cargo(&UNIT_TESTS), Times::Hidden)))
            .and(step("simulator: known seeds and a thousand fresh ones", || check(sim::check())))
            .and(end_to_end());
    }
    println!("\n{} in all", minutes(begun.elapsed()));
    if total.ignored > 0 {
        println!("{} marked as measurements were not run", total.ignored);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

const CLIPPY: [&str; 6] = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-Dwarnings"];
const UNIT_TESTS: [&str; 5] = ["test", "--workspace", "--exclude", "quoin-e2e", "--no-fail-fast"];
const BUILD: [&str; 4] = ["build", "--release", "--package", "quoin"];
/// One at a time: they measure. The debug profile, whose dependencies the unit tests have built already.
const END_TO_END: [&str; 6] = ["test", "--package", "quoin-e2e", "--", "--test-threads=1", "--show-output"];

fn end_to_end() -> Count {
    let built = step("release build", || check(workspace::run(&mut workspace::cargo(&BUILD))));
    if built.failed > 0 {
        return built.and(step("end-to-end tests", || check(Err("there is nothing to test".to_owned()))));
    }
    built.and(step("end-to-end tests", || tests(&mut workspace::cargo(&END_TO_END), Times::Shown)))
}

/// A single step by itself.
pub(crate) fn report(name: &str, run: impl FnOnce() -> Result<(), String>) -> bool {
    step(name, || check(run())).failed == 0
}

fn step(name: &str, run: impl FnOnce() -> Count) -> Count {
    println!("\n==== {name}");
    let begun = clock::now();
    let count = run();
    let outcome = if count.failed == 0 { "passed" } else { "FAILED" };
    println!("==== {name}: {outcome} in {}", minutes(begun.elapsed()));
    count
}

fn check(result: Result<(), String>) -> Count {
    match result {
        Ok(()) => Count::PASSED,
        Err(reason) => {
            println!("{reason}");
            Count::FAILED
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

/// Whether each test's line tells how long it took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    Shown,
    Hidden,
}

/// Runs `cargo test`, shows what it says, and counts. A run that fails without saying which test counts as one failure.
fn tests(command: &mut Command, times: Times) -> Count {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return check(Err(format!("cargo cannot be started: {error}"))),
    };
    let mut count = Count::default();
    let mut last = clock::now();
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).split(b'\n')) {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        show(&line, times, &mut last);
        count = count.and(summary(&line).unwrap_or_default());
    }
    match child.wait() {
        Ok(status) if status.success() => count,
        Ok(_) if count.failed > 0 => count,
        Ok(status) => count.and(check(Err(format!("cargo test: {status}")))),
        Err(error) => count.and(check(Err(format!("cargo test: {error}")))),
    }
}

fn show(line: &str, times: Times, last: &mut Instant) {
    let mut stdout = std::io::stdout().lock();
    let is_test = line.starts_with("test ") && (line.ends_with("... ok") || line.ends_with("FAILED"));
    // With nobody to read it, the exit code still tells.
    let _ = if is_test && times == Times::Shown {
        writeln!(stdout, "{line} ({:.1} s)", last.elapsed().as_secs_f64())
    } else {
        writeln!(stdout, "{line}")
    };
    *last = clock::now();
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
fn summary(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        let (before, _) = rest.split_once(what)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")?, ignored: number(" ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_added_up() {
        let line =
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(summary(line), Some(Count { passed: 12, failed: 0, ignored: 1 }));
        let line = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let sum = summary(line).unwrap().and(Count::PASSED);
        assert_eq!(sum, Count { passed: 4, failed: 2, ignored: 0 });
        assert_eq!(summary("test store::x ... ok"), None);
        assert_eq!(minutes(Duration::from_secs(61)), "1 min 1 s");
    }
}
