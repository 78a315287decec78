//! `quoin volume resize`.

use crate::client::Client;
use crate::command::{volume_create, volume_show};
use crate::failure::Failure;
use crate::units::size::Size;
use crate::view::{Report, json};
use clap::Args;
use quoin_api::v1::ResizeVolumeRequest;
use tonic::Code;

#[derive(Debug, Args)]
pub(crate) struct ResizeArgs {
    /// The volume's name
    name: String,
    /// Its new size, not below the present one
    #[arg(long)]
    size: Size,
}

pub(crate) async fn run(client: &Client, args: ResizeArgs) -> Result<Report, Failure> {
    volume_create::check_size(args.size)?;
    let request = || ResizeVolumeRequest { name: args.name.clone(), size_bytes: args.size.0 };
    let answer =
        client.ask_raw(async |mut cluster| Ok(cluster.resize_volume(request()).await?.into_inner())).await;
    let volume = match answer {
        Ok(volume) => volume,
        Err(status) if status.code() == Code::NotFound => {
            return Err(volume_show::not_found(client, &args.name).await);
        }
        Err(status) => return Err(client.failure(&status)),
    };
    let text = format!("{} has {}\n", volume.name, Size(volume.size_bytes));
    Ok(Report::new(text, json::Volume::from(&volume)))
}
