//! Frames: the header, and each message's meta.

use crate::fields::{Fields, PutFields};
use crate::message::*;
use bytes::{BufMut, Bytes, BytesMut};
use quoin_types::block::{BlockRun, BlockState};
use quoin_types::limits::{BLOCK_RUNS_MAX, READ_BYTES_MAX, WRITE_BYTES_MAX};
use quoin_types::{
    BLOCK_BYTES, BootId, ClusterId, DiskId, Epoch, ExtentIndex, Generation, InstanceId, NodeId, ReplicaId,
    SegmentId, SessionId, SnapshotId, VolumeId,
};
use std::time::Duration;

/// The size of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// `QUO` and the version of the framing.
pub(crate) const MAGIC: [u8; 4] = *b"QUO\x02";
/// In the header's flags: the data does not follow, it is in shared memory, and the header says where.
pub(crate) const FLAG_LENT: u8 = 1;
/// The most meta that a frame may have.
pub(crate) const META_BYTES_MAX: usize = 2 << 20;
/// The most data that a frame may have.
pub const DATA_BYTES_MAX: usize =
    if WRITE_BYTES_MAX > READ_BYTES_MAX { WRITE_BYTES_MAX } else { READ_BYTES_MAX } as usize;

/// Why bytes are no frame. The connection they came on cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not Quoin's data plane, or another version of it.
    #[error("not a frame of this version of the data plane")]
    Magic,
    /// Larger than any frame.
    #[error("a frame beyond the size limit")]
    TooLarge,
    /// Header and meta do not match their checksum.
    #[error("a frame's checksum does not match")]
    Checksum,
    /// A kind of message that this version does not know.
    #[error("an unknown kind of message: {0}")]
    Kind(u8),
    /// Meta ends before the message does, or a list is longer than what follows.
    #[error("a message that ends early")]
    Short,
    /// Data in memory that this connection does not share.
    #[error("a frame whose data is in memory that is not shared")]
    Lent,
    /// A field with a value that it cannot have.
    #[error("a message with an impossible {0}")]
    Value(&'static str),
}

pub(crate) mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const HELLO_REPLY: u8 = 2;
    pub(super) const OPEN: u8 = 3;
    pub(super) const OPEN_REPLY: u8 = 4;
    pub(super) const START_EPOCH: u8 = 5;
    pub(super) const START_EPOCH_REPLY: u8 = 6;
    pub(super) const SETTLE: u8 = 7;
    pub(super) const WRITE: u8 = 8;
    pub(super) const ZERO: u8 = 9;
    pub(super) const POSITIONS: u8 = 10;
    pub(super) const REFUSED: u8 = 11;
    pub(super) const READ: u8 = 12;
    pub(super) const READ_REPLY: u8 = 13;
    pub(super) const HEARTBEAT: u8 = 14;
    pub(super) const HEARTBEAT_REPLY: u8 = 15;
    pub(super) const RELEASE: u8 = 16;
    pub(super) const RESYNC: u8 = 17;
    pub(super) const RESYNC_REPORT: u8 = 18;
    pub(super) const REPAIR: u8 = 19;
    pub(super) const LIST: u8 = 20;
    pub(super) const LIST_REPLY: u8 = 21;
    pub(super) const FETCH: u8 = 22;
    pub(super) const FETCH_REPLY: u8 = 23;
    pub(super) const DAMAGED: u8 = 24;
    pub(super) const SNAPSHOT: u8 = 25;
    pub(super) const LIST_SNAPSHOTS: u8 = 26;
    pub(super) const SNAPSHOT_LIST: u8 = 27;
    pub(super) const SYNC: u8 = 28;
    pub(super) const BLOCK_STATUS: u8 = 29;
    pub(super) const BLOCK_STATUS_REPLY: u8 = 30;
    pub(crate) const RETURNED: u8 = 31;
}

/// Appends a message's header and meta to `out` and returns its data, which must follow on the wire (it may be empty).
pub fn encode(message: &Message, out: &mut BytesMut) -> Bytes {
    encode_lending(message, out, |_| None)
}

