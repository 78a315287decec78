//! The words of Quoin: identifiers, numbers of the replication protocol, units and limits.
//!
//! Every other crate looks down at this one. It holds no behaviour beyond arithmetic on its own words: no I/O, no
//! clock, no randomness. The meaning of each word is fixed in `ARCHITECTURE.md`.

pub mod block;
pub mod collections;
pub mod durability;
pub mod hex;
pub mod id;
pub mod limits;
pub mod number;
pub mod quorum;
pub mod role;
pub mod time;

pub use durability::Durability;
pub use id::{
    BootId, ClusterId, DiskId, GatewayId, InstanceId, NodeId, ReplicaId, SegmentId, SessionId, SnapshotId,
    StartMark, VolumeId,
};
pub use limits::{BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES};
pub use number::{BlockIndex, Epoch, ExtentIndex, Generation, Seq, Version};
pub use role::{ReplicaRole, joint};
pub use time::Moment;
