//! What is wrong with a history, for people.

use crate::{Operation, What};
use std::fmt;

/// Operations on one block that one disk cannot have answered so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which block.
    pub block: u64,
    /// The epoch of the lossy attachment since which this is so, if it needs one: earlier writes that were not
    /// durable were allowed to vanish.
    pub since: Option<u64>,
    /// The operations, and why.
    pub reason: Reason,
}

/// Why there is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The history itself is of no use: two writes of one value to one block cannot be told apart.
    WrittenTwice {
        /// One of them.
        first: Operation,
        /// The other.
        second: Operation,
    },
    /// A value out of thin air.
    NeverWritten {
        /// What saw it.
        read: Operation,
    },
    /// A value from the future.
    NotYetWritten {
        /// What saw it, and had ended before the write began.
        read: Operation,
        /// What wrote it.
        write: Operation,
    },
    /// One value must be before the other, and the other before the one.
    NoOrder {
        /// Why the one is before the other.
        one: Before,
        /// Why the other is before the one.
        other: Before,
    },
    /// Zeroes were read when the block held something else, and no write of zeroes can be between.
    NoZeroes {
        /// What saw zeroes.
        read: Operation,
        /// What had ended before, and shows that the block held a value.
        held: Operation,
        /// What shows that it still held it later than any write of zeroes that can explain the read.
        still: Operation,
    },
}

/// Two operations of which one had ended before the other began, and so the value of one was there before the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// What had ended.
    pub earlier: Operation,
    /// What began later.
    pub later: Operation,
}

impl std::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", self.block)?;
        if let Some(epoch) = self.since {
            write!(f, ", since the lossy attachment with epoch {epoch}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::WrittenTwice { first, second } => {
                write!(
                    f,
                    "one value was written twice, so the history proves nothing:\n  {first}\n  {second}"
                )
            }
            Reason::NeverWritten { read } => write!(f, "a value was read that nobody wrote there:\n  {read}"),
            Reason::NotYetWritten { read, write } => {
                write!(f, "a value was read before it was written:\n  {read}\n  {write}")
            }
            Reason::NoOrder { one, other } => {
                let (a, b) = (value(&one.earlier), value(&one.later));
                write!(f, "no order explains the values {a} and {b}:\n  {a} before {b}, for {one}\n  ")?;
                write!(f, "{b} before {a}, for {other}")?;
                if a != 0 && b != 0 { write!(f, "\n  and each was written once") } else { Ok(()) }
            }
            Reason::NoZeroes { read, held, still } => {
                write!(
                    f,
                    "zeroes were read, but the block held {} and was not zeroed since:\n  ",
                    value(held)
                )?;
                if still != held {
                    write!(f, "{held}\n  ")?;
                }
                write!(f, "{still}\n  {read}")
            }
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this had ended:\n    {}\n  when this began:\n    {}", self.earlier, self.later)
    }
}

fn value(operation: &Operation) -> u64 {
    match operation.what {
        What::Write { value, .. } | What::Read { value, .. } => value,
        What::Flush => 0,
    }
}
