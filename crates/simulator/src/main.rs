//! `quoin-sim`: runs seeds, and says how to repeat the one that failed. `cargo xtask sim` builds and runs it.

use quoin_simulator::{Run, Scenario, Trace};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: cargo xtask sim [--seed S | --seeds N [--from S] | --minutes M] [--scenario F] [--trace OUT] [--history OUT.jsonl]
";

#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    from: Option<u64>,
    minutes: Option<u64>,
    scenario: Option<String>,
    trace: Option<PathBuf>,
    history: Option<PathBuf>,
    verbose: bool,
    /// A file of scenarios with seeds.
    regressions: Option<PathBuf>,
}

fn parse() -> Option<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => arguments.seed = Some(words.next()?.parse().ok()?),
            "--seeds" => arguments.seeds = Some(words.next()?.parse().ok()?),
            "--from" => arguments.from = Some(words.next()?.parse().ok()?),
            "--minutes" => arguments.minutes = Some(words.next()?.parse().ok()?),
            "--scenario" => arguments.scenario = Some(words.next()?),
            "--trace" => arguments.trace = Some(words.next()?.into()),
            "--history" => arguments.history = Some(words.next()?.into()),
            "--regressions" => arguments.regressions = Some(words.next()?.into()),
            "--verbose" => arguments.verbose = true,
            _ => return None,
        }
    }
    Some(arguments)
}

#[expect(
    clippy::disallowed_methods,
    reason = "real time bounds how long it runs, and is told; no run sees it"
)]
fn now() -> Instant {
    Instant::now()
}

/// A number that nobody has chosen.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 16
}

fn main() -> ExitCode {
    let Some(arguments) = parse() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let scenario = match Scenario::find(arguments.scenario.as_deref().unwrap_or("default")) {
        Ok(scenario) => scenario,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::from(2);
        }
    };
    let done = match &arguments.regressions {
        Some(path) => run_known(&arguments, path),
        None => run_all(&arguments, &scenario),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// The seeds that once found something.
fn run_known(arguments: &Arguments, path: &Path) -> std::io::Result<bool> {
    let text = std::fs::read_to_string(path)?;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let known = line.split_once(' ').and_then(|(name, seed)| {
            let scenario = Scenario::named(name).ok()?;
            Some((scenario, seed.trim().parse().ok()?))
        });
        let Some((scenario, seed)) = known else {
            return Err(std::io::Error::other(format!("{line:?} is no scenario with a seed")));
        };
        let one = Arguments { seed: Some(seed), verbose: arguments.verbose, ..Arguments::default() };
        if !run_all(&one, &scenario)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run_all(arguments: &Arguments, scenario: &Scenario) -> std::io::Result<bool> {
    let begun = now();
    let single = arguments.seed.is_some();
    let first = arguments.seed.or(arguments.from).unwrap_or_else(fresh_seed);
    let count = match (arguments.seed, arguments.minutes) {
        (Some(_), _) => 1,
        (None, Some(_)) => u64::MAX,
        (None, None) => arguments.seeds.unwrap_or(1),
    };
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    println!("seed {first}, scenario {}", scenario.name());
    let (mut runs, mut asked, mut answered, mut events) = (0, 0, 0, 0);
    for seed in (0..count).map(|number| first.wrapping_add(number)) {
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            break;
        }
        let trace = match &arguments.trace {
            Some(path) => Trace::to_file(path)?,
            None => Trace::default(),
        };
        let run = std::panic::catch_unwind(|| quoin_simulator::run(scenario, seed, trace));
        let Ok(run) = run else {
            report(seed, scenario, "a process panicked", "");
            return Ok(false);
        };
        if let Some(path) = &arguments.history {
            let out = std::io::BufWriter::new(std::fs::File::create(path)?);
            quoin_simulator::write_history(&run.history, out)?;
        }
        if single || arguments.verbose {
            describe(seed, &run);
        }
        if let Some(problem) = &run.problem {
            report(seed, scenario, problem, &run.setup);
            return Ok(false);
        }
        (runs, asked, answered, events) =
            (runs + 1, asked + run.asked, answered + run.answered, events + run.events);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let per_minute = f64::from(runs) * 60.0 / seconds;
    println!(
        "{runs} runs in {seconds:.1} s ({per_minute:.0} a minute): {answered} of {asked} requests answered, {events} events; \
         none failed"
    );
    Ok(true)
}

fn describe(seed: u64, run: &Run) {
    println!(
        "seed {seed}: {} of {} requests answered, {} without space, {} events, healed at {:.3} s, over at {:.3} s, digest {:016x}",
        run.answered,
        run.asked,
        run.refused_for_space,
        run.events,
        run.healed_ns as f64 / 1e9,
        run.ended_ns as f64 / 1e9,
        run.digest
    );
}

fn report(seed: u64, scenario: &Scenario, problem: &str, setup: &str) {
    println!("seed {seed} FAILED: {problem}\n{setup}\nagain with:");
    println!("cargo xtask sim --seed {seed} --scenario {}", scenario.name());
}
