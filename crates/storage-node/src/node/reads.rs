//! Reads: served inline from the page cache where that is possible, else by an I/O thread; always verified.

use super::damage::extents;
use super::snapshots::view;
use super::{Fatal, Node, Output, refusal_or_fatal};
use quoin_store::{Error, ExtentOutcome, ExtentPlan, ReadOutcome, ReadPlan, View};
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId, SessionId};
use quoin_wire::{Fetch, FetchReply, FetchedExtent, Message, Read, ReadReply, ReadResult, Refusal};

/// A read that needs the disk: [`ReadJob::run`] it on any thread, then [`Node::on_read_done`].
pub struct ReadJob {
    pub(super) session: SessionId,
    pub(super) plan: PendingPlan,
}

/// What is read, and for whom.
pub(super) enum PendingPlan {
    /// Blocks, for a gateway.
    Blocks(Read, ReadPlan),
    /// An extent, for a peer.
    Extent(Fetch, ExtentPlan),
    /// An extent that is said to be damaged, for the node itself.
    Look(Look, ExtentPlan),
}

/// Which extent is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) replica: ReplicaId,
    pub(super) extent: ExtentIndex,
}

impl ReadJob {
    /// Reads from the disk; may block.
    pub fn run(&mut self) {
        match &mut self.plan {
            PendingPlan::Blocks(_, plan) => plan.run(),
            PendingPlan::Extent(_, plan) | PendingPlan::Look(_, plan) => plan.run(),
        }
    }

    /// Whether the page cache had all of it.
    fn try_cached(&mut self) -> Result<bool, Error> {
        match &mut self.plan {
            PendingPlan::Blocks(_, plan) => plan.try_cached(),
            PendingPlan::Extent(_, plan) | PendingPlan::Look(_, plan) => plan.try_cached(),
        }
    }
}

impl Node {
    pub(super) fn on_read(&mut self, session: SessionId, read: Read) -> Result<(), Fatal> {
        match self.may_read(&read) {
            Ok(()) => {}
            Err(refusal) => return self.read_refused(session, &read, refusal),
        }
        match self.engine.read(read.replica, View::Live, read.offset, u64::from(read.length)) {
            Ok(plan) => self.start_read(ReadJob { session, plan: PendingPlan::Blocks(read, plan) }),
            Err(error) => {
                let result = self.read_failed(&read, error)?;
                self.reply_to_read(session, &read, result);
                Ok(())
            }
        }
    }

    pub(super) fn on_fetch(&mut self, session: SessionId, fetch: &Fetch) -> Result<(), Fatal> {
        if let Err(refusal) = self.may_pull(fetch) {
            return self.fetch_refused(session, fetch, refusal);
        }
        match self.engine.read_extent(fetch.replica, view(fetch.view), fetch.extent) {
            Ok(plan) => self.start_read(ReadJob { session, plan: PendingPlan::Extent(*fetch, plan) }),
            Err(error) => {
                let refusal = self.fetch_failed(fetch, error)?;
                self.fetch_refused(session, fetch, refusal)
            }
        }
    }

