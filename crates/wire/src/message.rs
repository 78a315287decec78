//! The messages between a gateway and a storage node, and between storage nodes during resync.
//!
//! Rule numbers (W1, R0, A3 …) are those of `docs/replication.md`.

use bytes::Bytes;
use quoin_types::block::BlockRun;
use quoin_types::{
    BootId, ClusterId, DiskId, Epoch, ExtentIndex, Generation, InstanceId, NodeId, ReplicaId, SegmentId, Seq,
    SessionId, SnapshotId, Version,
};
use std::time::Duration;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // each variant carries the message of its name
pub enum Message {
    Hello(Hello),
    HelloReply(HelloReply),
    Open(Open),
    OpenReply(OpenReply),
    StartEpoch(StartEpoch),
    StartEpochReply(StartEpochReply),
    Settle(Settle),
    Write(Write),
    Zero(Zero),
    Snapshot(Snapshot),
    /// Somebody waits for what was written to become durable: the node syncs now rather than when more has gathered. Only
    /// a hint: it syncs by itself soon.
    Sync,
    Positions(Positions),
    Refused(Refused),
    Read(Read),
    ReadReply(ReadReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    Release(Release),
    Resync(Resync),
    ResyncReport(ResyncReport),
    Repair(Repair),
    Damaged(Damaged),
    ListSnapshots(ListSnapshots),
    SnapshotList(SnapshotList),
    List(List),
    ListReply(ListReply),
    Fetch(Fetch),
    FetchReply(FetchReply),
    BlockStatus(BlockStatus),
    BlockStatusReply(BlockStatusReply),
}

/// Who speaks on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    /// A gateway, with the instance id of its process.
    Gateway(InstanceId),
    /// Another storage node, pulling extents.
    Peer(NodeId),
}

/// The first frame from the side that connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster it belongs to; another one's is refused.
    pub cluster: ClusterId,
    /// Who it is.
    pub speaker: Speaker,
    /// The storage node it means to reach; another one refuses.
    pub node: NodeId,
}

/// The storage node's first frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloReply {
    /// Which node answers.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// Of this connection; every position belongs to one session (rule W3).
    pub session: SessionId,
    /// The kernel boot it runs under.
    pub boot: BootId,
}

/// A point in a segment's history: a seq within an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Point {
    /// The epoch.
    pub epoch: Epoch,
    /// The last seq in it.
    pub seq: Seq,
}

/// Where an epoch began in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The seq of its first write.
    pub first: Seq,
}

/// The holder of a read lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LeaseHolder {
    /// The process.
    pub instance: InstanceId,
    /// The epoch that it held the lease under.
    pub epoch: Epoch,
}

/// Asks a replica to promise an epoch (attach, step 2), or to go on under one after a new session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The replica.
    pub replica: ReplicaId,
    /// The segment that it is meant to hold.
    pub segment: SegmentId,
    /// The epoch to promise.
    pub epoch: Epoch,
    /// The segment's configuration.
    pub generation: Generation,
    /// The process that the epoch belongs to (rule W4).
    pub instance: InstanceId,
    /// A lease whose holder is proven gone or has given it up (rule R2).
    pub void: Option<LeaseHolder>,
}

/// A replica's answer to [`Open`], sent when all it says is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenReply {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch that was asked for.
    pub epoch: Epoch,
    /// Its state, or why it refuses.
    pub result: Result<ReplicaReport, Refusal>,
}

/// What a replica has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaReport {
    /// The epochs in its state, ascending; the last is that of its last `StartEpoch`. Empty for a new replica.
    pub history: Vec<EpochStart>,
    /// The last seq in its state; for a mixed replica that of the common point (rule A3).
    pub last: Seq,
    /// How long leases that it granted to others may still run, from the sending of this answer (rule R2).
    pub lease_remainder: Duration,
    /// Whether it is in the middle of a resync (rule A3).
    pub mixed: bool,
    /// Whether it may have lost accepted writes to a loss of power (rule A2).
    pub shaken: bool,
}

