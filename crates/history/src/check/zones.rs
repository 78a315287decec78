//! Gibbons and Korach's test for one register ("Testing Shared Memories", SIAM J. Comput. 26(4), 1997, section 5).
//!
//! In any order that explains a history, the operations on one value stand together: its write, then its reads. So what is
//! ordered is values, and a is before b if some operation on a had ended when one on b began. With `first_end`, the first end of all
//! operations on a value, and `last_start`, the last start, that is `a.first_end < b.last_start`. An order exists if, and only if,
//! no two values are each before the other, and no read ended before its write began. A value whose `first_end` is before
//! its `last_start` (a *forward* zone) was certainly there between; two of these may not overlap, and the zone of any other value
//! (*backward*: it may have been there for a moment anywhere from `last_start` to `first_end`) may not lie within one.

use super::violation::{Before, Reason};
use crate::{Operation, What};
use quoin_types::collections::HashMap;

/// An end that is not known: nothing began after it.
const NEVER: u64 = u64::MAX;

/// An operation on a value.
#[derive(Clone, Copy)]
struct Done<'a> {
    operation: &'a Operation,
    value: u64,
    end: u64,
    /// It took effect for certain. That of a write may be seen by reads only.
    certain: bool,
}

/// All operations on one block.
#[derive(Default)]
pub(super) struct Register<'a> {
    writes: Vec<Done<'a>>,
    reads: Vec<Done<'a>>,
}

/// The operations on one value.
#[derive(Clone, Copy)]
struct Zone<'a> {
    write: &'a Operation,
    /// That with the first end.
    first: Done<'a>,
    /// That with the last start.
    last: &'a Operation,
    /// The value was there: its write is certain, or somebody saw it.
    certain: bool,
}

impl<'a> Zone<'a> {
    fn of(one: Done<'a>) -> Self {
        Zone { write: one.operation, first: one, last: one.operation, certain: one.certain }
    }

    fn first_end(&self) -> u64 {
        self.first.end
    }

    fn last_start(&self) -> u64 {
        self.last.start_ns
    }

    fn is_forward(&self) -> bool {
        self.first_end() < self.last_start()
    }

    fn take(&mut self, read: Done<'a>) {
        self.certain = true;
        if read.end < self.first.end {
            self.first = read;
        }
        if read.operation.start_ns > self.last.start_ns {
            self.last = read.operation;
        }
    }
}

impl<'a> Register<'a> {
    /// A write. If it does not survive, it may have had no effect; if it had one, then not after its end.
    pub(super) fn push_write(&mut self, operation: &'a Operation, survives: bool) {
        if let What::Write { value, .. } = operation.what {
            let (end, certain) = (operation.end_ns.unwrap_or(NEVER), survives && operation.end_ns.is_some());
            self.writes.push(Done { operation, value, end, certain });
        }
    }

    /// A read that was answered.
    pub(super) fn push_read(&mut self, operation: &'a Operation, end: u64) {
        if let What::Read { value, .. } = operation.what {
            self.reads.push(Done { operation, value, end, certain: true });
        }
    }

    /// Whether there is an order.
    pub(super) fn check(&self) -> Result<(), Box<Reason>> {
        let mut zones = self.zones()?;
        zones.sort_by_key(Zone::first_end);
        self.check_zeroes(&zones)?;
        let forward: Vec<Zone> = zones.iter().copied().filter(Zone::is_forward).collect();
        if let Some(pair) = forward.windows(2).find(|pair| are_in_conflict(&pair[0], &pair[1])) {
            return Err(no_order(&pair[0], &pair[1]));
        }
        // Zeroes may come and go, but not while another value was certainly there.
        let zeroes = self.writes.iter().chain(&self.reads).filter(|done| done.value == 0 && done.certain);
        let backward = zones.iter().copied().filter(|zone| !zone.is_forward());
        for zone in backward.chain(zeroes.map(|zero| Zone::of(*zero))) {
            // The forward zones are apart and in order: only the last that begins before this one ends can hold it.
            let after = forward.partition_point(|around| around.first_end() < zone.last_start());
            if let Some(around) = after.checked_sub(1).map(|at| &forward[at])
                && are_in_conflict(around, &zone)
            {
                return Err(no_order(around, &zone));
            }
        }
        Ok(())
    }

    /// The zones of all values but 0 that were certainly there.
    fn zones(&self) -> Result<Vec<Zone<'a>>, Box<Reason>> {
        let mut zones: HashMap<u64, Zone> = HashMap::default();
        for write in self.writes.iter().filter(|write| write.value != 0) {
            if let Some(other) = zones.insert(write.value, Zone::of(*write)) {
                let (first, second) = (*other.write, *write.operation);
                return Err(Reason::WrittenTwice { first, second }.into());
            }
        }
        for read in self.reads.iter().filter(|read| read.value != 0) {
            let zone = zones.get_mut(&read.value).ok_or(Reason::NeverWritten { read: *read.operation })?;
            if read.end < zone.write.start_ns {
                let (read, write) = (*read.operation, *zone.write);
                return Err(Reason::NotYetWritten { read, write }.into());
            }
            zone.take(*read);
        }
        Ok(zones.into_values().filter(|zone| zone.certain).collect())
    }

    /// Each read of zeroes needs a write of zeroes that no other value must come between, or the block as it was in the
    /// beginning. Where that is the only zero this says all that zones would.
    fn check_zeroes(&self, zones: &[Zone]) -> Result<(), Box<Reason>> {
        // At each position the zone with the last start of all up to there.
        let mut longest: Vec<&Zone> = Vec::with_capacity(zones.len());
        for zone in zones {
            let before = longest.last().copied().filter(|before| before.last_start() >= zone.last_start());
            longest.push(before.unwrap_or(zone));
        }
        // Writes of zeroes by their start, each with the last end of all up to it.
        let mut zeroed: Vec<(u64, u64)> = Vec::new();
        for write in self.writes.iter().filter(|write| write.value == 0) {
            zeroed.push((write.operation.start_ns, write.end));
        }
        zeroed.sort_unstable();
        for at in 1..zeroed.len() {
            zeroed[at].1 = zeroed[at].1.max(zeroed[at - 1].1);
        }
        for read in self.reads.iter().filter(|read| read.value == 0) {
            let held = zones.partition_point(|zone| zone.first_end() < read.operation.start_ns);
            let Some(zone) = held.checked_sub(1).map(|at| longest[at]) else { continue };
            let begun = zeroed.partition_point(|(start, _)| *start <= read.end);
            let end = begun.checked_sub(1).map(|at| zeroed[at].1);
            if end.is_none_or(|end| end < zone.last_start()) {
                let (held, still) = (*zone.first.operation, *zone.last);
                return Err(Reason::NoZeroes { read: *read.operation, held, still }.into());
            }
        }
        Ok(())
    }
}

/// Whether each is before the other.
fn are_in_conflict(a: &Zone, b: &Zone) -> bool {
    a.first_end() < b.last_start() && b.first_end() < a.last_start()
}

fn no_order(a: &Zone, b: &Zone) -> Box<Reason> {
    Box::new(Reason::NoOrder {
        one: Before { earlier: *a.first.operation, later: *b.last },
        other: Before { earlier: *b.first.operation, later: *a.last },
    })
}
