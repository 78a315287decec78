//! Where a sync is waited for: by the node's own thread, while syncs are brief and little is under way, else by another one.
//!
//! Another thread must be woken for a sync, and must wake this one when it has ended. With one request at a time that costs
//! more than all the rest of the node's work, and this thread has nothing to do meanwhile. A disk whose syncs take long has
//! requests that do not wait for them, and those are not to wait either.

use quoin_store::SyncJob;
use std::cell::Cell;
use std::time::Duration;

/// Syncs that take no longer are brief: what another request may have to wait here.
const BRIEF_MAX: Duration = Duration::from_micros(400);

/// How long syncs take.
#[derive(Debug)]
pub(super) struct BriefSyncs {
    /// The longest of late; forgotten little by little.
    longest: Cell<Duration>,
}

impl BriefSyncs {
    /// Begins as if syncs were long.
    pub(super) fn new() -> Self {
        Self { longest: Cell::new(BRIEF_MAX * 2) }
    }

    /// A sync has taken so long, wherever it was waited for.
    pub(super) fn took(&self, time: Duration) {
        self.longest.set(time.max(self.longest.get() * 15 / 16));
    }

    /// Whether this one is to be waited for here.
    pub(super) fn waits_here(&self, job: &SyncJob, little_under_way: bool) -> bool {
        little_under_way && job.is_of_journal_only() && self.longest.get() <= BRIEF_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sync_counts_for_a_while() {
        let syncs = BriefSyncs::new();
        let is_brief = || syncs.longest.get() <= BRIEF_MAX;
        assert!(!is_brief(), "nothing is known yet");
        let until_brief = || {
            let mut count = 0;
            while !is_brief() {
                syncs.took(Duration::from_micros(100));
                count += 1;
            }
            count
        };
        assert!((5..20).contains(&until_brief()));
        syncs.took(Duration::from_millis(10));
        assert!(!is_brief());
        assert!(
            (40..80).contains(&until_brief()),
            "a disk that is slow now and then is waited for elsewhere"
        );
        syncs.took(BRIEF_MAX);
        assert!(is_brief());
        syncs.took(BRIEF_MAX + Duration::from_micros(1));
        assert!(!is_brief());
    }
}