/// Why a replica refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has promised a higher epoch.
    HigherEpoch(Epoch),
    /// The epoch belongs to another process (rule W4).
    OtherInstance,
    /// It knows a higher generation.
    HigherGeneration(Generation),
    /// It does not hold this replica (rule C2).
    UnknownReplica,
    /// It holds this replica for another segment.
    OtherSegment,
    /// The session is no longer the one that opened the replica.
    StaleSession,
    /// The seq does not follow its last one, which is given.
    Gap(Seq),
    /// It is not in the state that the request supposes.
    WrongState,
    /// It is incomplete, or below the position asked for (rules R0, S2).
    Behind,
    /// Its disk has no room.
    NoSpace,
    /// Its disk failed, or has damaged what was asked for.
    Disk,
    /// What it was to pull is damaged on the peer's disk.
    PeerDamaged,
    /// It lacks a snapshot: the one whose view was asked for, or one that it must have before it joins (rule N5).
    LacksSnapshot,
}

/// Makes an epoch part of the history of a replica that is in the authority's state (attach, step 5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartEpoch {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch; the last entry of `history` is its start.
    pub epoch: Epoch,
    /// The whole new history: the authority's and this epoch.
    pub history: Vec<EpochStart>,
    /// The state that the replica must be in.
    pub expect: Point,
    /// Whether it may be mixed: the authority was.
    pub allow_mixed: bool,
}

/// Answer to [`StartEpoch`], sent when it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartEpochReply {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether it was done.
    pub result: Result<(), Refusal>,
}

/// Tells a shaken replica that its own gateway has sent it everything again up to `seq` (rule A2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settle {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch.
    pub epoch: Epoch,
    /// The position at which it is no longer shaken.
    pub seq: Seq,
}

/// A write. Its data is whole blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The replica.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// Its number, one above the write before it.
    pub seq: Seq,
    /// Where in the segment, in bytes; a multiple of 4,096.
    pub offset: u64,
    /// One per block.
    pub checksums: Vec<u32>,
    /// The blocks.
    pub data: Bytes,
}

/// A trim or write-zeroes of whole blocks: they read as zeros, and whole extents give their space back (rule S3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zero {
    /// The replica.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// Its number in the stream of writes.
    pub seq: Seq,
    /// Where in the segment, in bytes; a multiple of 4,096.
    pub offset: u64,
    /// How many bytes; a multiple of 4,096.
    pub length: u64,
}

/// A snapshot, in the stream of writes: what the replica is at this seq is kept (rule N1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The replica.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// Its number in the stream of writes.
    pub seq: Seq,
    /// Which snapshot of the volume.
    pub snapshot: SnapshotId,
}

/// How far replicas are: cumulative.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Positions {
    /// Extents that this session may touch with writes, counted from its start (rule W5).
    pub credit: u64,
    /// Extents that the writes which have arrived in this session have touched.
    pub used: u64,
    /// Whether credit is short because the disk is full, not because answers are on their way.
    pub full: bool,
    /// The replicas whose positions changed.
    pub replicas: Vec<Position>,
}

/// How far one replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The replica.
    pub replica: ReplicaId,
    /// Its epoch.
    pub epoch: Epoch,
    /// All writes to here survive a crash of the storage node's process.
    pub accepted: Seq,
    /// All writes to here survive a loss of power.
    pub durable: Seq,
}

/// A write, zero, snapshot or settle that was not taken. Nothing after it in that replica's stream is taken either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch of what was refused.
    pub epoch: Epoch,
    /// The seq of what was refused.
    pub seq: Seq,
    /// Why.
    pub reason: Refusal,
}

