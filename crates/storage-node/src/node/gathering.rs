//! When what has gathered is synced, and when it is applied: at once where somebody waits for it, else when it is much, or
//! old. One sync then serves many writes, one pass over the data file many records, and a thread is woken for many, not
//! for each.

use quoin_types::Moment;
use std::time::Duration;

/// What was accepted becomes durable within this time, and that of the sync: what a loss of power may take from a disk with
/// a volatile cache.
const SYNC_WITHIN: Duration = Duration::from_millis(10);
/// So much is worth a sync.
const SYNC_BYTES: u64 = 4 << 20;
/// What is durable goes to its place within this time. Nobody waits for it: until then reads find it in memory.
const APPLY_WITHIN: Duration = Duration::from_millis(10);
/// So much is worth a pass over the data file.
const APPLY_BYTES: u64 = 1 << 20;
/// How often it is looked whether there is space to give and to take, if nothing else is done on the data file.
const LOOK_AT_SPACE_EVERY: Duration = Duration::from_millis(200);
/// Whoever has asked for a sync asks again, most likely, after as few writes: then it has begun.
const WRITES_OF_ONE_ASKING: u32 = 8;

/// What waits for a job.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    /// Since when, if anything does.
    since: Option<Moment>,
    bytes: u64,
}

impl Gathered {
    fn add(&mut self, bytes: u64, now: Moment) {
        self.since.get_or_insert(now);
        self.bytes += bytes;
    }

    fn is_due(&self, within: Duration, bytes: u64, now: Moment) -> bool {
        self.since.is_some_and(|since| self.bytes >= bytes || now >= since + within)
    }
}

/// What gathers for the next sync, and for the next pass over the data file.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    to_sync: Gathered,
    to_apply: Gathered,
    /// Somebody waits for the next sync.
    asked: bool,
    /// Since somebody asked last.
    writes_unasked: u32,
    /// Bytes of the sync under way.
    syncing: Option<u64>,
    applying: bool,
    /// There may be more to do on the data file than to apply records: space to give and to take.
    looks_at_space: bool,
    /// When it was looked last, as time passed.
    looked: Moment,
    /// Of the batch that is not in the journal yet.
    batch_bytes: u64,
}

impl Gathering {
    /// A gathering that begins as if somebody had asked.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A write was taken into the batch.
    pub(super) fn took(&mut self, bytes: u64) {
        self.batch_bytes += bytes;
        self.writes_unasked = self.writes_unasked.saturating_add(1);
    }

    /// The batch is in the journal.
    pub(super) fn wrote(&mut self, now: Moment) {
        self.to_sync.add(std::mem::take(&mut self.batch_bytes), now);
    }

    /// Somebody waits for what was written.
    pub(super) fn ask(&mut self) {
        self.asked = self.has_unsynced() || self.syncing.is_some();
        self.writes_unasked = 0;
    }

    /// Whether something waits for the next sync.
    fn has_unsynced(&self) -> bool {
        self.to_sync.since.is_some() || self.batch_bytes > 0
    }

    /// Whether somebody waits for the next sync.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether a sync is to begin now. `awaited`: records are waited for that are no writes.
    pub(super) fn wants_sync(&self, awaited: bool, now: Moment) -> bool {
        let at_once = self.asked || awaited || self.writes_unasked < WRITES_OF_ONE_ASKING;
        let is_due = || self.to_sync.is_due(SYNC_WITHIN, SYNC_BYTES, now);
        self.syncing.is_none() && self.to_sync.since.is_some() && (at_once || is_due())
    }

    /// A sync of everything begins, or there was nothing to sync.
    pub(super) fn sync_begins(&mut self, has_begun: bool) {
        self.asked = false;
        let gathered = std::mem::take(&mut self.to_sync);
        self.syncing = has_begun.then_some(gathered.bytes);
    }

    /// It has ended.
    pub(super) fn synced(&mut self, now: Moment) {
        let bytes = self.syncing.take().unwrap_or_default();
        // Else who asked meanwhile, for what this one brought, would be taken for somebody who waits for a later write.
        self.asked &= self.has_unsynced();
        self.to_apply.add(bytes, now);
        // Records that are no writes are few.
        self.looks_at_space |= bytes == 0;
    }

    /// There may be space to give and to take.
    pub(super) fn look_at_space(&mut self) {
        self.looks_at_space = true;
    }

    /// Time passes: now and then it is looked whether there is. Tells whether that is now.
    pub(super) fn tick(&mut self, now: Moment) -> bool {
        let looks = now.since(self.looked) >= LOOK_AT_SPACE_EVERY;
        if looks {
            self.looked = now;
            self.looks_at_space = true;
        }
        looks
    }

