//! Volumes as disks of this machine: Linux's NBD client, set up through its netlink interface, and the process that stays
//! with it.
//!
//! The kernel gets one end of a socket pair for each connection; a [`Session`] relays between the other end and the
//! gateway and remembers what is unanswered. When the gateway goes away it connects again and sends that again, and the
//! kernel notices nothing but a pause. Why not the gateway's own sockets:
//! `docs/decisions/2026-11-21-attach-relays-requests.md`.
//!
//! A composition of pure parts (`quoin_nbd::client`, [`netlink`]'s messages, [`filesystem`]'s judgement) with the sockets
//! and files that they need. Not here: what a user types, and how errors are worded for users.

pub mod device;
mod error;
pub mod filesystem;
mod link;
mod lock;
pub mod netlink;
mod origin;
mod session;
mod upstream;

pub use error::Error;
pub use origin::{Origin, OriginError};
pub use session::{Ended, Options, Session, detach};
