//! Pulling what a replica lacks from a peer (rules S1, S2, S4, N4, N5).
//!
//! First the peer tells its snapshots. If the replica lacks one, it is brought to the state of the oldest that it lacks, and
//! makes it; then the peer is asked again. When it lacks none it is brought to what the peer is now. Each time the peer
//! lists the extents that changed since the point up to which both are the same; those that changed on the replica itself
//! are added (a divergent tail has to go). Then each is fetched whole, a few at a time. Blocks that live writes have
//! brought since the join are kept over pulled ones.

use bytes::Bytes;
use quoin_types::collections::HashMap;
use quoin_types::{
    BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex, EXTENT_BYTES, ExtentIndex, Seq, SnapshotId, Version,
};
use quoin_wire::{
    Fetch, FetchReply, FetchedExtent, List, ListReply, ListSnapshots, Message, Refusal, Resync, ResyncMode,
    SnapshotList, SnapshotPoint,
};

/// Extents asked for at once in a list.
const LIST_PAGE: u32 = 8192;
/// How often in a row a peer may say that it is not there yet.
const PATIENCE: u32 = 200;

/// What to store: an extent from the peer, less the blocks written live since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PulledExtent {
    /// Which.
    pub extent: ExtentIndex,
    /// The peer's version of it.
    pub version: Version,
    /// Blocks (bit per block) to keep: newer than the peer's.
    pub keep_blocks: u16,
    /// One per block.
    pub checksums: [u32; 16],
    /// Blocks that read as zeros.
    pub zero_mask: u16,
    /// The other blocks, in order.
    pub data: Bytes,
}

/// Why a pull cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PullError {
    /// The peer refuses.
    #[error("the peer refuses: {0:?}")]
    Refused(Refusal),
    /// The peer's data does not match its checksums.
    #[error("extent {0} does not match its checksums")]
    Checksum(ExtentIndex),
    /// An answer to nothing that was asked.
    #[error("an answer that was not asked for")]
    Unexpected,
    /// A snapshot has to be made before the replica may join the live stream (rule N5).
    #[error("a snapshot is lacking, and the live stream has begun")]
    LacksSnapshot,
}

/// What is to be done once the peer has told its snapshots; then [`Puller::begin_stage`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Snapshots of the replica that are not of the history it is brought to: to be deleted first (rule N4).
    pub delete: Vec<SnapshotId>,
    /// Extents with a version above this are pulled.
    pub since: Version,
}

/// What a puller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The peer is to tell its snapshots.
    AskSnapshots,
    /// It was asked.
    Snapshots,
    /// It has told them: the replica's own changes are to be named.
    Begin,
    /// Extents are listed and fetched.
    Extents,
}

/// One resync, from order to end.
#[derive(Clone, Debug)]
pub struct Puller {
    order: Resync,
    step: Step,
    /// The snapshot that the replica is brought to; `None`: to what the peer is now.
    target: Option<SnapshotPoint>,
    since: Version,
    /// Extents of the segment.
    extents: u32,
    /// Bit per extent of the segment: to be fetched still.
    wanted: Vec<u64>,
    wanted_count: u64,
    /// Where the next list page starts; `None` when all is listed.
    list_from: Option<ExtentIndex>,
    list_asked: bool,
    fetch_from: u32,
    in_flight: HashMap<ExtentIndex, ()>,
    again: Vec<ExtentIndex>,
    /// There was no room for these.
    homeless: Vec<ExtentIndex>,
    /// The position at which the peer told its snapshots last, and the highest that it stated (rule S2).
    snapshots_at: Seq,
    highest_stated: Seq,
    /// Blocks written live since the join.
    live: HashMap<ExtentIndex, u16>,
    /// Whether the live stream has brought anything.
    is_written: bool,
    pulled: u64,
    total: u64,
    behind_in_a_row: u32,
}

