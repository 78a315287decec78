//! `cargo xtask soak`: the randomized tests, again and again with fresh seeds, for as long as one likes.
//!
//! Before each run it prints the very command that repeats it, so that a failure (or a machine that dies) can be had again.

use crate::{clock, workspace};
use std::fs::File;
use std::io::Read;
use std::time::Duration;

/// One of the tests that take a seed.
struct Part {
    name: &'static str,
    /// `cargo test` with these arguments.
    test: &'static [&'static str],
    /// The variable of the seed, and how large a seed may be.
    seed: (&'static str, u64),
    /// The variable of the amount, and how much is a minute or less.
    amount: (&'static str, u64),
}

const PARTS: [Part; 6] = [
    Part {
        name: "the disk engine and its twin",
        test: &["--package", "quoin-store", "--test", "twin"],
        seed: ("PROPTEST_RNG_SEED", u64::MAX),
        amount: ("PROPTEST_CASES", 20_000),
    },
    Part {
        name: "crash images of placed data",
        test: &["--package", "quoin-store", "--test", "placed", "every_sync_of_a_run_may_be_the_last"],
        seed: ("QUOIN_SEED_FROM", 1 << 40),
        amount: ("QUOIN_SEEDS", 200),
    },
    Part {
        name: "a killed process",
        test: &["--package", "quoin-store", "--test", "kill"],
        seed: ("QUOIN_SEED", 1 << 40),
        amount: ("QUOIN_KILLS", 100),
    },
    Part {
        name: "the replication protocol",
        test: &["--package", "quoin-replication", "--test", "cluster"],
        seed: ("QUOIN_SEED_FROM", 1 << 40),
        amount: ("QUOIN_SEEDS", 8_000),
    },
    Part {
        name: "volumes through gateways",
        test: &["--package", "quoin-gateway", "--test", "volume"],
        seed: ("QUOIN_TEST_SEED_FROM", 1 << 40),
        amount: ("QUOIN_TEST_SEEDS", 20),
    },
    Part {
        name: "the fuzz targets on random inputs",
        test: &["--package", "quoin-fuzz-bodies"],
        seed: ("QUOIN_FUZZ_SEED", u64::MAX),
        amount: ("QUOIN_FUZZ_INPUTS", 10_000),
    },
];

impl Part {
    fn command_line(&self, seed: u64) -> String {
        let (seed_name, amount_name) = (self.seed.0, self.amount.0);
        format!("{seed_name}={seed} {amount_name}={} cargo test {}", self.amount.1, self.test.join(" "))
    }

    fn run(&self, seed: u64) -> Result<(), String> {
        let mut command = workspace::cargo(&["test", "--quiet"]);
        command.args(self.test).env(self.seed.0, seed.to_string());
        workspace::run(command.env(self.amount.0, self.amount.1.to_string()))
    }
}

/// Takes turns until the time is over or something fails; `true` if nothing did.
pub(crate) fn run(minutes: u64) -> bool {
    let begun = clock::now();
    let mut runs = 0;
    for part in PARTS.iter().cycle() {
        if begun.elapsed() >= Duration::from_secs(minutes.saturating_mul(60)) {
            break;
        }
        let seed = match random() {
            Ok(random) => random % part.seed.1,
            Err(error) => {
                println!("there is no random seed: {error}");
                return false;
            }
        };
        println!("\n==== {}\n{}", part.name, part.command_line(seed));
        if let Err(reason) = part.run(seed) {
            println!("==== {}: FAILED ({reason}); again with:\n{}", part.name, part.command_line(seed));
            return false;
        }
        runs += 1;
    }
    println!("\n{runs} runs in {:.0} minutes, none failed", begun.elapsed().as_secs_f64() / 60.0);
    true
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_how_to_repeat_it() {
        assert_eq!(
            PARTS[0].command_line(17),
            "PROPTEST_RNG_SEED=17 PROPTEST_CASES=20000 cargo test --package quoin-store --test twin"
        );
        assert!(PARTS.iter().all(|part| part.seed.1 > 1 << 32 && part.amount.1 > 0));
    }
}
