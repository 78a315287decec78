//! The asynchronous shell: sockets, tasks and time. It decides nothing.

mod admin;
mod agent;
mod cluster;
mod directory;
mod driver;
mod failure;
mod figures;
mod route;
mod run;
mod transport;
mod watch;

pub use run::{RunError, run};
