//! The asynchronous shell: sockets, tasks and time. It decides nothing.

mod admin;
mod agent;
mod changes;
mod cluster;
mod duties;
mod failure;
mod placement;
mod route;
mod run;
mod snapshots;
mod transport;
mod watch;

pub use run::{RunError, run};
