//! What the cluster manager says, as people and scripts get to see it. Nothing here asks anything.

pub(crate) mod attached;
pub(crate) mod disk;
pub(crate) mod json;
pub(crate) mod paint;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod words;

use crate::failure::Failure;
use std::io::{self, Write};

/// What a command has to say, for people and for scripts.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

impl Report {
    pub(crate) fn new(text: impl Into<String>, json: impl serde::Serialize) -> Self {
        let json = serde_json::to_value(json).expect("the shapes of view::json have string keys only");
        Self { text: text.into(), json }
    }

    /// Writes it to stdout in the form asked for. A reader that has gone away (`| head`) is no error.
    pub(crate) fn print(&self, as_json: bool) -> Result<(), Failure> {
        let text = match as_json {
            true => format!("{}\n", self.json),
            false => self.text.clone(),
        };
        print(&text)
    }
}

/// Writes to stdout, at once. A reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to stdout", &error))
        }
        _ => Ok(()),
    }
}
