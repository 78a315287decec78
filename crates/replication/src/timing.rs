//! The protocol's times. Both sides must agree on the lease; everything else is local.

use std::time::Duration;

/// How far two machines' clock rates may differ: one part in so many (rule R2).
const CLOCK_RATE_ERROR: u32 = 100;

/// The protocol's times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// The length L of a read lease.
    pub lease: Duration,
    /// How often a gateway asks for leases.
    pub heartbeat: Duration,
    /// How long to wait for more answers to `Open` once a majority has answered, when they may save copying.
    pub late_answers: Duration,
    /// After how long without enough unshaken answers an attach becomes lossy (rule A2).
    pub lossy_after: Duration,
    /// The age of the oldest unanswered request at which a storage node is cut loose.
    pub unanswered_max: Duration,
    /// The least time before a late read is sent to a second replica.
    pub hedge_min: Duration,
    /// The most time before a late read is sent to a second replica.
    pub hedge_max: Duration,
    /// How long to wait before a replica that failed to catch up tries again.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(2),
            heartbeat: Duration::from_millis(250),
            late_answers: Duration::from_millis(100),
            lossy_after: Duration::from_secs(15),
            unanswered_max: Duration::from_secs(1),
            hedge_min: Duration::from_millis(2),
            hedge_max: Duration::from_millis(20),
            retry: Duration::from_millis(200),
        }
    }
}

impl Timing {
    /// How long the holder may use a lease, from the *sending* of its heartbeat: L(1−ε).
    pub fn lease_held(&self) -> Duration {
        self.lease - self.lease / CLOCK_RATE_ERROR
    }

    /// How long the granter must honour a lease, from the *receipt* of the heartbeat: L(1+ε).
    pub fn lease_granted(&self) -> Duration {
        self.lease + self.lease / CLOCK_RATE_ERROR
    }
}
