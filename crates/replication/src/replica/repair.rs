//! Fetching one damaged extent anew, on a replica that goes on taking writes (rule R3).
//!
//! Unlike a resync this leaves the replica complete all the time, so what is stored must be the extent exactly as the
//! replica's own position has it: not older, and not from the peer's future, which a take-over might undo. The argument
//! is in `docs/replication.md`.

use super::resync::{PullError, PulledExtent, data_matches};
use quoin_types::{BLOCK_BYTES, BLOCKS_PER_EXTENT, Epoch, Seq, Version};
use quoin_wire::{Fetch, FetchReply, FetchedExtent, Message, Repair};

/// One repair, from order to end.
#[derive(Debug)]
pub struct Repairer {
    order: Repair,
    /// The epoch of the replica's own state, which the peer's must be as well.
    last_epoch: Epoch,
    /// Blocks (bit per block) written live since the peer was asked: newer than what it may have sent.
    live: u16,
    is_asked: bool,
    fetched: Option<FetchedExtent>,
}

/// What a repair has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The peer has not answered, or its extent has a write that is still on its way here.
    NotYet,
    /// To be stored.
    Store(PulledExtent),
    /// Live writes have replaced all of the extent: no damage is left.
    Overwritten,
    /// The peer's extent cannot be what the replica's was.
    Differs,
}

impl Repairer {
    /// Begins.
    pub fn new(order: Repair, last_epoch: Epoch) -> Self {
        Self { order, last_epoch, live: 0, is_asked: false, fetched: None }
    }

    /// The order.
    pub fn order(&self) -> &Repair {
        &self.order
    }

    /// Whether the peer is to be asked, or asked again.
    pub fn must_ask(&self) -> bool {
        !self.is_asked && self.fetched.is_none()
    }

    /// The question for the peer, of a replica at `position`: the peer must have everything that the replica has.
    pub fn request(&mut self, position: Seq) -> Message {
        (self.live, self.fetched, self.is_asked) = (0, None, true);
        Message::Fetch(Fetch {
            replica: self.order.source.replica,
            epoch: self.order.epoch,
            last_epoch: self.last_epoch,
            allow_mixed: false,
            after: position,
            extent: self.order.extent,
            view: None,
        })
    }

    /// The peer's answer.
    ///
    /// # Errors
    /// It is of no use: another source is needed, or the same one later ([`quoin_wire::Refusal::Behind`]).
    pub fn on_fetch(&mut self, reply: FetchReply) -> Result<(), PullError> {
        if reply.extent != self.order.extent || !std::mem::take(&mut self.is_asked) {
            return Err(PullError::Unexpected);
        }
        let fetched = reply.result.map_err(PullError::Refused)?;
        if !data_matches(&fetched) {
            return Err(PullError::Checksum(reply.extent));
        }
        self.fetched = Some(fetched);
        Ok(())
    }

    /// A live write, or zero, was appended.
    pub fn wrote_live(&mut self, offset: u64, length: u64) {
        let first = u64::from(self.order.extent.first_block().0);
        let within = |byte: u64| (byte / BLOCK_BYTES).saturating_sub(first).min(u64::from(BLOCKS_PER_EXTENT));
        let (start, end) = (within(offset), within(offset.saturating_add(length)));
        self.live |= (((1_u32 << end) - 1) & !((1_u32 << start) - 1)) as u16;
    }

