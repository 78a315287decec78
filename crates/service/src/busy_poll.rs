//! Looking for more work for a moment, instead of going to sleep at once.
//!
//! Where a request waits for the answer of another process, each of the two is woken once for it, and to wake a processor
//! that has gone idle may take longer than all the work: tens of microseconds in a virtual machine, which leaves its
//! processor to the host then. So a thread that has just worked looks at its sockets a little longer, as `net.core.busy_poll` does in
//! the kernel, and after each look lets whoever wants the processor go first. It does so only while it pays: while
//! work mostly came within the time that it looks, as with KVM's halt polling (Linux, `Documentation/virt/kvm/halt-polling.rst`), and while
//! little is under way. With much under way a thread hardly sleeps, all replicas want the processors, and what matters is what
//! each request costs. Reads without changes are another thing: one replica answers them, and what has come while others had
//! the processor is found by one look, instead of by a wake-up for each.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quoin_disk::clock;
use quoin_types::Moment;
use std::cell::Cell;
use std::future;
use std::time::Duration;
use tokio::sync::Notify;

/// How much of its worth it can lose, and must win back.
const WORTH_MAX: u8 = 8;
/// With more requests at once than this, on the average of the last times, it does not poll, …
const REQUESTS_MAX: u32 = 4;
/// … unless they are reads, but for this many.
const CHANGES_MAX: u32 = 1;
/// An average over this many, and the fraction it is kept in.
const DEPTH_SCALE: u32 = 8;

/// How many requests are under way, or have come at once.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// All of them.
    pub requests: usize,
    /// Those that are more than a read.
    pub changes: usize,
}

/// When work came, and what follows.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the last work was done.
    last: Moment,
    /// Rises with work that came soon after other work, falls with work that did not.
    worth: u8,
    /// How much was under way.
    requests: Depth,
    changes: Depth,
}

/// An average, in units of 1 ÷ [`DEPTH_SCALE`].
#[derive(Clone, Copy, Default, Debug)]
struct Depth(u32);

impl Depth {
    fn add(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(1 << 16);
        self.0 = self.0 * (DEPTH_SCALE - 1) / DEPTH_SCALE + count;
    }

    fn is_within(self, most: u32) -> bool {
        self.0 <= most * DEPTH_SCALE
    }
}

impl Pace {
    fn new(now: Moment) -> Self {
        Self { last: now, worth: 0, requests: Depth::default(), changes: Depth::default() }
    }

    fn work_came(&mut self, now: Moment, window: Duration) {
        self.worth =
            if now.since(self.last) < window { WORTH_MAX.min(self.worth + 1) } else { self.worth / 2 };
    }

    fn under_way(&mut self, load: Load) {
        self.requests.add(load.requests);
        self.changes.add(load.changes);
    }

    fn is_calm(&self) -> bool {
        self.requests.is_within(REQUESTS_MAX)
    }

    fn polling_pays(&self) -> bool {
        self.worth > 0 && (self.is_calm() || self.changes.is_within(CHANGES_MAX))
    }
}

/// Keeps the thread of a role awake for a moment after work. Its [`BusyPoll::run`] must be awaited beside that.
#[derive(Debug)]
pub struct BusyPoll {
    window: Duration,
    pace: Cell<Pace>,
    is_polling: Cell<bool>,
    begin: Notify,
    found: Counter,
    in_vain: Counter,
}

