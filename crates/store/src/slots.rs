//! Which slots of the data file are free. A slot holds one extent.
//!
//! Nothing of this is written: a restart rebuilds it from the maps.

use quoin_types::EXTENT_BYTES;

/// The place of one extent in the data file, counted in extents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    /// The slot's first byte in the data file.
    pub(crate) const fn byte_offset(self) -> u64 {
        self.0 * EXTENT_BYTES
    }
}

/// Neighbouring slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotRun {
    pub(crate) first: Slot,
    pub(crate) count: u64,
}

impl SlotRun {
    pub(crate) const fn byte_offset(self) -> u64 {
        self.first.byte_offset()
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.count * EXTENT_BYTES
    }

    pub(crate) fn slots(self) -> impl Iterator<Item = Slot> {
        (self.first.0..self.first.0 + self.count).map(Slot)
    }
}

/// Two bits per slot: is it used, and does the file have blocks for it.
pub(crate) struct Slots {
    used: Vec<u64>,
    backed: Vec<u64>,
    count: u64,
    free: u64,
    /// How many of the free ones have blocks.
    ready: u64,
    /// No word before this one has a free slot.
    free_hint: usize,
    /// No word before this one has a free slot with blocks.
    ready_hint: usize,
}

impl Slots {
    /// All free, none known to have blocks.
    pub(crate) fn new(count: u64) -> Self {
        let words = count.div_ceil(64) as usize;
        Self {
            used: vec![0; words],
            backed: vec![0; words],
            count,
            free: count,
            ready: 0,
            free_hint: 0,
            ready_hint: 0,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Free slots that have blocks.
    pub(crate) fn ready(&self) -> u64 {
        self.ready
    }

    /// Takes the lowest free slot that has blocks; if none has, the lowest free slot.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let slot = self.take_ready().or_else(|| self.first_free())?;
        self.set_used(slot);
        Some(slot)
    }

    /// The lowest free slot that has blocks; its bit is not set yet.
    fn take_ready(&mut self) -> Option<Slot> {
        if self.ready == 0 {
            return None;
        }
        while let (Some(used), Some(backed)) =
            (self.used.get(self.ready_hint), self.backed.get(self.ready_hint))
        {
            let ready = !used & backed;
            if ready != 0 {
                return Some(Slot(self.ready_hint as u64 * 64 + u64::from(ready.trailing_zeros())));
            }
            self.ready_hint += 1;
        }
        None
    }

    fn first_free(&mut self) -> Option<Slot> {
        while let Some(word) = self.used.get(self.free_hint) {
            let slot = self.free_hint as u64 * 64 + u64::from(word.trailing_ones());
            if *word != u64::MAX {
                return (slot < self.count).then_some(Slot(slot));
            }
            self.free_hint += 1;
        }
        None
    }

    fn set_used(&mut self, slot: Slot) {
        set(&mut self.used, slot.0, true);
        self.free -= 1;
        self.ready -= u64::from(bit(&self.backed, slot.0));
    }

    /// Marks a slot found in a map; it has blocks. `false` if there is no such slot, or it is used already.
    pub(crate) fn mark_used(&mut self, slot: Slot) -> bool {
        if slot.0 >= self.count || bit(&self.used, slot.0) {
            return false;
        }
        self.set_used(slot);
        set(&mut self.backed, slot.0, true);
        true
    }

    /// Gives a slot back. The caller has seen to E2.
    pub(crate) fn release(&mut self, slot: Slot) {
        debug_assert!(bit(&self.used, slot.0), "slot {slot:?} was free already");
        set(&mut self.used, slot.0, false);
        self.free += 1;
        let word = (slot.0 / 64) as usize;
        self.free_hint = self.free_hint.min(word);
        if bit(&self.backed, slot.0) {
            self.ready += 1;
            self.ready_hint = self.ready_hint.min(word);
        }
    }

    pub(crate) fn is_backed(&self, slot: Slot) -> bool {
        bit(&self.backed, slot.0)
    }

    /// The first free slots without blocks that are neighbours, at most `max`.
    pub(crate) fn unbacked_run(&mut self, max: u64) -> Option<SlotRun> {
        if self.free == self.ready {
            return None;
        }
        self.first_free()?;
        let is_unbacked = |slot: u64| !bit(&self.used, slot) && !bit(&self.backed, slot);
        let first_word = (self.free_hint..self.used.len())
            .find(|word| self.used[*word] | self.backed[*word] != u64::MAX)?;
        let first = (first_word as u64 * 64..self.count).find(|slot| is_unbacked(*slot))?;
        let end = self.count.min(first + max);
        let stop = (first + 1..end).find(|slot| !is_unbacked(*slot)).unwrap_or(end);
        Some(SlotRun { first: Slot(first), count: stop - first })
    }

    /// The slot and its free neighbours behind it that have no blocks either, at most `max`.
    pub(crate) fn unbacked_run_at(&self, slot: Slot, max: u64) -> SlotRun {
        let end = self.count.min(slot.0 + max);
        let stop = (slot.0 + 1..end).find(|s| bit(&self.used, *s) || bit(&self.backed, *s));
        SlotRun { first: slot, count: stop.unwrap_or(end) - slot.0 }
    }

    /// The highest free slots with blocks, at most `max` of them, taken: for giving their blocks back.
    pub(crate) fn take_surplus(&mut self, max: u64) -> Vec<SlotRun> {
        let mut runs: Vec<SlotRun> = Vec::new();
        let mut left = max.min(self.ready);
        for word in (0..self.used.len()).rev() {
            while left > 0 {
                let ready = !self.used[word] & self.backed[word];
                if ready == 0 {
                    break;
                }
                let slot = Slot(word as u64 * 64 + 63 - u64::from(ready.leading_zeros()));
                self.set_used(slot);
                left -= 1;
                match runs.last_mut() {
                    Some(run) if run.first.0 == slot.0 + 1 => {
                        *run = SlotRun { first: slot, count: run.count + 1 }
                    }
                    _ => runs.push(SlotRun { first: slot, count: 1 }),
                }
            }
            if left == 0 {
                break;
            }
        }
        runs
    }

    /// Notes whether slots have blocks.
    pub(crate) fn set_backed(&mut self, run: SlotRun, backed: bool) {
        for slot in run.slots() {
            if bit(&self.backed, slot.0) == backed {
                continue;
            }
            set(&mut self.backed, slot.0, backed);
            if !bit(&self.used, slot.0) {
                self.ready = if backed { self.ready + 1 } else { self.ready - 1 };
                self.ready_hint = self.ready_hint.min((slot.0 / 64) as usize);
            }
        }
    }
}

fn bit(words: &[u64], index: u64) -> bool {
    words[(index / 64) as usize] >> (index % 64) & 1 == 1
}

fn set(words: &mut [u64], index: u64, value: bool) {
    let word = &mut words[(index / 64) as usize];
    *word = if value { *word | 1 << (index % 64) } else { *word & !(1 << (index % 64)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_once_lowest_first() {
        for count in [1, 63, 64, 65, 200] {
            let mut slots = Slots::new(count);
            for expected in 0..count {
                assert_eq!(slots.take(), Some(Slot(expected)));
            }
            assert_eq!((slots.take(), slots.free()), (None, 0));
            slots.release(Slot(count / 2));
            assert_eq!((slots.take(), slots.take()), (Some(Slot(count / 2)), None));
            assert!(!slots.mark_used(Slot(count)) && !slots.mark_used(Slot(0)));
        }
    }

    #[test]
    fn slots_with_blocks_go_first_and_are_counted() {
        let mut slots = Slots::new(100);
        assert!(slots.mark_used(Slot(10)));
        assert_eq!(slots.unbacked_run(64), Some(SlotRun { first: Slot(0), count: 10 }));
        slots.set_backed(SlotRun { first: Slot(5), count: 5 }, true);
        assert_eq!((slots.ready(), slots.free()), (5, 99));
        assert_eq!(slots.take(), Some(Slot(5)));
        assert_eq!(slots.unbacked_run(64), Some(SlotRun { first: Slot(0), count: 5 }));
        slots.set_backed(SlotRun { first: Slot(0), count: 5 }, true);
        assert_eq!(slots.unbacked_run(64), Some(SlotRun { first: Slot(11), count: 64 }));
        assert_eq!(slots.unbacked_run_at(Slot(90), 64), SlotRun { first: Slot(90), count: 10 });
        assert_eq!(slots.ready(), 9);
        let surplus = slots.take_surplus(6);
        assert_eq!(surplus, [SlotRun { first: Slot(6), count: 4 }, SlotRun { first: Slot(3), count: 2 }]);
        assert_eq!((slots.ready(), slots.free()), (3, 92));
        for run in surplus {
            slots.set_backed(run, false);
            run.slots().for_each(|slot| slots.release(slot));
        }
        assert_eq!((slots.ready(), slots.free(), slots.take()), (3, 98, Some(Slot(0))));
    }
}
