//! The driver around raft-rs. Nothing of raft-rs is named outside this module.
//!
//! One thread owns the raft node, its log on disk and the right to change the state machine ([`driver`]); everyone else
//! sends it events and looks at what it publishes ([`crate::shared`]).

pub(crate) mod driver;
mod inbound;
mod log;
mod logger;
mod pending;
mod random;
mod store;

pub use driver::DriverError;
pub(crate) use driver::{Driver, Handle, TryAgain};
pub(crate) use inbound::parse as parse_message;
pub use store::StoreError;

/// A message between members, as the transport sees it: bytes, and what the transport must know about them.
#[derive(Debug)]
pub(crate) struct OutboundMessage {
    /// The member it is for.
    pub(crate) to: u64,
    /// Whether it carries a snapshot, which may be large and whose fate raft wants to know.
    pub(crate) snapshot: bool,
    /// The encoded message.
    pub(crate) bytes: Vec<u8>,
}

/// A checked message from another member.
#[derive(Debug)]
pub(crate) struct InboundMessage(pub(crate) raft::eraftpb::Message);
