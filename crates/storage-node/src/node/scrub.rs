//! Scrub: everything on the disk is looked at, lap after lap, in small steps at an even pace.
//!
//! A step is planned when it is due, runs on a thread of its own, and sets when the next one is due. What was missed is
//! not made up for, so there are no bursts; and while clients work the pace is a part of the rate.

use super::{Fatal, Node, Output};
use quoin_store::{Scrub, ScrubJob};
use quoin_types::{Moment, Seq};
use std::time::Duration;

/// What one step looks at: a client's request that the disk is busy for waits for no more than this.
const STEP_BYTES: u64 = 256 << 10;
/// While clients work, scrub takes one part in so many of its rate.
const GIVE_WAY: u64 = 4;

/// The scrub of a disk.
#[derive(Debug)]
pub(super) struct Scrubber {
    bytes_per_second: Option<u64>,
    interval: Duration,
    scrub: Scrub,
    /// The step under way, and whether clients were at work when it began.
    running: Option<(Moment, bool)>,
    due: Moment,
    lap_began: Moment,
    /// The end of the last complete lap; before the first one, the start of the process.
    lap_ended: Moment,
    ticked: Moment,
    /// Clients' requests, as counted by the last step.
    requests: u64,
}

impl Scrubber {
    pub(super) fn new(bytes_per_second: Option<u64>, interval: Duration, now: Moment) -> Self {
        Self {
            bytes_per_second,
            interval,
            scrub: Scrub::default(),
            running: None,
            due: now,
            lap_began: now,
            lap_ended: now,
            ticked: now,
            requests: 0,
        }
    }

    /// When a tick is needed for it.
    pub(super) fn due(&self) -> Option<Moment> {
        let is_waiting = self.bytes_per_second.is_some() && self.running.is_none();
        is_waiting.then_some(self.due)
    }

    pub(super) fn laps(&self) -> u64 {
        self.scrub.laps()
    }

    /// Since the last complete lap, or the start.
    pub(super) fn lap_age(&self) -> Duration {
        self.ticked.since(self.lap_ended)
    }

    /// When a step of so many bytes, begun at a moment, is followed by the next.
    fn pace(bytes: u64, rate: u64, give_way: bool) -> Duration {
        let parts = if give_way { GIVE_WAY } else { 1 };
        let nanos = u128::from(bytes) * u128::from(parts) * 1_000_000_000 / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Node {
    pub(super) fn tick_scrub(&mut self, now: Moment) {
        let scrubber = &mut self.scrubber;
        scrubber.ticked = now;
        if scrubber.due().is_none_or(|due| due > now) {
            return;
        }
        if let Some(job) = self.engine.start_scrub(&mut scrubber.scrub, STEP_BYTES) {
            let requests = self.counters.reads + self.counters.writes;
            let clients_work = std::mem::replace(&mut scrubber.requests, requests) != requests;
            scrubber.running = Some((now, clients_work));
            self.outputs.push(Output::Scrub(job));
            return;
        }
        let took = now.since(scrubber.lap_began);
        tracing::info!(lap = scrubber.laps(), ?took, damaged = self.damages.count(), "a scrub is complete");
        scrubber.lap_ended = now;
        scrubber.due = now.max(scrubber.lap_began + scrubber.interval);
        scrubber.lap_began = scrubber.due;
    }

    /// A step of the scrub was run.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_scrubbed(&mut self, job: ScrubJob) -> Result<(), Fatal> {
        let report = self.engine.finish_scrub(job);
        self.counters.damaged += report.damaged.len() as u64;
        for damage in report.damaged {
            if damage.snapshot.is_some() {
                // What only a snapshot keeps is named, not mended: it must not be taken for what the replica is now.
                self.counters.damage_found += 1;
                tracing::error!("{damage}");
                continue;
            }
            // All ones stand for a version that nobody knows, should the engine name it so.
            let version = damage.version.filter(|version| *version != Seq(u64::MAX));
            self.found_damage(damage.replica, damage.extent, version, damage);
        }
        let scrubber = &mut self.scrubber;
        if let (Some((began, give_way)), Some(rate)) = (scrubber.running.take(), scrubber.bytes_per_second) {
            scrubber.due = began + Scrubber::pace(report.bytes, rate, give_way);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_the_rate_and_a_part_of_it_while_clients_work() {
        assert_eq!(Scrubber::pace(1 << 20, 1 << 20, false), Duration::from_secs(1));
        assert_eq!(Scrubber::pace(1 << 20, 1 << 20, true), Duration::from_secs(4));
        assert_eq!(Scrubber::pace(u64::MAX, 1, true), Duration::from_nanos(u64::MAX));
    }
}
