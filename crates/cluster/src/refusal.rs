//! Why a command was not carried out: a kind for programs, a message and a hint for people. A refused command changes
//! nothing.

use quoin_types::{ClusterId, DiskId, NodeId, ReplicaId, SegmentId, VolumeId};

/// What sort of refusal it is, as far as a caller may care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The request is wrong whatever the state.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// What it would create exists.
    AlreadyExists,
    /// Not in this state.
    Precondition,
    /// The state changed since the proposer looked: look again.
    Stale,
}

/// Why a command was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// A name, size or count out of range.
    #[error("{0}")]
    Invalid(String, &'static str),
    /// No volume of that name.
    #[error("there is no volume `{0}`")]
    VolumeUnknown(String),
    /// A living volume has the name.
    #[error("a volume `{0}` exists already")]
    VolumeExists(String),
    /// The volume may not be attached yet.
    #[error("volume `{0}` is not ready: some of its replicas do not exist on their disks yet")]
    VolumeNotReady(String),
    /// It is growing already, to more than is asked.
    #[error("volume `{name}` is growing to {growing_to_bytes} bytes at this moment")]
    VolumeGrowing {
        /// The volume.
        name: String,
        /// Where to.
        growing_to_bytes: u64,
    },
    /// Shrinking discards data.
    #[error("volume `{name}` has {size_bytes} bytes and cannot shrink to {asked_bytes}")]
    Shrinking {
        /// The volume.
        name: String,
        /// What it has.
        size_bytes: u64,
        /// What was asked.
        asked_bytes: u64,
    },
    /// Fewer nodes than replicas.
    #[error("{replicas} replicas need as many storage nodes, and {candidates} can take one now")]
    TooFewNodes {
        /// Replicas wanted.
        replicas: u32,
        /// Nodes that may be given one.
        candidates: usize,
    },
    /// Fewer nodes than replicas to add.
    #[error(
        "{replicas} more replicas need as many storage nodes that have none of that segment, and {candidates} can take one now"
    )]
    TooFewOtherNodes {
        /// Replicas to add.
        replicas: u32,
        /// Nodes that may be given one.
        candidates: usize,
    },
    /// No node of that id.
    #[error("there is no storage node {0}")]
    NodeUnknown(NodeId),
    /// A disk of another cluster.
    #[error("the disk belongs to cluster {disk_of}, this is cluster {this}")]
    OtherCluster {
        /// What the disk says.
        disk_of: ClusterId,
        /// Who is asked.
        this: ClusterId,
    },
    /// A rolled-back or cloned disk (rule C2).
    #[error(
        "disk {disk} of node `{name}` says that this is its start {start_count}, but start {known} is known: it was rolled back or cloned"
    )]
    StartCountNotAbove {
        /// The node.
        name: String,
        /// The disk.
        disk: DiskId,
        /// What it says.
        start_count: u64,
        /// What is known.
        known: u64,
    },
    /// One of several copies of a disk, of which another one was started (rule C2).
    #[error(
        "start {start_count} of disk {disk} of node `{name}` was made by another copy of it: it was cloned"
    )]
    DiskCloned {
        /// The node.
        name: String,
        /// The disk.
        disk: DiskId,
        /// The start that both say was theirs.
        start_count: u64,
    },
    /// Another disk under a name whose own disk holds replicas (rule C2).
    #[error("node `{name}` came with disk {disk}, but {replicas} replicas are on its disk {known}")]
    DiskReplaced {
        /// The node.
        name: String,
        /// The disk it came with; none if it is not formatted yet.
        disk: String,
        /// The disk known.
        known: DiskId,
        /// What that holds.
        replicas: usize,
    },
    /// A disk under another name.
    #[error("disk {disk} belongs to node `{owner}`, not to `{name}`")]
    DiskOfOtherNode {
        /// The disk.
        disk: DiskId,
        /// Whose it is.
        owner: String,
        /// Who came with it.
        name: String,
    },
    /// A disk that was replaced comes back.
    #[error("disk {0} was replaced in its node and is not taken back: its replicas are given up")]
    DiskRetired(DiskId),
    /// A report about another disk than the node's.
    #[error("node {node} has disk {known}, not {disk}")]
    DiskMismatch {
        /// The node.
        node: NodeId,
        /// The disk the report names.
        disk: DiskId,
        /// The disk known.
        known: DiskId,
    },
    /// Somebody attached the volume since the proposer looked.
    #[error("volume `{0}` has been attached anew meanwhile")]
    AttachedMeanwhile(String),
    /// The volume was deleted since the proposer looked.
    #[error("there is no volume {0} any more")]
    VolumeGone(VolumeId),
    /// No such segment, or one that is not served yet.
    #[error("the volume has no segment {0}")]
    SegmentUnknown(SegmentId),
    /// Somebody changed the configuration since the proposer looked.
    #[error("segment {0} has been changed meanwhile")]
    ChangedMeanwhile(SegmentId),
    /// A segment's voters are being changed.
    #[error("the replicas of segment {0} are being changed already")]
    Changing(SegmentId),
    /// No change is under way, or not in the stage that is needed.
    #[error("segment {0} is not at this step of a change")]
    NotAtThisStep(SegmentId),
    /// The new voters count already.
    #[error("the new replicas of segment {0} count already, and the change is about to be completed")]
    JointAlready(SegmentId),
    /// The replica does not vote in that segment.
    #[error("replica {replica} is no voter of segment {segment}")]
    NoVoter {
        /// The segment.
        segment: SegmentId,
        /// The replica.
        replica: ReplicaId,
    },
    /// One replica of a segment is the most for a node.
    #[error("storage node `{node}` has a replica of segment {segment} already")]
    NodeHasReplica {
        /// The segment.
        segment: SegmentId,
        /// The node.
        node: String,
    },
    /// The node does not have what is to be moved away.
    #[error("storage node `{node}` has no replica of this volume that votes")]
    NodeHasNoReplica {
        /// The node.
        node: String,
    },
    /// Nothing is placed on a node that is not there.
    #[error("storage node `{0}` is not online")]
    NodeNotOnline(String),
    /// What it was is not proven to be needed no more (rule C3).
    #[error("segment {segment} cannot go on with one replica: {why}")]
    MayNotShrink {
        /// The segment.
        segment: SegmentId,
        /// Why.
        why: &'static str,
    },
    /// The volume has an attachment that is no steward's.
    #[error("volume {0} is attached, and needs no steward")]
    NoStewardNeeded(VolumeId),
    /// No snapshot of that name.
    #[error("volume `{volume}` has no snapshot `{name}`")]
    SnapshotUnknown {
        /// The volume.
        volume: String,
        /// The snapshot.
        name: String,
    },
    /// The volume has one of that name.
    #[error("volume `{volume}` has a snapshot `{name}` already")]
    SnapshotExists {
        /// The volume.
        volume: String,
        /// The snapshot.
        name: String,
    },
    /// The volume has as many as it may.
    #[error("volume `{0}` has as many snapshots as a volume may have")]
    TooManySnapshots(String),
    /// The attachment that was to take it has ended, and the snapshot with it.
    #[error("the snapshot ended with the attachment that was to take it")]
    SnapshotEnded,
    /// The cluster has its identity.
    #[error("this cluster is {0} already")]
    ClusterExists(ClusterId),
    /// The cluster has no identity yet.
    #[error("this cluster is not initialised yet")]
    ClusterNotInitialised,
}

