//! The clock of one machine: it begins anywhere, and is as fast or slow as rule R2 allows.

use crate::queue::Nanos;
use crate::random::Random;
use quoin_types::Moment;
use std::time::Duration;

/// How far a rate may be from that of virtual time, in parts per million: R2 allows one part in a hundred.
const DRIFT_PPM_MAX: u64 = 9_900;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: Nanos,
    /// Parts per million, of which a million is virtual time's own rate.
    rate_ppm: u64,
}

impl Clock {
    pub(crate) fn random(random: &mut Random) -> Self {
        let drift = random.pick(&[0, 100, DRIFT_PPM_MAX, DRIFT_PPM_MAX]);
        let rate_ppm = 1_000_000 - drift + random.below(2 * drift + 1);
        Self { offset: random.below(1 << 50), rate_ppm }
    }

    pub(crate) fn at(&self, now: Nanos) -> Moment {
        let passed = u128::from(now) * u128::from(self.rate_ppm) / 1_000_000;
        Moment::from_nanos(self.offset + passed as Nanos)
    }

    /// How much virtual time passes while this clock counts `time`.
    pub(crate) fn virtual_time(&self, time: Duration) -> Nanos {
        (time.as_nanos() * 1_000_000 / u128::from(self.rate_ppm)) as Nanos
    }
}