/// As [`encode`]; but if `lend` says where the receiver finds the data in memory of ours that it shares, it is told that, and nothing
/// follows. `lend` is not asked if there is no data.
pub fn encode_lending(
    message: &Message,
    out: &mut BytesMut,
    lend: impl FnOnce(&Bytes) -> Option<u64>,
) -> Bytes {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    let (kind, data) = put_meta(message, out);
    let lent = if data.is_empty() { None } else { lend(&data) };
    seal(start, kind, data.len(), lent, out);
    if lent.is_some() { Bytes::new() } else { data }
}

/// Appends a frame that gives lent data back: where each piece was said to be.
pub fn encode_returned(offsets: &[u64], out: &mut BytesMut) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    out.list(offsets, |out, offset| out.put_u64_le(*offset));
    seal(start, kind::RETURNED, 0, None, out);
}

/// Fills the header in, when the meta stands behind it.
fn seal(start: usize, kind: u8, data_bytes: usize, lent: Option<u64>, out: &mut BytesMut) {
    let meta_bytes = out.len() - start - HEADER_BYTES;
    debug_assert!(meta_bytes <= META_BYTES_MAX && data_bytes <= DATA_BYTES_MAX);
    let header = &mut out[start..start + HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC);
    header[4] = kind;
    header[8..12].copy_from_slice(&(meta_bytes as u32).to_le_bytes());
    header[12..16].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    if let Some(offset) = lent {
        header[5] = FLAG_LENT;
        header[20..28].copy_from_slice(&offset.to_le_bytes());
    }
    let checksum = crc32fast::hash(&out[start..]);
    out[start + 16..start + 20].copy_from_slice(&checksum.to_le_bytes());
}

fn put_meta(message: &Message, out: &mut BytesMut) -> (u8, Bytes) {
    match message {
        Message::Write(write) => return put_write(write, out),
        Message::Zero(zero) => return (put_zero(zero, out), Bytes::new()),
        Message::ReadReply(reply) => return put_read_reply(reply, out),
        Message::FetchReply(reply) => return put_fetch_reply(reply, out),
        _ => {}
    }
    let kind = match message {
        Message::Hello(hello) => put_hello(hello, out),
        Message::HelloReply(reply) => put_hello_reply(reply, out),
        Message::Open(open) => put_open(open, out),
        Message::OpenReply(reply) => put_open_reply(reply, out),
        Message::StartEpoch(start) => put_start_epoch(start, out),
        Message::StartEpochReply(reply) => {
            out.put_u64_le(reply.replica.0);
            out.put_u64_le(reply.epoch.0);
            out.result(&reply.result, |_, ()| {});
            kind::START_EPOCH_REPLY
        }
        Message::Settle(settle) => {
            out.put_u64_le(settle.replica.0);
            out.put_u64_le(settle.epoch.0);
            out.put_u64_le(settle.seq.0);
            kind::SETTLE
        }
        Message::Snapshot(snapshot) => put_snapshot(snapshot, out),
        Message::Sync => kind::SYNC,
        Message::Positions(positions) => put_positions(positions, out),
        Message::Refused(refused) => {
            out.put_u64_le(refused.replica.0);
            out.put_u64_le(refused.epoch.0);
            out.put_u64_le(refused.seq.0);
            out.refusal(refused.reason);
            kind::REFUSED
        }
        Message::Read(read) => put_read(read, out),
        Message::Heartbeat(heartbeat) => {
            out.put_u64_le(heartbeat.stamp);
            out.put_slice(heartbeat.instance.as_bytes());
            put_held(&heartbeat.replicas, out);
            kind::HEARTBEAT
        }
        Message::HeartbeatReply(reply) => {
            out.put_u64_le(reply.stamp);
            put_held(&reply.granted, out);
            kind::HEARTBEAT_REPLY
        }
        Message::Release(release) => {
            out.put_u64_le(release.replica.0);
            out.holder(release.holder);
            kind::RELEASE
        }
        Message::Resync(resync) => put_resync(resync, out),
        Message::ResyncReport(report) => put_resync_report(report, out),
        Message::Repair(repair) => {
            out.put_u64_le(repair.replica.0);
            out.put_u64_le(repair.epoch.0);
            out.put_u32_le(repair.extent.0);
            out.known_version(repair.version);
            out.source(&repair.source);
            kind::REPAIR
        }
        Message::Damaged(damaged) => {
            out.put_u64_le(damaged.replica.0);
            out.put_u64_le(damaged.epoch.0);
            out.put_u32_le(damaged.extent.0);
            out.known_version(damaged.version);
            out.list(&damaged.tried, |out, replica| out.put_u64_le(replica.0));
            kind::DAMAGED
        }
        Message::ListSnapshots(list) => put_list_snapshots(list, out),
        Message::SnapshotList(reply) => {
            out.put_u64_le(reply.replica.0);
            out.result(&reply.result, |out, (position, snapshots)| {
                out.put_u64_le(position.0);
                out.snapshots(snapshots);
            });
            kind::SNAPSHOT_LIST
        }
        Message::List(list) => put_list(list, out),
        Message::ListReply(reply) => {
            out.put_u64_le(reply.replica.0);
            out.result(&reply.result, |out, (position, extents)| {
                out.put_u64_le(position.0);
                out.list(extents, |out, extent| out.put_u32_le(extent.0));
            });
            kind::LIST_REPLY
        }
        Message::Fetch(fetch) => put_fetch(fetch, out),
        Message::BlockStatus(status) => put_block_status(status, out),
        Message::BlockStatusReply(reply) => put_block_status_reply(reply, out),
        Message::Write(_) | Message::Zero(_) | Message::ReadReply(_) | Message::FetchReply(_) => {
            unreachable!("encoded above")
        }
    };
    (kind, Bytes::new())
}

