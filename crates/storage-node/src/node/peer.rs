//! What peers ask during their resync (rules S1, N4). Fetches are served with the reads.

use super::snapshots::view;
use super::{Fatal, Node, refusal_or_fatal};
use quoin_types::SessionId;
use quoin_wire::{List, ListReply, ListSnapshots, Message, Refusal, SnapshotList, SnapshotPoint};

/// The most extents in one list.
const LIST_MAX: u32 = 8192;

impl Node {
    pub(super) fn on_list_snapshots(&mut self, session: SessionId, list: &ListSnapshots) {
        let result = match self.replicas.get(&list.replica) {
            None => Err(Refusal::UnknownReplica),
            Some(replica) => replica
                .may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed)
                .map(|()| replica.state().seq),
        };
        // N4: what a mixed one has beyond its state is of no history that anybody is brought to.
        let of_the_state = |position| {
            let snapshots = self.snapshots_of(list.replica);
            (position, snapshots.into_iter().filter(|snapshot| snapshot.seq <= position).collect())
        };
        let result: Result<(_, Vec<SnapshotPoint>), _> = result.map(of_the_state);
        self.send(session, Message::SnapshotList(SnapshotList { replica: list.replica, result }));
    }

    pub(super) fn on_list(&mut self, session: SessionId, list: &List) -> Result<(), Fatal> {
        let result = match self.replicas.get(&list.replica) {
            None => Err(Refusal::UnknownReplica),
            Some(replica) => replica
                .may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed)
                .map(|()| replica.state().seq),
        };
        let result = match result {
            Ok(position) => {
                let max = list.max.min(LIST_MAX) as usize;
                match self.engine.changed_since(list.replica, view(list.view), list.since, list.from, max) {
                    Ok(changed) => Ok((position, changed.into_iter().map(|(extent, _)| extent).collect())),
                    Err(error) => Err(refusal_or_fatal(error)?),
                }
            }
            Err(refusal) => Err(refusal),
        };
        self.send(session, Message::ListReply(ListReply { replica: list.replica, result }));
        Ok(())
    }
}
