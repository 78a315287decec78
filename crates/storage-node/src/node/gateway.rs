//! What gateways ask: promises, epochs, writes, reads, leases, resyncs.

use super::effects::Effect;
use super::{Fatal, Node, refusal_or_fatal};
use quoin_replication::replica::Take;
use quoin_store::{Engine, Lsn};
use quoin_types::{EXTENT_BYTES, Epoch, InstanceId, Moment, ReplicaId, Seq, SessionId};
use quoin_wire::{
    Heartbeat, HeartbeatReply, Message, Open, OpenReply, Refusal, Refused, StartEpoch, StartEpochReply,
    Write, Zero,
};

impl Node {
    pub(super) fn on_gateway_message(
        &mut self,
        session: SessionId,
        instance: InstanceId,
        message: Message,
        now: Moment,
    ) -> Result<(), Fatal> {
        match message {
            Message::Write(write) => self.on_write(session, write),
            Message::Zero(zero) => self.on_zero(session, zero),
            Message::Snapshot(snapshot) => self.on_snapshot(session, snapshot),
            Message::Read(read) => self.on_read(session, read),
            Message::Sync => {
                self.gathering.ask();
                Ok(())
            }
            Message::BlockStatus(asked) => self.on_block_status(session, &asked),
            Message::Heartbeat(heartbeat) => {
                self.on_heartbeat(session, &heartbeat, now);
                Ok(())
            }
            Message::Open(open) if open.instance != instance => {
                self.close(session, "an epoch is opened for another process than the session's");
                Ok(())
            }
            Message::Open(open) => self.on_open(session, &open),
            Message::StartEpoch(start) => self.on_start_epoch(session, &start),
            Message::Settle(settle) => {
                let Some(replica) = self.replicas.get_mut(&settle.replica) else { return Ok(()) };
                match replica.settle(session, settle.epoch, settle.seq) {
                    Ok(Some(persist)) => self.persist(settle.replica, &persist).map(drop),
                    Ok(None) => Ok(()),
                    Err(reason) => {
                        self.refuse(session, settle.replica, settle.epoch, settle.seq, reason);
                        Ok(())
                    }
                }
            }
            Message::Release(release) => {
                if let Some(replica) = self.replicas.get_mut(&release.replica)
                    && release.holder.instance == instance
                {
                    let former = replica.release(session, release.holder);
                    self.leaves(former);
                }
                Ok(())
            }
            Message::Resync(order) => self.on_resync(session, order, now),
            Message::Repair(order) => {
                self.on_repair(session, order, now);
                Ok(())
            }
            _ => {
                self.close(session, "a message that no gateway sends");
                Ok(())
            }
        }
    }

    fn on_open(&mut self, session: SessionId, open: &Open) -> Result<(), Fatal> {
        let (id, epoch) = (open.replica, open.epoch);
        let result = match self.replicas.get_mut(&id) {
            // C2: an empty or wiped disk never answers for a replica that it no longer has.
            None => Err(Refusal::UnknownReplica),
            Some(replica) => {
                let former = replica.session();
                replica.open(session, open).map(|persist| (persist, former))
            }
        };
        match result {
            Ok((persist, former)) => {
                self.opened_by(session, former);
                // Whoever pulled for the former session, or epoch, is no longer wanted.
                self.drop_pull(id);
                let lsn = self.persist(id, &persist)?;
                self.effects.at(lsn, Effect::Opened { session, replica: id, epoch });
            }
            Err(refusal) => {
                self.counters.refused += 1;
                self.send(
                    session,
                    Message::OpenReply(OpenReply { replica: id, epoch, result: Err(refusal) }),
                );
            }
        }
        Ok(())
    }

