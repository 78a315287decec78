//! Repair: one damaged extent is fetched anew from a peer that the gateway named (rule R3).

use super::pull::{Pull, PullId, Work};
use super::{Fatal, Node, Output, refusal_or_fatal};
use quoin_replication::replica::{PullError, Repairer, Verdict};
use quoin_types::{Moment, SessionId};
use quoin_wire::{FetchReply, Refusal, Repair};
use std::time::Duration;

/// How long one peer may take to give an extent.
const REPAIR_MAX: Duration = Duration::from_secs(5);
/// How long to wait before asking a peer again that was not there yet.
const ASK_AGAIN: Duration = Duration::from_millis(5);

impl Node {
    pub(super) fn on_repair(&mut self, session: SessionId, order: Repair, now: Moment) {
        let (id, extent) = (order.replica, order.extent);
        let Some(replica) = self.replicas.get(&id) else { return };
        // What is incomplete is mended by its resync (rule S2). What is not listed was mended since it was told.
        if replica.check_promise(session, order.epoch).is_err()
            || !replica.counts()
            || self.pulls.is_pulling(id)
            || !self.damages.contains(id, extent)
        {
            return;
        }
        let last_epoch = replica.state().epoch;
        self.damages.answered(id);
        // R3: the order is for the version that it names. Another one may be whole.
        if self.own_version(id, extent) != Ok(order.version) {
            return self.damages.look_again(id, extent);
        }
        let source = order.source.clone();
        let work = Work::Repair(Box::new(Repairer::new(order, last_epoch)));
        let pull = self.pulls.insert(Pull {
            replica: id,
            session,
            connected: false,
            resume_at: now,
            told_at: now,
            work,
        });
        self.outputs.push(Output::ConnectPeer(pull, source));
    }

    /// Asks the peer, or waits for it, or stores what it gave.
    pub(super) fn drive_repair(&mut self, id: PullId, now: Moment) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.get_mut(id) else { return Ok(()) };
        let Work::Repair(repairer) = &mut pull.work else { return Ok(()) };
        if now.since(pull.told_at) >= REPAIR_MAX {
            self.fail_pull(id, Refusal::Behind);
            return Ok(());
        }
        if repairer.must_ask() && pull.connected && now >= pull.resume_at {
            let position = self.replicas.get(&pull.replica).map(|replica| replica.position());
            let request = repairer.request(position.unwrap_or_default());
            self.outputs.push(Output::SendPeer(id, request));
        }
        self.settle_repair(id)
    }

    pub(super) fn on_repair_fetched(
        &mut self,
        id: PullId,
        reply: FetchReply,
        now: Moment,
    ) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.get_mut(id) else { return Ok(()) };
        let Work::Repair(repairer) = &mut pull.work else { return Ok(()) };
        match repairer.on_fetch(reply) {
            Ok(()) => self.settle_repair(id),
            Err(PullError::Refused(Refusal::Behind)) => {
                pull.resume_at = now + ASK_AGAIN;
                Ok(())
            }
            Err(error) => {
                let order = repairer.order();
                tracing::warn!(replica = %order.replica, extent = %order.extent, source = %order.source.address,
                    %error, "a peer could not give a damaged extent");
                self.fail_pull(id, Refusal::Disk);
                Ok(())
            }
        }
    }

    /// Stores the extent once that is right.
    pub(super) fn settle_repair(&mut self, id: PullId) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.get_mut(id) else { return Ok(()) };
        let Work::Repair(repairer) = &pull.work else { return Ok(()) };
        let (replica, order) = (pull.replica, repairer.order().clone());
        let position = self.replicas.get(&replica).map(|state| state.position()).unwrap_or_default();
        let verdict = match self.own_version(replica, order.extent) {
            Ok(own) => self.pulls.verdict(id, position, own),
            Err(_) => Verdict::Overwritten,
        };
        match verdict {
            Verdict::NotYet => Ok(()),
            Verdict::Overwritten => {
                self.end_pull(id);
                self.damages.look_again(replica, order.extent);
                Ok(())
            }
            Verdict::Differs => {
                tracing::error!(%replica, extent = %order.extent, source = %order.source.address,
                    "a peer has another version of a damaged extent than this replica: it is not taken");
                self.fail_pull(id, Refusal::WrongState);
                Ok(())
            }
            Verdict::Store(extent) => match self.store(replica, extent) {
                Ok(()) => {
                    tracing::warn!(%replica, extent = %order.extent, source = %order.source.address,
                        "a damaged extent was repaired");
                    self.end_pull(id);
                    Ok(())
                }
                Err(error) => {
                    let refusal = refusal_or_fatal(error)?;
                    self.fail_pull(id, refusal);
                    Ok(())
                }
            },
        }
    }
}