/// Reads whole blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// Returned with the answer.
    pub id: u64,
    /// The replica.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// The replica must have everything to here (rule R0).
    pub after: Seq,
    /// Where in the segment, in bytes; a multiple of 4,096.
    pub offset: u64,
    /// How many bytes; a multiple of 4,096.
    pub length: u32,
}

/// Answer to [`Read`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// The read's.
    pub id: u64,
    /// The replica.
    pub replica: ReplicaId,
    /// What was read.
    pub result: ReadResult,
}

/// The outcome of a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadResult {
    /// The blocks, with their stored checksums.
    Data {
        /// One per block.
        checksums: Vec<u32>,
        /// The blocks.
        data: Bytes,
    },
    /// Not served.
    Refused(Refusal),
    /// The disk has damaged a block, or the map entry that says where it is (rule R3).
    Mismatch {
        /// The extent that holds it.
        extent: ExtentIndex,
        /// The extent's version on this replica; `None` where the map entry is damaged and nobody knows it.
        version: Option<Version>,
    },
}

/// Asks what blocks are, without their data. Read rules hold for it as for [`Read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockStatus {
    /// Returned with the answer.
    pub id: u64,
    /// The replica.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// The replica must have everything to here (rule R0).
    pub after: Seq,
    /// Where in the segment, in bytes; a multiple of 4,096.
    pub offset: u64,
    /// How many bytes; a multiple of 4,096.
    pub length: u64,
    /// What has changed since this snapshot? `None`: what is allocated?
    pub since: Option<SnapshotId>,
}

/// Answer to [`BlockStatus`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockStatusReply {
    /// The question's.
    pub id: u64,
    /// The replica.
    pub replica: ReplicaId,
    /// What the blocks are, from the offset on: at least one run, at most [`quoin_types::limits::BLOCK_RUNS_MAX`], and no
    /// more blocks than were asked about. They may be fewer.
    pub result: Result<Vec<BlockRun>, Refusal>,
}

/// Asks for read leases, and shows that the gateway is alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The sender's clock when it sent this; returned as it is.
    pub stamp: u64,
    /// The process.
    pub instance: InstanceId,
    /// The replicas, each with the epoch it is held under.
    pub replicas: Vec<(ReplicaId, Epoch)>,
}

/// Answer to [`Heartbeat`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatReply {
    /// The heartbeat's.
    pub stamp: u64,
    /// The replicas that granted the lease, with the epoch.
    pub granted: Vec<(ReplicaId, Epoch)>,
}

/// Gives a lease back (rule R2). Nothing is served under it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// The replica.
    pub replica: ReplicaId,
    /// Whose lease.
    pub holder: LeaseHolder,
}

/// Where a replica pulls from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The storage node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Its replica of the segment.
    pub replica: ReplicaId,
}

/// How a resync ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResyncMode {
    /// Joined to the live stream: complete once its own position has reached the highest one stated (rule S2).
    Join,
    /// Without the live stream: leaves `pulled through`, and is not complete (rule S4).
    Round,
}

/// Orders a replica to pull what it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resync {
    /// The replica that is behind.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// How it ends.
    pub mode: ResyncMode,
    /// The last point that both share: everything after it is pulled (rule A3).
    pub common: Point,
    /// The source's history, which replaces the replica's own when it is complete.
    pub history: Vec<EpochStart>,
    /// The seq of the first live write that will be sent; the source must have everything below (rule S1).
    pub join_at: Seq,
    /// Whether the source itself is mixed (it is the authority all the same); then the result stays mixed.
    pub source_mixed: bool,
    /// Where to pull from.
    pub source: Source,
}

/// How a resync does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResyncReport {
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch of the order.
    pub epoch: Epoch,
    /// Bytes pulled.
    pub done_bytes: u64,
    /// Bytes to pull, as known so far.
    pub total_bytes: u64,
    /// Whether it goes on.
    pub state: ResyncState,
}