impl BusyPoll {
    /// Polls for at most `window` after the last work; never if that is zero.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            pace: Cell::new(Pace::new(clock::now())),
            is_polling: Cell::new(false),
            begin: Notify::new(),
            found: Counter::default(),
            in_vain: Counter::default(),
        }
    }

    /// Adds what is counted to a role's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "busy_polls_found",
            "Times that work came while it was polled for",
            self.found.clone(),
        );
        registry.register(
            "busy_polls_in_vain",
            "Times that no work came while it was polled for",
            self.in_vain.clone(),
        );
    }

    /// Work has come.
    pub fn work_came(&self, now: Moment) {
        self.change(|pace| pace.work_came(now, self.window));
        if self.is_polling.get() {
            self.found.inc();
        }
    }

    /// So much is under way, or has come at once.
    pub fn under_way(&self, load: Load) {
        self.change(|pace| pace.under_way(load));
    }

    /// Whether few requests came at once lately.
    pub fn is_calm(&self) -> bool {
        self.pace.get().is_calm()
    }

    /// The work that came is done.
    pub fn work_done(&self) {
        self.change(|pace| pace.last = clock::now());
        if !self.is_polling.get() && self.pace.get().polling_pays() {
            self.begin.notify_one();
        }
    }

    fn change(&self, change: impl FnOnce(&mut Pace)) {
        let mut pace = self.pace.get();
        change(&mut pace);
        self.pace.set(pace);
    }

    /// Polls whenever that pays. Never ends.
    pub async fn run(&self) {
        if self.window.is_zero() {
            return future::pending().await;
        }
        loop {
            self.begin.notified().await;
            self.is_polling.set(true);
            self.poll().await;
            self.is_polling.set(false);
        }
    }

    async fn poll(&self) {
        while self.pace.get().polling_pays() {
            if clock::now().since(self.pace.get().last) >= self.window {
                self.in_vain.inc();
                return;
            }
            std::thread::yield_now();
            // The runtime looks at its sockets, without waiting, before this goes on.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    const WINDOW: Duration = Duration::from_micros(100);

    fn changes(count: usize) -> Load {
        Load { requests: count, changes: count }
    }

    /// After work at these distances, each done at once, with so many changes under way.
    fn pace(gaps: impl IntoIterator<Item = u64>, under_way: usize) -> Pace {
        let mut now = Moment::from_nanos(0);
        let mut pace = Pace::new(now);
        for gap in gaps {
            now = now + Duration::from_micros(gap);
            pace.work_came(now, WINDOW);
            pace.under_way(changes(under_way));
            pace.last = now;
        }
        pace
    }

    #[test]
    fn it_polls_while_work_follows_work() {
        assert!(!pace([], 1).polling_pays(), "a thread that has just begun");
        assert!(!pace([5_000; 100], 1).polling_pays(), "a timer every 5 ms");
        assert!(pace([5_000, 60], 1).polling_pays(), "a request, and its first answer");
        assert!(pace([60; 100], 1).polling_pays());
        assert!(
            pace([60, 60, 60, 5_000].repeat(10), 1).polling_pays(),
            "some requests a second, of four steps each"
        );
        assert!(!pace([60; 100].into_iter().chain([5_000; 4]), 1).polling_pays(), "it gives up soon");
    }

    #[test]
    fn it_does_not_poll_with_much_under_way_but_for_reads() {
        assert!(pace([10; 100], REQUESTS_MAX as usize).polling_pays());
        assert!(!pace([10; 100], REQUESTS_MAX as usize + 1).polling_pays());
        assert!(!pace([10; 10], usize::MAX).polling_pays());
        let mut busy = pace([10; 100], 32);
        let mut load = |load| {
            (0..60).for_each(|_| busy.under_way(load));
            (busy.polling_pays(), busy.is_calm())
        };
        assert_eq!(load(Load { requests: 32, changes: CHANGES_MAX as usize + 1 }), (false, false));
        assert_eq!(load(Load { requests: 32, changes: CHANGES_MAX as usize }), (true, false));
        assert_eq!(load(changes(32)), (false, false));
        assert_eq!(load(changes(REQUESTS_MAX as usize)), (true, true), "it begins again when that is over");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn work_is_found_while_polling_and_what_does_not_come_is_not_waited_for() {
        let polling = Rc::new(BusyPoll::new(Duration::from_millis(20)));
        let work = |polling: &BusyPoll| {
            polling.work_came(clock::now());
            polling.under_way(changes(1));
            polling.work_done();
        };
        LocalSet::new()
            .run_until(async {
                let runs = polling.clone();
                let run = tokio::task::spawn_local(async move { runs.run().await });
                work(&polling);
                while !polling.is_polling.get() {
                    tokio::task::yield_now().await;
                }
                assert_eq!((polling.found.get(), polling.in_vain.get()), (0, 0));
                work(&polling);
                while polling.is_polling.get() {
                    tokio::task::yield_now().await;
                }
                assert_eq!((polling.found.get(), polling.in_vain.get()), (1, 1));
                run.abort();
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_window_it_never_polls() {
        let polling = BusyPoll::new(Duration::ZERO);
        polling.work_came(clock::now());
        polling.work_done();
        let ended = tokio::time::timeout(Duration::from_millis(20), polling.run()).await;
        assert!(ended.is_err() && !polling.is_polling.get());
    }
}
