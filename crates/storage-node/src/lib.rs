//! The storage node: one process, one disk.
//!
//! [`node`] is the composition of disk engine and replicas, without sockets, clocks or threads; the shell runs it.

pub mod config;
pub mod node;
mod shell;

pub use config::Config;
pub use shell::{RunError, run};
