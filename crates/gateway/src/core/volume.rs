//! One attached volume: clients' requests over its segments.
//!
//! A request is cut into pieces. Parts of blocks are read, changed and written back here (read-modify-write): from the
//! read to the write, later changes of that block wait, so that each is atomic.

use super::links::LinkTable;
use super::pieces::{Piece, cut};
use super::reply::{ClientOperation, Reply, StatusExtent, Ticket};
use super::report::{ReplicaStatus, SegmentStatus, VolumeReport};
use super::snapshots::Snapshots;
use super::status::Question;
use bytes::{Bytes, BytesMut};
use quoin_replication::Timing;
use quoin_replication::writer::{
    Completion, Failure, Operation, Request, Segment, SegmentConfig, Statistics, Token, VoterConfig,
    VoterHealth,
};
use quoin_types::block::BlockRun;
use quoin_types::collections::HashMap;
use quoin_types::limits::{READ_BYTES_MAX, WRITE_BYTES_MAX, ZERO_BYTES_MAX};
use quoin_types::{
    BLOCK_BYTES, Durability, Epoch, Generation, InstanceId, Moment, NodeId, ReplicaId, SegmentId, SnapshotId,
    VolumeId,
};
use quoin_wire::{LeaseHolder, Message, Release};
use std::collections::{BTreeSet, VecDeque};

/// A volume, as the cluster manager describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeSpec {
    /// Its id.
    pub id: VolumeId,
    /// Its size, in bytes; a multiple of 4,096.
    pub size_bytes: u64,
    /// The size of its segments, in bytes; a multiple of 65,536.
    pub segment_bytes: u64,
    /// When plain writes are acknowledged.
    pub durability: Durability,
    /// Its segments in order, each with its configuration's number and its members.
    pub segments: Vec<(Generation, Vec<VoterConfig>)>,
}

/// What the cluster manager gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The attachment's number.
    pub epoch: Epoch,
    /// The first of the attachments of this gateway, up to this one, between which no other had the volume for clients and none
    /// of which was lossy: at the latest this one.
    pub unbroken_since: Epoch,
    /// A former lease whose holder is proven gone (rule R2).
    pub void: Option<LeaseHolder>,
    /// Without clients and leases: it only repairs (rule C4).
    pub steward: bool,
    /// Of the cluster manager's state when it gave the attachment: an older view says nothing about it.
    pub revision: u64,
}

/// A client's request under way.
#[derive(Debug)]
struct Open {
    ticket: Ticket,
    pieces: usize,
    failure: Option<Failure>,
    /// What was read so far, by piece; empty for other requests.
    data: Vec<Bytes>,
    /// What was told of blocks so far, by question; empty for other requests.
    status: Vec<Vec<StatusExtent>>,
    memory_bytes: usize,
    /// A flush of all segments, changed here or not.
    flushes_all: bool,
}

/// What a segment's completion belongs to.
#[derive(Debug)]
enum Part {
    /// A piece of a request: whole blocks written, zeroed or flushed.
    Change { request: u64 },
    /// A piece of a read: which, and the bytes of it that were asked for.
    Read { request: u64, index: usize, from: u64, length: u64 },
    /// A question about blocks: which.
    Status { request: u64, index: usize, question: Question },
    /// The read of a block that is to be changed in part.
    Modify { request: u64, change: PartialChange },
}

/// A change of a part of a block.
#[derive(Clone, Debug)]
struct PartialChange {
    segment: usize,
    block: u64,
    from: u64,
    /// The new bytes; `None` for zeros.
    data: Option<Bytes>,
    length: u64,
    durable: bool,
}

/// A change that waits for a block that is being changed in part.
#[derive(Debug)]
struct Delayed {
    request: u64,
    segment: usize,
    offset: u64,
    length: u64,
    change: DelayedChange,
}

#[derive(Debug)]
enum DelayedChange {
    Whole { operation: Operation, durable: bool },
    Partial(PartialChange),
}