impl Puller {
    /// Begins. `since` is what [`super::Replica::begin_resync`] gave.
    pub fn new(order: Resync, since: Version, segment_bytes: u64) -> Self {
        let extents = u32::try_from(segment_bytes.div_ceil(EXTENT_BYTES)).unwrap_or(u32::MAX);
        Self {
            order,
            step: Step::AskSnapshots,
            target: None,
            since,
            extents,
            wanted: vec![0; (extents as usize).div_ceil(64)],
            wanted_count: 0,
            list_from: None,
            list_asked: false,
            fetch_from: 0,
            in_flight: HashMap::default(),
            again: Vec::new(),
            homeless: Vec::new(),
            snapshots_at: Seq::ZERO,
            highest_stated: Seq::ZERO,
            live: HashMap::default(),
            is_written: false,
            pulled: 0,
            total: 0,
            behind_in_a_row: 0,
        }
    }

    /// The order.
    pub fn order(&self) -> &Resync {
        &self.order
    }

    /// Bytes pulled, and to pull as known so far.
    pub fn progress_bytes(&self) -> (u64, u64) {
        (self.pulled * EXTENT_BYTES, self.total.max(self.pulled) * EXTENT_BYTES)
    }

    /// The next question for the peer, while fewer than `window` are open. Listing comes first.
    pub fn next_request(&mut self, window: usize) -> Option<Message> {
        let replica = self.order.source.replica;
        let epoch = self.order.epoch;
        let last_epoch = self.last_epoch();
        let (allow_mixed, after) = (self.order.source_mixed, self.order.join_at.previous());
        match self.step {
            Step::AskSnapshots => {
                self.step = Step::Snapshots;
                let list = ListSnapshots { replica, epoch, last_epoch, allow_mixed, after };
                return Some(Message::ListSnapshots(list));
            }
            Step::Snapshots | Step::Begin => return None,
            Step::Extents => {}
        }
        let view = self.target.map(|target| target.id);
        if let Some(from) = self.list_from {
            if self.list_asked {
                return None;
            }
            self.list_asked = true;
            let list = List {
                replica,
                epoch,
                last_epoch,
                allow_mixed,
                after,
                since: self.since,
                from,
                max: LIST_PAGE,
                view,
            };
            return Some(Message::List(list));
        }
        if self.in_flight.len() >= window {
            return None;
        }
        let extent = self.again.pop().or_else(|| self.next_wanted())?;
        self.in_flight.insert(extent, ());
        Some(Message::Fetch(Fetch { replica, epoch, last_epoch, allow_mixed, after, extent, view }))
    }

    /// The peer's snapshots. `own` are the replica's, of which some are wanted no more: `is_wanted` says which. `Ok(None)`:
    /// the peer is not there yet, ask again in a little while.
    ///
    /// # Errors
    /// The pull cannot go on.
    pub fn on_snapshots(
        &mut self,
        reply: SnapshotList,
        own: &[SnapshotPoint],
        is_wanted: impl Fn(SnapshotId) -> bool,
    ) -> Result<Option<Stage>, PullError> {
        if self.step != Step::Snapshots {
            return Err(PullError::Unexpected);
        }
        let (position, theirs) = match reply.result {
            Ok(told) => told,
            Err(refusal) => {
                self.step = Step::AskSnapshots;
                return self.not_yet(refusal).map(|_| None);
            }
        };
        self.stated(position)?;
        if theirs.last().is_some_and(|last| last.seq > position) {
            return Err(PullError::Unexpected);
        }
        self.snapshots_at = position;
        // N4: what both have, they have from the one process that placed it, at one seq of one history: when it was made, the
        // replica was what the peer was at that seq. What changed since, there or here, has a version above it.
        let shared = own.iter().filter(|snapshot| theirs.contains(snapshot)).map(|snapshot| snapshot.seq);
        self.since = shared.fold(self.since, Seq::max);
        let common = self.order.common.seq;
        let strange = own.iter().filter(|snapshot| snapshot.seq > common && !theirs.contains(snapshot));
        let delete = strange.map(|snapshot| snapshot.id).collect();
        let since = self.since;
        self.target = theirs.into_iter().find(|snapshot| snapshot.seq > since && is_wanted(snapshot.id));
        if let Some(target) = self.target {
            self.check_join(target.seq)?;
        }
        self.step = Step::Begin;
        Ok(Some(Stage { delete, since }))
    }

