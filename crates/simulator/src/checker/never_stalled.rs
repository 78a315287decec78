//! A slow, hung or silent copy costs a client nothing: with a majority of the others well, a request is answered within a bound that
//! does not depend on how long that copy stays away. Looked at in scenarios that trouble one storage node and nothing else.

use crate::queue::{MILLISECOND, Nanos};
use crate::setup::Setup;

/// The longest that a healthy disk takes for one job: see `queue_job`.
const SLOWEST_SYNC: u64 = 4 * 20;

/// What a client has to wait for at most, whatever becomes of one storage node.
pub(crate) fn bound(setup: &Setup) -> Nanos {
    let (_, delay) = setup.delay;
    let disk = SLOWEST_SYNC * setup.disk_latency;
    let hedge = setup.timing.hedge_max.as_nanos() as Nanos;
    // A part of a block is read before it is written, and the read may have waited for a write: three times there and back,
    // each with the slowest disk of those that are well, and two hedged reads.
    3 * (2 * delay + disk) + 2 * hedge + 50 * MILLISECOND
}

/// A client was answered.
pub(crate) fn answered(setup: &Setup, waited: Nanos) -> Result<(), String> {
    let bound = bound(setup);
    if !setup.troubles_one || waited <= bound {
        return Ok(());
    }
    Err(format!(
        "one storage node is in trouble, and a client waited for {waited} ns; {bound} ns is the most there may be"
    ))
}

/// A client has given up waiting.
pub(crate) fn gave_up(setup: &Setup, waited: Nanos) -> Result<(), String> {
    answered(setup, waited.max(bound(setup) + 1))
}
