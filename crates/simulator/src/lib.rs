//! The whole cluster in one thread, from one seed: gateways, storage nodes, disk engines and the cluster managers' state
//! machine, as they ship, in virtual time, on machines, disks and a network that fail in every way there is.
//!
//! [`run`] plays a seed of a [`Scenario`] and judges it. The same seed gives the same run, bit for bit.

mod checker;
mod clock;
mod disk;
mod faults;
mod moments;
mod queue;
mod random;
mod run;
mod scenario;
mod scenario_file;
mod setup;
mod trace;
mod world;

pub use quoin_history::{History, write as write_history};
pub use run::{Run, run};
pub use scenario::Scenario;
pub use trace::Trace;
