//! Waiting for a moment at the price of one wake-up.
//!
//! tokio's own timers are kept in a wheel, which wakes the thread at the wheel's borders on the way to a moment that is more
//! than 64 ms away: twice for each, three times beyond four seconds. For what a process that rests does over and over, that
//! is half of all its work. An alarm is a timer of the kernel instead.

use quoin_disk::clock;
use quoin_types::Moment;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

/// One timer, for one waiter. Counts as [`clock::now`] does.
#[derive(Debug)]
pub struct Alarm {
    /// Without one (the process has no file descriptor left), tokio's timers do.
    timer: Option<AsyncFd<OwnedFd>>,
    set: Option<Moment>,
}

impl Alarm {
    /// A timer that is not set. Must be called within a tokio runtime.
    #[expect(clippy::new_without_default, reason = "not everywhere can one be made")]
    pub fn new() -> Self {
        Self { timer: timer().ok(), set: None }
    }

    /// Waits until `at`, which may have passed. May be dropped, and called again with that moment or another.
    pub async fn until(&mut self, at: Moment) {
        if self.ring(at).await.is_err() {
            self.timer = None;
            tokio::time::sleep(at.since(clock::now())).await;
        }
    }

    async fn ring(&mut self, at: Moment) -> io::Result<()> {
        let timer = self.timer.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        if self.set != Some(at) && at > clock::now() {
            let value = Itimerspec { it_interval: Timespec::default(), it_value: timespec(at) };
            timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value)?;
            self.set = Some(at);
        }
        while clock::now() < at {
            // Its count is never read: setting it again clears that, and the next time that it rings is news. What rang for
            // an earlier moment is found here, once.
            timer.readable().await?.clear_ready_matching(Ready::READABLE);
        }
        Ok(())
    }
}

fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    // What it may be called with wrongly is a type whose descriptor changes or ends; one that is owned does neither.
    #[expect(deprecated, reason = "what replaces it is unsafe, and only `disk` may be")]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

fn timespec(at: Moment) -> Timespec {
    let nanos = at.as_nanos();
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Timespec { tv_sec: part(nanos / 1_000_000_000), tv_nsec: part(nanos % 1_000_000_000) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_alarm_rings_at_each_of_its_moments_and_not_before() {
        let mut alarm = Alarm::new();
        for _ in 0..3 {
            let at = clock::now() + SHORT;
            alarm.until(at).await;
            assert!(clock::now() >= at);
        }
        // One that has passed is not waited for.
        alarm.until(Moment::ZERO).await;
        alarm.until(clock::now()).await;
    }

    #[tokio::test]
    async fn whoever_stops_waiting_may_wait_for_another_moment_or_the_same() {
        let mut alarm = Alarm::new();
        let (sooner, later) = (clock::now() + SHORT, clock::now() + SHORT * 4);
        for at in [later, sooner, later] {
            tokio::select! {
                biased;
                () = alarm.until(at) => panic!("it rang too early"),
                () = tokio::task::yield_now() => {}
            }
        }
        alarm.until(sooner).await;
        assert!(clock::now() < later, "it rang for the later one");
        alarm.until(later).await;
        assert!(clock::now() >= later);
        // The same moment again, after the timer has rung for it and nobody listened.
        let at = clock::now() + SHORT;
        tokio::select! {
            biased;
            () = alarm.until(at) => panic!("it rang too early"),
            () = tokio::task::yield_now() => {}
        }
        tokio::time::sleep(SHORT * 2).await;
        alarm.until(at).await;
        let at = clock::now() + SHORT;
        alarm.until(at).await;
        assert!(clock::now() >= at);
    }

    #[tokio::test]
    async fn without_a_timer_of_the_kernel_it_rings_all_the_same() {
        let mut alarm = Alarm { timer: None, set: None };
        let at = clock::now() + SHORT;
        alarm.until(at).await;
        assert!(clock::now() >= at);
        alarm.until(at).await;
    }
}
