//! C3: of two voters one is gone on with only if it is not known to be shaken or mixed.

use crate::queue::{MILLISECOND, Nanos};
use quoin_cluster::Volume;
use quoin_types::collections::HashMap;
use quoin_types::{Epoch, ReplicaId, SegmentId};
use quoin_wire::{Message, OpenReply};

/// A gateway has reported by then what it heard.
const REPORTED_AFTER: Nanos = 200 * MILLISECOND;

/// What the present gateway knows of replicas, and who voted last.
#[derive(Default)]
pub(super) struct Survivors {
    unwhole: HashMap<(ReplicaId, Epoch), Nanos>,
    voters: HashMap<SegmentId, Vec<ReplicaId>>,
}

impl Survivors {
    /// A gateway hears what a replica has.
    pub(super) fn heard_opened(&mut self, reply: &OpenReply, now: Nanos) {
        let Ok(report) = &reply.result else { return };
        if report.shaken || report.mixed {
            self.unwhole.entry((reply.replica, reply.epoch)).or_insert(now);
        } else {
            self.unwhole.remove(&(reply.replica, reply.epoch));
        }
    }

    /// It starts the epoch with a replica, settles it, or has it brought to another state.
    pub(super) fn says(&mut self, message: &Message) {
        let about = match message {
            Message::StartEpoch(start) => (start.replica, start.epoch),
            Message::Settle(settle) => (settle.replica, settle.epoch),
            Message::Resync(order) => (order.replica, order.epoch),
            _ => return,
        };
        self.unwhole.remove(&about);
    }

    pub(super) fn volume_is(&mut self, volume: &Volume, now: Nanos) -> Result<(), String> {
        for (index, segment) in (0..).zip(&volume.segments) {
            let id = SegmentId { volume: volume.id, index };
            let voters: Vec<ReplicaId> = segment.voters().map(|replica| replica.id).collect();
            let before = self.voters.insert(id, voters.clone()).unwrap_or_default();
            let ([survivor], 2) = (voters.as_slice(), before.len()) else { continue };
            let known = self.unwhole.get(&(*survivor, volume.epoch));
            if known.is_some_and(|since| now - since > REPORTED_AFTER) {
                return Err(format!("replica {survivor} is gone on with alone, and may lack what both had"));
            }
        }
        Ok(())
    }
}