    fn on_start_epoch(&mut self, session: SessionId, start: &StartEpoch) -> Result<(), Fatal> {
        let (id, epoch) = (start.replica, start.epoch);
        let result = match self.replicas.get_mut(&id) {
            None => Err(Refusal::UnknownReplica),
            Some(replica) => replica.start_epoch(session, start),
        };
        let refusal = match result {
            Ok(Some(persist)) => {
                self.drop_pull(id);
                self.delete_snapshots_beyond(id, start.expect.seq)?;
                let lsn = self.persist(id, &persist)?;
                self.effects.at(lsn, Effect::Started { session, replica: id, epoch });
                return Ok(());
            }
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        self.send(session, Message::StartEpochReply(StartEpochReply { replica: id, epoch, result: refusal }));
        Ok(())
    }

    fn on_write(&mut self, session: SessionId, write: Write) -> Result<(), Fatal> {
        if quoin_wire::first_mismatch(&write.data, &write.checksums).is_some() {
            // Nothing wrong is stored: the network, or the gateway's memory, changed it.
            self.close(session, "a write's data does not match its checksums");
            return Ok(());
        }
        let (id, epoch, seq) = (write.replica, write.epoch, write.seq);
        let (offset, length) = (write.offset, write.data.len() as u64);
        let extents = (offset + length).div_ceil(EXTENT_BYTES) - offset / EXTENT_BYTES;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.touch(extents);
        }
        let Write { checksums, data, .. } = write;
        let may_take = self.may_take(session, id, epoch, seq);
        let appended = self.append(session, (id, epoch, seq), (offset, length), may_take, |engine| {
            engine.write(id, seq, offset, &checksums, data)
        })?;
        if appended {
            self.counters.writes += 1;
            self.counters.write_bytes += length;
            self.took(id, seq, offset, length)?;
        }
        Ok(())
    }

    fn on_zero(&mut self, session: SessionId, zero: Zero) -> Result<(), Fatal> {
        let Zero { replica: id, epoch, seq, offset, length } = zero;
        let may_take = self.may_take(session, id, epoch, seq);
        let zero = |engine: &mut Engine| engine.zero(id, seq, offset, length);
        if self.append(session, (id, epoch, seq), (offset, length), may_take, zero)? {
            self.took(id, seq, offset, length)?;
        }
        Ok(())
    }

    /// Appends what a stream brings if it is the next in it, as `may_take` says. What is known is only told again; what may
    /// not be taken, or has no room, is refused. Says whether it was appended.
    pub(super) fn append(
        &mut self,
        session: SessionId,
        (id, epoch, seq): (ReplicaId, Epoch, Seq),
        (offset, length): (u64, u64),
        may_take: Result<Take, Refusal>,
        append: impl FnOnce(&mut Engine) -> Result<Lsn, quoin_store::Error>,
    ) -> Result<bool, Fatal> {
        let reason = match may_take {
            Ok(Take::Append) => match append(&mut self.engine) {
                Ok(_) => return Ok(true),
                Err(error) => {
                    let refusal = refusal_or_fatal(error)?;
                    if refusal == Refusal::Disk {
                        // The rest of the extent is not known: the gateway orders a resync, which replaces it.
                        self.find_damaged_entries(id, offset, length);
                    }
                    refusal
                }
            },
            Ok(Take::Known) => {
                self.moved.insert(id);
                return Ok(false);
            }
            Err(reason) => reason,
        };
        self.refuse(session, id, epoch, seq, reason);
        Ok(false)
    }

    fn may_take(&self, session: SessionId, id: ReplicaId, epoch: Epoch, seq: Seq) -> Result<Take, Refusal> {
        self.replicas.get(&id).ok_or(Refusal::UnknownReplica)?.take(session, epoch, seq)
    }

    pub(super) fn took(&mut self, id: ReplicaId, seq: Seq, offset: u64, length: u64) -> Result<(), Fatal> {
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.appended(seq);
        }
        self.appended.insert(id);
        self.gathering.took(length);
        self.took_live(id, offset, length)
    }

    fn on_heartbeat(&mut self, session: SessionId, heartbeat: &Heartbeat, now: Moment) {
        let mut granted = Vec::with_capacity(heartbeat.replicas.len());
        for (id, epoch) in &heartbeat.replicas {
            let Some(replica) = self.replicas.get_mut(id) else { continue };
            if replica.grant_lease(now, session, heartbeat.instance, *epoch) {
                granted.push((*id, *epoch));
            }
        }
        self.send(session, Message::HeartbeatReply(HeartbeatReply { stamp: heartbeat.stamp, granted }));
    }

    pub(super) fn refuse(
        &mut self,
        session: SessionId,
        replica: ReplicaId,
        epoch: Epoch,
        seq: Seq,
        reason: Refusal,
    ) {
        self.counters.refused += 1;
        self.send(session, Message::Refused(Refused { replica, epoch, seq, reason }));
    }
}
