//! The gateway: serves volumes as block devices and replicates them.
//!
//! [`core`] is the composition of volumes and replication, without sockets, clocks or threads; the shell runs it.

pub mod config;
pub mod core;
mod shell;

pub use config::Config;
pub use shell::{RunError, run};
