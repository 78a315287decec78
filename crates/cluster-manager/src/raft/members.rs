//! Who the members are, and how that changes: one at a time, by raft's own entries.
//!
//! A new member is a learner first, whose word does not count, until it has nearly all of the log; so a member that was lost
//! is replaced without a moment in which the empty one is needed for a majority.

use super::consensus::{Consensus, MemberError};
use super::pending::Asker;
use super::store::StoreError;
use prost::Message as _;
use quoin_api::v1;
use quoin_cluster::{Outcome, RequestId, apply};
use quoin_types::Moment;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfChangeV2, Entry, EntryType};

/// Entries that a learner may lack when it becomes a voter: what a busy second writes.
const CAUGHT_UP_WITHIN: u64 = 100;

/// One step of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MemberChange {
    /// Takes in a member whose word does not count yet.
    Learner { id: u64, address: String },
    /// Lets a learner's word count.
    Voter { id: u64 },
    /// Lets a member go.
    Gone { id: u64 },
}

/// How a member stands, to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Membership {
    None,
    /// Takes part without a vote. `ready`: it may be given one.
    Learner {
        ready: bool,
    },
    Voter,
}

impl Consensus {
    /// How somebody stands. Known to the leader alone.
    pub(crate) fn membership(&self, id: u64) -> Membership {
        let raft = &self.node.raft;
        let Some(progress) = raft.prs().get(id) else { return Membership::None };
        if raft.prs().conf().voters().contains(id) {
            return Membership::Voter;
        }
        let missing = raft.raft_log.committed.saturating_sub(progress.matched);
        let ready = progress.recent_active && progress.matched > 0 && missing <= CAUGHT_UP_WITHIN;
        Membership::Learner { ready }
    }

    /// How many members have a vote.
    pub(crate) fn voters(&self) -> usize {
        self.node.raft.prs().conf().voters().ids().iter().count()
    }

    /// Hands leadership to another member, if there is one.
    pub(crate) fn step_aside(&mut self) {
        self.hand_over();
    }

    /// Proposes one step. `asker` is told to try again while another one is under way.
    pub(crate) fn change_member(
        &mut self,
        asker: Asker,
        request: RequestId,
        change: &MemberChange,
        now: Moment,
    ) {
        let may = self.is_leading() && !self.node.raft.has_pending_conf();
        let entry = to_entry(request, change);
        if !may || self.node.propose_conf_change(Vec::new(), entry).is_err() {
            return self.pending.refuse(asker);
        }
        self.pending.add_proposal(request, asker, now);
    }

    /// `asker` hears when all changes that are applied here are known to a majority of those who are members now.
    ///
    /// Members change when the entry is *applied*, which the leader does first: those who have it in their logs, and have
    /// not heard that it is committed, still look for a majority among the former members. Were the leader lost then, they
    /// might find none, though enough of the new ones are there. An entry that is proposed from here on comes to each with
    /// the news that what is before it is committed, and both become durable together; so whoever has it goes by the new
    /// members. Once it is committed a majority of them has it, and with the longest log of any other majority, too.
    pub(crate) fn settle_members(&mut self, asker: Asker, request: RequestId, now: Moment) {
        if !self.may_propose() || self.node.propose(request.0.to_vec(), Vec::new()).is_err() {
            return self.pending.refuse(asker);
        }
        self.pending.add_proposal(request, asker, now);
    }

    /// An entry that says nothing is applied: a new leader's first one, or one that somebody waits for.
    pub(super) fn note_settled(&mut self, entry: &Entry) {
        if let Ok(request) = entry.context.as_slice().try_into() {
            self.pending.settle(RequestId(request));
        }
    }

    /// Carries out one step, here as at every member.
    pub(super) fn apply_members(&mut self, entry: &Entry) -> Result<(), MemberError> {
        let damaged = |_| StoreError::Damaged("a change of members");
        let conf_state = if entry.get_entry_type() == EntryType::EntryConfChange {
            let change = ConfChange::decode(entry.data.as_slice()).map_err(damaged)?;
            let conf_state = self.node.apply_conf_change(&change)?;
            self.note_change(&change)?;
            conf_state
        } else {
            let change = ConfChangeV2::decode(entry.data.as_slice()).map_err(damaged)?;
            self.node.apply_conf_change(&change)?
        };
        self.node.mut_store().set_conf_state(conf_state);
        Ok(())
    }

    fn note_change(&mut self, change: &ConfChange) -> Result<(), MemberError> {
        let damaged = |_| StoreError::Damaged("a change of members");
        let about = v1::ManagerChange::decode(change.context.as_slice()).map_err(damaged)?;
        let id = change.node_id;
        let kind = ConfChangeType::try_from(change.change_type);
        self.shared.change_state(|state| match kind {
            Ok(ConfChangeType::AddLearnerNode) => apply::put_manager(state, id, &about.address),
            Ok(ConfChangeType::RemoveNode) => apply::remove_manager(state, id),
            Ok(ConfChangeType::AddNode) | Err(_) => {}
        });
        if let Ok(request) = about.request_id.as_slice().try_into() {
            self.pending.answer(RequestId(request), &Ok(Outcome::Done));
        }
        Ok(())
    }
}

fn to_entry(request: RequestId, change: &MemberChange) -> ConfChange {
    let (kind, node_id, address) = match change {
        MemberChange::Learner { id, address } => (ConfChangeType::AddLearnerNode, *id, address.clone()),
        MemberChange::Voter { id } => (ConfChangeType::AddNode, *id, String::new()),
        MemberChange::Gone { id } => (ConfChangeType::RemoveNode, *id, String::new()),
    };
    let about = v1::ManagerChange { request_id: request.0.to_vec(), address };
    let (change_type, context) = (kind as i32, about.encode_to_vec());
    ConfChange { change_type, node_id, context, ..ConfChange::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::raft::InboundMessage;
    use crate::shared::Shared;
    use quoin_disk::MemDir;
    use raft::eraftpb::{Message, MessageType};
    use std::sync::Arc;
    use std::time::Duration;

    /// An old leader may still have its first entry, and offer it: the first members stand before it.
    #[test]
    fn a_member_that_is_taken_in_does_not_go_by_the_entries_alone() {
        let shared = Arc::new(Shared::new(Duration::from_secs(1), Metrics::new().0));
        let mut joiner = Consensus::open(4, &[], 7, &MemDir::new(), shared.clone()).unwrap();
        let taken_in = to_entry(RequestId([1; 16]), &MemberChange::Voter { id: 4 });
        let entry = Entry {
            entry_type: EntryType::EntryConfChange as i32,
            term: 1,
            index: 1,
            data: taken_in.encode_to_vec(),
            ..Entry::default()
        };
        let message = Message {
            msg_type: MessageType::MsgAppend as i32,
            from: 1,
            to: 4,
            term: 1,
            entries: vec![entry],
            commit: 1,
            ..Message::default()
        };
        joiner.on_message(InboundMessage(message), Moment::ZERO);
        for _ in 0..50 {
            joiner.tick(Moment::ZERO);
            joiner.advance(Moment::ZERO, &mut |_| {}).unwrap();
        }
        assert!(!shared.leadership.borrow().leading, "it took itself for the only member");
        assert_eq!(shared.applied.borrow().index, 0);
    }
}
