//! `quoin devices`: the volumes that are disks of this machine.

use crate::cli::Output;
use crate::failure::Failure;
use crate::view::{Report, attached};
use clap::Args;
use quoin_attach::device::{self, Attached, Places};

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

pub(crate) fn run() -> Result<Report, Failure> {
    let found = Places::default().attached().map_err(|error| Failure::io("read /sys/block", &error))?;
    let shapes: Vec<_> = found.iter().map(attached::Attached::from).collect();
    Ok(Report::new(attached::table(&found), serde_json::json!({ "devices": shapes })))
}

/// The device by its own name, its volume's, or where it is mounted.
pub(crate) fn find(name: &str) -> Result<Option<Attached>, Failure> {
    device::named(&Places::default(), name).map_err(|error| Failure::io("read /sys/block", &error))
}
