//! What may be said once a record is durable: the condition travels with the effect.

use super::{Fatal, Node, Output};
use quoin_store::Lsn;
use quoin_types::{Epoch, Moment, ReplicaId, Seq, SessionId};
use quoin_wire::{Message, OpenReply, ResyncReport, ResyncState, StartEpochReply};
use std::collections::VecDeque;

/// What comes true with a record's durability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// The replica's writes to here are durable.
    Durable(ReplicaId, Seq),
    /// `Open` is answered: the promise, and all that is reported, is durable.
    Opened { session: SessionId, replica: ReplicaId, epoch: Epoch },
    /// `StartEpoch` is answered.
    Started { session: SessionId, replica: ReplicaId, epoch: Epoch },
    /// A resync is told to have ended (rule S2).
    Resynced { session: SessionId, report: ResyncReport },
    /// The cluster manager is told.
    Created(ReplicaId),
    /// The cluster manager is told.
    Dropped(ReplicaId),
}

impl Effect {
    fn is_awaited(self) -> bool {
        !matches!(self, Self::Durable(..))
    }
}

/// Effects waiting for their records, in the order of the journal.
#[derive(Debug, Default)]
pub(super) struct Effects {
    waiting: VecDeque<(Lsn, Effect)>,
    /// Those among them that somebody waits for: all but the durability of writes.
    awaited: usize,
}

impl Effects {
    pub(super) fn at(&mut self, lsn: Lsn, effect: Effect) {
        debug_assert!(self.waiting.back().is_none_or(|(last, _)| *last <= lsn), "the journal's order");
        self.awaited += usize::from(effect.is_awaited());
        self.waiting.push_back((lsn, effect));
    }

    pub(super) fn durable_at(&mut self, lsn: Lsn, replica: ReplicaId, seq: Seq) {
        self.at(lsn, Effect::Durable(replica, seq));
    }

    /// Whether an effect is still to come true.
    fn awaits(&self, effect: Effect) -> bool {
        self.waiting.iter().any(|(_, waiting)| *waiting == effect)
    }

    fn next(&mut self, durable: Lsn) -> Option<Effect> {
        let (_, effect) = self.waiting.pop_front_if(|(lsn, _)| *lsn <= durable)?;
        self.awaited -= usize::from(effect.is_awaited());
        Some(effect)
    }

    /// Whether somebody waits for a record that is not durable yet, and is no write.
    pub(super) fn are_awaited(&self) -> bool {
        self.awaited > 0
    }
}

impl Node {
    /// The cluster manager asks again for what has been done. While the record is not durable the effect does the telling: the
    /// manager relies on it from then on.
    pub(super) fn tell_again(&mut self, done: Effect, told: Output) {
        if !self.effects.awaits(done) {
            self.outputs.push(told);
        }
    }

    /// Carries out every effect whose record is durable.
    pub(super) fn come_true(&mut self, now: Moment) -> Result<(), Fatal> {
        let durable = self.engine.durable();
        while let Some(effect) = self.effects.next(durable) {
            match effect {
                Effect::Durable(id, seq) => {
                    if let Some(replica) = self.replicas.get_mut(&id) {
                        replica.made_durable(seq);
                        self.moved.insert(id);
                    }
                }
                Effect::Opened { session, replica, epoch } => self.tell_opened(session, replica, epoch, now),
                Effect::Started { session, replica, epoch } => {
                    if let Some(state) = self.replicas.get_mut(&replica) {
                        state.made_durable(state.position());
                    }
                    let reply = StartEpochReply { replica, epoch, result: Ok(()) };
                    self.send(session, Message::StartEpochReply(reply));
                }
                Effect::Resynced { session, report } => {
                    if report.state == ResyncState::Complete {
                        self.moved.insert(report.replica);
                    }
                    self.send(session, Message::ResyncReport(report));
                }
                Effect::Created(id) => self.outputs.push(Output::Created(id)),
                Effect::Dropped(id) => self.outputs.push(Output::Dropped(id)),
            }
        }
        self.tell_positions();
        Ok(())
    }

    fn tell_opened(&mut self, session: SessionId, id: ReplicaId, epoch: Epoch, now: Moment) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if replica.check_promise(session, epoch).is_err() {
            // Another `Open` has come meanwhile; its own answer follows.
            return;
        }
        replica.made_durable(replica.position());
        let reply = OpenReply { replica: id, epoch, result: Ok(replica.report(now)) };
        self.send(session, Message::OpenReply(reply));
    }
}
