//! A storage node around the real `Replica` and `Puller`: what it does with messages, and its disk. It is the node of
//! `tests/cluster` without delays: what takes time there is an action of its own here, or happens at once where the
//! bounds say so. Blocks are one byte, so that some millions of nodes can be cloned and hashed.

use bytes::Bytes;
use quoin_replication::Timing;
use quoin_replication::replica::{Persist, PulledExtent, Puller, Replica, ReplicaMeta, Take};
use quoin_types::{
    BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, ExtentIndex, Moment, ReplicaId, Seq, SessionId,
};
use quoin_wire::*;

/// Blocks that are used, all of the segment's one extent.
pub(crate) const BLOCKS: usize = 2;

/// What is on the disk once the journal is applied. A block's value is the number of the write that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    pub(crate) blocks: [u8; BLOCKS],
    pub(crate) version: Seq,
    pub(crate) meta: ReplicaMeta,
    pub(crate) position: Seq,
}

#[derive(Clone, Debug)]
enum Record {
    Write { seq: Seq, block: usize, value: u8 },
    Meta(Persist),
    Pulled(PulledExtent),
}

impl Image {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Write { seq, block, value } => {
                self.blocks[*block] = *value;
                (self.version, self.position) = (*seq, *seq);
            }
            Record::Meta(persist) => {
                self.meta = persist.meta.clone();
                self.position = persist.position.unwrap_or(self.position);
            }
            Record::Pulled(pulled) => {
                for (block, value) in self.blocks.iter_mut().enumerate() {
                    if pulled.keep_blocks & (1 << block) == 0 {
                        *value = pulled.checksums[block] as u8;
                    }
                }
                let kept = if pulled.keep_blocks == 0 { Seq::ZERO } else { self.version };
                self.version = kept.max(pulled.version);
            }
        }
    }
}

/// The journal's tail that is accepted and not durable yet, and the images at its two ends.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) durable: Image,
    pub(crate) live: Image,
    tail: Vec<Record>,
}

impl Store {
    fn append(&mut self, record: Record) {
        self.live.apply(&record);
        self.tail.push(record);
    }

    fn make_durable(&mut self) -> Seq {
        self.tail.clear();
        self.durable = self.live.clone();
        self.durable.position
    }

    /// Power is lost: only so many records of the tail are left.
    fn lose_after(&mut self, kept: usize) {
        self.tail.truncate(kept);
        self.tail.iter().for_each(|record| self.durable.apply(record));
        self.live = self.durable.clone();
        self.tail.clear();
    }
}

/// The conversation with the peer that is pulled from: one question at a time.
#[derive(Clone, Debug)]
pub(crate) enum Pull {
    Question(Message),
    Answer(Message),
}

/// A message to the gateway at the other end of a session.
pub(crate) type Sent = (SessionId, Message);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) store: Store,
    puller: Option<Puller>,
    pub(crate) pull: Option<Pull>,
    /// Answers that go out with the next sync.
    waiting: Vec<Sent>,
    /// The disk names an earlier boot until the next sync: a start before that counts as one after power loss.
    other_boot: bool,
}

impl Node {
    pub(crate) fn new(id: ReplicaId, timing: Timing) -> Self {
        let meta = ReplicaMeta::default();
        let image =
            Image { blocks: [0; BLOCKS], version: Seq::ZERO, meta: meta.clone(), position: Seq::ZERO };
        Self {
            replica: Replica::create(id, meta, timing),
            store: Store { durable: image.clone(), live: image, tail: Vec::new() },
            puller: None,
            pull: None,
            waiting: Vec::new(),
            other_boot: false,
        }
    }

    /// Records that are accepted and not durable.
    pub(crate) fn tail(&self) -> usize {
        self.store.tail.len()
    }

    pub(crate) fn needs_sync(&self) -> bool {
        self.tail() > 0 || !self.waiting.is_empty()
    }

    /// The process ends and starts again; with `kept`, power was lost, and so many records of the tail are left.
    pub(crate) fn restart(&mut self, kept: Option<usize>, now: Moment, timing: Timing) {
        self.store.lose_after(kept.unwrap_or(usize::MAX));
        self.other_boot |= kept.is_some();
        (self.puller, self.pull) = (None, None);
        self.waiting.clear();
        let Image { meta, position, .. } = self.store.live.clone();
        let (replica, persist) =
            Replica::restore(self.replica.id(), meta, position, self.other_boot, now, timing);
        self.replica = replica;
        if let Some(persist) = persist {
            self.store.append(Record::Meta(persist));
        }
    }

    /// `fdatasync` has returned for all that was written.
    pub(crate) fn sync(&mut self, out: &mut Vec<Sent>) {
        let position = self.store.make_durable();
        self.other_boot = false;
        self.replica.made_durable(position);
        let session = self.replica.session();
        out.extend(self.waiting.drain(..).filter(|(asked, _)| session == Some(*asked)));
        self.tell_positions(out);
    }

