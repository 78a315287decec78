//! Time: the only place of the harness that reads a clock or pauses.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// This moment.
#[expect(clippy::disallowed_methods, reason = "the harness measures real processes in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The pause between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "between two looks at a condition that has a deadline")]
pub fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

/// A client's time to think between two requests: what it is to measure is not a machine that has too much to do.
#[expect(clippy::disallowed_methods, reason = "a load of a given rate; nothing is waited for")]
pub fn think(time: Duration) {
    std::thread::sleep(time);
}

/// Looks until the condition holds and gives what was found.
///
/// # Panics
/// With the reason of the last no, if it does not hold within this time.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if begun.elapsed() >= within => panic!("waited {within:?} for {what}: {reason}"),
            Err(_) => pause(),
        }
    }
}
