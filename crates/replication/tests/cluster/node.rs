//! A storage node's shell around the real `Replica` and `Puller`: what it does with messages and with its disk. It holds
//! one replica. Every effect on the world is returned.

use crate::rng::Rng;
use crate::store::{Record, Store, block_bytes, block_value, zero_value};
use quoin_replication::Timing;
use quoin_replication::replica::{Puller, Replica, ReplicaMeta, Stage, Take};
use quoin_types::{BLOCK_BYTES, BLOCKS_PER_EXTENT, Moment, ReplicaId, Seq, SessionId, SnapshotId};
use quoin_wire::*;
use std::collections::{BTreeSet, VecDeque};

/// The extents of the toy segment.
pub(crate) const EXTENTS: u32 = 3;

/// What a node wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// To the gateway at the other end of a session.
    Send(SessionId, Message),
    /// To the node that holds a replica.
    Ask(ReplicaId, Message),
    /// An answer to a node that asks.
    Answer(usize, Message),
    /// To itself, after so many nanoseconds.
    Later(u64, Timer),
}

/// What a node waits for. Void after the process has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// `write(2)` has returned, up to a record.
    Accepted(u64),
    /// `fdatasync` has returned, up to a record.
    Synced(u64),
    /// A read's turn at the disk.
    Read(SessionId, Read),
    /// The puller may go on.
    Pull,
    /// The puller has made no progress since this count.
    PullSilent(u64),
}

/// An answer that goes out when the journal is durable to an index.
struct Waiting {
    index: u64,
    session: SessionId,
    message: Message,
}

pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) up: bool,
    /// Now and then it cannot take a write.
    pub(crate) refuses: bool,
    /// Counts processes: timers of an earlier one are void.
    pub(crate) process: u64,
    pub(crate) replica: Replica,
    pub(crate) store: Store,
    /// Snapshots that this process was told to delete, whenever they come.
    unwanted: BTreeSet<SnapshotId>,
    timing: Timing,
    puller: Option<Puller>,
    pull_progress: u64,
    /// Counts pulls: answers to an earlier one are void.
    pub(crate) pull_number: u64,
    waiting: VecDeque<Waiting>,
    accepting: bool,
    syncing: bool,
    /// The disk names an earlier boot until this record is durable: a start before that counts as one after power loss.
    other_boot_until: Option<u64>,
    pub(crate) effects: Vec<Effect>,
    /// Histories that a `StartEpoch` has just installed, for the checks.
    pub(crate) started: Vec<Vec<EpochStart>>,
}

impl Node {
    pub(crate) fn new(index: usize, meta: ReplicaMeta, timing: Timing) -> Self {
        Self {
            index,
            up: true,
            refuses: true,
            process: 0,
            replica: Replica::create(ReplicaId(index as u64), meta.clone(), timing),
            store: Store::new(meta),
            unwanted: BTreeSet::new(),
            timing,
            puller: None,
            pull_progress: 0,
            pull_number: 0,
            waiting: VecDeque::new(),
            accepting: false,
            syncing: false,
            other_boot_until: None,
            effects: Vec::new(),
            started: Vec::new(),
        }
    }

    /// The process ends; with `power_lost` also what was accepted and not durable, but for a random part.
    pub(crate) fn stop(&mut self, power_lost: bool, rng: &mut Rng) {
        let store = &mut self.store;
        let kept = if power_lost { rng.between(store.durable(), store.accepted) } else { store.accepted };
        store.lose_after(kept);
        if power_lost {
            self.other_boot_until = Some(u64::MAX);
        }
        self.up = false;
        self.process += 1;
        self.puller = None;
        self.unwanted.clear();
        self.waiting.clear();
        (self.accepting, self.syncing) = (false, false);
    }

