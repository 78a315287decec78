//! When a write is acknowledged.

use std::fmt;
use std::str::FromStr;

/// What a plain write waits for before its client is told that it is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Durability {
    /// Accepted by a majority: it survives crashes of processes; `FLUSH` and FUA wait until it is durable on a majority.
    #[default]
    Flush,
    /// Durable on a majority before the acknowledgement, as if every write carried FUA.
    WriteThrough,
}

/// The text names no durability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a durability is `flush` or `write-through`")]
pub struct DurabilityError;

impl Durability {
    /// The name used on the command line, in JSON and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Durability::Flush => "flush",
            Durability::WriteThrough => "write-through",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "flush" => Ok(Durability::Flush),
            "write-through" => Ok(Durability::WriteThrough),
            _ => Err(DurabilityError),
        }
    }
}
