//! Pulling extents from a peer: resync (rules A3, S1–S4, N4, N5), and what it shares with repair.

use super::effects::Effect;
use super::{Fatal, Node, Output, refusal_or_fatal};
use quoin_replication::replica::{PullError, PulledExtent, Puller, Repairer, Verdict};
use quoin_store::View;
use quoin_types::collections::HashMap;
use quoin_types::limits::SEGMENT_BYTES_DEFAULT;
use quoin_types::{EXTENT_BYTES, ExtentIndex, Moment, ReplicaId, Seq, SessionId, Version};
use quoin_wire::{Message, Refusal, Resync, ResyncMode, ResyncReport, ResyncState, SnapshotList};
use std::time::Duration;

/// Extents asked for at once.
const WINDOW: usize = 16;
/// How often progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before asking a peer again that was not there yet.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// Extents of the replica's own that are looked up at once.
const OWN_PAGE: usize = 8192;

/// One pull, so that answers to a former one are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PullId(u64);

#[derive(Debug)]
pub(super) struct Pull {
    pub(super) replica: ReplicaId,
    pub(super) session: SessionId,
    pub(super) connected: bool,
    /// Not before this moment: the peer was not there yet.
    pub(super) resume_at: Moment,
    /// When progress was told; for a repair, when it began.
    pub(super) told_at: Moment,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Resync(Box<Puller>),
    Repair(Box<Repairer>),
}

/// The pulls of a node, and what they may use.
#[derive(Debug)]
pub(super) struct Pulls {
    pulls: HashMap<PullId, Pull>,
    by_replica: HashMap<ReplicaId, PullId>,
    next: u64,
    bytes_per_second: Option<u64>,
    /// Bytes that may be asked for now.
    allowance: u64,
    filled_at: Moment,
}

impl Pulls {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            pulls: HashMap::default(),
            by_replica: HashMap::default(),
            next: 0,
            bytes_per_second,
            allowance: 0,
            filled_at: Moment::ZERO,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pulls.is_empty()
    }

    /// Whether something is pulled for a replica.
    pub(super) fn is_pulling(&self, replica: ReplicaId) -> bool {
        self.by_replica.contains_key(&replica)
    }

    pub(super) fn get_mut(&mut self, id: PullId) -> Option<&mut Pull> {
        self.pulls.get_mut(&id)
    }

    /// What a repair has come to.
    pub(super) fn verdict(&self, id: PullId, position: Seq, own: Option<Version>) -> Verdict {
        match self.pulls.get(&id) {
            Some(Pull { work: Work::Repair(repairer), .. }) => repairer.verdict(position, own),
            _ => Verdict::NotYet,
        }
    }

    pub(super) fn insert(&mut self, pull: Pull) -> PullId {
        self.next += 1;
        let id = PullId(self.next);
        self.by_replica.insert(pull.replica, id);
        self.pulls.insert(id, pull);
        id
    }

    fn remove(&mut self, id: PullId) -> Option<Pull> {
        let pull = self.pulls.remove(&id)?;
        self.by_replica.remove(&pull.replica);
        Some(pull)
    }

    /// Fills the allowance by the time that has passed: at most a tenth of a second's worth at once.
    fn refill(&mut self, now: Moment) {
        match self.bytes_per_second {
            None => self.allowance = u64::MAX,
            Some(rate) => {
                let earned = (now.since(self.filled_at).as_secs_f64() * rate as f64) as u64;
                if earned > 0 {
                    self.allowance = (self.allowance + earned).min((rate / 10).max(EXTENT_BYTES));
                    self.filled_at = now;
                }
            }
        }
    }

    fn take(&mut self) -> bool {
        let enough = self.allowance >= EXTENT_BYTES;
        if enough && self.bytes_per_second.is_some() {
            self.allowance -= EXTENT_BYTES;
        }
        enough
    }
}