    pub(crate) fn start(&mut self, now: Moment) {
        let power_was_lost = self.other_boot_until.is_some();
        let image = &self.store.live;
        let (replica, persist) = Replica::restore(
            ReplicaId(self.index as u64),
            image.meta.clone(),
            image.position,
            power_was_lost,
            now,
            self.timing,
        );
        self.replica = replica;
        self.up = true;
        if let Some(persist) = persist {
            self.store.append(Record::Meta(persist));
        }
        // The new boot's name is recorded behind that, in the same journal.
        self.other_boot_until = power_was_lost.then_some(self.store.end());
    }

    pub(crate) fn on_message(&mut self, session: SessionId, message: Message, now: Moment, rng: &mut Rng) {
        match message {
            Message::Open(open) => self.on_open(session, &open, now),
            Message::StartEpoch(start) => self.on_start_epoch(session, &start),
            Message::Write(write) => {
                let values = write.data.chunks_exact(BLOCK_BYTES as usize).map(block_value).collect();
                // W5: when it cannot take one, it takes none after it.
                if self.refuses && rng.permille(2) {
                    self.refuse(session, write.epoch, write.seq, Refusal::NoSpace);
                } else {
                    self.on_operation(session, write.epoch, write.seq, write.offset, values);
                }
            }
            Message::Zero(zero) => {
                let values = vec![zero_value(zero.epoch, zero.seq); (zero.length / BLOCK_BYTES) as usize];
                self.on_operation(session, zero.epoch, zero.seq, zero.offset, values);
            }
            Message::Snapshot(snapshot) => self.on_snapshot(session, &snapshot),
            Message::Settle(settle) => match self.replica.settle(session, settle.epoch, settle.seq) {
                Ok(Some(persist)) => drop(self.store.append(Record::Meta(persist))),
                Ok(None) => {}
                Err(reason) => self.refuse(session, settle.epoch, settle.seq, reason),
            },
            Message::Read(read) => {
                let delay = rng.below(1_500_000);
                self.effects.push(Effect::Later(delay, Timer::Read(session, read)));
            }
            Message::Heartbeat(heartbeat) => self.on_heartbeat(session, &heartbeat, now),
            Message::Release(release) => {
                self.replica.release(session, release.holder);
            }
            Message::Resync(order) => self.on_resync(session, order),
            Message::Repair(_) => {}
            other => panic!("a gateway does not send {other:?}"),
        }
        self.settle_disk(rng);
    }

    pub(crate) fn on_timer(&mut self, timer: Timer, rng: &mut Rng) {
        match timer {
            Timer::Accepted(index) => {
                self.accepting = false;
                self.store.accepted = self.store.accepted.max(index);
                self.tell_positions();
            }
            Timer::Synced(index) => {
                self.syncing = false;
                let position = self.store.make_durable(index);
                self.other_boot_until = self.other_boot_until.filter(|until| *until > index);
                self.replica.made_durable(position);
                self.send_waiting();
                self.tell_positions();
            }
            Timer::Read(session, read) => self.serve_read(session, &read, rng),
            Timer::Pull => self.pull(),
            Timer::PullSilent(progress) => {
                if self.puller.is_some() && progress == self.pull_progress {
                    self.fail_pull(Refusal::Behind);
                }
            }
        }
        self.settle_disk(rng);
    }

    fn on_open(&mut self, session: SessionId, open: &Open, now: Moment) {
        let (replica, epoch) = (open.replica, open.epoch);
        match self.replica.open(session, open) {
            Ok(persist) => {
                self.puller = None;
                self.store.append(Record::Meta(persist));
                let report = self.replica.report(now);
                self.answer_when_durable(
                    session,
                    Message::OpenReply(OpenReply { replica, epoch, result: Ok(report) }),
                );
            }
            Err(refusal) => {
                let reply = OpenReply { replica, epoch, result: Err(refusal) };
                self.effects.push(Effect::Send(session, Message::OpenReply(reply)));
            }
        }
    }

