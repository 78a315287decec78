//! Histories: which epochs are in a replica's state, and where each began.

use quoin_types::{Epoch, Seq};
use quoin_wire::{EpochStart, Point};

/// The end of a history: its last epoch and the last seq.
pub fn end_point(history: &[EpochStart], last: Seq) -> Point {
    Point { epoch: history.last().map_or(Epoch::ZERO, |start| start.epoch), seq: last }
}

/// The last seq that `epoch` has in a history that ends at `last`; `None` if the history lacks the epoch.
/// Epoch zero, before the first, is in every history and has no writes; it does not end before the first start that a
/// history still names, which may have lost its oldest entries.
fn epoch_end(history: &[EpochStart], last: Seq, epoch: Epoch) -> Option<Seq> {
    if epoch == Epoch::ZERO {
        return Some(Seq::ZERO);
    }
    let next = history.iter().position(|start| start.epoch == epoch)? + 1;
    Some(history.get(next).map_or(last, |start| start.first.previous()))
}

/// The last point that two states share (attach, step 4): the lower end, in the two histories, of the greatest epoch that
/// is in both. All writes to there are the same on both; after it, nothing can be said.
pub fn common_point(a: (&[EpochStart], Seq), b: (&[EpochStart], Seq)) -> Point {
    let shared =
        a.0.iter().rev().map(|start| start.epoch).find(|epoch| b.0.iter().any(|other| other.epoch == *epoch));
    let epoch = shared.unwrap_or(Epoch::ZERO);
    let end = |side: (&[EpochStart], Seq)| {
        epoch_end(side.0, side.1, epoch).expect("the epoch is in both histories")
    };
    Point { epoch, seq: end(a).min(end(b)) }
}

/// The most entries of a history. A replica that was away for longer is copied whole.
const ENTRIES_MAX: usize = 1024;

/// The history of an epoch that starts from a state (attach, step 5). Epochs without writes in that state are left out:
/// whatever another replica has of them is not shared, with or without the entry. So a history grows with the epochs
/// that wrote, not with each attachment, and never beyond a bound.
pub(crate) fn started(history: &[EpochStart], last: Seq, epoch: Epoch) -> Vec<EpochStart> {
    let first = last.next();
    let mut history = history.to_vec();
    history.retain(|start| start.first < first);
    history.push(EpochStart { epoch, first });
    history.drain(..history.len().saturating_sub(ENTRIES_MAX));
    history
}

/// The part of a history up to a point: what a mixed replica reports (rule A3).
pub fn truncated(history: &[EpochStart], point: Point) -> Vec<EpochStart> {
    history.iter().copied().take_while(|start| start.epoch <= point.epoch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(starts: &[(u64, u64)]) -> Vec<EpochStart> {
        starts.iter().map(|(epoch, first)| EpochStart { epoch: Epoch(*epoch), first: Seq(*first) }).collect()
    }

    fn point(epoch: u64, seq: u64) -> Point {
        Point { epoch: Epoch(epoch), seq: Seq(seq) }
    }

    #[test]
    fn a_replica_that_is_behind_shares_all_it_has() {
        let ahead = history(&[(1, 1), (3, 11)]);
        assert_eq!(common_point((&ahead, Seq(20)), (&ahead, Seq(15))), point(3, 15));
        assert_eq!(common_point((&ahead, Seq(20)), (&history(&[(1, 1)]), Seq(7))), point(1, 7));
    }

    #[test]
    fn a_divergent_tail_is_not_shared() {
        let authority = history(&[(1, 1), (3, 11)]);
        let divergent = history(&[(1, 1)]);
        assert_eq!(common_point((&authority, Seq(20)), (&divergent, Seq(15))), point(1, 10));
        let other = history(&[(1, 1), (2, 6)]);
        assert_eq!(common_point((&authority, Seq(20)), (&other, Seq(90))), point(1, 5));
    }

    #[test]
    fn new_replicas_share_the_empty_state() {
        assert_eq!(common_point((&history(&[(4, 1)]), Seq(9)), (&[], Seq(0))), point(0, 0));
        assert_eq!(common_point((&[], Seq(0)), (&[], Seq(0))), point(0, 0));
    }

    #[test]
    fn empty_epochs_leave_a_history_and_change_no_common_point() {
        let before = history(&[(1, 1), (2, 11), (3, 16), (4, 16)]);
        let after = started(&before, Seq(15), Epoch(5));
        assert_eq!(after, history(&[(1, 1), (2, 11), (5, 16)]));
        // Another replica wrote in epoch 3, where the authority has nothing.
        let other = history(&[(1, 1), (2, 11), (3, 16)]);
        assert_eq!(common_point((&after, Seq(20)), (&other, Seq(19))).seq, Seq(15));
        assert_eq!(started(&[], Seq(0), Epoch(1)), history(&[(1, 1)]));
    }

    #[test]
    fn a_history_is_bounded_and_what_it_forgot_is_not_shared() {
        let mut long: Vec<EpochStart> = Vec::new();
        for epoch in 1..3000 {
            long = started(&long, Seq(epoch), Epoch(epoch));
        }
        assert_eq!(long.len(), ENTRIES_MAX);
        assert_eq!(common_point((&long, Seq(9000)), (&history(&[(1, 1)]), Seq(500))), point(0, 0));
    }

    /// The dumb twin: states as full lists of (epoch, write id), compared position by position.
    fn twin(log: &[(u64, u64)], starts: &[(u64, u64)], last: u64) -> Vec<(u64, u64)> {
        let _ = starts;
        log.iter().copied().filter(|(seq, _)| *seq <= last).collect()
    }

    proptest! {
        /// Two branches from a shared past: the common point is never beyond what is really shared.
        #[test]
        fn never_beyond_what_is_shared(
            shared in 0_u64..20, tail_a in 0_u64..10, tail_b in 0_u64..10, shared_epoch in any::<bool>(),
        ) {
            let mut a = history(&[(1, 1)]);
            let mut b = history(&[(1, 1)]);
            if !shared_epoch { a.push(EpochStart { epoch: Epoch(2), first: Seq(shared + 1) }); }
            b.push(EpochStart { epoch: Epoch(3), first: Seq(shared + 1) });
            // With `shared_epoch`, a's tail is a tail of epoch 1 that b never had.
            let log_a: Vec<_> = (1..=shared + tail_a).map(|seq| (seq, if seq <= shared { 0 } else { 1 })).collect();
            let log_b: Vec<_> = (1..=shared + tail_b).map(|seq| (seq, if seq <= shared { 0 } else { 2 })).collect();
            let common = common_point((&a, Seq(shared + tail_a)), (&b, Seq(shared + tail_b)));
            prop_assert_eq!(common.seq.0, shared);
            prop_assert_eq!(twin(&log_a, &[], common.seq.0), twin(&log_b, &[], common.seq.0));
        }
    }
}