fn put_hello(hello: &Hello, out: &mut BytesMut) -> u8 {
    out.put_slice(hello.cluster.as_bytes());
    out.put_u64_le(hello.node.0);
    match hello.speaker {
        Speaker::Gateway(instance) => {
            out.put_u8(1);
            out.put_slice(instance.as_bytes());
        }
        Speaker::Peer(node) => {
            out.put_u8(2);
            out.put_u64_le(node.0);
        }
    }
    kind::HELLO
}

fn put_hello_reply(reply: &HelloReply, out: &mut BytesMut) -> u8 {
    out.put_u64_le(reply.node.0);
    out.put_slice(reply.disk.as_bytes());
    out.put_u64_le(reply.session.0);
    out.put_slice(reply.boot.as_bytes());
    kind::HELLO_REPLY
}

fn put_open(open: &Open, out: &mut BytesMut) -> u8 {
    out.put_u64_le(open.replica.0);
    out.put_u64_le(open.segment.volume.0);
    out.put_u32_le(open.segment.index);
    out.put_u64_le(open.epoch.0);
    out.put_u64_le(open.generation.0);
    out.put_slice(open.instance.as_bytes());
    out.flag(open.void.is_some());
    if let Some(holder) = open.void {
        out.holder(holder);
    }
    kind::OPEN
}

fn put_open_reply(reply: &OpenReply, out: &mut BytesMut) -> u8 {
    out.put_u64_le(reply.replica.0);
    out.put_u64_le(reply.epoch.0);
    out.result(&reply.result, |out, report| {
        out.history(&report.history);
        out.put_u64_le(report.last.0);
        out.put_u64_le(report.lease_remainder.as_nanos() as u64);
        out.flag(report.mixed);
        out.flag(report.shaken);
    });
    kind::OPEN_REPLY
}

fn put_start_epoch(start: &StartEpoch, out: &mut BytesMut) -> u8 {
    out.put_u64_le(start.replica.0);
    out.put_u64_le(start.epoch.0);
    out.history(&start.history);
    out.point(start.expect);
    out.flag(start.allow_mixed);
    kind::START_EPOCH
}

