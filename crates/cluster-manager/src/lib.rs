//! The cluster manager: a raft driver around the pure state machine of `quoin_cluster`.
//!
//! [`run`] is one member of it, three of which make a cluster manager that survives the loss of any one. The parts:
//! [`config`] says what a member is told; `raft` owns raft-rs, the log on disk and the state machine; `live` and `view` join
//! the state with what was heard lately, and `problems` puts it in words; [`member`] decides what is answered and what a
//! leader does unasked, and is the whole of it without clock, socket and thread; `shell` is sockets, tasks and the thread.

pub mod config;
mod live;
pub mod member;
mod metrics;
mod problems;
mod raft;
mod shared;
mod shell;
mod view;

pub use config::{Config, Peer};
pub use raft::{MemberError, StoreError};
pub use shell::{RunError, run};
