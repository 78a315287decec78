//! What can be asked of the state machine, and what comes of it.

use crate::health::{ClusterTime, HealthChange};
use quoin_types::{
    ClusterId, DiskId, Durability, Epoch, GatewayId, Generation, InstanceId, NodeId, ReplicaId, SnapshotId,
    VolumeId,
};
use std::collections::BTreeMap;

/// The random id of one request: proposed twice, it is carried out once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub [u8; 16]);

/// One entry of the log.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// The request it carries out.
    pub request: RequestId,
    /// What is asked.
    pub command: Command,
}

/// A node that may be given replicas. The leader that proposes knows which nodes it has heard of and what they hold; the
/// state machine does not, so it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The space it has left.
    pub free_bytes: u64,
}

/// A segment as the proposer saw it. A command that names one is refused when its configuration has changed since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentAt {
    /// Its place in the volume, from 0.
    pub index: u32,
    /// Its configuration.
    pub generation: Generation,
}

/// What is to become of a segment's voters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentChange {
    /// The segment.
    pub at: SegmentAt,
    /// Nodes that get a replica of it, and have none.
    pub add: Vec<NodeId>,
    /// Voters that leave.
    pub remove: Vec<ReplicaId>,
}

/// A change of the state.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Gives the cluster its identity, once.
    InitCluster {
        /// A random id.
        cluster_id: ClusterId,
        /// The first members: raft id and address.
        managers: BTreeMap<u64, String>,
    },
    /// A storage node has started.
    RegisterNode(RegisterNode),
    /// A storage node has created or dropped replicas, durably.
    ReportReplicas {
        /// The node that says so.
        node: NodeId,
        /// Its disk; replicas that were placed on another are not touched.
        disk: DiskId,
        /// Replicas that exist now.
        created: Vec<ReplicaId>,
        /// Replicas that exist no more.
        dropped: Vec<ReplicaId>,
    },
    /// A new volume, placed on the candidates.
    CreateVolume {
        /// Unique among living volumes.
        name: String,
        /// A multiple of 4096.
        size_bytes: u64,
        /// A multiple of 65536.
        segment_bytes: u64,
        /// Copies of each segment.
        replicas: u32,
        /// The fewest copies to go on with, if its owner says so (rule C3).
        min_replicas: Option<u32>,
        /// When a write is acknowledged.
        durability: Durability,
        /// Where replicas may go.
        candidates: Vec<Candidate>,
    },
    /// Turns a volume into a tombstone; its name is free at once.
    DeleteVolume {
        /// The volume.
        name: String,
        /// Refused unless this is still the last epoch: the proposer judged that attachment's clients, no later one's.
        expected_epoch: Option<Epoch>,
    },
    /// Grows a volume.
    ResizeVolume {
        /// The volume.
        name: String,
        /// The new size.
        size_bytes: u64,
        /// Where the new segments' replicas may go.
        candidates: Vec<Candidate>,
    },
    /// Gives a volume to a gateway under a new epoch, taking it from whoever had it.
    Attach {
        /// The volume, by name.
        volume: String,
        /// The gateway.
        gateway: GatewayId,
        /// Its process.
        instance: InstanceId,
        /// Refused unless this is still the last epoch (see [`Command::DeleteVolume`]).
        expected_epoch: Epoch,
    },
    /// Ends an attachment if it is still the one named.
    Detach {
        /// The volume, by name.
        volume: String,
        /// The gateway that gives it back.
        gateway: GatewayId,
        /// Its epoch.
        epoch: Epoch,
        /// Whether every replica has everything; if not, a steward has to look (rule C4).
        clean: bool,
    },
    /// Gives a detached volume, or one that has a steward, to a gateway as its steward under a new epoch (rule C4).
    AssignSteward {
        /// The volume.
        volume: VolumeId,
        /// The gateway.
        gateway: GatewayId,
        /// Its process.
        instance: InstanceId,
        /// Refused unless this is still the last epoch.
        expected_epoch: Epoch,
    },
    /// Records that an attachment began without proof that every accepted write was there (rule A2).
    MarkLossy {
        /// The volume.
        volume: VolumeId,
        /// The attachment.
        epoch: Epoch,
    },
    /// Begins to change the voters of segments (rule C1): what is added is placed, and is filled as learners.
    BeginChange {
        /// The volume.
        volume: VolumeId,
        /// Refused unless this is still the last epoch.
        epoch: Epoch,
        /// The copies wanted from now on, if that changes: then every segment has as many voters when all is done.
        replicas: Option<u32>,
        /// The changes: all are begun, or none.
        segments: Vec<SegmentChange>,
    },
    /// Lets the learners of segments vote, jointly with the former voters. The proposer has seen that they are filled.
    EnterJoint {
        /// The volume.
        volume: VolumeId,
        /// The attachment whose gateway reported so. Refused unless it is the present one.
        epoch: Epoch,
        /// The segments.
        segments: Vec<SegmentAt>,
    },
    /// Ends the joint configuration of segments. Their gateway has confirmed that it runs them, and that all earlier
    /// acknowledged writes are durable on a majority of the next voters.
    FinishChange {
        /// The volume.
        volume: VolumeId,
        /// The attachment whose gateway reported so. Refused unless it is the present one.
        epoch: Epoch,
        /// The segments.
        segments: Vec<SegmentAt>,
    },
    /// Gives up changes whose learners are still being filled.
    AbortChange {
        /// The volume.
        volume: VolumeId,
        /// Refused unless this is still the last epoch.
        epoch: Epoch,
        /// The segments.
        segments: Vec<SegmentAt>,
    },
    /// Goes on with one of two voters, at once (rule C3). The proposer has seen that it has every acknowledged write.
    Shrink {
        /// The volume.
        volume: VolumeId,
        /// The attachment whose gateway reported so. Refused unless it is the present one.
        epoch: Epoch,
        /// The segment.
        segment: SegmentAt,
        /// The voter that is given up. Its node is unreachable.
        remove: ReplicaId,
    },
    /// Allots a snapshot, for the present or the next attachment to take.
    BeginSnapshot {
        /// The volume, by name.
        volume: String,
        /// Unique among its snapshots.
        name: String,
    },
    /// Keeps a snapshot: its gateway has reported that it is durable on a majority of every segment.
    CommitSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The attachment that took it. Refused unless it is the present one.
        epoch: Epoch,
    },
    /// Deletes a snapshot, or gives it up while it is being taken.
    DeleteSnapshot {
        /// The volume, by name.
        volume: String,
        /// The snapshot, by name.
        name: String,
    },
    /// Takes note of which storage nodes are unreachable, or there again. One command for all that a leader finds at once,
    /// however many nodes a failed switch takes along.
    ChangeHealth {
        /// The leader's reading of the cluster's time.
        at: ClusterTime,
        /// What it has concluded; nothing, if only the reading is to be kept.
        changes: Vec<HealthChange>,
    },
}

