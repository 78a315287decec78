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

    /// The first moment after this one that is a whole number of periods from the clock's origin. What processes of one machine
    /// do again and again at such moments they do together, whenever each began: its processors are woken once for all.
    #[must_use]
    pub fn next_multiple(self, period: Duration) -> Moment {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        Moment { nanos: (self.nanos / period).saturating_add(1).saturating_mul(period) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_multiple_is_always_later_and_the_same_for_all_who_ask_before_it() {
        let at = |millis: u64| Moment::ZERO + Duration::from_millis(millis);
        let every = Duration::from_millis(500);
        assert_eq!([0, 1, 499].map(|millis| at(millis).next_multiple(every)), [at(500); 3]);
        assert_eq!(at(500).next_multiple(every), at(1000));
        assert_eq!(at(7).next_multiple(Duration::ZERO), at(7) + Duration::from_nanos(1));
        assert_eq!(Moment::from_nanos(u64::MAX).next_multiple(every), Moment::from_nanos(u64::MAX));
    }
}