    /// The stage's own changes: the replica's extents with a version above its `since`, and damaged ones.
    pub fn begin_stage(&mut self, own: impl IntoIterator<Item = ExtentIndex>) {
        debug_assert_eq!(self.step, Step::Begin);
        self.step = Step::Extents;
        (self.list_from, self.fetch_from) = (Some(ExtentIndex::ZERO), 0);
        own.into_iter().for_each(|extent| self.want(extent));
    }

    /// N5: the snapshot that is to be made now: the replica is what the peer was at it. Then [`Puller::made_snapshot`].
    pub fn snapshot_due(&self) -> Option<SnapshotPoint> {
        self.target.filter(|_| self.is_drained())
    }

    /// The snapshot was made; what follows it in the journal is newer.
    pub fn made_snapshot(&mut self) {
        self.since = self.target.take().map_or(self.since, |made| self.since.max(made.seq));
        self.step = Step::AskSnapshots;
    }

    /// The peer's list. `Ok(false)`: it is not there yet, ask again in a little while.
    ///
    /// # Errors
    /// The pull cannot go on.
    pub fn on_list(&mut self, reply: ListReply) -> Result<bool, PullError> {
        let Some(from) = self.list_from.filter(|_| self.list_asked) else {
            return Err(PullError::Unexpected);
        };
        self.list_asked = false;
        let (position, extents) = match reply.result {
            Ok(list) => list,
            Err(refusal) => return self.not_yet(refusal),
        };
        self.stated(position)?;
        let full = extents.len() >= LIST_PAGE as usize;
        let within = extents.first().is_none_or(|first| *first >= from)
            && extents.last().is_none_or(|last| last.0 < self.extents);
        if !within || !extents.is_sorted_by(|a, b| a < b) {
            return Err(PullError::Unexpected);
        }
        self.list_from = extents.last().filter(|_| full).map(|last| last.next());
        extents.into_iter().for_each(|extent| self.want(extent));
        Ok(true)
    }

    /// An extent from the peer. `Ok(None)`: it is not there yet, ask again in a little while.
    ///
    /// # Errors
    /// The pull cannot go on.
    pub fn on_fetch(&mut self, reply: FetchReply) -> Result<Option<PulledExtent>, PullError> {
        self.in_flight.remove(&reply.extent).ok_or(PullError::Unexpected)?;
        let fetched = match reply.result {
            Ok(fetched) => fetched,
            Err(refusal) => {
                self.again.push(reply.extent);
                return self.not_yet(refusal).map(|_| None);
            }
        };
        self.stated(fetched.position)?;
        if !data_matches(&fetched) {
            return Err(PullError::Checksum(reply.extent));
        }
        self.pulled += 1;
        Ok(Some(PulledExtent {
            extent: reply.extent,
            version: fetched.version,
            keep_blocks: self.live.get(&reply.extent).copied().unwrap_or(0),
            checksums: fetched.checksums,
            zero_mask: fetched.zero_mask,
            data: fetched.data,
        }))
    }

    /// There is no room for an extent that was fetched. The others are pulled all the same: some of them may be trimmed on the
    /// peer, and give back what this one needs.
    pub fn had_no_room_for(&mut self, extent: ExtentIndex) {
        self.pulled -= 1;
        self.homeless.push(extent);
    }

    /// Whether nothing is left but extents for which there was no room. What the others gave back can be used after a
    /// checkpoint, by the next pull.
    pub fn lacks_room(&self) -> bool {
        !self.homeless.is_empty() && self.has_asked_for_all()
    }

    /// A live write was appended: its blocks are newer than anything pulled from now on (rule S1).
    ///
    /// # Errors
    /// The replica was to make a snapshot first, of a state without it.
    pub fn wrote_live(&mut self, offset: u64, length: u64) -> Result<(), PullError> {
        self.is_written = true;
        if let Some(target) = self.target {
            self.check_join(target.seq)?;
        }
        let end = u64::from(self.extents) * u64::from(BLOCKS_PER_EXTENT);
        let mut block = (offset / BLOCK_BYTES).min(end) as u32;
        let end = (offset.saturating_add(length) / BLOCK_BYTES).min(end) as u32;
        while block < end {
            let index = BlockIndex(block);
            let within = index.within_extent();
            let count = (BLOCKS_PER_EXTENT - within).min(end - block);
            let mask = ((1_u32 << count) - 1) << within;
            *self.live.entry(index.extent()).or_insert(0) |= mask as u16;
            block += count;
        }
        Ok(())
    }

