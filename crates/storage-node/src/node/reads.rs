//! Reads: served inline from the page cache where that is possible, else by an I/O thread; always verified.

use super::{Fatal, Node, Output, refusal_or_fatal};
use quoin_store::{ExtentOutcome, ExtentPlan, ReadOutcome, ReadPlan, View};
use quoin_types::SessionId;
use quoin_wire::{Fetch, FetchReply, FetchedExtent, Message, Read, ReadReply, ReadResult, Refusal};

/// A read that needs the disk: [`ReadJob::run`] it on any thread, then [`Node::on_read_done`].
pub struct ReadJob {
    session: SessionId,
    plan: PendingPlan,
}

/// What is read, and for whom.
enum PendingPlan {
    /// Blocks, for a gateway.
    Blocks(Read, ReadPlan),
    /// An extent, for a peer.
    Extent(Fetch, ExtentPlan),
}

impl ReadJob {
    /// Reads from the disk; may block.
    pub fn run(&mut self) {
        match &mut self.plan {
            PendingPlan::Blocks(_, plan) => plan.run(),
            PendingPlan::Extent(_, plan) => plan.run(),
        }
    }

    /// Whether the page cache had all of it.
    fn try_cached(&mut self) -> Result<bool, quoin_store::Error> {
        match &mut self.plan {
            PendingPlan::Blocks(_, plan) => plan.try_cached(),
            PendingPlan::Extent(_, plan) => plan.try_cached(),
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
                let refusal = refusal_or_fatal(error)?;
                self.read_refused(session, &read, refusal)
            }
        }
    }

    pub(super) fn on_fetch(&mut self, session: SessionId, fetch: &Fetch) -> Result<(), Fatal> {
        if let Err(refusal) = self.may_pull(fetch) {
            return self.fetch_refused(session, fetch, refusal);
        }
        match self.engine.read_extent(fetch.replica, View::Live, fetch.extent) {
            Ok(plan) => self.start_read(ReadJob { session, plan: PendingPlan::Extent(*fetch, plan) }),
            Err(error) => {
                let refusal = refusal_or_fatal(error)?;
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
        }
    }

    fn start_read(&mut self, mut job: ReadJob) -> Result<(), Fatal> {
        if job.try_cached()? {
            self.on_read_done(job)
        } else {
            self.outputs.push(Output::Read(job));
            Ok(())
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
                tracing::error!(replica = %read.replica, %block, "a block does not match its checksum");
                ReadResult::Mismatch { extent: block.extent(), version }
            }
            Err(error) => ReadResult::Refused(refusal_or_fatal(error)?),
        };
        let reply = ReadReply { id: read.id, replica: read.replica, result };
        self.send(session, Message::ReadReply(reply));
        Ok(())
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
            Ok(ExtentOutcome::Mismatch { block, .. }) => {
                self.counters.damaged += 1;
                tracing::error!(replica = %fetch.replica, %block, "a block that a peer needs is damaged");
                Err(Refusal::Disk)
            }
            Err(error) => Err(refusal_or_fatal(error)?),
        };
        let reply = FetchReply { replica: fetch.replica, extent: fetch.extent, result };
        self.send(session, Message::FetchReply(reply));
        Ok(())
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
        let reply = ReadReply { id: read.id, replica: read.replica, result: ReadResult::Refused(refusal) };
        self.send(session, Message::ReadReply(reply));
        Ok(())
    }

    fn fetch_refused(&mut self, session: SessionId, fetch: &Fetch, refusal: Refusal) -> Result<(), Fatal> {
        let reply = FetchReply { replica: fetch.replica, extent: fetch.extent, result: Err(refusal) };
        self.send(session, Message::FetchReply(reply));
        Ok(())
    }
}
