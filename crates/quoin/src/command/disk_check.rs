//! `quoin disk check`: verifies everything on a disk that no process uses, and changes nothing.

use crate::cli::Output;
use crate::command::disk;
use crate::failure::{Failure, Kind};
use crate::units::size::Size;
use crate::view::paint::{Mood, Paint};
use crate::view::{self, Report, table};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quoin_disk::clock;
use quoin_store::{Progress, Report as Found, check};
use quoin_types::Moment;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// A check that takes longer than this shows how far it is.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How many problems are listed for people; a script gets all of them.
const LISTED_MAX: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The directory of the disk
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(args: &CheckArgs, output: Output) -> Result<(), Failure> {
    let path = &args.directory;
    let begun = clock::now();
    let mut bar = Bar { begun, shown: None };
    let found = check(&disk::open(path)?, &mut |progress| bar.advance(progress));
    bar.clear();
    let found = found.map_err(|error| disk::refusal(path, &error))?;
    let seconds = clock::now().since(begun).as_secs_f64();
    let json = view::disk::DiskCheck::new(path, &found, seconds);
    Report::new(render(&found, seconds, Paint::for_stdout()), json).print(output == Output::Json)?;
    match found.problems.len() {
        0 => Ok(()),
        count => Err(Failure::new(Kind::Damaged, format!("{}: {}", path.display(), problems(count))).hint(
            "where other copies are in sync, a running storage node mends damaged extents; a disk that it refuses to \
             open must be replaced",
        )),
    }
}

fn problems(count: usize) -> String {
    if count == 1 { "1 problem was found".to_owned() } else { format!("{count} problems were found") }
}

/// The bar on stderr, if that is a terminal.
struct Bar {
    begun: Moment,
    shown: Option<ProgressBar>,
}

impl Bar {
    fn advance(&mut self, progress: Progress) {
        let elapsed = clock::now().since(self.begun);
        if elapsed < SILENCE_MAX || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let bar = ProgressBar::new(progress.total);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %, {msg}, {eta} left") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(rate(progress.verified_bytes, elapsed.as_secs_f64()));
        bar.set_position(progress.done);
    }

    fn clear(&self) {
        self.shown.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn rate(bytes: u64, seconds: f64) -> String {
    let per_second = bytes as f64 / seconds.max(0.001);
    format!("{}, {}/s", Size(bytes), Size(per_second as u64))
}

fn render(found: &Found, seconds: f64, paint: Paint) -> String {
    let mut lines = Vec::new();
    if let Some(identity) = &found.identity {
        let shutdown = if found.clean { "the last shutdown was clean" } else { "no clean shutdown" };
        lines.extend([
            ("disk", identity.disk.to_string()),
            ("cluster", identity.cluster.to_string()),
            ("capacity", Size(identity.capacity_bytes).to_string()),
            ("starts", format!("{}; {shutdown}", found.starts)),
            ("journal", format!("{} records after the checkpoint at {}", found.records, found.checkpoint)),
            ("replicas", format!("{}, with {} snapshots", found.replicas, found.snapshots)),
            ("extents", format!("{}, with {} blocks of data", found.extents, found.blocks)),
        ]);
    }
    lines.push(("verified", format!("{} in {seconds:.1} s", rate(found.verified_bytes, seconds))));
    let result = match found.problems.len() {
        0 => paint.mood(Mood::Good, "all is well"),
        count => paint.mood(Mood::Bad, &problems(count)),
    };
    lines.push(("result", result));
    let mut text = table::fields(&lines);
    for problem in found.problems.iter().take(LISTED_MAX) {
        writeln!(text, "  {}: {}", view::disk::part(problem.part), problem.message)
            .expect("a String takes all");
    }
    if found.problems.len() > LISTED_MAX {
        let more = found.problems.len() - LISTED_MAX;
        writeln!(text, "  and {more} more; `--output json` lists all").expect("a String takes all");
    }
    text
}