#[derive(Debug)]
pub(super) struct Volume {
    spec: VolumeSpec,
    attachment: Attachment,
    instance: InstanceId,
    retained_bytes_max: usize,
    timing: Timing,
    segments: Vec<Segment>,
    requests: HashMap<u64, Open>,
    next_request: u64,
    parts: HashMap<Token, Part>,
    next_token: u64,
    /// Blocks (segment, byte offset) that are being changed in part.
    modifying: BTreeSet<(usize, u64)>,
    delayed: VecDeque<Delayed>,
    /// Segments changed since the attachment, which a flush has to ask; before one of all was done it asks all.
    touched: BTreeSet<usize>,
    flushed_all: bool,
    snapshots: Snapshots,
    serving: bool,
    fenced: bool,
    /// Whether accepted writes may have been lost (rule A2). It stays so: a client may have been told.
    lossy: bool,
    /// Whether the cluster manager has put that on record.
    loss_recorded: bool,
    /// Segments that something has happened to since completions were last taken.
    stirred: BTreeSet<usize>,
    in_flight_bytes: usize,
    replies: Vec<(Ticket, Result<Reply, Failure>)>,
}

impl Volume {
    pub(super) fn new(
        spec: VolumeSpec,
        attachment: Attachment,
        instance: InstanceId,
        retained_bytes_max: usize,
        timing: Timing,
        now: Moment,
    ) -> Self {
        let mut volume = Self {
            spec,
            attachment,
            instance,
            retained_bytes_max,
            timing,
            segments: Vec::new(),
            requests: HashMap::default(),
            next_request: 0,
            parts: HashMap::default(),
            next_token: 0,
            modifying: BTreeSet::new(),
            delayed: VecDeque::new(),
            touched: BTreeSet::new(),
            flushed_all: false,
            snapshots: Snapshots::default(),
            serving: false,
            fenced: false,
            lossy: false,
            loss_recorded: false,
            stirred: BTreeSet::new(),
            in_flight_bytes: 0,
            replies: Vec::new(),
        };
        volume.add_segments(now);
        volume
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.spec.size_bytes
    }

    pub(super) fn attachment(&self) -> Attachment {
        self.attachment
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.requests.is_empty() || self.segments.iter().any(Segment::is_busy)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.segments.iter().all(Segment::is_whole)
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced
    }

    pub(super) fn is_lossy(&self) -> bool {
        self.lossy
    }

    /// Rule A2: it is known to whoever attaches next, so that this attachment may begin.
    pub(super) fn loss_is_recorded(&mut self) {
        if !self.loss_recorded {
            self.loss_recorded = true;
            self.segments.iter_mut().for_each(Segment::loss_is_recorded);
        }
    }

    pub(super) fn replies(&mut self) -> impl Iterator<Item = (Ticket, Result<Reply, Failure>)> {
        self.replies.drain(..)
    }

    pub(super) fn leases_wanted(&self, node: NodeId) -> impl Iterator<Item = (ReplicaId, Epoch)> {
        // C4: a steward serves nothing, and nobody has to wait for it.
        let segments = if self.attachment.steward { &[] } else { self.segments.as_slice() };
        segments.iter().flat_map(move |segment| segment.leases_wanted(node))
    }

    pub(super) fn set_address(&mut self, node: NodeId, address: &str) {
        self.segments.iter_mut().for_each(|segment| segment.set_address(node, address));
    }

