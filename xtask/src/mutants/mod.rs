//! `cargo xtask mutants`: the simulator must find deliberate bugs.
//!
//! `crates/simulator/mutants.toml` says what each of them replaces. All replacements are applied at once to a copy of the
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
pub(crate) const SEEDS: u64 = 500;

/// What came of a mutant's runs.
struct Outcome {
    /// What the failing run said, if one failed.
    found: Option<String>,
    seeds: u64,
    time: Duration,
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
    let sound = simulate(&binary, "", "default", SOUND_SEEDS)?;
    if let Some(found) = sound.found {
        return Err(format!("without a mutant, seed {} fails: {found}", sound.seeds - 1));
    }
    println!("without a mutant {} seeds pass\n", sound.seeds);
    println!("| mutant | rule | what it breaks | seeds | seconds | found by |\n|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for mutant in mutants {
        let Outcome { found, seeds, time } = simulate(&binary, &mutant.name, &mutant.scenario, seeds)?;
        let Mutant { name, rule, breaks, .. } = mutant;
        let by = found.unwrap_or_else(|| {
            missed.push(name.as_str());
            "**not found**".into()
        });
        println!("| {name} | {rule} | {breaks} | {seeds} | {:.1} | {by} |", time.as_secs_f64());
    }
    if missed.is_empty() { Ok(()) } else { Err(format!("not found: {}", missed.join(", "))) }
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

/// Runs seeds from 0 until one fails.
fn simulate(binary: &Path, mutant: &str, scenario: &str, seeds: u64) -> Result<Outcome, String> {
    let begun = clock::now();
    let mut command = Command::new(binary);
    command.args(["--from", "0", "--verbose", "--scenario", scenario, "--seeds", &seeds.to_string()]);
    command.env("QUOIN_MUTANT", mutant).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| format!("{} cannot be started: {error}", binary.display()))?;
    let stderr = child.stderr.take();
    // A run that panics tells so there; read beside, for a full pipe would stop the child.
    let panics = std::thread::spawn(move || {
        let lines =
            stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok);
        panic_message(lines)
    });
    let lines = child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines());
    let (mut passed, mut found) = (0, None);
    for line in lines.map_while(Result::ok).filter(|line| line.starts_with("seed ")) {
        match line.split_once(" FAILED: ") {
            Some((_, problem)) => found = Some(short(problem)),
            None => passed += u64::from(line.contains("requests answered")),
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let panic = panics.join().ok().flatten();
    if let Some(text) = panic.filter(|_| !status.success()) {
        found = Some(format!("a panic: {}", short(&text)));
    }
    if found.is_none() && !status.success() {
        return Err(format!("{}: {status}", binary.display()));
    }
    Ok(Outcome { seeds: passed + u64::from(found.is_some()), found, time: begun.elapsed() })
}

/// The first thing that a panic says.
fn panic_message(mut lines: impl Iterator<Item = String>) -> Option<String> {
    let at = lines.by_ref().find(|line| line.contains("panicked at"))?;
    let text = lines.next().unwrap_or(at);
    // The rest must be read all the same.
    lines.for_each(drop);
    Some(text)
}

/// The beginning of what a run says, fit for a table.
fn short(problem: &str) -> String {
    const CHARACTERS_MAX: usize = 90;
    let text: String = problem.chars().take(CHARACTERS_MAX).collect();
    text.replace('|', "/")
}
