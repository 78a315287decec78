//! Requests that wait for raft: proposals until they are applied, reads until their index is.

use quoin_cluster::{Outcome, Refusal, RequestId};
use quoin_types::Moment;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// The request got no answer here, and may or may not have been carried out: another attempt, at whoever leads now, finds
/// out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TryAgain;

/// What came of a proposal.
pub(crate) type Answer = Result<Result<Outcome, Refusal>, TryAgain>;

/// Where a reader waits.
pub(crate) type ReadReply = oneshot::Sender<Result<(), TryAgain>>;

/// Proposals and reads under way at this leader.
#[derive(Default)]
pub(crate) struct Pending {
    proposals: HashMap<RequestId, Vec<(oneshot::Sender<Answer>, Moment)>>,
    /// Asked since the last round: they share the next read index.
    new_reads: Vec<ReadReply>,
    /// By the context given to raft.
    reads: HashMap<u64, Vec<ReadReply>>,
    /// Confirmed, waiting until the index is applied.
    confirmed: Vec<(u64, Vec<ReadReply>)>,
    last_context: u64,
}

impl Pending {
    pub(crate) fn add_proposal(&mut self, request: RequestId, reply: oneshot::Sender<Answer>, now: Moment) {
        self.proposals.entry(request).or_default().push((reply, now));
    }

    /// Answers whoever waits for this request, and says when the first of them began to.
    pub(crate) fn answer(&mut self, request: RequestId, result: &Result<Outcome, Refusal>) -> Option<Moment> {
        let waiting = self.proposals.remove(&request)?;
        let since = waiting.iter().map(|(_, since)| *since).min();
        for (reply, _) in waiting {
            let _ = reply.send(Ok(result.clone()));
        }
        since
    }

    pub(crate) fn add_read(&mut self, reply: ReadReply) {
        self.new_reads.push(reply);
    }

    /// The context under which to ask raft for a read index, if anybody wants one.
    pub(crate) fn start_reads(&mut self) -> Option<u64> {
        if self.new_reads.is_empty() {
            return None;
        }
        self.last_context += 1;
        self.reads.insert(self.last_context, std::mem::take(&mut self.new_reads));
        Some(self.last_context)
    }

    /// Raft has confirmed that `index` was committed after the reads of `context` were asked for.
    pub(crate) fn confirm_reads(&mut self, context: u64, index: u64) {
        if let Some(waiting) = self.reads.remove(&context) {
            self.confirmed.push((index, waiting));
        }
    }

    /// Answers the reads whose index is applied.
    pub(crate) fn finish_reads(&mut self, applied: u64) {
        for (_, waiting) in self.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            for reply in waiting {
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// This member does not lead any more: nobody may wait for it.
    pub(crate) fn give_up(&mut self) {
        for (reply, _) in self.proposals.drain().flat_map(|(_, waiting)| waiting) {
            let _ = reply.send(Err(TryAgain));
        }
        let confirmed = self.confirmed.drain(..).flat_map(|(_, waiting)| waiting);
        let asked = self.reads.drain().flat_map(|(_, waiting)| waiting);
        for reply in self.new_reads.drain(..).chain(asked).chain(confirmed) {
            let _ = reply.send(Err(TryAgain));
        }
    }

    /// Forgets those that nobody waits for any more.
    pub(crate) fn forget_abandoned(&mut self) {
        self.proposals.retain(|_, waiting| {
            waiting.retain(|(reply, _)| !reply.is_closed());
            !waiting.is_empty()
        });
        self.reads.retain(|_, waiting| {
            waiting.retain(|reply| !reply.is_closed());
            !waiting.is_empty()
        });
    }
}