    pub(crate) fn on_message(
        &mut self,
        session: SessionId,
        message: Message,
        now: Moment,
        out: &mut Vec<Sent>,
    ) {
        match message {
            Message::Open(open) => self.on_open(session, &open, now, out),
            Message::StartEpoch(start) => self.on_start_epoch(session, &start, out),
            Message::Write(write) => self.on_write(session, &write, out),
            Message::Settle(settle) => match self.replica.settle(session, settle.epoch, settle.seq) {
                Ok(persist) => self.persist(persist),
                Err(reason) => self.refuse(session, settle.epoch, settle.seq, reason, out),
            },
            Message::Read(read) => {
                let result = match self.replica.may_read(read.epoch, read.after) {
                    Err(refusal) => ReadResult::Refused(refusal),
                    Ok(()) => block_of(self.store.live.blocks[(read.offset / BLOCK_BYTES) as usize]),
                };
                out.push((
                    session,
                    Message::ReadReply(ReadReply { id: read.id, replica: read.replica, result }),
                ));
            }
            Message::Heartbeat(heartbeat) => {
                let mut granted = heartbeat.replicas;
                let instance = heartbeat.instance;
                granted.retain(|(_, epoch)| self.replica.grant_lease(now, session, instance, *epoch));
                out.push((
                    session,
                    Message::HeartbeatReply(HeartbeatReply { stamp: heartbeat.stamp, granted }),
                ));
            }
            Message::Resync(order) => self.on_resync(session, order, out),
            other => panic!("a gateway does not send {other:?}"),
        }
    }

    fn persist(&mut self, persist: Option<Persist>) {
        if let Some(persist) = persist {
            self.store.append(Record::Meta(persist));
        }
    }

    fn on_open(&mut self, session: SessionId, open: &Open, now: Moment, out: &mut Vec<Sent>) {
        let reply =
            |result| Message::OpenReply(OpenReply { replica: open.replica, epoch: open.epoch, result });
        match self.replica.open(session, open) {
            Ok(persist) => {
                (self.puller, self.pull) = (None, None);
                self.persist(Some(persist));
                self.waiting.push((session, reply(Ok(self.replica.report(now)))));
            }
            Err(refusal) => out.push((session, reply(Err(refusal)))),
        }
    }

    fn on_start_epoch(&mut self, session: SessionId, start: &StartEpoch, out: &mut Vec<Sent>) {
        let (replica, epoch) = (start.replica, start.epoch);
        let reply = |result| Message::StartEpochReply(StartEpochReply { replica, epoch, result });
        match self.replica.start_epoch(session, start) {
            Ok(persist) => {
                self.persist(persist);
                self.waiting.push((session, reply(Ok(()))));
            }
            Err(refusal) => out.push((session, reply(Err(refusal)))),
        }
    }

    fn on_write(&mut self, session: SessionId, write: &Write, out: &mut Vec<Sent>) {
        match self.replica.take(session, write.epoch, write.seq) {
            Ok(Take::Append) => {
                if let Some(puller) = &mut self.puller {
                    puller.wrote_live(write.offset, BLOCK_BYTES).expect("it lacks no snapshot");
                }
                let block = (write.offset / BLOCK_BYTES) as usize;
                self.store.append(Record::Write { seq: write.seq, block, value: write.data[0] });
                self.replica.appended(write.seq);
                self.tell_positions(out);
                self.finish_pull();
            }
            Ok(Take::Known) => self.tell_positions(out),
            Err(reason) => self.refuse(session, write.epoch, write.seq, reason, out),
        }
    }

    fn refuse(
        &self,
        session: SessionId,
        epoch: quoin_types::Epoch,
        seq: Seq,
        reason: Refusal,
        out: &mut Vec<Sent>,
    ) {
        out.push((session, Message::Refused(Refused { replica: self.replica.id(), epoch, seq, reason })));
    }

    fn tell_positions(&self, out: &mut Vec<Sent>) {
        let tells = self.replica.counts() || self.puller.is_some();
        let Some(session) = self.replica.session().filter(|_| tells) else { return };
        let position = Position {
            replica: self.replica.id(),
            epoch: self.replica.meta().promise.epoch,
            accepted: self.store.live.position.min(self.replica.position()),
            durable: self.replica.durable(),
        };
        let positions = Positions { replicas: vec![position], ..Positions::default() };
        out.push((session, Message::Positions(positions)));
    }
}

/// Resync, on both sides.
impl Node {
    fn on_resync(&mut self, session: SessionId, order: Resync, out: &mut Vec<Sent>) {
        match self.replica.begin_resync(session, &order) {
            Ok((persist, since)) => {
                self.store.append(Record::Meta(persist));
                self.puller = Some(Puller::new(order, since, EXTENT_BYTES));
                self.ask();
            }
            Err(refusal) => out.push((session, report_of(&order, ResyncState::Failed(refusal)))),
        }
    }