    /// Whether applying is to begin now.
    pub(super) fn wants_apply(&self, now: Moment) -> bool {
        let is_due = || self.to_apply.is_due(APPLY_WITHIN, APPLY_BYTES, now);
        !self.applying && (self.looks_at_space || is_due())
    }

    /// It begins, with all that is durable, or there was nothing to apply.
    pub(super) fn apply_begins(&mut self, has_begun: bool) {
        self.to_apply = Gathered::default();
        self.looks_at_space = false;
        self.applying = has_begun;
    }

    /// It has ended. What one job leaves is the next one's.
    pub(super) fn applied(&mut self, now: Moment) {
        self.applying = false;
        self.to_apply.add(0, now);
    }

    /// When something is to begin that nothing else begins sooner.
    pub(super) fn due(&self) -> Option<Moment> {
        let sync = self.to_sync.since.filter(|_| self.syncing.is_none()).map(|since| since + SYNC_WITHIN);
        let apply = self.to_apply.since.filter(|_| !self.applying).map(|since| since + APPLY_WITHIN);
        sync.into_iter().chain(apply).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::ZERO;

    fn after(millis: u64) -> Moment {
        START + Duration::from_millis(millis)
    }

    /// Many writes, and nobody has asked lately.
    fn unasked() -> Gathering {
        let mut gathering = Gathering::new();
        for _ in 0..WRITES_OF_ONE_ASKING {
            gathering.took(4096);
            gathering.wrote(START);
        }
        gathering
    }

    #[test]
    fn writes_that_nobody_waits_for_gather_for_a_while() {
        let mut gathering = unasked();
        assert!(!gathering.wants_sync(false, after(9)));
        assert_eq!(gathering.due(), Some(after(10)));
        assert!(gathering.wants_sync(false, after(10)));
        gathering.sync_begins(true);
        gathering.took(4096);
        gathering.wrote(after(11));
        assert!(!gathering.wants_sync(false, after(60)), "one at a time");
        assert_eq!(gathering.due(), None);
        gathering.synced(after(12));
        assert_eq!(gathering.due(), Some(after(21)));
        assert!(!gathering.wants_apply(after(21)) && gathering.wants_apply(after(22)));
    }

    #[test]
    fn much_is_synced_and_applied_at_once() {
        let mut gathering = unasked();
        gathering.took(SYNC_BYTES);
        assert!(!gathering.wants_sync(false, START), "it is not in the journal");
        gathering.wrote(START);
        assert!(gathering.wants_sync(false, START));
        gathering.sync_begins(true);
        assert!(!gathering.wants_apply(START));
        gathering.synced(START);
        assert!(gathering.wants_apply(START));
        gathering.apply_begins(true);
        assert!(!gathering.wants_apply(after(60)), "one at a time");
        gathering.applied(after(1));
        assert!(!gathering.wants_apply(after(10)) && gathering.wants_apply(after(11)));
        gathering.apply_begins(false);
        assert_eq!(gathering.due(), None);
        gathering.look_at_space();
        assert!(gathering.wants_apply(after(12)));
    }

    #[test]
    fn records_that_are_no_writes_wait_for_nothing() {
        let mut gathering = unasked();
        gathering.sync_begins(true);
        gathering.synced(START);
        assert!(!gathering.wants_apply(START));
        gathering.wrote(START);
        assert!(gathering.wants_sync(true, START));
        gathering.sync_begins(true);
        gathering.synced(START);
        assert!(gathering.wants_apply(START));
    }

    #[test]
    fn whoever_asks_for_what_is_durable_asks_for_nothing() {
        let mut gathering = unasked();
        gathering.sync_begins(true);
        gathering.ask();
        assert!(gathering.is_asked(), "it may have to begin anew for that");
        gathering.synced(START);
        assert!(!gathering.is_asked());
        gathering.ask();
        assert!(!gathering.is_asked());
        gathering.took(4096);
        gathering.ask();
        assert!(gathering.is_asked());
    }

    #[test]
    fn whoever_asks_is_served_at_once_and_the_next_time_before_asking() {
        let mut gathering = unasked();
        assert!(gathering.wants_sync(true, START), "a record is waited for");
        gathering.ask();
        assert!(gathering.wants_sync(false, START));
        gathering.sync_begins(true);
        gathering.synced(START);
        assert!(!gathering.wants_sync(false, START), "there is nothing to sync");
        gathering.took(4096);
        gathering.wrote(START);
        assert!(gathering.wants_sync(false, START));
        for _ in 1..WRITES_OF_ONE_ASKING {
            gathering.took(4096);
        }
        assert!(!gathering.wants_sync(false, START));
    }
}
