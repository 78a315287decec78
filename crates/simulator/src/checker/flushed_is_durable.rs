//! A flush is answered when every write that was answered before it began is durable on a majority.

use super::acknowledged_is_on_a_majority::Positions;
use super::{Acknowledged, Run, Sent};
use crate::queue::Nanos;
use quoin_types::collections::HashMap;

/// Writes that no flush has covered yet: the epoch, the value, when it was asked for and when it was answered.
#[derive(Default)]
pub(super) struct Unflushed(Vec<(u64, u64, Nanos, Nanos)>);

impl Unflushed {
    pub(super) fn acknowledged(&mut self, told: &Acknowledged<'_>) {
        let values = told.values.iter().filter(|(register, value)| *value != 0 && *register < 1 << 32);
        self.0.extend(values.map(|(_, value)| (told.epoch, *value, told.start, told.end)));
    }

    pub(super) fn flushed(
        &mut self,
        told: &Acknowledged<'_>,
        run: Run<'_>,
        positions: &Positions,
        sent: &HashMap<u64, Sent>,
    ) -> Result<(), String> {
        // What an earlier attachment wrote is in the state with which this one began: the history says whether it stays.
        let covered =
            |(epoch, _, _, end): &(u64, u64, Nanos, Nanos)| *epoch == told.epoch && *end <= told.start;
        for (_, value, since, _) in self.0.extract_if(.., |write| covered(write)) {
            let sent = sent.get(&value);
            if !sent.is_some_and(|sent| positions.has_majority(sent, true, since, run)) {
                return Err(format!(
                    "a flush is answered, and {value}, sent as {sent:?}, is not durable on a majority"
                ));
            }
        }
        Ok(())
    }
}
