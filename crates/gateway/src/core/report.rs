//! How volumes do, for the cluster manager and its `status`.

use quoin_replication::writer::{Statistics, VoterHealth};
use quoin_types::{Epoch, ReplicaId, SnapshotId, VolumeId};

/// How an attached volume does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeReport {
    /// The volume.
    pub volume: VolumeId,
    /// Its attachment's epoch.
    pub epoch: Epoch,
    /// Whether accepted writes may have been lost to a loss of power (rule A2).
    pub lossy: bool,
    /// Whether every segment has a majority.
    pub available: bool,
    /// What is missing, in words; empty if nothing is.
    pub detail: String,
    /// Snapshots placed in this attachment that are durable on a majority of every segment, those left out that the cluster
    /// manager knows of by now.
    pub snapshots: Vec<SnapshotId>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Counters over all its segments.
    pub statistics: Statistics,
}

/// How one replica does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Which.
    pub replica: ReplicaId,
    /// Its node's name.
    pub node: String,
    /// How it does.
    pub health: VoterHealth,
}