/// Whether a resync goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResyncState {
    /// It does.
    Running,
    /// Complete and durable: the replica counts from here on (rule S2).
    Complete,
    /// A round has ended; `pulled through` is durable (rule S4).
    RoundDone,
    /// It broke; the replica stays mixed.
    Failed(Refusal),
}

/// Tells the gateway of a damaged extent, so that it orders a [`Repair`]. Told again until the extent is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damaged {
    /// The replica with the damage.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// The extent.
    pub extent: ExtentIndex,
    /// The version that is damaged; `None` where the map entry is, and nobody knows it.
    pub version: Option<Version>,
    /// Replicas that were asked and did not have a good copy either.
    pub tried: Vec<ReplicaId>,
}

/// Orders a replica to fetch one damaged extent anew (rule R3). Applies only while the version is the given one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repair {
    /// The replica with the damage.
    pub replica: ReplicaId,
    /// The gateway's epoch.
    pub epoch: Epoch,
    /// The extent.
    pub extent: ExtentIndex,
    /// The version that is damaged; `None` where the map entry is, and nobody knows it.
    pub version: Option<Version>,
    /// Where a good copy is.
    pub source: Source,
}

/// A snapshot that a replica has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotPoint {
    /// Which.
    pub id: SnapshotId,
    /// The seq of its record: it holds the writes up to there.
    pub seq: Seq,
}

/// Asks a peer which snapshots it has (rule N4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListSnapshots {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The epoch that both have promised.
    pub epoch: Epoch,
    /// The last epoch that must be in the peer's history.
    pub last_epoch: Epoch,
    /// Whether the peer may itself be mixed.
    pub allow_mixed: bool,
    /// The peer must have everything to here.
    pub after: Seq,
}

/// Answer to [`ListSnapshots`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotList {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The peer's position when it answered, and its snapshots up to there: seqs rise, at most
    /// [`quoin_types::limits::SNAPSHOTS_MAX`].
    pub result: Result<(Seq, Vec<SnapshotPoint>), Refusal>,
}

/// Asks a peer which extents changed (rule S1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The epoch that both have promised.
    pub epoch: Epoch,
    /// The last epoch that must be in the peer's history.
    pub last_epoch: Epoch,
    /// Whether the peer may itself be mixed.
    pub allow_mixed: bool,
    /// The peer must have everything to here.
    pub after: Seq,
    /// Extents with a version above this.
    pub since: Version,
    /// The first extent to look at.
    pub from: ExtentIndex,
    /// The most to list.
    pub max: u32,
    /// The snapshot whose state is looked at; `None`: the peer as it is.
    pub view: Option<SnapshotId>,
}

/// Answer to [`List`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListReply {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The peer's position when it made the list, and the extents in ascending order.
    pub result: Result<(Seq, Vec<ExtentIndex>), Refusal>,
}

/// Asks a peer for one whole extent (rule S1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The epoch that both have promised.
    pub epoch: Epoch,
    /// The last epoch that must be in the peer's history.
    pub last_epoch: Epoch,
    /// Whether the peer may itself be mixed.
    pub allow_mixed: bool,
    /// The peer must have everything to here.
    pub after: Seq,
    /// The extent.
    pub extent: ExtentIndex,
    /// The snapshot whose state is looked at; `None`: the peer as it is.
    pub view: Option<SnapshotId>,
}

/// Answer to [`Fetch`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchReply {
    /// The peer's replica.
    pub replica: ReplicaId,
    /// The extent asked for.
    pub extent: ExtentIndex,
    /// It, or why not.
    pub result: Result<FetchedExtent, Refusal>,
}

/// One extent as it is on a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedExtent {
    /// The peer's position when it read the extent.
    pub position: Seq,
    /// The extent's version; zero for one that was never written.
    pub version: Version,
    /// Blocks that read as zeros and have no data here.
    pub zero_mask: u16,
    /// One per block of the extent.
    pub checksums: [u32; 16],
    /// The blocks that are not zero, in order.
    pub data: Bytes,
}