    fn on_start_epoch(&mut self, session: SessionId, start: &StartEpoch) {
        let reply = |result| {
            Message::StartEpochReply(StartEpochReply { replica: start.replica, epoch: start.epoch, result })
        };
        match self.replica.start_epoch(session, start) {
            Ok(persist) => {
                self.started.push(start.history.clone());
                if let Some(persist) = persist {
                    let points = self.store.live.snapshot_points();
                    let beyond = points.into_iter().filter(|snapshot| snapshot.seq > start.expect.seq);
                    self.delete_snapshots(beyond.map(|snapshot| snapshot.id).collect());
                    self.store.append(Record::Meta(persist));
                }
                self.answer_when_durable(session, reply(Ok(())));
            }
            Err(refusal) => self.effects.push(Effect::Send(session, reply(Err(refusal)))),
        }
    }

    fn on_operation(
        &mut self,
        session: SessionId,
        epoch: quoin_types::Epoch,
        seq: Seq,
        offset: u64,
        values: Vec<u64>,
    ) {
        match self.replica.take(session, epoch, seq) {
            Ok(Take::Append) => {
                let length = values.len() as u64 * BLOCK_BYTES;
                self.store.append(Record::Operation { seq, first: (offset / BLOCK_BYTES) as u32, values });
                self.replica.appended(seq);
                match self.puller.as_mut().map(|puller| puller.wrote_live(offset, length)) {
                    Some(Err(_)) => self.fail_pull(Refusal::LacksSnapshot),
                    _ => self.finish_pull(),
                }
            }
            Ok(Take::Known) => self.tell_positions(),
            Err(reason) => self.refuse(session, epoch, seq, reason),
        }
    }

    fn on_snapshot(&mut self, session: SessionId, snapshot: &Snapshot) {
        match self.replica.take_snapshot(session, snapshot.epoch, snapshot.seq) {
            Ok(Take::Append) => {
                let point = SnapshotPoint { id: snapshot.snapshot, seq: snapshot.seq };
                self.store.append(Record::Snapshot(point));
                self.replica.appended(snapshot.seq);
                self.prune();
            }
            Ok(Take::Known) => self.tell_positions(),
            Err(reason) => self.refuse(session, snapshot.epoch, snapshot.seq, reason),
        }
    }

    fn delete_snapshots(&mut self, ids: Vec<SnapshotId>) {
        for id in ids {
            self.store.append(Record::DeleteSnapshot(id));
        }
    }

    /// The cluster manager tells which snapshots are to be deleted.
    pub(crate) fn on_unwanted(&mut self, unwanted: &BTreeSet<SnapshotId>, rng: &mut Rng) {
        self.unwanted.clone_from(unwanted);
        self.prune();
        self.settle_disk(rng);
    }

    fn prune(&mut self) {
        let ids = self.store.live.snapshot_points().into_iter().map(|snapshot| snapshot.id);
        self.delete_snapshots(ids.filter(|id| self.unwanted.contains(id)).collect());
    }

    fn refuse(&mut self, session: SessionId, epoch: quoin_types::Epoch, seq: Seq, reason: Refusal) {
        let refused = Refused { replica: self.replica.id(), epoch, seq, reason };
        self.effects.push(Effect::Send(session, Message::Refused(refused)));
    }

    fn on_heartbeat(&mut self, session: SessionId, heartbeat: &Heartbeat, now: Moment) {
        let mut granted = heartbeat.replicas.clone();
        granted.retain(|(_, epoch)| self.replica.grant_lease(now, session, heartbeat.instance, *epoch));
        let reply = HeartbeatReply { stamp: heartbeat.stamp, granted };
        self.effects.push(Effect::Send(session, Message::HeartbeatReply(reply)));
    }

