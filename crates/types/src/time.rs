//! Time as the pure crates see it: a parameter.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment on one machine's clock that runs on through suspend (`CLOCK_BOOTTIME`). Moments of different machines, or of
/// different boots, have nothing to do with each other and are never exchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment {
    nanos: u64,
}

impl Moment {
    /// The clock's origin.
    pub const ZERO: Self = Self { nanos: 0 };

    /// A moment so many nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the clock's origin.
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment { nanos: self.nanos.saturating_add(nanos) }
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment { nanos: self.nanos.saturating_sub(nanos) }
    }
}