    /// Whether everything listed has been pulled.
    pub fn is_drained(&self) -> bool {
        self.homeless.is_empty() && self.has_asked_for_all()
    }

    /// Whether everything listed was asked for, and answered.
    fn has_asked_for_all(&self) -> bool {
        self.step == Step::Extents
            && self.list_from.is_none()
            && self.in_flight.is_empty()
            && self.again.is_empty()
            && self.wanted_count == 0
    }

    /// S2: whether a joined replica at `position` is complete; for a round, whether it has ended.
    pub fn is_complete(&self, position: Seq) -> bool {
        self.is_drained()
            && self.target.is_none()
            && (self.order.mode == ResyncMode::Round || position >= self.highest_stated)
    }

    /// S4: what a round has pulled through: the position at which the peer told its snapshots last, of which the replica
    /// lacks none. Extents were listed later than that, and a snapshot may have been placed between.
    pub fn pulled_through(&self) -> Seq {
        self.snapshots_at
    }

    /// N5: in a join a snapshot can be made as long as the live stream has brought nothing, and only of what is before it.
    fn check_join(&self, snapshot: Seq) -> Result<(), PullError> {
        let is_late = self.is_written || snapshot >= self.order.join_at;
        if self.order.mode == ResyncMode::Join && is_late { Err(PullError::LacksSnapshot) } else { Ok(()) }
    }

    fn last_epoch(&self) -> quoin_types::Epoch {
        self.order.history.last().map(|start| start.epoch).unwrap_or_default()
    }

    fn want(&mut self, extent: ExtentIndex) {
        if extent.0 >= self.extents {
            return;
        }
        let (word, bit) = (extent.0 as usize / 64, 1_u64 << (extent.0 % 64));
        let word = &mut self.wanted[word];
        if *word & bit == 0 {
            *word |= bit;
            self.wanted_count += 1;
            self.total += 1;
        }
    }

    fn next_wanted(&mut self) -> Option<ExtentIndex> {
        let start = self.fetch_from as usize / 64;
        let at = (start..self.wanted.len()).find(|word| self.wanted[*word] != 0)?;
        let bit = self.wanted[at].trailing_zeros();
        self.wanted[at] &= !(1 << bit);
        self.wanted_count -= 1;
        self.fetch_from = at as u32 * 64;
        Some(ExtentIndex(at as u32 * 64 + bit))
    }

    fn stated(&mut self, position: Seq) -> Result<(), PullError> {
        // S1: lists and extents are only of use from a position that covers everything before the join.
        if position < self.order.join_at.previous() {
            return Err(PullError::Unexpected);
        }
        self.behind_in_a_row = 0;
        self.highest_stated = self.highest_stated.max(position);
        Ok(())
    }

    fn not_yet(&mut self, refusal: Refusal) -> Result<bool, PullError> {
        self.behind_in_a_row += 1;
        if refusal == Refusal::Behind && self.behind_in_a_row < PATIENCE {
            Ok(false)
        } else {
            Err(PullError::Refused(refusal))
        }
    }
}

/// Whether a peer's extent has the blocks that it should, each matching its checksum.
pub(super) fn data_matches(fetched: &FetchedExtent) -> bool {
    let blocks = (0..BLOCKS_PER_EXTENT).filter(|block| fetched.zero_mask & (1 << block) == 0);
    let bytes = u64::from(fetched.zero_mask.count_zeros()) * BLOCK_BYTES;
    let mut data = fetched.data.chunks_exact(BLOCK_BYTES as usize).zip(blocks);
    fetched.data.len() as u64 == bytes
        && data.all(|(data, block)| quoin_wire::block_checksum(data) == fetched.checksums[block as usize])
}
