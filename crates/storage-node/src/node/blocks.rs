//! What blocks are, for a gateway: answered at once, from the engine's maps.

use super::{Fatal, Node, refusal_or_fatal};
use quoin_types::SessionId;
use quoin_wire::{BlockStatus, BlockStatusReply, Message, Refusal};

impl Node {
    pub(super) fn on_block_status(&mut self, session: SessionId, asked: &BlockStatus) -> Result<(), Fatal> {
        let BlockStatus { id, replica, epoch, after, offset, length, since } = *asked;
        // R0: as for a read.
        let known = self.replicas.get(&replica).ok_or(Refusal::UnknownReplica);
        let result = match known.and_then(|replica| replica.may_read(epoch, after)) {
            Ok(()) => match self.engine.block_runs(replica, since, offset, length) {
                Ok(runs) => Ok(runs),
                Err(error) => Err(refusal_or_fatal(error)?),
            },
            Err(refusal) => Err(refusal),
        };
        self.counters.refused += u64::from(result.is_err());
        self.send(session, Message::BlockStatusReply(BlockStatusReply { id, replica, result }));
        Ok(())
    }
}
