//! Why a command was not carried out: a kind for programs, a message and a hint for people. A refused command changes
//! nothing.

use quoin_types::{ClusterId, DiskId, NodeId};

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
            Refusal::VolumeUnknown(_) | Refusal::NodeUnknown(_) => RefusalKind::NotFound,
            Refusal::VolumeExists(_) | Refusal::ClusterExists(_) => RefusalKind::AlreadyExists,
            Refusal::AttachedMeanwhile(_) => RefusalKind::Stale,
            _ => RefusalKind::Precondition,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Refusal::Invalid(_, hint) => hint,
            Refusal::VolumeUnknown(_) => "`quoin volume list` shows the volumes there are",
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
            Refusal::NodeUnknown(_) => "the storage node must register first",
            Refusal::OtherCluster { .. } => {
                "point the node at its own cluster's managers, or wipe the disk to use it here"
            }
            Refusal::StartCountNotAbove { .. } => {
                "use the original disk as it is; a restored or copied disk must be wiped before it is used"
            }
            Refusal::DiskReplaced { .. } => {
                "bring the old disk back, or start the new disk under another node name: a wiped disk never answers for the replicas it lost"
            }
            Refusal::DiskOfOtherNode { .. } => "start it under its own node's name",
            Refusal::DiskRetired(_) => "wipe the disk to use it again",
            Refusal::DiskMismatch { .. } => "the storage node must register again",
            Refusal::AttachedMeanwhile(_) => "look at the volume's attachment and try again",
            Refusal::ClusterExists(_) => "nothing is to be done",
            Refusal::ClusterNotInitialised => "try again in a moment",
        }
    }
}