/// Who a storage node says it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterNode {
    /// The cluster its disk belongs to.
    pub cluster_id: ClusterId,
    /// Given by its operator.
    pub name: String,
    /// Its disk.
    pub disk: DiskId,
    /// How often that disk has been started, this start included.
    pub start_count: u64,
    /// This process, if it says so.
    pub instance: Option<InstanceId>,
    /// `host:port` of the data plane.
    pub data_address: String,
    /// `host:port` of health and metrics.
    pub admin_address: String,
    /// The failure domain.
    pub zone: String,
    /// The disk's size.
    pub capacity_bytes: u64,
    /// The software's version.
    pub version: String,
}

/// The attachment that a new one replaced: a lease that a proof may void (rule R2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Previous {
    /// Its number.
    pub epoch: Epoch,
    /// Its process.
    pub instance: InstanceId,
}

/// What came of a command that was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// The node is registered under this id.
    Node(NodeId),
    /// The volume that was created, grown, changed or deleted.
    Volume(VolumeId),
    /// The snapshot that was allotted or deleted.
    Snapshot(SnapshotId),
    /// The volume is attached.
    Attached {
        /// The volume.
        volume: VolumeId,
        /// Its new epoch.
        epoch: Epoch,
        /// The attachment that ended by it.
        previous: Option<Previous>,
    },
}