fn put_write(write: &Write, out: &mut BytesMut) -> (u8, Bytes) {
    out.put_u64_le(write.replica.0);
    out.put_u64_le(write.epoch.0);
    out.put_u64_le(write.seq.0);
    out.put_u64_le(write.offset);
    out.list(&write.checksums, |out, sum| out.put_u32_le(*sum));
    (kind::WRITE, write.data.clone())
}

fn put_zero(zero: &Zero, out: &mut BytesMut) -> u8 {
    out.put_u64_le(zero.replica.0);
    out.put_u64_le(zero.epoch.0);
    out.put_u64_le(zero.seq.0);
    out.put_u64_le(zero.offset);
    out.put_u64_le(zero.length);
    kind::ZERO
}

fn put_snapshot(snapshot: &Snapshot, out: &mut BytesMut) -> u8 {
    out.put_u64_le(snapshot.replica.0);
    out.put_u64_le(snapshot.epoch.0);
    out.put_u64_le(snapshot.seq.0);
    out.put_u64_le(snapshot.snapshot.0);
    kind::SNAPSHOT
}

fn put_positions(positions: &Positions, out: &mut BytesMut) -> u8 {
    out.put_u64_le(positions.credit);
    out.put_u64_le(positions.used);
    out.flag(positions.full);
    out.list(&positions.replicas, |out, position| {
        out.put_u64_le(position.replica.0);
        out.put_u64_le(position.epoch.0);
        out.put_u64_le(position.accepted.0);
        out.put_u64_le(position.durable.0);
    });
    kind::POSITIONS
}

fn put_read(read: &Read, out: &mut BytesMut) -> u8 {
    out.put_u64_le(read.id);
    out.put_u64_le(read.replica.0);
    out.put_u64_le(read.epoch.0);
    out.put_u64_le(read.after.0);
    out.put_u64_le(read.offset);
    out.put_u32_le(read.length);
    kind::READ
}

fn put_read_reply(reply: &ReadReply, out: &mut BytesMut) -> (u8, Bytes) {
    out.put_u64_le(reply.id);
    out.put_u64_le(reply.replica.0);
    let mut data = Bytes::new();
    match &reply.result {
        ReadResult::Data { checksums, data: blocks } => {
            out.put_u8(0);
            out.list(checksums, |out, sum| out.put_u32_le(*sum));
            data = blocks.clone();
        }
        ReadResult::Refused(refusal) => {
            out.put_u8(1);
            out.refusal(*refusal);
        }
        ReadResult::Mismatch { extent, version } => {
            out.put_u8(2);
            out.put_u32_le(extent.0);
            out.known_version(*version);
        }
    }
    (kind::READ_REPLY, data)
}

fn put_block_status(status: &BlockStatus, out: &mut BytesMut) -> u8 {
    out.put_u64_le(status.id);
    out.put_u64_le(status.replica.0);
    out.put_u64_le(status.epoch.0);
    out.put_u64_le(status.after.0);
    out.put_u64_le(status.offset);
    out.put_u64_le(status.length);
    out.view(status.since);
    kind::BLOCK_STATUS
}

fn put_block_status_reply(reply: &BlockStatusReply, out: &mut BytesMut) -> u8 {
    out.put_u64_le(reply.id);
    out.put_u64_le(reply.replica.0);
    out.result(&reply.result, |out, runs| {
        out.list(runs, |out, run| {
            out.put_u32_le(run.blocks);
            out.put_u8(match run.state {
                BlockState::Data => 0,
                BlockState::Zero => 1,
                BlockState::Hole => 2,
                BlockState::Changed => 3,
                BlockState::Unchanged => 4,
            });
        });
    });
    kind::BLOCK_STATUS_REPLY
}

