//! How volumes do, for the cluster manager and its `status`.

use quoin_replication::writer::{Statistics, VoterHealth};
use quoin_types::{Epoch, Generation, ReplicaId, SnapshotId, VolumeId};

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
    /// The configurations that it runs, by segment.
    pub segments: Vec<SegmentStatus>,
    /// Snapshots placed in this attachment that are durable on a majority of every segment, those left out that the cluster
    /// manager knows of by now.
    pub snapshots: Vec<SnapshotId>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Writes kept in memory until they are durable on a majority, over all its segments (rule W2).
    pub retained_bytes: usize,
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
    /// Whether it surely has every acknowledged write, should it be the only one left of two (rule C3).
    pub whole: bool,
    /// Whether it came back from a loss of power and does not have everything again (rule A2).
    pub shaken: bool,
}

/// The configuration that an attachment runs on one segment (rule C1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentStatus {
    /// Its number.
    pub generation: Generation,
    /// Whether every write from before it is durable on a majority of it; of both halves if it is joint.
    pub settled: bool,
}

impl VolumeReport {
    /// Whether nothing is left to be repaired: every replica has everything, and would say so.
    pub fn is_clean(&self) -> bool {
        let is_well = |replica: &ReplicaStatus| replica.health == VoterHealth::InSync && !replica.shaken;
        self.available
            && self.replicas.iter().all(is_well)
            && self.segments.iter().all(|segment| segment.settled)
    }
}
