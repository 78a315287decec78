//! The pure heart: replication of one segment, on both sides.
//!
//! [`writer`] is the gateway's side: it numbers writes, sends them to all voters, counts positions, decides when a client
//! may be answered, attaches, and brings replicas back. [`replica`] is the storage node's side: it decides what a replica
//! may promise, take, serve and forget. Neither owns a socket, a disk, a clock, a thread or a random source: moments are
//! parameters, messages and storage operations are returned.
//!
//! The rules (W1 … S4) are stated and argued in `docs/replication.md`; comments here cite them by number.

pub mod history;
pub mod replica;
pub mod timing;
pub mod writer;

pub use history::{common_point, end_point};
pub use timing::Timing;
