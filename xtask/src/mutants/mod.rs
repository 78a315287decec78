//! `cargo xtask mutants`: the simulator must find deliberate bugs.
//!
//! `crates/simulator/mutants/` says what each of them replaces. All replacements are applied at once to a copy of the
//! sources, as switches: the simulator is built once, and an environment variable tells it which bug it has. First the
//! copy runs with none, and must find nothing; then with each, until a seed fails.

mod copy;
mod table;

pub(crate) use table::check;

use crate::{clock, workspace};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use table::{Mutant, Table};

/// Seeds without a mutant.
const SOUND_SEEDS: u64 = 200;
/// The most seeds for a mutant, unless said otherwise.
pub(crate) const SEEDS: u64 = 1000;

/// What a failing run says, and which checker says so.
const CHECKERS: [(&str, &str); 29] = [
    ("no order explains", "linearizable"),
    ("zeroes were read", "linearizable"),
    ("is acknowledged at", "acknowledged is on a majority"),
    ("sessions that had not ended", "ended sessions do not count"),
    ("a flush is answered", "flushed is durable"),
    ("was durable, and has", "no amnesia"),
    ("is of disk", "no amnesia"),
    ("forgot that it promised", "no amnesia"),
    ("acknowledges what was asked", "single writer"),
    ("differ at extent", "replicas converge"),
    ("is damaged at extent", "replicas converge"),
    ("cannot be read at extent", "replicas converge"),
    ("the last round failed", "liveness: everything works again"),
    ("is no cut", "snapshot is a cut"),
    ("has no snapshot", "replicas converge"),
    ("nothing can be given back", "liveness: nothing can be given back"),
    ("a client waited for", "never stalled"),
    ("is the most there may be", "bounded memory"),
    ("there is no space, it is told", "space is decided early"),
    ("was rolled back, and is accepted", "rolled-back disks stay out"),
    ("was refused, and has changed", "rolled-back disks stay out"),
    ("cannot open its disk", "the disk engine refuses to start"),
    ("damage is left", "liveness: all damage is mended"),
    ("works again", "liveness: everything works again"),
    ("the steward of epoch", "stewards serve nobody"),
    ("is still a member", "no amnesia"),
    ("is gone on with alone", "survivors are whole"),
    ("nobody wants replica", "no space leak"),
    ("a panic:", "an assertion"),
];

/// No mutant keeps space that nobody uses: a run that fails for it does not tell of the mutant.
const UNRELATED: &str = "everything is trimmed";

/// What came of a mutant's runs.
struct Outcome {
    /// What found it.
    found: Option<String>,
    seeds: u64,
    time: Duration,
}

/// A run that failed.
struct Failure {
    seed: u64,
    problem: String,
}

