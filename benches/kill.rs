//! The whole system: what a client feels when a process is killed with `kill -9`, beside what it feels without.
//! `cargo bench -p benches --bench kill`, or `cargo xtask bench kill`.
//!
//! Two clients with one request at a time each write (and read, three of ten) random 4 KiB blocks. For each kind of victim:
//! the worst completion in the seconds before the kill, and in those after it.

use benches::print_table;
use quoin_e2e::clock::now;
use quoin_e2e::load::{Plan, Work};
use quoin_e2e::{Dev, Load, until};
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
const ROUNDS: u32 = 5;

struct Round {
    victim: String,
    quiet: Instant,
    kill: Instant,
}

fn main() {
    let dev = Dev::start(&["--size", "256MiB"]);
    let plan = Plan { clients: 2, blocks: 16_384, reads_of_ten: 3, flush_every: 0 };
    let load = Load::start(dev.nbd_address(), "vol1", plan);
    load.until_more(1000, PATIENCE);
    let victims = ["storage-node", "cluster-manager"]
        .map(|role| (0..ROUNDS).map(move |n| format!("{role}-{}", n % 3 + 1)));
    let mut rounds = Vec::new();
    for victim in victims.into_iter().flatten() {
        let quiet = now();
        pass(quiet);
        let kill = now();
        dev.kill(&victim);
        pass(kill);
        if victim.starts_with("storage-node") {
            dev.control("start", &victim).ok();
        }
        rounds.push(Round { victim, quiet, kill });
        dev.until_healthy(PATIENCE);
    }
    let work = load.stop();
    assert_eq!(work.errors, [""; 0], "no client may see an error");
    tell(&work, &rounds);
}

/// Lets a span go by under load.
fn pass(since: Instant) {
    until("a span to go by", PATIENCE, || if since.elapsed() >= SPAN { Ok(()) } else { Err(String::new()) });
}

fn tell(work: &Work, rounds: &[Round]) {
    let mut lines = vec![vec![
        "killed".to_owned(),
        format!("worst in {SPAN:?} before"),
        format!("worst in {SPAN:?} after"),
    ]];
    for Round { victim, quiet, kill } in rounds {
        let (before, after) = (work.worst(*quiet, *quiet + SPAN), work.worst(*kill, *kill + SPAN));
        lines.push(vec![victim.clone(), format!("{before:.1?}"), format!("{after:.1?}")]);
    }
    print_table(&lines);
    let mut all: Vec<Duration> = work.answered.iter().map(|one| one.took).collect();
    all.sort_unstable();
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
    println!(
        "{} requests, no error; median {:.0?}, 99 % within {:.1?}, 99.9 % within {:.1?}, worst {:.1?}",
        all.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
