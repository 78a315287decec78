//! Time: the only place of xtask that reads a clock.

use std::time::Instant;

/// This moment.
#[expect(clippy::disallowed_methods, reason = "a chore tells how long its steps take")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
