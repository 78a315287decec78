//! The control plane as a pure state machine: who exists, where copies live, who may write.
//!
//! [`State`] is everything the cluster manager knows for good. [`apply`] changes it by one [`Command`], and is the only
//! thing that does: the same commands in the same order give the same state on every member. This crate owns no clock, no
//! random source and no socket; whatever a decision needs from outside (who was heard of, how much space is free, fresh ids,
//! the time) travels in the command. What is only true for a moment (heartbeats) is not here at all; what a leader concludes
//! from it (a node is unreachable) is.

pub mod apply;
pub mod codec;
pub mod command;
pub mod health;
mod index;
pub mod planner;
pub mod refusal;
pub mod requests;
pub mod rules;
pub mod segment;
pub mod state;
pub mod volume;

pub use apply::{apply, apply_proposal};
pub use command::{Candidate, Command, Outcome, Previous, Proposal, RequestId, SegmentAt, SegmentChange};
pub use health::{Absence, Cause, ClusterTime, Health, HealthChange};
pub use refusal::{Refusal, RefusalKind};
pub use segment::{Change, ChangeStage, Replica, ReplicaState, Segment};
pub use state::{Node, State};
pub use volume::{Attachment, Run, Snapshot, SnapshotState, Volume, VolumeStage};
