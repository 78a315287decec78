//! Whether a storage node is there, as the managers' leaders have concluded, and the time by which they count.
//!
//! Heartbeats are no commands. What a leader concludes from them is one: a node is unreachable, or online again. So the
//! next leader, who has not heard anybody yet, knows who was gone. How to conclude is not decided here.

use quoin_types::{DiskId, NodeId};
use std::time::Duration;

/// A moment of the cluster's own time: for how long, in all, somebody has led it.
///
/// No machine's clock can be compared across leaders: moments of two machines have nothing to do with each other, and
/// clocks on the wall jump, so that after a step of an hour everyone absent would seem to have been so for an hour. A leader
/// therefore goes on from the last reading that is in the state, by its own clock that runs on through suspend, and puts its
/// readings into the state in turn. What passes between the last reading of one leader and the beginning of the next is
/// not counted: spans come out too short, never too long, and nobody is given up early. Leaders bound the loss by a reading
/// a minute while a node is unreachable; else nothing is counted that anyone would ask for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterTime {
    millis: u64,
}

impl ClusterTime {
    /// When the first leader began.
    pub const ZERO: Self = Self { millis: 0 };

    /// A moment so many milliseconds after the first leader began.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// Milliseconds since the first leader began.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// The moment that comes so much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self { millis: self.millis.saturating_add(millis) }
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis.saturating_sub(earlier.millis))
    }
}

/// Why a node is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It missed three heartbeats.
    Silent,
    /// Its last heartbeat said that it stops.
    Left,
}

/// An absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absence {
    /// Why.
    pub cause: Cause,
    /// When a leader concluded it.
    pub since: ClusterTime,
}

/// Whether a node is there. One that registers is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Health {
    /// It registered or was heard of, and nobody has missed it since.
    #[default]
    Online,
    /// It is not given replicas, and the ones it has are missing.
    Unreachable(Absence),
}

impl Health {
    /// The absence, if it is one.
    pub const fn absence(self) -> Option<Absence> {
        match self {
            Health::Online => None,
            Health::Unreachable(absence) => Some(absence),
        }
    }

    /// Why the node is not there, if it is not.
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Health::Online => None,
            Health::Unreachable(absence) => Some(absence.cause),
        }
    }

    /// Whether the node is there.
    pub const fn is_online(self) -> bool {
        matches!(self, Health::Online)
    }
}

/// What a leader has concluded about a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthChange {
    /// The node.
    pub node: NodeId,
    /// The disk of the start that it is about.
    pub disk: DiskId,
    /// The number of that start. If the node is at another one by now, this is about its past, and changes nothing.
    pub start_count: u64,
    /// What the state said when the leader looked. If it says something else by now, somebody has concluded before.
    pub known: Option<Cause>,
    /// Why it is unreachable; `None` if it is there.
    pub absent: Option<Cause>,
}
