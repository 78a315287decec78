//! Histories as files. The crate's documentation has the format.

use crate::{History, Operation, What};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("the history cannot be read")]
    Io(#[from] io::Error),
    /// A line is none of the objects above.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Write {
        client: u64,
        block: u64,
        value: String,
        start_ns: u64,
        /// Has no meaning where the outcome is unknown.
        #[serde(default)]
        end_ns: Option<u64>,
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u64,
        #[serde(default, skip_serializing_if = "is_false")]
        durable: bool,
    },
    Read {
        client: u64,
        block: u64,
        value: String,
        start_ns: u64,
        end_ns: u64,
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u64,
    },
    Flush {
        client: u64,
        start_ns: u64,
        end_ns: u64,
        outcome: Outcome,
        #[serde(default, skip_serializing_if = "is_zero")]
        epoch: u64,
    },
    Lossy {
        epoch: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Reads a history. Empty lines are passed over; everything else must be as [this crate](crate) describes.
///
/// # Errors
/// With the first line that is not.
pub fn read(from: impl BufRead) -> Result<History, ReadError> {
    let mut history = History::default();
    for (number, line) in (1..).zip(from.lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            take(&line, &mut history).map_err(|reason| ReadError::Line { line: number, reason })?;
        }
    }
    Ok(history)
}

fn take(line: &str, history: &mut History) -> Result<(), String> {
    let operation = match serde_json::from_str(line).map_err(|error| error.to_string())? {
        Line::Write { client, block, value, start_ns, end_ns, outcome, epoch, durable } => {
            let end_ns = match outcome {
                Outcome::Ok => Some(end_ns.ok_or("a write that is done has an end")?),
                Outcome::Unknown => None,
            };
            if durable && end_ns.is_none() {
                return Err("a write without an answer was not promised to be durable".to_owned());
            }
            let what = What::Write { block, value: number(&value)?, durable };
            Operation { client, epoch, what, start_ns, end_ns }
        }
        Line::Read { client, block, value, start_ns, end_ns, outcome, epoch } => {
            let end_ns = Some(answered(outcome, end_ns)?);
            Operation { client, epoch, what: What::Read { block, value: number(&value)? }, start_ns, end_ns }
        }
        Line::Flush { client, start_ns, end_ns, outcome, epoch } => {
            Operation { client, epoch, what: What::Flush, start_ns, end_ns: Some(answered(outcome, end_ns)?) }
        }
        Line::Lossy { epoch } => {
            history.push_lossy(epoch);
            return Ok(());
        }
    };
    if operation.end_ns.is_some_and(|end| end < operation.start_ns) {
        return Err("it ends before it starts".to_owned());
    }
    history.push(operation);
    Ok(())
}

fn answered(outcome: Outcome, end_ns: u64) -> Result<u64, String> {
    match outcome {
        Outcome::Ok => Ok(end_ns),
        Outcome::Unknown => {
            Err("a read or a flush without an answer says nothing, and is left out".to_owned())
        }
    }
}

/// Only as [`u64`] prints itself: one value, one text.
fn number(text: &str) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| format!("{text:?} is no value"))?;
    if number.to_string() == text { Ok(number) } else { Err(format!("{text:?} is no value, {number} is")) }
}

/// Writes a history so that [`read`] gives it back. Reads and flushes without an answer say nothing and are left out.
///
/// # Errors
/// Those of the writer.
pub fn write(history: &History, mut to: impl io::Write) -> io::Result<()> {
    let lossy = history.lossy().iter().map(|epoch| Line::Lossy { epoch: *epoch });
    for line in lossy.chain(history.operations().iter().filter_map(line_of)) {
        serde_json::to_writer(&mut to, &line)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

fn line_of(operation: &Operation) -> Option<Line> {
    let Operation { client, epoch, what, start_ns, end_ns } = *operation;
    let outcome = Outcome::Ok;
    match (what, end_ns) {
        (What::Write { block, value, durable }, _) => {
            let value = value.to_string();
            let outcome = if end_ns.is_some() { Outcome::Ok } else { Outcome::Unknown };
            Some(Line::Write { client, block, value, start_ns, end_ns, outcome, epoch, durable })
        }
        (What::Read { block, value }, Some(end_ns)) => {
            let value = value.to_string();
            Some(Line::Read { client, block, value, start_ns, end_ns, outcome, epoch })
        }
        (What::Flush, Some(end_ns)) => Some(Line::Flush { client, start_ns, end_ns, outcome, epoch }),
        (What::Read { .. } | What::Flush, None) => None,
    }
}