impl Node {
    pub(super) fn on_resync(&mut self, session: SessionId, order: Resync, now: Moment) -> Result<(), Fatal> {
        let id = order.replica;
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let (persist, since) = match replica.begin_resync(session, &order) {
            Ok(begun) => begun,
            Err(refusal) => {
                // A pull that is under way goes on: this order may be one of a gateway that has lost the volume.
                self.report(session, &order, (0, 0), ResyncState::Failed(refusal));
                return Ok(());
            }
        };
        self.drop_pull(id);
        // A3: the mark is in the journal before anything that the resync changes.
        self.persist(id, &persist)?;
        tracing::info!(replica = %id, epoch = %order.epoch, mode = ?order.mode, %since,
            source = %order.source.address, "resync begins");
        let source = order.source.clone();
        let puller = Box::new(Puller::new(order, since, SEGMENT_BYTES_DEFAULT));
        let pull = self.pulls.insert(Pull {
            replica: id,
            session,
            connected: false,
            resume_at: now,
            told_at: now,
            work: Work::Resync(puller),
        });
        self.outputs.push(Output::ConnectPeer(pull, source));
        Ok(())
    }

    /// The connection to a peer is ready.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_peer_connected(&mut self, id: PullId, now: Moment) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.pulls.get_mut(&id) else { return Ok(()) };
        pull.connected = true;
        self.drive(id, now)
    }

    /// The connection to a peer could not be made, or has ended.
    pub fn on_peer_closed(&mut self, id: PullId) {
        self.fail_pull(id, Refusal::Behind);
    }

    /// A peer has answered.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_peer_message(&mut self, id: PullId, message: Message, now: Moment) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.pulls.get_mut(&id) else { return Ok(()) };
        let outcome = match (&mut pull.work, message) {
            (Work::Resync(_), Message::SnapshotList(reply)) => return self.on_snapshot_list(id, reply, now),
            (Work::Resync(puller), Message::ListReply(reply)) => {
                puller.on_list(reply).map(|there| if there { Some(None) } else { None })
            }
            (Work::Resync(puller), Message::FetchReply(reply)) => {
                puller.on_fetch(reply).map(|extent| extent.map(Some))
            }
            (Work::Repair(_), Message::FetchReply(reply)) => return self.on_repair_fetched(id, reply, now),
            _ => Err(PullError::Unexpected),
        };
        match outcome {
            Ok(Some(Some(extent))) => {
                let (replica, index) = (pull.replica, extent.extent);
                if let Err(error) = self.store(replica, extent) {
                    let refusal = refusal_or_fatal(error)?;
                    match self.pulls.pulls.get_mut(&id).map(|pull| &mut pull.work) {
                        Some(Work::Resync(puller)) if refusal == Refusal::NoSpace => {
                            puller.had_no_room_for(index);
                        }
                        _ => {
                            self.fail_pull(id, refusal);
                            return Ok(());
                        }
                    }
                }
            }
            Ok(Some(None)) => {}
            Ok(None) => pull.resume_at = now + ASK_AGAIN,
            Err(error) => {
                self.resync_broke(id, error);
                return Ok(());
            }
        }
        self.drive(id, now)
    }

    /// The peer's snapshots: what the replica has and is of another history goes; then extents are pulled (rule N4).
    fn on_snapshot_list(&mut self, id: PullId, reply: SnapshotList, now: Moment) -> Result<(), Fatal> {
        let Some(replica) = self.pulls.pulls.get(&id).map(|pull| pull.replica) else { return Ok(()) };
        let own = self.snapshots_of(replica);
        let kept = self.kept.get(&replica);
        let is_wanted = |snapshot| kept.is_none_or(|kept| kept.wants(snapshot));
        let Some(pull) = self.pulls.pulls.get_mut(&id) else { return Ok(()) };
        let Work::Resync(puller) = &mut pull.work else { return Ok(()) };
        let stage = match puller.on_snapshots(reply, &own, is_wanted) {
            Ok(Some(stage)) => stage,
            Ok(None) => {
                pull.resume_at = now + ASK_AGAIN;
                return self.drive(id, now);
            }
            Err(error) => {
                self.resync_broke(id, error);
                return Ok(());
            }
        };
        self.delete_snapshots(replica, stage.delete)?;
        let mut changed = match self.own_changes(replica, stage.since) {
            Ok(changed) => changed,
            Err(error) => {
                let refusal = refusal_or_fatal(error)?;
                self.fail_pull(id, refusal);
                return Ok(());
            }
        };
        // What is known to be damaged comes anew along with what has changed.
        changed.extend(self.damages.of(replica));
        if let Some(Pull { work: Work::Resync(puller), .. }) = self.pulls.pulls.get_mut(&id) {
            puller.begin_stage(changed);
        }
        self.drive(id, now)
    }

    fn resync_broke(&mut self, id: PullId, error: PullError) {
        let replica = self.pulls.pulls.get(&id).map(|pull| pull.replica).unwrap_or_default();
        tracing::warn!(%replica, %error, "resync broke");
        let refusal = match error {
            PullError::Refused(Refusal::Disk) => Refusal::PeerDamaged,
            PullError::Refused(refusal) => refusal,
            PullError::LacksSnapshot => Refusal::LacksSnapshot,
            PullError::Checksum(_) | PullError::Unexpected => Refusal::WrongState,
        };
        self.fail_pull(id, refusal);
    }

    pub(super) fn tick_pulls(&mut self, now: Moment) -> Result<(), Fatal> {
        let ids: Vec<PullId> = self.pulls.pulls.keys().copied().collect();
        for id in ids {
            self.drive(id, now)?;
            let Some(pull) = self.pulls.pulls.get_mut(&id) else { continue };
            if let Work::Resync(puller) = &pull.work
                && now.since(pull.told_at) >= REPORT_EVERY
            {
                pull.told_at = now;
                let (session, order, progress) =
                    (pull.session, puller.order().clone(), puller.progress_bytes());
                self.report(session, &order, progress, ResyncState::Running);
            }
        }
        Ok(())
    }

    /// A live write was appended: pulled extents must not undo it, and it may have been the last thing missing.
    pub(super) fn took_live(&mut self, id: ReplicaId, offset: u64, length: u64) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.by_replica.get(&id).copied() else { return Ok(()) };
        match self.pulls.pulls.get_mut(&pull).map(|pull| &mut pull.work) {
            Some(Work::Resync(puller)) if puller.order().mode == ResyncMode::Join => {
                if let Err(error) = puller.wrote_live(offset, length) {
                    self.resync_broke(pull, error);
                    return Ok(());
                }
            }
            Some(Work::Repair(repairer)) => {
                repairer.wrote_live(offset, length);
                return self.settle_repair(pull);
            }
            _ => {}
        }
        self.finish_if_complete(pull)
    }

    /// Ends the pull for a replica, if there is one, without a report.
    pub(super) fn drop_pull(&mut self, replica: ReplicaId) {
        if let Some(id) = self.pulls.by_replica.get(&replica).copied() {
            self.pulls.remove(id);
            self.outputs.push(Output::ClosePeer(id));
        }
    }

    /// The session that ordered them is gone, and with it their live streams.
    pub(super) fn abandon_pulls_of(&mut self, session: SessionId) {
        let pulls = self.pulls.pulls.values().filter(|pull| pull.session == session);
        let replicas: Vec<ReplicaId> = pulls.map(|pull| pull.replica).collect();
        for id in replicas {
            self.drop_pull(id);
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.abandon_resync();
            }
        }
    }

    fn drive(&mut self, id: PullId, now: Moment) -> Result<(), Fatal> {
        self.pulls.refill(now);
        loop {
            let Some(pull) = self.pulls.pulls.get_mut(&id) else { return Ok(()) };
            let Work::Resync(puller) = &mut pull.work else { return self.drive_repair(id, now) };
            if let Some(due) = puller.snapshot_due() {
                // N5: what was pulled is in the journal before it, what will be pulled, behind it.
                let replica = pull.replica;
                if let Err(error) = self.engine.create_snapshot(replica, due.id, due.seq) {
                    let refusal = refusal_or_fatal(error)?;
                    self.fail_pull(id, refusal);
                    return Ok(());
                }
                tracing::info!(%replica, snapshot = %due.id, seq = %due.seq, "resync brought a snapshot");
                puller.made_snapshot();
                // N6: it may have been deleted since the peer told of it.
                self.prune_snapshots(replica)?;
                continue;
            }
            if !pull.connected || now < pull.resume_at || self.pulls.allowance < EXTENT_BYTES {
                break;
            }
            if puller.lacks_room() {
                self.fail_pull(id, Refusal::NoSpace);
                return Ok(());
            }
            let Some(message) = puller.next_request(WINDOW) else { break };
            self.pulls.take();
            self.outputs.push(Output::SendPeer(id, message));
        }
        self.finish_if_complete(id)
    }

    fn finish_if_complete(&mut self, id: PullId) -> Result<(), Fatal> {
        let Some(pull) = self.pulls.pulls.get_mut(&id) else { return Ok(()) };
        let (session, replica_id) = (pull.session, pull.replica);
        let Some(replica) = self.replicas.get_mut(&replica_id) else { return Ok(()) };
        let Work::Resync(puller) = &pull.work else { return Ok(()) };
        if !puller.is_complete(replica.position()) {
            return Ok(());
        }
        let order = puller.order().clone();
        let (done_bytes, total_bytes) = puller.progress_bytes();
        let (persist, state) = match order.mode {
            ResyncMode::Join => (replica.finish_join(&order), ResyncState::Complete),
            ResyncMode::Round => (replica.finish_round(puller.pulled_through()), ResyncState::RoundDone),
        };
        // S2: told when the completion record, and with it everything before, is durable.
        let lsn = self.persist(replica_id, &persist)?;
        let report = ResyncReport { replica: replica_id, epoch: order.epoch, done_bytes, total_bytes, state };
        self.effects.durable_at(lsn, replica_id, persist.position.unwrap_or_default());
        self.effects.at(lsn, Effect::Resynced { session, report });
        tracing::info!(replica = %replica_id, epoch = %order.epoch, ?state, bytes = done_bytes, "resync ends");
        self.end_pull(id);
        Ok(())
    }

    pub(super) fn end_pull(&mut self, id: PullId) {
        self.pulls.remove(id);
        self.outputs.push(Output::ClosePeer(id));
    }

    pub(super) fn store(
        &mut self,
        replica: ReplicaId,
        pulled: PulledExtent,
    ) -> Result<(), quoin_store::Error> {
        let (extent, bytes) = (pulled.extent, pulled.data.len() as u64);
        self.engine
            .put_extent(
                replica,
                pulled.extent,
                pulled.version,
                pulled.keep_blocks,
                &pulled.checksums,
                pulled.zero_mask,
                pulled.data,
            )
            .map(drop)?;
        self.counters.pulled_bytes += bytes;
        // Every block of it is a peer's now, or was written since.
        self.counters.repaired += u64::from(self.damages.mended(replica, extent));
        Ok(())
    }

    pub(super) fn fail_pull(&mut self, id: PullId, refusal: Refusal) {
        let Some(pull) = self.pulls.remove(id) else { return };
        self.outputs.push(Output::ClosePeer(id));
        if let Work::Repair(repairer) = &pull.work {
            let order = repairer.order();
            self.damages.failed(pull.replica, order.extent, order.source.replica);
        }
        if let Work::Resync(puller) = pull.work {
            if let Some(replica) = self.replicas.get_mut(&pull.replica) {
                replica.abandon_resync();
            }
            let progress = puller.progress_bytes();
            self.report(pull.session, puller.order(), progress, ResyncState::Failed(refusal));
        }
    }

    fn report(&mut self, session: SessionId, order: &Resync, progress: (u64, u64), state: ResyncState) {
        let (done_bytes, total_bytes) = progress;
        let report =
            ResyncReport { replica: order.replica, epoch: order.epoch, done_bytes, total_bytes, state };
        self.send(session, Message::ResyncReport(report));
    }

    /// The replica's own extents with a version above `since`: a divergent tail among them has to go.
    fn own_changes(&self, id: ReplicaId, since: Seq) -> Result<Vec<ExtentIndex>, quoin_store::Error> {
        let mut own = Vec::new();
        let mut from = ExtentIndex::ZERO;
        loop {
            let page = self.engine.changed_since(id, View::Live, since, from, OWN_PAGE)?;
            own.extend(page.iter().map(|(extent, _)| *extent));
            match page.last() {
                Some((last, _)) if page.len() == OWN_PAGE => from = last.next(),
                _ => return Ok(own),
            }
        }
    }
}
