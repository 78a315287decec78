//! The requests that were carried out lately, so that one proposed again after a change of leader is answered as it was
//! the first time. Refused requests are not kept: they changed nothing, and trying again may well succeed.

use crate::command::{Outcome, RequestId};
use std::collections::{BTreeMap, VecDeque};

/// How many are kept. A retry comes within seconds, so this bounds the requests of some seconds.
pub const ANSWERED_REQUESTS_MAX: usize = 4096;

/// The table, bounded, oldest out first. Part of the state: every member forgets the same request at the same entry.
#[derive(Clone, Default, Debug)]
pub struct AnsweredRequests {
    order: VecDeque<RequestId>,
    outcomes: BTreeMap<RequestId, Outcome>,
}

impl AnsweredRequests {
    /// What came of a request, if it was carried out lately.
    pub fn get(&self, request: RequestId) -> Option<Outcome> {
        self.outcomes.get(&request).copied()
    }

    /// Keeps what came of a request.
    pub(crate) fn insert(&mut self, request: RequestId, outcome: Outcome) {
        if self.outcomes.insert(request, outcome).is_none() {
            self.order.push_back(request);
        }
        while self.order.len() > ANSWERED_REQUESTS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.outcomes.remove(&oldest);
            }
        }
    }

    /// The table, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, Outcome)> {
        self.order.iter().filter_map(|request| Some((*request, *self.outcomes.get(request)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let id = |n: usize| RequestId((n as u128).to_be_bytes());
        let mut table = AnsweredRequests::default();
        for n in 0..=ANSWERED_REQUESTS_MAX {
            table.insert(id(n), Outcome::Done);
        }
        assert_eq!(table.get(id(0)), None);
        assert_eq!(table.get(id(1)), Some(Outcome::Done));
        assert_eq!(table.iter().count(), ANSWERED_REQUESTS_MAX);
    }
}
