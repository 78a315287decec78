//! W1: an acknowledged write is accepted by a majority of the voters, and one whose answer promised durability is durable
//! on one. Judged at the moment at which the gateway answers, in a configuration that it has run since it was asked (nearly
//! always the same one), by what the storage nodes have said of themselves; if that is joint, it takes both halves (rule C1).

use super::{Acknowledged, Run, Sent};
use crate::queue::Nanos;
use quoin_types::collections::HashMap;
use quoin_types::joint;
use quoin_types::{Epoch, ReplicaId, Seq};
use quoin_wire::{OpenReply, Position};

/// The furthest that each replica has said it was, by the epoch that it had promised.
#[derive(Default)]
pub(super) struct Positions {
    told: HashMap<(ReplicaId, Epoch), (Seq, Seq)>,
}

impl Positions {
    pub(super) fn told(&mut self, position: &Position) {
        let known = self.told.entry((position.replica, position.epoch)).or_default();
        known.0 = known.0.max(position.accepted);
        known.1 = known.1.max(position.durable);
    }

    /// What a replica reports to an `Open` is durable.
    pub(super) fn opened(&mut self, reply: &OpenReply) {
        let Ok(report) = &reply.result else { return };
        if let Some(last) = report.history.last().filter(|_| !report.mixed) {
            let known = self.told.entry((reply.replica, last.epoch)).or_default();
            *known = (known.0.max(report.last), known.1.max(report.last));
        }
    }

    pub(super) fn acknowledged(
        &self,
        told: &Acknowledged<'_>,
        durable: bool,
        run: Run<'_>,
        sent: &HashMap<u64, Sent>,
    ) -> Result<(), String> {
        // Zeroes are not told apart, and parts of blocks are written with what is around them.
        for (_, value) in told.values.iter().filter(|(register, value)| *value != 0 && *register < 1 << 32) {
            let Some(sent) = sent.get(value) else {
                return Err(format!("the write of {value} is acknowledged, and was sent to nobody"));
            };
            if !self.has_majority(sent, durable, told.start, run) {
                let what = if durable { "durable on" } else { "accepted by" };
                return Err(format!("{value} is acknowledged at {sent:?}, and is not {what} a majority"));
            }
        }
        Ok(())
    }

    pub(super) fn has_majority(&self, sent: &Sent, durable: bool, since: Nanos, run: Run<'_>) -> bool {
        let has = |replica: ReplicaId| {
            let known = self.told.get(&(replica, sent.epoch)).copied().unwrap_or_default();
            (if durable { known.1 } else { known.0 }) >= sent.seq
        };
        run.any_since(since, sent.segment, |members| {
            joint::is_majority(members, |(_, role)| *role, |(replica, _)| has(*replica))
        })
    }
}
