//! What every role does alike when it runs as a process: its admin port, its log, its reaction to signals, its word to the
//! service manager, its waiting.
//!
//! Options are not here: they belong to the binary, which hands each role a finished `Config`.

pub mod admin;
pub mod alarm;
pub mod busy_poll;
pub mod logging;
pub mod notify;
pub mod shutdown;