impl Refusal {
    /// What sort of refusal it is.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Refusal::Invalid(..) | Refusal::Shrinking { .. } => RefusalKind::Invalid,
            Refusal::VolumeUnknown(_)
            | Refusal::VolumeGone(_)
            | Refusal::NodeUnknown(_)
            | Refusal::SegmentUnknown(_)
            | Refusal::SnapshotUnknown { .. } => RefusalKind::NotFound,
            Refusal::VolumeExists(_) | Refusal::ClusterExists(_) | Refusal::SnapshotExists { .. } => {
                RefusalKind::AlreadyExists
            }
            Refusal::AttachedMeanwhile(_) | Refusal::ChangedMeanwhile(_) => RefusalKind::Stale,
            _ => RefusalKind::Precondition,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Invalid(_, hint) => hint,
            Refusal::VolumeUnknown(_) | Refusal::VolumeGone(_) => {
                "`quoin volume list` shows the volumes there are"
            }
            Refusal::VolumeExists(_) => "choose another name, or delete that volume first",
            Refusal::VolumeNotReady(_) => {
                "wait until its storage nodes are online and have created the replicas"
            }
            Refusal::VolumeGrowing { .. } => "wait until that is done, then resize again",
            Refusal::Shrinking { .. } => {
                "shrinking would discard data: create a smaller volume and copy what you need"
            }
            Refusal::TooFewNodes { .. } => {
                "start more storage nodes, bring back those that are unreachable, or ask for fewer replicas"
            }
            Refusal::TooFewOtherNodes { .. } => {
                "start more storage nodes, or bring back those that are unreachable"
            }
            Refusal::NodeUnknown(_) => "the storage node must register first",
            Refusal::OtherCluster { .. } => {
                "point the node at its own cluster's managers, or wipe the disk to use it here"
            }
            Refusal::StartCountNotAbove { .. } | Refusal::DiskCloned { .. } => {
                "use the original disk as it is; a restored or copied disk must be wiped before it is used"
            }
            Refusal::DiskReplaced { .. } => {
                "bring the old disk back, or start the new disk under another node name: a wiped disk never answers for the replicas it lost"
            }
            Refusal::DiskOfOtherNode { .. } => "start it under its own node's name",
            Refusal::DiskRetired(_) => "wipe the disk to use it again",
            Refusal::DiskMismatch { .. } => "the storage node must register again",
            Refusal::AttachedMeanwhile(_) => "look at the volume's attachment and try again",
            Refusal::SegmentUnknown(_) | Refusal::NoVoter { .. } | Refusal::NodeHasNoReplica { .. } => {
                "`quoin volume show` tells where the copies are"
            }
            Refusal::ChangedMeanwhile(_) | Refusal::NotAtThisStep(_) => "look at the volume and try again",
            Refusal::Changing(_) => {
                "wait until that is done (`quoin volume show` tells how far it is), or give it up with `quoin volume abort-change`"
            }
            Refusal::JointAlready(_) => "wait until it is done, then change it back",
            Refusal::NodeHasReplica { .. } => "choose another node, or let the managers choose",
            Refusal::NodeNotOnline(_) => "`quoin node list` shows which nodes are online",
            Refusal::MayNotShrink { .. } => {
                "only volumes made with `--min-replicas 1` go on with one of two copies; bring the other one back"
            }
            Refusal::NoStewardNeeded(_) => "nothing is to be done",
            Refusal::SnapshotUnknown { .. } => "`quoin snapshot list` shows the snapshots there are",
            Refusal::SnapshotExists { .. } => "choose another name, or delete that snapshot first",
            Refusal::TooManySnapshots(_) => "delete snapshots that are not needed any more",
            Refusal::SnapshotEnded => "take it again",
            Refusal::ClusterExists(_) => "nothing is to be done",
            Refusal::ClusterNotInitialised => "try again in a moment",
        }
    }
}