fn put_held(replicas: &[(ReplicaId, Epoch)], out: &mut BytesMut) {
    out.list(replicas, |out, (replica, epoch)| {
        out.put_u64_le(replica.0);
        out.put_u64_le(epoch.0);
    });
}

fn put_resync(resync: &Resync, out: &mut BytesMut) -> u8 {
    out.put_u64_le(resync.replica.0);
    out.put_u64_le(resync.epoch.0);
    out.flag(resync.mode == ResyncMode::Round);
    out.point(resync.common);
    out.history(&resync.history);
    out.put_u64_le(resync.join_at.0);
    out.flag(resync.source_mixed);
    out.source(&resync.source);
    kind::RESYNC
}

fn put_resync_report(report: &ResyncReport, out: &mut BytesMut) -> u8 {
    out.put_u64_le(report.replica.0);
    out.put_u64_le(report.epoch.0);
    out.put_u64_le(report.done_bytes);
    out.put_u64_le(report.total_bytes);
    match report.state {
        ResyncState::Running => out.put_u8(0),
        ResyncState::Complete => out.put_u8(1),
        ResyncState::RoundDone => out.put_u8(2),
        ResyncState::Failed(refusal) => {
            out.put_u8(3);
            out.refusal(refusal);
        }
    }
    kind::RESYNC_REPORT
}

fn put_list_snapshots(list: &ListSnapshots, out: &mut BytesMut) -> u8 {
    out.put_u64_le(list.replica.0);
    out.put_u64_le(list.epoch.0);
    out.put_u64_le(list.last_epoch.0);
    out.flag(list.allow_mixed);
    out.put_u64_le(list.after.0);
    kind::LIST_SNAPSHOTS
}

fn put_list(list: &List, out: &mut BytesMut) -> u8 {
    out.put_u64_le(list.replica.0);
    out.put_u64_le(list.epoch.0);
    out.put_u64_le(list.last_epoch.0);
    out.flag(list.allow_mixed);
    out.put_u64_le(list.after.0);
    out.put_u64_le(list.since.0);
    out.put_u32_le(list.from.0);
    out.put_u32_le(list.max);
    out.view(list.view);
    kind::LIST
}

fn put_fetch(fetch: &Fetch, out: &mut BytesMut) -> u8 {
    out.put_u64_le(fetch.replica.0);
    out.put_u64_le(fetch.epoch.0);
    out.put_u64_le(fetch.last_epoch.0);
    out.flag(fetch.allow_mixed);
    out.put_u64_le(fetch.after.0);
    out.put_u32_le(fetch.extent.0);
    out.view(fetch.view);
    kind::FETCH
}

fn put_fetch_reply(reply: &FetchReply, out: &mut BytesMut) -> (u8, Bytes) {
    out.put_u64_le(reply.replica.0);
    out.put_u32_le(reply.extent.0);
    out.result(&reply.result, |out, fetched| {
        out.put_u64_le(fetched.position.0);
        out.put_u64_le(fetched.version.0);
        out.put_u16_le(fetched.zero_mask);
        fetched.checksums.iter().for_each(|sum| out.put_u32_le(*sum));
    });
    (kind::FETCH_REPLY, reply.result.as_ref().map(|fetched| fetched.data.clone()).unwrap_or_default())
}

