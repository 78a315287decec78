//! The storage node: one process, one disk.
//!
//! [`node`] is the composition of disk engine and replicas, without sockets, clocks or threads; the shell runs it.
//! [`words`] is how the cluster manager tells it what belongs on its disk.

pub mod config;
pub mod node;
mod shell;
pub mod words;

pub use config::Config;
pub use shell::{RunError, run};
