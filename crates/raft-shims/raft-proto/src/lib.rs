//! The messages of raft, for raft-rs 0.7 with prost 0.14. See the README for why this exists.

pub mod confchange;
pub mod eraftpb;

pub use confchange::{ConfChangeI, conf_state_eq, new_conf_change_single};

/// All messages, as raft-rs re-exports them.
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
        EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}