    fn serve_read(&mut self, session: SessionId, read: &Read, rng: &mut Rng) {
        let result = match self.replica.may_read(read.epoch, read.after) {
            Err(refusal) => ReadResult::Refused(refusal),
            Ok(()) => {
                let first = (read.offset / BLOCK_BYTES) as u32;
                let blocks = first..first + read.length / BLOCK_BYTES as u32;
                let mut data: Vec<u8> =
                    blocks.flat_map(|block| block_bytes(self.store.live.content.value(block))).collect();
                let checksums = block_checksums(&data);
                if rng.permille(5) {
                    data[7] ^= 1;
                }
                ReadResult::Data { checksums, data: data.into() }
            }
        };
        let reply = ReadReply { id: read.id, replica: read.replica, result };
        self.effects.push(Effect::Send(session, Message::ReadReply(reply)));
    }

    /// Positions as the protocol counts them: what is accepted of the present state.
    fn tell_positions(&mut self) {
        let Some(session) = self.replica.session().filter(|_| self.replica.counts() || self.puller.is_some())
        else {
            return;
        };
        let position = Position {
            replica: self.replica.id(),
            epoch: self.replica.meta().promise.epoch,
            accepted: self.store.accepted_position().min(self.replica.position()),
            durable: self.replica.durable(),
        };
        let positions = Positions { replicas: vec![position], ..Positions::default() };
        self.effects.push(Effect::Send(session, Message::Positions(positions)));
    }

    fn answer_when_durable(&mut self, session: SessionId, message: Message) {
        self.waiting.push_back(Waiting { index: self.store.end(), session, message });
    }

    fn send_waiting(&mut self) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.index <= self.store.durable()) {
            if self.replica.session() == Some(waiting.session) {
                self.effects.push(Effect::Send(waiting.session, waiting.message));
            }
        }
    }

    /// Group commit: one write and one sync at a time, always under way while something is to be done.
    fn settle_disk(&mut self, rng: &mut Rng) {
        if !self.accepting && self.store.accepted < self.store.end() {
            self.accepting = true;
            let delay = rng.between(20_000, 300_000);
            self.effects.push(Effect::Later(delay, Timer::Accepted(self.store.end())));
        }
        if !self.syncing && self.store.durable() < self.store.accepted {
            self.syncing = true;
            let delay = rng.between(100_000, 4_000_000);
            self.effects.push(Effect::Later(delay, Timer::Synced(self.store.accepted)));
        }
        if self.waiting.front().is_some_and(|waiting| waiting.index <= self.store.durable()) {
            self.send_waiting();
        }
    }
}

/// Resync, on both sides.
impl Node {
    fn on_resync(&mut self, session: SessionId, order: Resync) {
        match self.replica.begin_resync(session, &order) {
            Ok((persist, since)) => {
                self.store.append(Record::Meta(persist));
                let bytes = u64::from(EXTENTS * BLOCKS_PER_EXTENT) * BLOCK_BYTES;
                self.pull_number += 1;
                self.puller = Some(Puller::new(order, since, bytes));
                self.pull();
            }
            Err(refusal) => {
                let report = report_of(&order, (0, 0), ResyncState::Failed(refusal));
                self.effects.push(Effect::Send(session, report));
            }
        }
    }

    fn pull(&mut self) {
        let Some(puller) = &mut self.puller else { return };
        let source = puller.order().source.replica;
        if let Some(due) = puller.snapshot_due() {
            self.store.append(Record::Snapshot(due));
            puller.made_snapshot();
        }
        while let Some(request) = puller.next_request(2) {
            self.effects.push(Effect::Ask(source, request));
        }
        self.effects.push(Effect::Later(80_000_000, Timer::PullSilent(self.pull_progress)));
        self.finish_pull();
    }