    /// An I/O thread has read what the page cache did not have.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_read_done(&mut self, job: ReadJob) -> Result<(), Fatal> {
        let session = job.session;
        match job.plan {
            PendingPlan::Blocks(read, plan) => self.finish_blocks(session, read, plan),
            PendingPlan::Extent(fetch, plan) => self.finish_extent(session, fetch, plan),
            PendingPlan::Look(look, plan) => {
                let outcome = self.engine.finish_extent(plan);
                self.looked(look, outcome)
            }
        }
    }

    pub(super) fn start_read(&mut self, mut job: ReadJob) -> Result<(), Fatal> {
        match job.try_cached() {
            // An error is told again, and judged, by what finishes the read.
            Ok(true) | Err(_) => self.on_read_done(job),
            Ok(false) => {
                self.outputs.push(Output::Read(job));
                Ok(())
            }
        }
    }

    fn finish_blocks(&mut self, session: SessionId, read: Read, plan: ReadPlan) -> Result<(), Fatal> {
        // R0: judged again, since the replica may have changed while the disk was read.
        if let Err(refusal) = self.may_read(&read) {
            return self.read_refused(session, &read, refusal);
        }
        let result = match self.engine.finish_read(plan) {
            Ok(ReadOutcome::Data { data, checksums }) => {
                self.counters.reads += 1;
                self.counters.read_bytes += data.len() as u64;
                ReadResult::Data { checksums, data }
            }
            Ok(ReadOutcome::Retry(plan)) => {
                return self.start_read(ReadJob { session, plan: PendingPlan::Blocks(read, plan) });
            }
            Ok(ReadOutcome::Mismatch { block, version }) => {
                self.counters.damaged += 1;
                let (id, extent, version) = (read.replica, block.extent(), Some(version));
                let what = format!("block {block} (extent {extent}) of replica {id} is damaged");
                self.found_damage(id, extent, version, what);
                ReadResult::Mismatch { extent, version }
            }
            Err(error) => self.read_failed(&read, error)?,
        };
        self.reply_to_read(session, &read, result);
        Ok(())
    }

    /// A read that the engine could not serve. Damage is an answer: the gateway reads elsewhere at once.
    fn read_failed(&mut self, read: &Read, error: Error) -> Result<ReadResult, Fatal> {
        let (id, offset, length) = (read.replica, read.offset, u64::from(read.length));
        let damaged = match &error {
            Error::Corrupt { .. } => self.find_damaged_entries(id, offset, length),
            Error::Io { .. } => {
                tracing::error!(replica = %id, offset, length, %error, "the device does not give data");
                // Which of the extents it is, a look at each will tell.
                extents(offset, length).for_each(|extent| self.suspect(id, extent));
                extents(offset, length).next()
            }
            _ => None,
        };
        let Some(extent) = damaged else { return Ok(ReadResult::Refused(refusal_or_fatal(error)?)) };
        self.counters.damaged += 1;
        let version = self.own_version(id, extent).ok().flatten();
        Ok(ReadResult::Mismatch { extent, version })
    }

    fn reply_to_read(&mut self, session: SessionId, read: &Read, result: ReadResult) {
        let reply = ReadReply { id: read.id, replica: read.replica, result };
        self.send(session, Message::ReadReply(reply));
    }

    fn finish_extent(&mut self, session: SessionId, fetch: Fetch, plan: ExtentPlan) -> Result<(), Fatal> {
        if let Err(refusal) = self.may_pull(&fetch) {
            return self.fetch_refused(session, &fetch, refusal);
        }
        let position =
            self.replicas.get(&fetch.replica).map(|replica| replica.state().seq).unwrap_or_default();
        let result = match self.engine.finish_extent(plan) {
            Ok(ExtentOutcome::Data(content)) => {
                self.counters.served_bytes += content.data.len() as u64;
                Ok(FetchedExtent {
                    position,
                    version: content.version,
                    zero_mask: content.zero_mask,
                    checksums: content.checksums,
                    data: content.data,
                })
            }
            Ok(ExtentOutcome::Retry(plan)) => {
                return self.start_read(ReadJob { session, plan: PendingPlan::Extent(fetch, plan) });
            }
            Ok(ExtentOutcome::Mismatch { block, version }) => {
                self.counters.damaged += 1;
                let (id, extent) = (fetch.replica, fetch.extent);
                match fetch.view {
                    None => {
                        let what = format!("block {block} (extent {extent}) of replica {id} is damaged");
                        self.found_damage(id, extent, Some(version), what);
                    }
                    Some(snapshot) => {
                        tracing::error!(replica = %id, %extent, %snapshot, %block, "a snapshot's block is damaged");
                        // Perhaps the snapshot sees there what the replica is now.
                        self.suspect(id, extent);
                    }
                }
                Err(Refusal::Disk)
            }
            Err(error) => Err(self.fetch_failed(&fetch, error)?),
        };
        let reply = FetchReply { replica: fetch.replica, extent: fetch.extent, result };
        self.send(session, Message::FetchReply(reply));
        Ok(())
    }

    fn fetch_failed(&mut self, fetch: &Fetch, error: Error) -> Result<Refusal, Fatal> {
        match &error {
            Error::Corrupt { .. } => {
                self.counters.damaged += 1;
                self.find_damaged_entries(fetch.replica, fetch.extent.byte_offset(), EXTENT_BYTES);
            }
            Error::Io { .. } => {
                self.counters.damaged += 1;
                tracing::error!(replica = %fetch.replica, extent = %fetch.extent, %error,
                    "the device does not give data");
                self.suspect(fetch.replica, fetch.extent);
                return Ok(Refusal::Disk);
            }
            _ => {}
        }
        refusal_or_fatal(error)
    }

    fn may_read(&self, read: &Read) -> Result<(), Refusal> {
        self.replicas.get(&read.replica).ok_or(Refusal::UnknownReplica)?.may_read(read.epoch, read.after)
    }

    fn may_pull(&self, fetch: &Fetch) -> Result<(), Refusal> {
        let replica = self.replicas.get(&fetch.replica).ok_or(Refusal::UnknownReplica)?;
        replica.may_pull(fetch.epoch, fetch.last_epoch, fetch.after, fetch.allow_mixed)
    }

    fn read_refused(&mut self, session: SessionId, read: &Read, refusal: Refusal) -> Result<(), Fatal> {
        self.counters.refused += 1;
        self.reply_to_read(session, read, ReadResult::Refused(refusal));
        Ok(())
    }

    fn fetch_refused(&mut self, session: SessionId, fetch: &Fetch, refusal: Refusal) -> Result<(), Fatal> {
        let reply = FetchReply { replica: fetch.replica, extent: fetch.extent, result: Err(refusal) };
        self.send(session, Message::FetchReply(reply));
        Ok(())
    }
}
