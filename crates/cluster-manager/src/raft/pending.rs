//! Requests that wait for raft: proposals until they are applied, reads until their index is.

use quoin_cluster::{Outcome, Refusal, RequestId};
use quoin_types::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Whoever waits has given up by then.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Who asked, by a number that is given once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Asker(pub(crate) u64);

/// What an asker is told, once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// The proposal is applied, and this came of it.
    Applied(Result<Outcome, Refusal>),
    /// What was applied here when this was asked for is known to a majority, whoever of the others is lost.
    Settled,
    /// All that was committed when the read was asked for is applied.
    Current,
    /// It got no answer here, and may or may not have been carried out: another attempt, at whoever leads now, finds out.
    TryAgain,
}

/// Somebody who waits, and since when.
type Waiting = (Asker, Moment);

/// Proposals and reads under way at this leader, and the answers that nobody has taken yet.
#[derive(Default)]
pub(crate) struct Pending {
    proposals: BTreeMap<RequestId, Vec<Waiting>>,
    /// Asked since the last round: they share the next read index.
    new_reads: Vec<Waiting>,
    /// By the context given to raft.
    reads: BTreeMap<u64, Vec<Waiting>>,
    /// Confirmed, waiting until the index is applied.
    confirmed: Vec<(u64, Vec<Waiting>)>,
    last_context: u64,
    answers: Vec<(Asker, Heard)>,
}

impl Pending {
    pub(crate) fn add_proposal(&mut self, request: RequestId, asker: Asker, now: Moment) {
        self.proposals.entry(request).or_default().push((asker, now));
    }

    /// Answers whoever waits for this request, and says when the first of them began to.
    pub(crate) fn answer(&mut self, request: RequestId, result: &Result<Outcome, Refusal>) -> Option<Moment> {
        let waiting = self.proposals.remove(&request)?;
        let since = waiting.iter().map(|(_, since)| *since).min();
        self.answers.extend(waiting.iter().map(|(asker, _)| (*asker, Heard::Applied(result.clone()))));
        since
    }

    /// Answers whoever waits for the entry of this request, which says nothing.
    pub(crate) fn settle(&mut self, request: RequestId) {
        let waiting = self.proposals.remove(&request).unwrap_or_default();
        self.answers.extend(waiting.iter().map(|(asker, _)| (*asker, Heard::Settled)));
    }

    pub(crate) fn add_read(&mut self, asker: Asker, now: Moment) {
        self.new_reads.push((asker, now));
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
            self.answers.extend(waiting.iter().map(|(asker, _)| (*asker, Heard::Current)));
        }
    }

    /// Sends somebody away.
    pub(crate) fn refuse(&mut self, asker: Asker) {
        self.answers.push((asker, Heard::TryAgain));
    }

    /// This member does not lead any more: nobody may wait for it.
    pub(crate) fn give_up(&mut self) {
        self.send_away(|_| true);
    }

    /// Sends those away who have waited for too long.
    pub(crate) fn expire(&mut self, now: Moment) {
        self.send_away(|since| now.since(since) >= WAIT_MAX);
    }

    fn send_away(&mut self, is_late: impl Fn(Moment) -> bool) {
        let proposals = self.proposals.values_mut();
        let confirmed = self.confirmed.iter_mut().map(|(_, waiting)| waiting);
        let reads = self.reads.values_mut().chain(confirmed).chain(std::iter::once(&mut self.new_reads));
        for waiting in proposals.chain(reads) {
            let late = waiting.extract_if(.., |(_, since)| is_late(*since));
            self.answers.extend(late.map(|(asker, _)| (asker, Heard::TryAgain)));
        }
        self.proposals.retain(|_, waiting| !waiting.is_empty());
        self.reads.retain(|_, waiting| !waiting.is_empty());
        self.confirmed.retain(|(_, waiting)| !waiting.is_empty());
    }

    /// Whether anybody waits, and may have to be sent away.
    pub(crate) fn is_waited_for(&self) -> bool {
        let none = self.proposals.is_empty() && self.reads.is_empty() && self.confirmed.is_empty();
        !none || self.has_work()
    }

    /// Whether raft is to be asked something, or somebody to be told.
    pub(crate) fn has_work(&self) -> bool {
        !self.new_reads.is_empty() || !self.answers.is_empty()
    }

    /// The answers since this was called last.
    pub(crate) fn take_answers(&mut self) -> Vec<(Asker, Heard)> {
        std::mem::take(&mut self.answers)
    }
}
