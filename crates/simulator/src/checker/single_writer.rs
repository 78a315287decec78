//! Once an attachment serves, no earlier one acknowledges a write that it was asked for later (rule A1). A flush it may: that all
//! it has acknowledged is durable stays true.

use super::Acknowledged;
use crate::queue::Nanos;
use std::collections::BTreeMap;

/// When each epoch's first answer was there.
#[derive(Default)]
pub(super) struct Writers(BTreeMap<u64, Nanos>);

impl Writers {
    pub(super) fn acknowledged(&mut self, told: &Acknowledged<'_>) -> Result<(), String> {
        self.0.entry(told.epoch).or_insert(told.end);
        let later = self.0.range(told.epoch + 1..).find(|(_, served)| **served < told.start);
        match later {
            Some((epoch, served)) => Err(format!(
                "epoch {} acknowledges what was asked at {}, and epoch {epoch} serves since {served}",
                told.epoch, told.start
            )),
            None => Ok(()),
        }
    }
}
