//! When a process that died is started again.

use std::time::Duration;

/// A run of at least this length counts as a success: the next death is again a first one.
const STEADY: Duration = Duration::from_secs(1);
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);

/// How often one process has died early in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    early_deaths: u32,
}

impl Backoff {
    /// How long to wait after a run of this length: not at all at first, and ever longer while the process cannot stay up.
    pub(crate) fn after(&mut self, run: Duration) -> Duration {
        if run >= STEADY {
            self.early_deaths = 0;
            return Duration::ZERO;
        }
        self.early_deaths += 1;
        match self.early_deaths {
            1 => Duration::ZERO,
            deaths => DELAY_MIN.saturating_mul(1 << (deaths - 2).min(16)).min(DELAY_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_at_first_and_then_ever_later() {
        let mut backoff = Backoff::default();
        let early = Duration::from_millis(20);
        let delays: Vec<u128> = (0..9).map(|_| backoff.after(early).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(STEADY), Duration::ZERO);
        assert_eq!(backoff.after(early), Duration::ZERO);
    }
}
