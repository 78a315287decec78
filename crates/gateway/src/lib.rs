//! The gateway: serves volumes as block devices and replicates them.
//!
//! [`core`] is the composition of volumes and replication, without sockets, clocks or threads; the shell runs it.
//! [`answer`] stands between it and the NBD session. [`words`] is how it and the cluster manager tell each other of that.

pub mod answer;
pub mod config;
pub mod core;
mod shell;
pub mod words;

pub use config::Config;
pub use shell::{RunError, run};
