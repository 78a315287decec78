//! What a client of a replicated volume gets, beside what it gets from one local file: fio through its NBD engine on a dev
//! cluster with three replicas, on nbdkit's file plugin and on qemu-nbd, in turns, in the same run; in mode `write-through`
//! also fio on a raw file with `O_DSYNC`. `cargo bench -p benches --bench nbd`, or `cargo xtask bench nbd`.
//!
//! Options after `--`: `--seconds N` for one turn, `--only WORD,WORD` for the lines that hold one of these words (also
//! `counts` and `idle`), `--rounds N`. `TMPDIR` names the directory to measure in; it takes some 10 GiB.
//!
//! What the other servers have left unwritten is written before the next turn begins. What a line means and why one misses
//! is in `docs/benchmarks.md`.

mod counts;
mod fio;
mod servers;
mod table;
mod usage;
mod workload;

use quoin_e2e::Dev;
use quoin_e2e::clock::{now, until};
use servers::{Against, Server};
use std::time::Duration;
use table::Table;
use usage::{Usage, load_average};
use workload::{Mode, WORKLOADS, Workload};

/// What every volume and file has, all of it written before anything is measured.
const SIZE: &str = "1GiB";
const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    seconds: u32,
    rounds: usize,
    only: Vec<String>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { seconds: 2, rounds: 3, only: Vec::new() };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number =
                || value.parse().ok().filter(|number| *number > 0).ok_or("a number above 0 is needed");
            match word.as_str() {
                "--seconds" => options.seconds = number()?,
                "--rounds" => options.rounds = number()? as usize,
                "--only" => options.only.extend(value.split(',').map(str::to_owned)),
                _ => {
                    return Err(format!(
                        "unknown option {word}; known: --seconds N, --rounds N, --only WORDS"
                    ));
                }
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }
}

fn main() -> Result<(), String> {
    let options = Options::parse()?;
    let wanted: Vec<(Mode, &Workload)> = [Mode::Flush, Mode::WriteThrough]
        .into_iter()
        .flat_map(|mode| WORKLOADS.iter().map(move |workload| (mode, workload)))
        .filter(|(mode, workload)| options.wants(&workload.line(*mode)))
        .collect();
    let (counts, idle) = (options.wants("counts"), options.wants("idle"));
    if wanted.is_empty() && !counts && !idle {
        return Err(format!("--only {}: no line has such a name", options.only.join(",")));
    }
    let load = load_average();
    let dev = Dev::start(&["--size", SIZE]);
    println!("machine: {}", usage::machine());
    dev.quoin(&[
        "volume",
        "create",
        Mode::WriteThrough.volume(),
        "--size",
        SIZE,
        "--durability",
        "write-through",
    ])
    .ok();
    let against = (!wanted.is_empty()).then(|| Against::start(&dev.beside("others")));
    prefill(&dev, against.as_ref());
    if let Some(against) = &against {
        let mut table = Table::default();
        for (mode, workload) in wanted {
            measure(&options, &dev, against, mode, workload, &mut table);
        }
        table.print();
    }
    if counts {
        counts::by_role(&dev, options.seconds);
    }
    if idle {
        come_to_rest(&dev);
        counts::idle(&dev);
    }
    println!("load average {load} before, {} after", load_average());
    Ok(())
}

/// Writes every byte once, so that no line measures first allocations, and lets the cluster come to rest.
fn prefill(dev: &Dev, against: Option<&Against>) {
    let quoin = [Mode::Flush, Mode::WriteThrough].map(|mode| Server::quoin(dev, mode));
    let others = against.into_iter().flat_map(Against::all);
    for server in quoin.iter().chain(others) {
        fio::prefill(server);
        server.write_back();
    }
    come_to_rest(dev);
}

fn come_to_rest(dev: &Dev) {
    let cluster = Usage::pids(&dev.dir());
    let mut before = (now(), Usage::cpu_seconds(&cluster));
    until("the cluster to come to rest", PATIENCE, || {
        let elapsed = before.0.elapsed();
        if elapsed < Duration::from_millis(500) {
            return Err("a moment more".into());
        }
        let cpu = Usage::cpu_seconds(&cluster);
        let share = (cpu - before.1) / elapsed.as_secs_f64();
        before = (now(), cpu);
        if share < 0.1 { Ok(()) } else { Err(format!("it uses {share:.2} of a core")) }
    });
}

/// Measures one line of the suite on every server, in turns.
fn measure(
    options: &Options,
    dev: &Dev,
    against: &Against,
    mode: Mode,
    workload: &'static Workload,
    table: &mut Table,
) {
    let quoin = Server::quoin(dev, mode);
    let mut servers = vec![&quoin];
    servers.extend(against.beside(mode, workload));
    let mut turns: Vec<Vec<fio::Turn>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (server, turns) in servers.iter().zip(&mut turns) {
            if workload.pattern.contains("read") || workload.pattern == "randrw" {
                server.warm();
            }
            turns.push(fio::run(server, workload, options.seconds));
            server.write_back();
        }
    }
    let measured = servers.iter().zip(turns).map(|(server, turns)| (server.name, fio::Measured::of(turns)));
    table.add(mode, workload, measured.collect());
}