pub(crate) fn get_message(kind: u8, mut fields: Fields, data: Bytes) -> Result<Message, FrameError> {
    let f = &mut fields;
    if !data.is_empty() && !matches!(kind, kind::WRITE | kind::READ_REPLY | kind::FETCH_REPLY) {
        return Err(FrameError::Value("amount of data"));
    }
    Ok(match kind {
        kind::WRITE => Message::Write(get_write(f, data)?),
        kind::ZERO => Message::Zero(get_zero(f)?),
        kind::SNAPSHOT => Message::Snapshot(Snapshot {
            replica: f.replica()?,
            epoch: f.epoch()?,
            seq: f.seq()?,
            snapshot: SnapshotId(f.u64()?),
        }),
        kind::SYNC => Message::Sync,
        kind::POSITIONS => Message::Positions(Positions {
            credit: f.u64()?,
            used: f.u64()?,
            full: f.flag()?,
            replicas: f.list(32, |f| {
                Ok(Position {
                    replica: f.replica()?,
                    epoch: f.epoch()?,
                    accepted: f.seq()?,
                    durable: f.seq()?,
                })
            })?,
        }),
        kind::READ => Message::Read(get_read(f)?),
        kind::READ_REPLY => Message::ReadReply(get_read_reply(f, data)?),
        kind::HEARTBEAT => Message::Heartbeat(Heartbeat {
            stamp: f.u64()?,
            instance: InstanceId(f.id16()?),
            replicas: get_held(f)?,
        }),
        kind::HEARTBEAT_REPLY => {
            Message::HeartbeatReply(HeartbeatReply { stamp: f.u64()?, granted: get_held(f)? })
        }
        kind::HELLO => Message::Hello(get_hello(f)?),
        kind::HELLO_REPLY => Message::HelloReply(HelloReply {
            node: NodeId(f.u64()?),
            disk: DiskId(f.id16()?),
            session: SessionId(f.u64()?),
            boot: BootId(f.id16()?),
        }),
        kind::OPEN => Message::Open(get_open(f)?),
        kind::OPEN_REPLY => Message::OpenReply(OpenReply {
            replica: f.replica()?,
            epoch: f.epoch()?,
            result: f.result(|f| {
                Ok(ReplicaReport {
                    history: f.history()?,
                    last: f.seq()?,
                    lease_remainder: Duration::from_nanos(f.u64()?),
                    mixed: f.flag()?,
                    shaken: f.flag()?,
                })
            })?,
        }),
        kind::START_EPOCH => Message::StartEpoch(StartEpoch {
            replica: f.replica()?,
            epoch: f.epoch()?,
            history: f.history()?,
            expect: f.point()?,
            allow_mixed: f.flag()?,
        }),
        kind::START_EPOCH_REPLY => Message::StartEpochReply(StartEpochReply {
            replica: f.replica()?,
            epoch: f.epoch()?,
            result: f.result(|_| Ok(()))?,
        }),
        kind::SETTLE => Message::Settle(Settle { replica: f.replica()?, epoch: f.epoch()?, seq: f.seq()? }),
        kind::REFUSED => Message::Refused(Refused {
            replica: f.replica()?,
            epoch: f.epoch()?,
            seq: f.seq()?,
            reason: f.refusal()?,
        }),
        kind::RELEASE => Message::Release(Release { replica: f.replica()?, holder: f.holder()? }),
        kind::RESYNC => Message::Resync(get_resync(f)?),
        kind::RESYNC_REPORT => Message::ResyncReport(get_resync_report(f)?),
        kind::REPAIR => Message::Repair(Repair {
            replica: f.replica()?,
            epoch: f.epoch()?,
            extent: ExtentIndex(f.u32()?),
            version: f.known_version()?,
            source: f.source()?,
        }),
        kind::DAMAGED => Message::Damaged(Damaged {
            replica: f.replica()?,
            epoch: f.epoch()?,
            extent: ExtentIndex(f.u32()?),
            version: f.known_version()?,
            tried: f.list(8, Fields::replica)?,
        }),
        kind::LIST_SNAPSHOTS => Message::ListSnapshots(ListSnapshots {
            replica: f.replica()?,
            epoch: f.epoch()?,
            last_epoch: f.epoch()?,
            allow_mixed: f.flag()?,
            after: f.seq()?,
        }),
        kind::SNAPSHOT_LIST => Message::SnapshotList(SnapshotList {
            replica: f.replica()?,
            result: f.result(|f| Ok((f.seq()?, f.snapshots()?)))?,
        }),
        kind::LIST => Message::List(get_list(f)?),
        kind::LIST_REPLY => Message::ListReply(ListReply {
            replica: f.replica()?,
            result: f.result(|f| Ok((f.seq()?, f.list(4, |f| f.u32().map(ExtentIndex))?)))?,
        }),
        kind::FETCH => Message::Fetch(Fetch {
            replica: f.replica()?,
            epoch: f.epoch()?,
            last_epoch: f.epoch()?,
            allow_mixed: f.flag()?,
            after: f.seq()?,
            extent: ExtentIndex(f.u32()?),
            view: f.view()?,
        }),
        kind::FETCH_REPLY => Message::FetchReply(get_fetch_reply(f, data)?),
        kind::BLOCK_STATUS => Message::BlockStatus(get_block_status(f)?),
        kind::BLOCK_STATUS_REPLY => Message::BlockStatusReply(BlockStatusReply {
            id: f.u64()?,
            replica: f.replica()?,
            result: f.result(get_block_runs)?,
        }),
        other => return Err(FrameError::Kind(other)),
    })
}