    /// The cluster manager's description may have changed: a larger size, new segments at the end, other configurations.
    /// If so, gives the segments with new members, and the nodes of those.
    pub(super) fn update(
        &mut self,
        spec: &VolumeSpec,
        now: Moment,
        links: &mut LinkTable,
    ) -> Option<Vec<(usize, Vec<NodeId>)>> {
        let is_older = spec.size_bytes < self.spec.size_bytes || spec.segments.len() < self.segments.len();
        if is_older || *spec == self.spec {
            return None;
        }
        let mut added = Vec::new();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            let (generation, members) = &spec.segments[index];
            let nodes = segment.configure(*generation, members, now, links);
            if !nodes.is_empty() {
                added.push((index, nodes));
            }
        }
        let before = self.segments.len();
        self.spec = spec.clone();
        self.add_segments(now);
        for (index, segment) in self.segments.iter().enumerate().skip(before) {
            added.push((index, segment.voters().map(|voter| voter.node).collect()));
        }
        self.stir_all();
        Some(added)
    }

    /// New members of a segment are at a node whose session is ready.
    pub(super) fn segment_session_up(
        &mut self,
        index: usize,
        node: NodeId,
        local: bool,
        now: Moment,
        links: &mut LinkTable,
    ) {
        if let Some(segment) = self.segments.get_mut(index) {
            segment.set_local(node, local);
            segment.session_up(node, now, links);
            self.stirred.insert(index);
        }
    }

    fn add_segments(&mut self, now: Moment) {
        for index in self.segments.len()..self.spec.segments.len() {
            let (generation, voters) = self.spec.segments[index].clone();
            let config = SegmentConfig {
                id: SegmentId { volume: self.spec.id, index: index as u32 },
                generation,
                voters,
                durability: self.spec.durability,
                epoch: self.attachment.epoch,
                instance: self.instance,
                void: self.attachment.void,
                records_loss: !self.loss_recorded,
                retained_bytes_max: self.retained_bytes_max,
                timing: self.timing,
            };
            self.segments.push(Segment::new(config, now));
            self.serving = false;
        }
    }

    pub(super) fn session_up(&mut self, node: NodeId, local: bool, now: Moment, links: &mut LinkTable) {
        (0..self.segments.len()).for_each(|index| self.segment_session_up(index, node, local, now, links));
    }

    pub(super) fn session_down(&mut self, node: NodeId, now: Moment, links: &mut LinkTable) {
        self.segments.iter_mut().for_each(|segment| segment.session_down(node, now, links));
        self.stir_all();
    }

    pub(super) fn credit_changed(&mut self, node: NodeId, now: Moment, links: &mut LinkTable) {
        self.segments.iter_mut().for_each(|segment| segment.on_credit(node, now, links));
        self.stir_all();
    }

    pub(super) fn tick(&mut self, now: Moment, links: &mut LinkTable) {
        self.segments.iter_mut().for_each(|segment| segment.tick(now, links));
        self.stir_all();
    }

    pub(super) fn with_segment(
        &mut self,
        index: usize,
        now: Moment,
        links: &mut LinkTable,
        event: impl FnOnce(&mut Segment, &mut LinkTable),
    ) {
        if let Some(segment) = self.segments.get_mut(index) {
            event(segment, links);
            self.stirred.insert(index);
        }
        self.allow_serving(now, links);
    }

    /// Gives the leases back.
    pub(super) fn release(&self, instance: InstanceId, links: &mut LinkTable) {
        let holder = LeaseHolder { instance, epoch: self.attachment.epoch };
        for voter in self.segments.iter().flat_map(Segment::voters) {
            links.push(voter.node, Message::Release(Release { replica: voter.replica, holder }));
        }
    }

    /// Ends the attachment.
    pub(super) fn fence(&mut self) {
        self.fenced = true;
        self.segments.iter_mut().for_each(Segment::fence);
        self.stir_all();
        let delayed: Vec<u64> = self.delayed.drain(..).map(|delayed| delayed.request).collect();
        delayed.into_iter().for_each(|request| self.piece_done(request, Err(Failure::Fenced)));
    }

    /// What the cluster manager wants taken; placed by [`Volume::settle`].
    pub(super) fn want_snapshots(&mut self, taking: &[SnapshotId]) {
        self.snapshots.want(taking);
    }

    /// Places snapshots that can be placed now, and carries completions on until nothing more follows from them.
    pub(super) fn settle(&mut self, now: Moment, links: &mut LinkTable) {
        self.allow_serving(now, links);
        self.snapshots.place(&mut self.segments, now, links);
        while let Some(index) = self.stirred.pop_first() {
            if self.segments[index].is_fenced() && !self.fenced {
                self.fence();
            }
            if self.segments[index].is_lossy() {
                self.lossy = true;
                self.attachment.unbroken_since = self.attachment.epoch;
            }
            let completions: Vec<Completion> = self.segments[index].completions().collect();
            completions.into_iter().for_each(|completion| self.completed(completion, now, links));
        }
    }

    fn stir_all(&mut self) {
        self.stirred.extend(0..self.segments.len());
    }

    /// Attach, step 6: nothing is served before all segments are promised; by a steward, nothing ever.
    fn allow_serving(&mut self, now: Moment, links: &mut LinkTable) {
        if self.attachment.steward {
            return;
        }
        if !self.serving && self.segments.iter().all(Segment::is_promised) {
            self.serving = true;
            self.segments.iter_mut().for_each(|segment| segment.allow_serving(now, links));
            self.stir_all();
        }
    }

    pub(super) fn submit(
        &mut self,
        ticket: Ticket,
        operation: ClientOperation,
        now: Moment,
        links: &mut LinkTable,
    ) {
        let request = self.next_request;
        self.next_request += 1;
        let memory_bytes = operation.memory_bytes();
        self.in_flight_bytes += memory_bytes;
        // One piece more than there are, so that the request cannot end before all its pieces have begun.
        let (data, status) = (Vec::new(), Vec::new());
        let open = Open { ticket, pieces: 1, failure: None, data, status, memory_bytes, flushes_all: false };
        self.requests.insert(request, open);
        match operation {
            ClientOperation::Read { offset, length } => {
                self.read(request, offset, u64::from(length), now, links);
            }
            ClientOperation::Write { offset, data, durable } => {
                self.write(request, offset, &data, durable, now, links);
            }
            ClientOperation::Zero { offset, length, durable, allocate: true } => {
                self.write_zeros(request, offset, length, durable, now, links);
            }
            ClientOperation::Zero { offset, length, durable, allocate: false } => {
                self.zero(request, offset, length, durable, true, now, links);
            }
            ClientOperation::Trim { offset, length, durable } => {
                self.zero(request, offset, length, durable, false, now, links);
            }
            ClientOperation::Flush => self.flush(request, now, links),
            ClientOperation::Status { offset, length, about } => {
                self.status(
                    request,
                    Question::new(offset, length, self.spec.segment_bytes),
                    &about,
                    now,
                    links,
                );
            }
        }
        self.piece_done(request, Ok(()));
    }

    fn read(&mut self, request: u64, offset: u64, length: u64, now: Moment, links: &mut LinkTable) {
        for (index, piece) in cut(offset, length, self.spec.segment_bytes, READ_BYTES_MAX).enumerate() {
            let (segment, at, blocks, from) = match piece {
                Piece::Whole { segment, offset, length } => (segment, offset, length, 0),
                Piece::Partial { segment, block, from, .. } => (segment, block, BLOCK_BYTES, from),
            };
            if let Some(open) = self.requests.get_mut(&request) {
                open.data.push(Bytes::new());
            }
            let part = Part::Read { request, index, from, length: piece.length() };
            self.start(
                request,
                part,
                segment,
                Request::Read { offset: at, length: blocks as u32, in_order: false },
                now,
                links,
            );
        }
    }

    fn write(
        &mut self,
        request: u64,
        offset: u64,
        data: &Bytes,
        durable: bool,
        now: Moment,
        links: &mut LinkTable,
    ) {
        let mut at = 0;
        for piece in cut(offset, data.len() as u64, self.spec.segment_bytes, WRITE_BYTES_MAX) {
            let bytes = data.slice(at..at + piece.length() as usize);
            at += piece.length() as usize;
            match piece {
                Piece::Whole { segment, offset, .. } => {
                    let checksums = quoin_wire::block_checksums(&bytes);
                    let operation = Operation::Write { offset, checksums, data: bytes };
                    self.change(request, segment, operation, durable, now, links);
                }
                Piece::Partial { segment, block, from, length } => {
                    let change = PartialChange { segment, block, from, data: Some(bytes), length, durable };
                    self.change_part(request, change, now, links);
                }
            }
        }
    }

    /// Writes zeros, so that they take space: all of it from one piece of memory.
    fn write_zeros(
        &mut self,
        request: u64,
        offset: u64,
        length: u64,
        durable: bool,
        now: Moment,
        links: &mut LinkTable,
    ) {
        let zeros = Bytes::from(vec![0; length.min(WRITE_BYTES_MAX) as usize]);
        let (mut at, end) = (offset, offset + length);
        while at < end {
            // Cut where blocks end, so that none is made of two pieces.
            let piece_bytes = (end - at).min(WRITE_BYTES_MAX - at % WRITE_BYTES_MAX);
            let piece = zeros.slice(..piece_bytes as usize);
            self.write(request, at, &piece, durable, now, links);
            at += piece.len() as u64;
        }
    }

    fn status(
        &mut self,
        request: u64,
        question: Question,
        about: &[Option<SnapshotId>],
        now: Moment,
        links: &mut LinkTable,
    ) {
        let Question { segment, offset, blocks_bytes: length, .. } = question;
        for (index, since) in about.iter().copied().enumerate() {
            if let Some(open) = self.requests.get_mut(&request) {
                open.status.push(Vec::new());
            }
            let part = Part::Status { request, index, question };
            self.start(request, part, segment, Request::Status { offset, length, since }, now, links);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the request's own fields, and the two that every event has"
    )]
    fn zero(
        &mut self,
        request: u64,
        offset: u64,
        length: u64,
        durable: bool,
        parts_too: bool,
        now: Moment,
        links: &mut LinkTable,
    ) {
        for piece in cut(offset, length, self.spec.segment_bytes, ZERO_BYTES_MAX) {
            match piece {
                Piece::Whole { segment, offset, length } => {
                    self.change(request, segment, Operation::Zero { offset, length }, durable, now, links);
                }
                Piece::Partial { segment, block, from, length } if parts_too => {
                    let change = PartialChange { segment, block, from, data: None, length, durable };
                    self.change_part(request, change, now, links);
                }
                Piece::Partial { .. } => {}
            }
        }
    }

    fn flush(&mut self, request: u64, now: Moment, links: &mut LinkTable) {
        let segments: Vec<usize> = if self.flushed_all {
            self.touched.iter().copied().collect()
        } else {
            if let Some(open) = self.requests.get_mut(&request) {
                open.flushes_all = true;
            }
            (0..self.segments.len()).collect()
        };
        for segment in segments {
            self.start(request, Part::Change { request }, segment, Request::Flush, now, links);
        }
    }

    /// Whole blocks, unless one of them is being changed in part.
    fn change(
        &mut self,
        request: u64,
        segment: usize,
        operation: Operation,
        durable: bool,
        now: Moment,
        links: &mut LinkTable,
    ) {
        let (offset, length) = operation.range();
        if self.must_wait(segment, offset, length) {
            self.begin_piece(request);
            let change = DelayedChange::Whole { operation, durable };
            self.delayed.push_back(Delayed { request, segment, offset, length, change });
            return;
        }
        self.touched.insert(segment);
        self.start(
            request,
            Part::Change { request },
            segment,
            Request::Replicate { operation, durable },
            now,
            links,
        );
    }

    /// A part of a block: read it first.
    fn change_part(&mut self, request: u64, change: PartialChange, now: Moment, links: &mut LinkTable) {
        let (segment, block) = (change.segment, change.block);
        if self.must_wait(segment, block, BLOCK_BYTES) {
            self.begin_piece(request);
            let change = DelayedChange::Partial(change);
            self.delayed.push_back(Delayed { request, segment, offset: block, length: BLOCK_BYTES, change });
            return;
        }
        self.modifying.insert((segment, block));
        let read = Request::Read { offset: block, length: BLOCK_BYTES as u32, in_order: true };
        self.start(request, Part::Modify { request, change }, segment, read, now, links);
    }

    /// Whether a change would overtake one of the same blocks that is being made, or waits.
    fn must_wait(&self, segment: usize, offset: u64, length: u64) -> bool {
        let end = offset + length;
        self.modifying.range((segment, offset)..(segment, end)).next().is_some()
            || self.delayed.iter().any(|other| {
                other.segment == segment && other.offset < end && offset < other.offset + other.length
            })
    }

    fn begin_piece(&mut self, request: u64) {
        if let Some(open) = self.requests.get_mut(&request) {
            open.pieces += 1;
        }
    }

    fn start(
        &mut self,
        request: u64,
        part: Part,
        segment: usize,
        what: Request,
        now: Moment,
        links: &mut LinkTable,
    ) {
        self.begin_piece(request);
        let token = Token(self.next_token);
        self.next_token += 1;
        self.parts.insert(token, part);
        self.segments[segment].submit(token, what, now, links);
        self.stirred.insert(segment);
    }

    fn completed(&mut self, completion: Completion, now: Moment, links: &mut LinkTable) {
        let Some(part) = self.parts.remove(&completion.token()) else { return };
        let outcome = match completion {
            Completion::Done(_) => Ok(Bytes::new()),
            Completion::Read(_, data) => Ok(data),
            Completion::Status(_, runs) => return self.status_told(&part, &runs),
            Completion::Failed(_, failure) => Err(failure),
        };
        match part {
            Part::Change { request } | Part::Status { request, .. } => {
                self.piece_done(request, outcome.map(drop));
            }
            Part::Read { request, index, from, length } => {
                if let (Ok(data), Some(open)) = (&outcome, self.requests.get_mut(&request)) {
                    open.data[index] = data.slice(from as usize..(from + length) as usize);
                }
                self.piece_done(request, outcome.map(drop));
            }
            Part::Modify { request, change } => {
                self.modifying.remove(&(change.segment, change.block));
                match outcome {
                    Ok(block) => self.write_modified(request, &change, &block, now, links),
                    Err(failure) => self.piece_done(request, Err(failure)),
                }
                self.resume_delayed(now, links);
            }
        }
    }

    fn status_told(&mut self, part: &Part, runs: &[BlockRun]) {
        let Part::Status { request, index, question } = part else { return };
        if let Some(open) = self.requests.get_mut(request) {
            open.status[*index] = question.extents(runs);
        }
        self.piece_done(*request, Ok(()));
    }

    /// The second half of a read-modify-write. Its write is ordered behind all earlier ones, before all delayed ones.
    fn write_modified(
        &mut self,
        request: u64,
        change: &PartialChange,
        block: &Bytes,
        now: Moment,
        links: &mut LinkTable,
    ) {
        let mut new = BytesMut::from(block.as_ref());
        let target = &mut new[change.from as usize..(change.from + change.length) as usize];
        match &change.data {
            Some(data) => target.copy_from_slice(data),
            None => target.fill(0),
        }
        let data = new.freeze();
        let checksums = quoin_wire::block_checksums(&data);
        let operation = Operation::Write { offset: change.block, checksums, data };
        let replicate = Request::Replicate { operation, durable: change.durable };
        self.touched.insert(change.segment);
        self.start(request, Part::Change { request }, change.segment, replicate, now, links);
        self.piece_done(request, Ok(()));
    }

    fn resume_delayed(&mut self, now: Moment, links: &mut LinkTable) {
        let delayed = std::mem::take(&mut self.delayed);
        for Delayed { request, segment, change, .. } in delayed {
            // Each is counted anew as it starts (or is delayed again, behind those before it).
            match change {
                DelayedChange::Whole { operation, durable } => {
                    self.change(request, segment, operation, durable, now, links);
                }
                DelayedChange::Partial(change) => self.change_part(request, change, now, links),
            }
            self.piece_done(request, Ok(()));
        }
    }

    fn piece_done(&mut self, request: u64, outcome: Result<(), Failure>) {
        let Some(open) = self.requests.get_mut(&request) else { return };
        open.pieces -= 1;
        open.failure = open.failure.or(outcome.err());
        if open.pieces > 0 {
            return;
        }
        let Some(open) = self.requests.remove(&request) else { return };
        self.in_flight_bytes -= open.memory_bytes;
        // Not before it is done: until then a flush says nothing about segments that only earlier attachments wrote to.
        self.flushed_all |= open.flushes_all && open.failure.is_none();
        let reply = match open.failure {
            Some(failure) => Err(failure),
            None if !open.status.is_empty() => Ok(Reply::Status(open.status)),
            None if open.data.is_empty() => Ok(Reply::Done),
            None => Ok(Reply::Read(open.data)),
        };
        self.replies.push((open.ticket, reply));
    }

    pub(super) fn report(&self) -> VolumeReport {
        let mut replicas = Vec::new();
        let mut statistics = Statistics::default();
        for segment in &self.segments {
            let own = segment.statistics();
            statistics.hedged_reads += own.hedged_reads;
            statistics.damaged_reads += own.damaged_reads;
            statistics.resends += own.resends;
            statistics.resyncs += own.resyncs;
            replicas.extend(segment.status().into_iter().map(|status| ReplicaStatus {
                replica: status.replica,
                node: status.name,
                health: status.health,
                whole: status.whole,
                shaken: status.shaken,
            }));
        }
        let segments = self
            .segments
            .iter()
            .map(|segment| SegmentStatus { generation: segment.generation(), settled: segment.is_settled() });
        VolumeReport {
            volume: self.spec.id,
            epoch: self.attachment.epoch,
            lossy: self.segments.iter().any(Segment::is_lossy),
            available: self.segments.iter().all(Segment::is_available),
            detail: self.detail(),
            segments: segments.collect(),
            snapshots: self.snapshots.durable(&self.segments),
            replicas,
            retained_bytes: self.segments.iter().map(Segment::retained_bytes).sum(),
            statistics,
        }
    }

    fn detail(&self) -> String {
        let missing: BTreeSet<String> = self
            .segments
            .iter()
            .filter(|segment| !segment.is_available())
            .flat_map(Segment::status)
            .filter(|status| status.health != VoterHealth::InSync)
            .map(|status| status.name)
            .collect();
        if missing.is_empty() {
            return String::new();
        }
        let missing: Vec<String> = missing.into_iter().collect();
        format!("no majority of replicas: those on {} are missing", missing.join(", "))
    }
}
