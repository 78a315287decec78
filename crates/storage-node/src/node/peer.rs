//! What peers ask during their resync (rule S1). Fetches are served with the reads.

use super::{Fatal, Node, refusal_or_fatal};
use quoin_store::View;
use quoin_types::SessionId;
use quoin_wire::{List, ListReply, Message, Refusal};

/// The most extents in one list.
const LIST_MAX: u32 = 8192;

impl Node {
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
                match self.engine.changed_since(list.replica, View::Live, list.since, list.from, max) {
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
