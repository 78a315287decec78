//! Where a sync is waited for: by the node's own thread, while syncs are brief and one gateway alone asks for little at a time,
//! else by another one.
//!
//! Another thread must be woken for a sync, and must wake this one when it has ended. With one request at a time that costs
//! more than all the rest of the node's work, and this thread has nothing to do meanwhile. But whatever else is asked of it
//! waits, too: where several connections are used, one sync is to serve them all; and a disk whose syncs take long has
//! requests that need not wait for them.

use quoin_store::SyncJob;
use quoin_types::SessionId;
use std::cell::Cell;
use std::time::Duration;

/// Syncs that take no longer are brief: what another request may have to wait here.
const BRIEF_MAX: Duration = Duration::from_micros(400);
/// A session is alone when so many batches of messages in a row were its own.
const ALONE_AFTER: u32 = 16;

/// How long syncs take, and who speaks.
#[derive(Debug)]
pub(super) struct BriefSyncs {
    /// The longest of late; forgotten little by little.
    longest: Cell<Duration>,
    speaker: Cell<Option<SessionId>>,
    in_a_row: Cell<u32>,
}

impl BriefSyncs {
    /// Begins as if syncs were long.
    pub(super) fn new() -> Self {
        Self { longest: Cell::new(BRIEF_MAX * 2), speaker: Cell::new(None), in_a_row: Cell::new(0) }
    }

    /// A session has said something; `None`: a peer has answered.
    pub(super) fn heard(&self, speaker: Option<SessionId>) {
        let same = speaker.is_some() && self.speaker.replace(speaker) == speaker;
        self.in_a_row.set(if same { self.in_a_row.get().saturating_add(1) } else { 0 });
    }

    /// A sync has taken so long, wherever it was waited for.
    pub(super) fn took(&self, time: Duration) {
        self.longest.set(time.max(self.longest.get() * 3 / 4));
    }

    /// Whether this one is to be waited for here.
    pub(super) fn waits_here(&self, job: &SyncJob, little_under_way: bool) -> bool {
        little_under_way && job.is_of_journal_only() && self.are_brief() && self.one_is_alone()
    }

    fn are_brief(&self) -> bool {
        self.longest.get() <= BRIEF_MAX
    }

    fn one_is_alone(&self) -> bool {
        self.in_a_row.get() >= ALONE_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sync_counts_for_a_while() {
        let syncs = BriefSyncs::new();
        let is_brief = || syncs.are_brief();
        assert!(!is_brief(), "nothing is known yet");
        let until_brief = || {
            let mut count = 0;
            while !is_brief() {
                syncs.took(Duration::from_micros(100));
                count += 1;
            }
            count
        };
        assert!((2..5).contains(&until_brief()));
        syncs.took(Duration::from_millis(10));
        assert!(!is_brief());
        assert!(
            (10..20).contains(&until_brief()),
            "a disk that is slow now and then is waited for elsewhere"
        );
        syncs.took(BRIEF_MAX);
        assert!(is_brief());
        syncs.took(BRIEF_MAX + Duration::from_micros(1));
        assert!(!is_brief());
    }

    #[test]
    fn several_who_speak_by_turns_share_a_sync() {
        let syncs = BriefSyncs::new();
        let speak = |speakers: &[Option<u64>]| {
            speakers.iter().for_each(|speaker| syncs.heard(speaker.map(SessionId)));
            syncs.one_is_alone()
        };
        assert!(!speak(&[Some(1); ALONE_AFTER as usize]));
        assert!(speak(&[Some(1)]));
        assert!(!speak(&[Some(2)]), "another one");
        assert!(!speak(&[Some(1), Some(2)].repeat(50)));
        assert!(speak(&[Some(2); 20]), "a heartbeat now and then is no matter");
        assert!(!speak(&[None; 20]), "answers of a peer that is pulled from");
    }
}
