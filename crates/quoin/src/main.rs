//! `quoin`: every role of the cluster and every command for its operator, in one binary.
//!
//! Nothing here decides anything about storage: the roles are libraries, the commands ask the cluster manager.

mod cli;
mod client;
mod command;
mod dev;
mod failure;
mod options;
mod roles;
mod units;
mod view;

use clap::{CommandFactory, FromArgMatches};
use failure::Failure;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let as_json = asks_for_json(&words);
    let matches = match cli::Cli::command().try_get_matches_from(&words) {
        Ok(matches) => matches,
        // `--help` and `--version` come as errors too; clap knows how to print those.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return fail(&Failure::from(error), as_json),
    };
    let result = cli::Cli::from_arg_matches(&matches)
        .map_err(Failure::from)
        .and_then(|cli| command::run(cli, &matches));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, as_json),
    }
}

fn fail(failure: &Failure, as_json: bool) -> ExitCode {
    let text = if as_json { failure.to_json() } else { failure.to_text() };
    // With stderr closed there is nobody left to tell; the exit code still says it.
    let _ = std::io::stderr().write_all(text.as_bytes());
    failure.exit_code()
}

/// Whether errors are to be JSON. Looked up by hand, since it must be known for a command line that clap refuses.
fn asks_for_json(words: &[OsString]) -> bool {
    let is_pair = |pair: &[OsString]| pair[0] == "--output" && pair[1] == "json";
    words.windows(2).any(is_pair) || words.iter().any(|word| word == "--output=json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        cli::Cli::command().debug_assert();
    }

    #[test]
    fn json_errors_are_asked_for_in_both_spellings() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(asks_for_json(&words("quoin volume list --output json")));
        assert!(asks_for_json(&words("quoin volume --output=json list --bad")));
        assert!(!asks_for_json(&words("quoin volume create json --output table")));
    }
}
