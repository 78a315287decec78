//! The client's side of the protocol, as far as a relay between the kernel's client and a gateway needs it.
//!
//! [`ClientHandshake`] opens an export; [`Relay`] remembers what is unanswered on one connection, so that it can be sent
//! again after that broke. Both are pure: bytes in, bytes out. Not here: sockets, time, when to connect again, and what
//! the kernel is told.

mod handshake;
mod relay;

pub use handshake::{ClientHandshake, ClientStep, OpenError, OpenedExport};
pub use relay::{Relay, RelayError, Replies, Requests};
