//! Writes of batches that were given to the journal, and that are not accepted yet: something of them, or of one before, is on
//! its way.

use quoin_replication::replica::Replica;
use quoin_store::Lsn;
use quoin_types::collections::HashMap;
use quoin_types::{ReplicaId, Seq};
use std::collections::VecDeque;

/// The replicas that have such writes; all others have accepted everything, but for what the current batch holds.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    replicas: HashMap<ReplicaId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    accepted: Seq,
    /// The replica's position with each record, in the order of the journal.
    waiting: VecDeque<(Lsn, Seq)>,
}

impl Accepting {
    /// The replica's position is accepted with this record.
    pub(super) fn at(&mut self, lsn: Lsn, id: ReplicaId, replica: &Replica) {
        // What is durable is accepted; that more may be does no harm: nobody forgets what was told of it.
        let new = || Waiting { accepted: replica.durable(), waiting: VecDeque::new() };
        let waiting = &mut self.replicas.entry(id).or_insert_with(new).waiting;
        debug_assert!(waiting.back().is_none_or(|(last, _)| *last <= lsn), "the journal's order");
        waiting.push_back((lsn, replica.position()));
    }

    /// Records up to here are accepted: these replicas have moved.
    pub(super) fn accepted(&mut self, accepted: Lsn) -> Vec<ReplicaId> {
        let mut moved = Vec::new();
        self.replicas.retain(|id, replica| {
            let before = replica.waiting.len();
            while let Some((_, seq)) = replica.waiting.pop_front_if(|(lsn, _)| *lsn <= accepted) {
                replica.accepted = seq;
            }
            if replica.waiting.len() < before {
                moved.push(*id);
            }
            !replica.waiting.is_empty()
        });
        moved
    }

    /// The replica's last accepted write.
    pub(super) fn position(&self, id: ReplicaId, replica: &Replica) -> Seq {
        match self.replicas.get(&id) {
            Some(waiting) => waiting.accepted.max(replica.durable()).min(replica.position()),
            None => replica.position(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_replication::Timing;
    use quoin_replication::replica::ReplicaMeta;
    use quoin_types::Moment;

    fn replica(position: u64) -> Replica {
        let meta = ReplicaMeta::default();
        Replica::restore(ReplicaId(1), meta, Seq(position), false, Moment::default(), Timing::default()).0
    }

    #[test]
    fn a_position_is_told_when_its_record_is_accepted() {
        let mut accepting = Accepting::default();
        let mut replica = replica(5);
        let id = ReplicaId(1);
        assert_eq!(accepting.position(id, &replica), Seq(5));
        for (lsn, seq) in [(10, 6), (11, 8)] {
            replica.appended(Seq(seq));
            accepting.at(Lsn(lsn), id, &replica);
        }
        assert_eq!(accepting.position(id, &replica), Seq(5));
        assert!(accepting.accepted(Lsn(9)).is_empty());
        assert_eq!((accepting.accepted(Lsn(10)), accepting.position(id, &replica)), (vec![id], Seq(6)));
        replica.made_durable(Seq(7));
        assert_eq!(accepting.position(id, &replica), Seq(7));
        assert_eq!((accepting.accepted(Lsn(11)), accepting.position(id, &replica)), (vec![id], Seq(8)));
        assert!(accepting.accepted(Lsn(12)).is_empty() && accepting.replicas.is_empty());
    }
}
