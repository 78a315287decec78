//! What is around raft-rs. Nothing of raft-rs is named outside this module.
//!
//! [`consensus`] owns the raft node, its log on disk and the right to change the state machine. It has no clock, thread or
//! socket: whoever drives it says what time it is and carries its messages. Everyone else looks at what it publishes
//! ([`crate::shared`]).

mod backend;
mod consensus;
mod inbound;
mod log;
mod logger;
mod members;
mod pending;
mod random;
mod store;

pub use consensus::MemberError;
pub(crate) use consensus::{Consensus, Outbox};
pub(crate) use inbound::parse as parse_message;
pub(crate) use members::{MemberChange, Membership};
pub(crate) use pending::{Asker, Heard};
pub(crate) use random::Random;
pub use store::StoreError;

/// A message to another member, as the transport sees it: bytes, and what the transport must know about them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboundMessage {
    /// The member it is for.
    pub to: u64,
    /// Whether it carries a snapshot, which may be large and whose fate raft wants to know.
    pub snapshot: bool,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

/// A checked message from another member.
#[derive(Debug)]
pub(crate) struct InboundMessage(pub(crate) raft::eraftpb::Message);
