//! End-to-end tests: each item of what a user gets, with real processes and real clients.
//!
//! `cargo xtask test` builds what they need and runs them. By hand: `cargo build --release -p quoin`, then
//! `cargo test -p quoin-e2e -- --nocapture`; `E2E_KEEP=1` keeps the directory of a test that failed.

mod attach;
mod block_status;
mod clients;
mod command_line;
mod copies;
mod crashes;
mod dev_cluster;
mod door;
mod fencing;
mod majority;
mod network;
mod partitions;
mod real_image;
mod restart;
mod roles;
mod rot;
mod segments;
mod shared_memory;
mod slow;
mod takeover;
mod tls;

use std::time::Duration;

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);