fn get_hello(f: &mut Fields) -> Result<Hello, FrameError> {
    let cluster = ClusterId(f.id16()?);
    let node = NodeId(f.u64()?);
    let speaker = match f.u8()? {
        1 => Speaker::Gateway(InstanceId(f.id16()?)),
        2 => Speaker::Peer(NodeId(f.u64()?)),
        _ => return Err(FrameError::Value("speaker")),
    };
    Ok(Hello { cluster, speaker, node })
}

fn get_open(f: &mut Fields) -> Result<Open, FrameError> {
    Ok(Open {
        replica: f.replica()?,
        segment: SegmentId { volume: VolumeId(f.u64()?), index: f.u32()? },
        epoch: f.epoch()?,
        generation: Generation(f.u64()?),
        instance: InstanceId(f.id16()?),
        void: if f.flag()? { Some(f.holder()?) } else { None },
    })
}

fn get_write(f: &mut Fields, data: Bytes) -> Result<Write, FrameError> {
    let write = Write {
        replica: f.replica()?,
        epoch: f.epoch()?,
        seq: f.seq()?,
        offset: f.u64()?,
        checksums: f.list(4, Fields::u32)?,
        data,
    };
    check_blocks(write.offset, write.data.len() as u64)?;
    if write.data.is_empty() || write.checksums.len() as u64 * BLOCK_BYTES != write.data.len() as u64 {
        return Err(FrameError::Value("number of checksums"));
    }
    Ok(write)
}

fn get_zero(f: &mut Fields) -> Result<Zero, FrameError> {
    let zero =
        Zero { replica: f.replica()?, epoch: f.epoch()?, seq: f.seq()?, offset: f.u64()?, length: f.u64()? };
    check_blocks(zero.offset, zero.length)?;
    if zero.length == 0 {
        return Err(FrameError::Value("length"));
    }
    Ok(zero)
}

fn get_read(f: &mut Fields) -> Result<Read, FrameError> {
    let read = Read {
        id: f.u64()?,
        replica: f.replica()?,
        epoch: f.epoch()?,
        after: f.seq()?,
        offset: f.u64()?,
        length: f.u32()?,
    };
    check_blocks(read.offset, u64::from(read.length))?;
    if read.length == 0 || u64::from(read.length) > READ_BYTES_MAX {
        return Err(FrameError::Value("length"));
    }
    Ok(read)
}

/// Whole blocks, at an offset from which the end can be computed. Whether they are within the segment, only its holder
/// can tell.
fn check_blocks(offset: u64, length: u64) -> Result<(), FrameError> {
    if !offset.is_multiple_of(BLOCK_BYTES) || !length.is_multiple_of(BLOCK_BYTES) {
        Err(FrameError::Value("alignment"))
    } else if offset.checked_add(length).is_none() {
        Err(FrameError::Value("offset"))
    } else {
        Ok(())
    }
}

