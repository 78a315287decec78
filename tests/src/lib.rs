//! The harness of the end-to-end tests: real processes, real clients, real sockets.
//!
//! It starts the `quoin` binary that cargo has built (or the one that `QUOIN_BINARY` names), waits for conditions with a
//! deadline and never for a fixed time, and ends every process that it has started, by its pid, when a test is over,
//! however the test ended.
//!
//! It knows nothing of Quoin's crates: only what a user has, which is the binary, its documented command line and NBD. (The judge of
//! what clients saw, `quoin-history`, knows nothing of Quoin either.)

pub mod certificates;
pub mod clock;
pub mod command;
pub mod dev;
pub mod guest;
pub mod http;
pub mod image;
pub mod load;
pub mod nbd;
pub mod network;
pub mod pattern;
pub mod processes;
pub mod record;
pub mod roles;

pub use clock::until;
pub use command::{Background, Ran, program, quoin, run};
pub use dev::Dev;
pub use guest::Guest;
pub use load::Load;
pub use nbd::Nbd;
pub use network::Network;
pub use record::Record;
pub use roles::Roles;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by a test that runs a cluster: on a small machine two of them would spoil each other's timing.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Turn {
    /// Waits until no other cluster runs in this process.
    pub fn take() -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        Self(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