    /// The replica that is pulled from.
    pub(crate) fn source(&self) -> Option<usize> {
        self.puller.as_ref().map(|puller| puller.order().source.replica.0 as usize)
    }

    fn ask(&mut self) {
        let question = self.puller.as_mut().and_then(|puller| puller.next_request(1));
        self.pull = question.map(Pull::Question);
        self.finish_pull();
    }

    /// A peer's question. `None`: the answer is "not there yet", so it asks again later.
    pub(crate) fn answer(&self, question: &Message) -> Option<Message> {
        let (replica, position) = (&self.replica, self.replica.state().seq);
        let answer = match question {
            Message::ListSnapshots(list) => {
                let may = replica.may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed);
                let result = may.map(|()| (position, Vec::new()));
                Message::SnapshotList(SnapshotList { replica: list.replica, result })
            }
            Message::List(list) => {
                let may = replica.may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed);
                let listed = || (self.store.live.version > list.since).then_some(ExtentIndex::ZERO);
                let result = may.map(|()| (position, listed().into_iter().collect()));
                Message::ListReply(ListReply { replica: list.replica, result })
            }
            Message::Fetch(fetch) => {
                let may = replica.may_pull(fetch.epoch, fetch.last_epoch, fetch.after, fetch.allow_mixed);
                let result = may.map(|()| self.fetched(position));
                Message::FetchReply(FetchReply { replica: fetch.replica, extent: fetch.extent, result })
            }
            other => panic!("a peer does not ask {other:?}"),
        };
        let behind = matches!(
            answer,
            Message::SnapshotList(SnapshotList { result: Err(Refusal::Behind), .. })
                | Message::ListReply(ListReply { result: Err(Refusal::Behind), .. })
                | Message::FetchReply(FetchReply { result: Err(Refusal::Behind), .. })
        );
        (!behind).then_some(answer)
    }

    /// Blocks of one byte fit the place of their checksums: as zeros, they need no data.
    fn fetched(&self, position: Seq) -> FetchedExtent {
        let mut checksums = [0; BLOCKS_PER_EXTENT as usize];
        let values = self.store.live.blocks.iter().map(|value| u32::from(*value));
        checksums.iter_mut().zip(values).for_each(|(place, value)| *place = value);
        let version = self.store.live.version;
        FetchedExtent { position, version, zero_mask: u16::MAX, checksums, data: Bytes::new() }
    }

    /// The peer's answer arrives.
    pub(crate) fn on_answer(&mut self, out: &mut Vec<Sent>) {
        let (Some(Pull::Answer(answer)), Some(puller)) = (self.pull.take(), &mut self.puller) else { return };
        let pulled = match answer {
            Message::SnapshotList(reply) => puller.on_snapshots(reply, &[], |_| true).map(|stage| {
                if let Some(stage) = stage {
                    let own = (self.store.live.version > stage.since).then_some(ExtentIndex::ZERO);
                    puller.begin_stage(own);
                }
                None
            }),
            Message::ListReply(reply) => puller.on_list(reply).map(|_| None),
            Message::FetchReply(reply) => puller.on_fetch(reply),
            other => panic!("a peer does not answer {other:?}"),
        };
        match pulled {
            Ok(pulled) => {
                if let Some(pulled) = pulled {
                    self.store.append(Record::Pulled(pulled));
                }
                self.ask();
            }
            Err(_) => self.fail_pull(out),
        }
    }

    /// The connection to the peer is lost.
    pub(crate) fn fail_pull(&mut self, out: &mut Vec<Sent>) {
        let Some(puller) = self.puller.take() else { return };
        self.pull = None;
        self.replica.abandon_resync();
        if let Some(session) = self.replica.session() {
            out.push((session, report_of(puller.order(), ResyncState::Failed(Refusal::Behind))));
        }
    }

    fn finish_pull(&mut self) {
        let position = self.replica.position();
        let Some(puller) = self.puller.take_if(|puller| puller.is_complete(position)) else { return };
        self.pull = None;
        let (persist, state) = match puller.order().mode {
            ResyncMode::Join => (self.replica.finish_join(puller.order()), ResyncState::Complete),
            ResyncMode::Round => (self.replica.finish_round(puller.pulled_through()), ResyncState::RoundDone),
        };
        self.store.append(Record::Meta(persist));
        let Some(session) = self.replica.session() else { return };
        self.waiting.push((session, report_of(puller.order(), state)));
    }
}

fn report_of(order: &Resync, state: ResyncState) -> Message {
    let (replica, epoch) = (order.replica, order.epoch);
    Message::ResyncReport(ResyncReport { replica, epoch, done_bytes: 0, total_bytes: 0, state })
}

/// A block as it is read: the wire wants whole ones.
fn block_of(value: u8) -> ReadResult {
    let mut data = vec![0; BLOCK_BYTES as usize];
    data[0] = value;
    ReadResult::Data { checksums: block_checksums(&data), data: data.into() }
}
