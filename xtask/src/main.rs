//! `cargo xtask …`: the project's own chores.

mod bench;
mod checks;
mod clock;
mod history;
mod lint;
mod soak;
mod tools;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

  test    everything that must hold: tools, lint, format, clippy, unit tests, release build, end-to-end tests
  lint    the house rules that no other tool checks
  tools   installs the client tools that the end-to-end tests need, or says what is missing
  bench   the benchmarks: `cargo xtask bench [disk|kill|micro]`
  history judges what clients saw: `cargo xtask history check FILE`, one JSON object per operation
  soak    the randomized tests with fresh seeds, again and again: `cargo xtask soak [--minutes 60]`
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
        ["bench"] => bench::run_all(&["micro", "disk", "kill"]),
        ["bench", which @ ("disk" | "kill" | "micro")] => bench::run_all(&[which]),
        ["history", "check", path] => checks::report("history", || history::check(path)),
        ["soak"] => soak::run(SOAK_MINUTES),
        ["soak", "--minutes", minutes] if minutes.parse::<u64>().is_ok() => {
            soak::run(minutes.parse().unwrap_or(SOAK_MINUTES))
        }
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            true
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
