//! `cargo xtask …`: the project's own chores.

mod bench;
mod checks;
mod clock;
mod guest;
mod history;
mod libtest;
mod lint;
mod mutants;
mod outcome;
mod sim;
mod soak;
mod tools;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

  test    everything that must hold: tools, lint, format, clippy, unit tests, release build, end-to-end tests
  lint    the house rules that no other tool checks
  tools   installs the client tools that the end-to-end tests need, or says what is missing
  bench   the benchmarks: `cargo xtask bench [disk|kill|micro|nbd [--seconds N] [--rounds N] [--only WORD,WORD]]`
  history judges what clients saw: `cargo xtask history check FILE`, one JSON object per operation
  mutants lets the simulator find deliberate bugs: `cargo xtask mutants [--only NAME] [--seeds N]`
  soak    the randomized tests with fresh seeds, again and again: `cargo xtask soak [--minutes 60]`
  sim     the whole cluster in one thread: `cargo xtask sim [--seed S | --seeds N | --minutes M] [--scenario F]
          [--trace OUT] [--history OUT.jsonl]`
";

const SOAK_MINUTES: u64 = 60;

/// 0: all is well; 1: something failed; 2: no such chore.
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["test"] => checks::run(),
        ["lint"] => checks::report("lint", lint::run),
        ["tools"] => checks::report("tools", tools::run),
        ["bench"] => bench::run_all(&["micro", "disk", "kill", "nbd"], &[]),
        ["bench", which @ ("disk" | "kill" | "micro")] => bench::run_all(&[which], &[]),
        ["bench", "nbd", ref options @ ..] => bench::run_all(&["nbd"], options),
        ["history", "check", path] => checks::report("history", || history::check(path)),
        ["mutants", ref options @ ..] => match mutant_options(options) {
            Some((only, seeds)) => checks::report("mutants", || mutants::run(only, seeds)),
            None => return usage(),
        },
        ["soak"] => soak::run(SOAK_MINUTES),
        ["soak", "--minutes", minutes] if minutes.parse::<u64>().is_ok() => {
            soak::run(minutes.parse().unwrap_or(SOAK_MINUTES))
        }
        ["sim", ref arguments @ ..] => checks::report("sim", || sim::run(arguments)),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            true
        }
        _ => return usage(),
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

/// Which mutant, if not all, and how many seeds.
fn mutant_options<'a>(options: &[&'a str]) -> Option<(Option<&'a str>, u64)> {
    let (mut only, mut seeds) = (None, mutants::SEEDS);
    for option in options.chunks(2) {
        match option {
            ["--only", name] => only = Some(*name),
            ["--seeds", number] => seeds = number.parse().ok()?,
            _ => return None,
        }
    }
    Some((only, seeds))
}