fn get_read_reply(f: &mut Fields, data: Bytes) -> Result<ReadReply, FrameError> {
    let (id, replica) = (f.u64()?, f.replica()?);
    let result = match f.u8()? {
        0 => ReadResult::Data { checksums: f.list(4, Fields::u32)?, data },
        _ if !data.is_empty() => return Err(FrameError::Value("amount of data")),
        1 => ReadResult::Refused(f.refusal()?),
        2 => ReadResult::Mismatch { extent: ExtentIndex(f.u32()?), version: f.known_version()? },
        _ => return Err(FrameError::Value("outcome")),
    };
    Ok(ReadReply { id, replica, result })
}

fn get_block_status(f: &mut Fields) -> Result<BlockStatus, FrameError> {
    let status = BlockStatus {
        id: f.u64()?,
        replica: f.replica()?,
        epoch: f.epoch()?,
        after: f.seq()?,
        offset: f.u64()?,
        length: f.u64()?,
        since: f.view()?,
    };
    check_blocks(status.offset, status.length)?;
    if status.length == 0 {
        return Err(FrameError::Value("length"));
    }
    Ok(status)
}

fn get_block_runs(f: &mut Fields) -> Result<Vec<BlockRun>, FrameError> {
    let runs = f.list(5, |f| {
        let blocks = f.u32()?;
        let state = match f.u8()? {
            0 => BlockState::Data,
            1 => BlockState::Zero,
            2 => BlockState::Hole,
            3 => BlockState::Changed,
            4 => BlockState::Unchanged,
            _ => return Err(FrameError::Value("block state")),
        };
        Ok(BlockRun { blocks, state })
    })?;
    if runs.is_empty() || runs.len() > BLOCK_RUNS_MAX || runs.iter().any(|run| run.blocks == 0) {
        return Err(FrameError::Value("number of blocks"));
    }
    Ok(runs)
}

fn get_held(f: &mut Fields) -> Result<Vec<(ReplicaId, Epoch)>, FrameError> {
    f.list(16, |f| Ok((f.replica()?, f.epoch()?)))
}

fn get_resync(f: &mut Fields) -> Result<Resync, FrameError> {
    Ok(Resync {
        replica: f.replica()?,
        epoch: f.epoch()?,
        mode: if f.flag()? { ResyncMode::Round } else { ResyncMode::Join },
        common: f.point()?,
        history: f.history()?,
        join_at: f.seq()?,
        source_mixed: f.flag()?,
        source: f.source()?,
    })
}

fn get_resync_report(f: &mut Fields) -> Result<ResyncReport, FrameError> {
    Ok(ResyncReport {
        replica: f.replica()?,
        epoch: f.epoch()?,
        done_bytes: f.u64()?,
        total_bytes: f.u64()?,
        state: match f.u8()? {
            0 => ResyncState::Running,
            1 => ResyncState::Complete,
            2 => ResyncState::RoundDone,
            3 => ResyncState::Failed(f.refusal()?),
            _ => return Err(FrameError::Value("resync state")),
        },
    })
}

fn get_list(f: &mut Fields) -> Result<List, FrameError> {
    Ok(List {
        replica: f.replica()?,
        epoch: f.epoch()?,
        last_epoch: f.epoch()?,
        allow_mixed: f.flag()?,
        after: f.seq()?,
        since: f.seq()?,
        from: ExtentIndex(f.u32()?),
        max: f.u32()?,
        view: f.view()?,
    })
}

fn get_fetch_reply(f: &mut Fields, data: Bytes) -> Result<FetchReply, FrameError> {
    let replica = f.replica()?;
    let extent = ExtentIndex(f.u32()?);
    let result = f.result(|f| {
        let (position, version, zero_mask) = (f.seq()?, f.seq()?, f.u16()?);
        let mut checksums = [0; 16];
        for sum in &mut checksums {
            *sum = f.u32()?;
        }
        if data.len() as u64 != u64::from(zero_mask.count_zeros()) * BLOCK_BYTES {
            return Err(FrameError::Value("amount of data"));
        }
        Ok(FetchedExtent { position, version, zero_mask, checksums, data })
    })?;
    Ok(FetchReply { replica, extent, result })
}
