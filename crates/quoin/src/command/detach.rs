//! `quoin detach`: ends a disk that `quoin attach` has made.

use crate::cli::Output;
use crate::command::attach::{failure, named};
use crate::failure::Failure;
use crate::view::Report;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// The volume, or its device
    #[arg(value_name = "VOLUME|/dev/nbdN")]
    name: String,
    /// Detach it even if it is in use; what is cached and not written yet is lost
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: DetachArgs) -> Result<Report, Failure> {
    let attached = named(&args.name)?;
    let (device, volume) = (attached.device, attached.backend.volume.clone());
    quoin_attach::detach(attached, args.force).await.map_err(|error| failure(&error))?;
    Ok(Report::new(
        format!("detached {volume} from {device}\n"),
        serde_json::json!({ "volume": volume, "device": device.to_string(), "detached": true }),
    ))
}
