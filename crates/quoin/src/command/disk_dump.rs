//! `quoin disk dump`: what is on a disk that no process uses, as text.

use crate::command::disk;
use crate::failure::Failure;
use clap::Args;
use quoin_store::dump;
use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The directory of the disk
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(args: &DumpArgs) -> Result<(), Failure> {
    let dir = disk::open(&args.directory)?;
    let mut out = Stdout { stdout: BufWriter::new(io::stdout().lock()), failure: None };
    let dumped = dump(&dir, &mut out);
    let flushed = out.stdout.flush().err();
    match out.failure.or(flushed) {
        // A reader that has gone away (`| head`) is no error.
        Some(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Some(error) => Err(Failure::io("write to stdout", &error)),
        None => dumped.map_err(|error| disk::refusal(&args.directory, &error)),
    }
}

/// Stdout for text, which remembers why it could not be written.
struct Stdout<'a> {
    stdout: BufWriter<io::StdoutLock<'a>>,
    failure: Option<io::Error>,
}

impl fmt::Write for Stdout<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.stdout.write_all(text.as_bytes()).map_err(|error| {
            self.failure = Some(error);
            fmt::Error
        })
    }
}