    /// What is to be done, for a replica at `position` whose own extent has version `own`, `None` if its entry is damaged.
    pub fn verdict(&self, position: Seq, own: Option<Version>) -> Verdict {
        let Some(fetched) = &self.fetched else { return Verdict::NotYet };
        if self.live == u16::MAX {
            return Verdict::Overwritten;
        }
        // R3: what the replica's position does not cover yet may still be undone, by a take-over, on everyone but it.
        if fetched.version > position {
            return Verdict::NotYet;
        }
        let agrees = match own {
            // A live write to an extent without an entry is refused, so none can have been taken.
            None => self.live == 0,
            Some(own) if self.live == 0 => fetched.version == own,
            Some(own) => fetched.version <= own,
        };
        if !agrees {
            return Verdict::Differs;
        }
        Verdict::Store(PulledExtent {
            extent: self.order.extent,
            version: fetched.version,
            keep_blocks: self.live,
            checksums: fetched.checksums,
            zero_mask: fetched.zero_mask,
            data: fetched.data.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quoin_types::{EXTENT_BYTES, ExtentIndex, NodeId, ReplicaId};
    use quoin_wire::{Refusal, Source};

    const EXTENT: ExtentIndex = ExtentIndex(3);
    const START: u64 = 3 * EXTENT_BYTES;

    fn repairer(version: Option<u64>) -> Repairer {
        let source = Source { node: NodeId(2), address: String::new(), replica: ReplicaId(2) };
        let (replica, epoch, version) = (ReplicaId(1), Epoch(4), version.map(Seq));
        let mut repairer = Repairer::new(Repair { replica, epoch, extent: EXTENT, version, source }, epoch);
        repairer.request(Seq(10));
        repairer
    }

    fn answer(version: u64) -> FetchReply {
        let fetched = FetchedExtent {
            position: Seq(20),
            version: Seq(version),
            zero_mask: u16::MAX,
            checksums: [0; 16],
            data: Bytes::new(),
        };
        FetchReply { replica: ReplicaId(2), extent: EXTENT, result: Ok(fetched) }
    }

    fn kept(verdict: Verdict) -> u16 {
        match verdict {
            Verdict::Store(extent) => extent.keep_blocks,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn r3_the_peer_is_asked_at_the_replica_s_own_position() {
        let Message::Fetch(fetch) = repairer(Some(7)).request(Seq(12)) else { panic!() };
        assert_eq!((fetch.after, fetch.extent, fetch.allow_mixed), (Seq(12), EXTENT, false));
    }

    #[test]
    fn r3_nothing_from_the_peer_s_future_is_stored() {
        let mut repair = repairer(None);
        assert_eq!(repair.verdict(Seq(10), None), Verdict::NotYet);
        repair.on_fetch(answer(11)).unwrap();
        assert_eq!(repair.verdict(Seq(10), None), Verdict::NotYet);
        let mut repair = repairer(Some(9));
        repair.on_fetch(answer(11)).unwrap();
        assert_eq!(repair.verdict(Seq(10), Some(Seq(9))), Verdict::NotYet);
        // The write has come here as well: its blocks are kept, the rest is as the peer has it.
        repair.wrote_live(START + 4096, 8192);
        assert_eq!(kept(repair.verdict(Seq(11), Some(Seq(11)))), 0b110);
    }

    #[test]
    fn r3_live_writes_since_the_question_are_kept() {
        let mut repair = repairer(Some(9));
        repair.wrote_live(START - 4096, 8192);
        repair.wrote_live(START + 15 * 4096, 1 << 20);
        repair.wrote_live(0, START);
        repair.wrote_live(START + EXTENT_BYTES, 4096);
        repair.on_fetch(answer(9)).unwrap();
        assert_eq!(kept(repair.verdict(Seq(12), Some(Seq(12)))), 0b1000_0000_0000_0001);
        repair.wrote_live(START, EXTENT_BYTES);
        assert_eq!(repair.verdict(Seq(13), Some(Seq(13))), Verdict::Overwritten);
        repair.request(Seq(13));
        repair.on_fetch(answer(13)).unwrap();
        assert_eq!(kept(repair.verdict(Seq(13), Some(Seq(13)))), 0);
    }

    #[test]
    fn r3_another_version_than_the_replica_s_own_is_not_stored() {
        let mut repair = repairer(Some(9));
        repair.on_fetch(answer(8)).unwrap();
        assert_eq!(repair.verdict(Seq(10), Some(Seq(9))), Verdict::Differs);
        let mut repair = repairer(None);
        repair.on_fetch(answer(8)).unwrap();
        assert_eq!(kept(repair.verdict(Seq(10), None)), 0);
    }

    #[test]
    fn a_useless_answer_is_an_error() {
        let mut repair = repairer(Some(9));
        let refused = FetchReply { result: Err(Refusal::Disk), ..answer(9) };
        assert_eq!(repair.on_fetch(refused), Err(PullError::Refused(Refusal::Disk)));
        assert!(repair.must_ask());
        repair.request(Seq(10));
        let other = FetchReply { extent: ExtentIndex(4), ..answer(9) };
        assert_eq!(repair.on_fetch(other), Err(PullError::Unexpected));
        repair.request(Seq(10));
        let mut damaged = answer(9);
        damaged.result = damaged.result.map(|fetched| FetchedExtent {
            zero_mask: u16::MAX - 1,
            data: vec![1; 4096].into(),
            ..fetched
        });
        assert_eq!(repair.on_fetch(damaged), Err(PullError::Checksum(EXTENT)));
        repair.request(Seq(10));
        repair.on_fetch(answer(9)).unwrap();
        assert_eq!(repair.on_fetch(answer(9)), Err(PullError::Unexpected));
    }
}