/// Runs all mutants, or the one of a name; at most so many seeds each. `Err` names those that were not found.
pub(crate) fn run(only: Option<&str>, seeds: u64) -> Result<(), String> {
    let root = workspace::root();
    let table = Table::read(&root)?;
    let wanted = |mutant: &&Mutant| only.is_none_or(|name| mutant.name == name);
    let mutants: Vec<&Mutant> = table.mutants.iter().filter(wanted).collect();
    if mutants.is_empty() {
        return Err("there is no such mutant".into());
    }
    let binary = build(&root, &table)?;
    let mut wrong = Vec::new();
    match simulate(&binary, "", "default", 0, SOUND_SEEDS)? {
        None => println!("without a mutant {SOUND_SEEDS} seeds pass\n"),
        Some(Failure { seed, problem }) => {
            wrong.push(format!("without a mutant, seed {seed} fails: {problem}"));
        }
    }
    println!("| mutant | rule | what it breaks | scenario | seeds | seconds | found by |");
    println!("|---|---|---|---|---|---|---|");
    for mutant in mutants {
        let Outcome { found, seeds, time } = hunt(&binary, mutant, seeds)?;
        let Mutant { name, rule, breaks, scenario, .. } = mutant;
        let by = found.unwrap_or_else(|| {
            wrong.push(format!("not found: {name}"));
            "**not found**".into()
        });
        println!("| {name} | {rule} | {breaks} | {scenario} | {seeds} | {:.1} | {by} |", time.as_secs_f64());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Builds the simulator with all mutants in it, and gives its binary.
fn build(root: &Path, table: &Table) -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let place = target.join("mutants");
    let sources = place.join("sources");
    copy::make(root, &sources, table.apply(root)?)?;
    let mut cargo = workspace::cargo(&["build", "--release", "--quiet", "--package", "quoin-simulator"]);
    workspace::run(cargo.current_dir(&sources).env("CARGO_TARGET_DIR", place.join("build")))?;
    Ok(place.join("build/release/quoin-sim"))
}

/// Runs a mutant's seeds until one fails that does not fail without it.
fn hunt(binary: &Path, mutant: &Mutant, seeds: u64) -> Result<Outcome, String> {
    let begun = clock::now();
    let mut from = 0;
    let mut found = None;
    while from < seeds && found.is_none() {
        let failure = simulate(binary, &mutant.name, &mutant.scenario, from, seeds - from)?;
        let Some(Failure { seed, problem }) = failure else {
            from = seeds;
            break;
        };
        from = seed + 1;
        if !problem.contains(UNRELATED) && simulate(binary, "", &mutant.scenario, seed, 1)?.is_none() {
            found = Some(found_by(&problem));
        }
    }
    Ok(Outcome { found, seeds: from, time: begun.elapsed() })
}

/// Runs so many seeds until one fails.
fn simulate(
    binary: &Path,
    mutant: &str,
    scenario: &str,
    from: u64,
    seeds: u64,
) -> Result<Option<Failure>, String> {
    let mut command = Command::new(binary);
    command.args(["--from", &from.to_string(), "--seeds", &seeds.to_string()]);
    command.args(["--verbose", "--scenario", scenario]).env("QUOIN_MUTANT", mutant);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("{} cannot be started: {error}", binary.display()))?;
    let stderr = child.stderr.take();
    // A run that panics tells so there; read beside, for a full pipe would stop the child.
    let panics = std::thread::spawn(move || {
        let lines =
            stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok);
        panic_message(lines)
    });
    let lines = child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines());
    let (mut seed, mut problem) = (from, None);
    for line in lines.map_while(Result::ok) {
        let Some((number, text)) =
            line.strip_prefix("seed ").and_then(|rest| rest.split_once(char::is_whitespace))
        else {
            continue;
        };
        if let Some(text) = text.strip_prefix("FAILED: ") {
            seed = number.parse().unwrap_or(seed);
            problem = Some(text.to_owned());
        } else if text.contains("requests answered") {
            // It has come to its end; a panic would be the next one's.
            seed += 1;
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if let Some(text) = panics.join().ok().flatten().filter(|_| !status.success()) {
        problem = Some(format!("a panic: {text}"));
    }
    match problem {
        Some(problem) => Ok(Some(Failure { seed, problem })),
        None if status.success() => Ok(None),
        None => Err(format!("{}: {status}", binary.display())),
    }
}

/// The first thing that a panic says.
fn panic_message(mut lines: impl Iterator<Item = String>) -> Option<String> {
    let at = lines.by_ref().find(|line| line.contains("panicked at"))?;
    let text = lines.next().unwrap_or(at);
    // The rest must be read all the same.
    lines.for_each(drop);
    Some(text)
}

/// The checker that a run's words come from; if it is none that is known, the beginning of the words.
fn found_by(problem: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let known = CHECKERS.iter().find(|(words, _)| problem.contains(words));
    let begins = || problem.chars().take(CHARACTERS_MAX).collect::<String>().replace('|', "/");
    known.map_or_else(begins, |(_, checker)| (*checker).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_tells_the_checker() {
        assert_eq!(found_by("block 7: no order explains the values 1 and 2"), "linearizable");
        assert_eq!(found_by("a | b"), "a / b");
    }
}