    /// A peer asks.
    pub(crate) fn on_question(&mut self, from: usize, message: &Message) {
        let replica = &self.replica;
        let position = replica.state().seq;
        let answer = match message {
            Message::ListSnapshots(list) => {
                let may = replica.may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed);
                let mut points = self.store.live.snapshot_points();
                points.retain(|snapshot| snapshot.seq <= position);
                let result = may.map(|()| (position, points));
                Message::SnapshotList(SnapshotList { replica: list.replica, result })
            }
            Message::List(list) => {
                let may = replica.may_pull(list.epoch, list.last_epoch, list.after, list.allow_mixed);
                let result = may.and_then(|()| {
                    let content = self.store.live.view(list.view).ok_or(Refusal::LacksSnapshot)?;
                    let changed = content.changed_since(list.since);
                    Ok((position, changed.filter(|extent| *extent >= list.from).collect()))
                });
                Message::ListReply(ListReply { replica: list.replica, result })
            }
            Message::Fetch(fetch) => {
                let may = replica.may_pull(fetch.epoch, fetch.last_epoch, fetch.after, fetch.allow_mixed);
                let result = may.and_then(|()| {
                    let content = self.store.live.view(fetch.view).ok_or(Refusal::LacksSnapshot)?;
                    Ok(content.fetch(fetch.extent.0, position))
                });
                Message::FetchReply(FetchReply { replica: fetch.replica, extent: fetch.extent, result })
            }
            other => panic!("a peer does not ask {other:?}"),
        };
        self.effects.push(Effect::Answer(from, answer));
    }

    /// A peer answers. Answers to an earlier puller are of another connection, which the world has closed.
    pub(crate) fn on_answer(&mut self, message: Message, rng: &mut Rng) {
        let Some(puller) = &mut self.puller else { return };
        let outcome = match message {
            Message::SnapshotList(reply) => {
                let own = self.store.live.snapshot_points();
                let stage = puller.on_snapshots(reply, &own, |id| !self.unwanted.contains(&id));
                stage.map(|stage| (stage.is_some_and(|stage| self.begin_stage(stage)), None))
            }
            Message::ListReply(reply) => puller.on_list(reply).map(|there| (there, None)),
            Message::FetchReply(reply) => puller.on_fetch(reply).map(|pulled| (pulled.is_some(), pulled)),
            other => panic!("a peer does not answer {other:?}"),
        };
        self.pull_progress += 1;
        match outcome {
            Ok((there, pulled)) => {
                if let Some(pulled) = pulled {
                    self.store.append(Record::Pulled(pulled));
                }
                if there {
                    self.pull();
                } else {
                    self.effects.push(Effect::Later(1_000_000, Timer::Pull));
                }
            }
            Err(_) => self.fail_pull(Refusal::Behind),
        }
        self.settle_disk(rng);
    }

    fn begin_stage(&mut self, stage: Stage) -> bool {
        self.delete_snapshots(stage.delete);
        let own = self.store.live.content.changed_since(stage.since);
        self.puller.as_mut().expect("it has just asked").begin_stage(own);
        true
    }

    fn finish_pull(&mut self) {
        let position = self.replica.position();
        let Some(puller) = self.puller.take_if(|puller| puller.is_complete(position)) else { return };
        let (persist, state) = match puller.order().mode {
            ResyncMode::Join => (self.replica.finish_join(puller.order()), ResyncState::Complete),
            ResyncMode::Round => (self.replica.finish_round(puller.pulled_through()), ResyncState::RoundDone),
        };
        self.store.append(Record::Meta(persist));
        let Some(session) = self.replica.session() else { return };
        self.answer_when_durable(session, report_of(puller.order(), puller.progress_bytes(), state));
    }

    fn fail_pull(&mut self, refusal: Refusal) {
        let Some(puller) = self.puller.take() else { return };
        self.replica.abandon_resync();
        if let Some(session) = self.replica.session() {
            let report = report_of(puller.order(), puller.progress_bytes(), ResyncState::Failed(refusal));
            self.effects.push(Effect::Send(session, report));
        }
    }
}

fn report_of(order: &Resync, progress: (u64, u64), state: ResyncState) -> Message {
    Message::ResyncReport(ResyncReport {
        replica: order.replica,
        epoch: order.epoch,
        done_bytes: progress.0,
        total_bytes: progress.1,
        state,
    })
}
