//! `cargo test`, run and read: its lines shown, its tests counted, those that failed by name.

use crate::clock;
use crate::outcome::Outcome;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Whether each test's line tells how long it took.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Shown,
    Hidden,
}

/// Runs `cargo test`, shows what it says, and counts. A run that fails without saying which test counts as one failure.
pub(crate) fn run(command: &mut Command, times: Times) -> Outcome {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::failed(format!("cargo cannot be started: {error}")),
    };
    let mut reading = Reading::new(times);
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).split(b'\n')) {
        let Ok(line) = line else { break };
        reading.line(&String::from_utf8_lossy(&line), &mut std::io::stdout());
    }
    let read = reading.outcome;
    match child.wait() {
        // What looked like a failure was what a test had printed.
        Ok(status) if status.success() => Outcome { failures: Vec::new(), ..read },
        Ok(_) if !read.has_passed() => read,
        Ok(status) => read.and(Outcome::failed(format!("cargo test: {status}"))),
        Err(error) => read.and(Outcome::failed(format!("cargo test: {error}"))),
    }
}

/// What has been read of a run so far.
struct Reading {
    times: Times,
    outcome: Outcome,
    last: Instant,
    /// The line before was a heading: of a list of tests, or of what tests printed.
    headed: bool,
    /// In a list of tests, whose results have been told above.
    in_list: bool,
}

impl Reading {
    fn new(times: Times) -> Reading {
        Reading { times, outcome: Outcome::default(), last: clock::now(), headed: false, in_list: false }
    }

    fn line(&mut self, line: &str, shown: &mut impl Write) {
        if let Some(counts) = summary(line) {
            self.outcome = std::mem::take(&mut self.outcome).and(counts);
        }
        if let Some(name) = failure(line) {
            self.outcome.failures.push(name.to_owned());
        }
        if self.is_news(line) {
            self.show(line, shown);
        }
        self.last = clock::now();
    }

    /// Whether a line says what no other line says.
    fn is_news(&mut self, line: &str) -> bool {
        if line == "successes:" || line == "failures:" {
            self.headed = true;
            return false;
        }
        let starts_list = std::mem::take(&mut self.headed) && line.starts_with("    ");
        self.in_list = (self.in_list || starts_list) && !line.is_empty();
        !self.in_list
    }

    fn show(&self, line: &str, shown: &mut impl Write) {
        let is_result =
            line.starts_with("test ") && (line.ends_with("... ok") || line.ends_with("... FAILED"));
        // With nobody to read it, the exit code still tells.
        let _ = if is_result && self.times == Times::Shown {
            writeln!(shown, "{line} ({:.1} s)", self.last.elapsed().as_secs_f64())
        } else {
            writeln!(shown, "{line}")
        };
    }
}

/// The test that failed, of `test module::name ... FAILED`.
fn failure(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// What passed and was ignored, of `test result: ok. 12 passed; 0 failed; 1 ignored; …`. What failed has been named before.
fn summary(line: &str) -> Option<Outcome> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        let (before, _) = rest.split_once(what)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some(Outcome { passed: number(" passed")?, ignored: number(" ignored")?, failures: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "
running 3 tests
test good::one ... ok
test bad::two ... FAILED
test bad::three - should panic ... FAILED

successes:

---- good::one stdout ----
12 k/s


successes:
    good::one

failures:

---- bad::two stdout ----

thread 'bad::two' panicked at tests/bad.rs:3:5:
the answer is 42

failures:
    bad::two
    bad::three - should panic

test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn tests_are_counted_those_that_failed_are_named_and_none_is_listed_twice() {
        let (mut reading, mut shown) = (Reading::new(Times::Hidden), Vec::new());
        RUN.lines().for_each(|line| reading.line(line, &mut shown));
        let failures = ["bad::two", "bad::three - should panic"].map(str::to_owned).to_vec();
        assert_eq!(reading.outcome, Outcome { passed: 1, ignored: 4, failures });
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("\n12 k/s\n") && shown.contains("\nthe answer is 42\n"), "{shown}");
        assert!(!shown.contains("    "), "{shown}");
        assert!(shown.contains("\ntest result"), "{shown}");
    }
}
