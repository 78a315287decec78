//! `quoin volume set-replicas`.

use crate::client::{Client, Once};
use crate::command::{change, volume_show};
use crate::failure::Failure;
use crate::view::{Report, json, words};
use clap::Args;
use quoin_api::v1::SetReplicasRequest;
use quoin_types::limits::REPLICAS_MAX;

#[derive(Debug, Args)]
pub(crate) struct SetReplicasArgs {
    /// The volume's name
    volume: String,
    /// How many copies it is to have, each on another storage node
    #[arg(value_parser = clap::value_parser!(u32).range(1..=REPLICAS_MAX as i64))]
    replicas: u32,
    #[command(flatten)]
    wait: change::WaitArgs,
}

pub(crate) async fn run(client: &Client, args: SetReplicasArgs) -> Result<Report, Failure> {
    let once = Once::new()?;
    let request = || SetReplicasRequest { volume: args.volume.clone(), replicas: args.replicas };
    let answer = client
        .ask_raw(async |mut cluster| Ok(cluster.set_replicas(once.request(request())).await?.into_inner()))
        .await;
    let begun = match answer {
        Ok(volume) => volume,
        Err(status) => return Err(volume_show::refused(client, &args.volume, &status).await),
    };
    let volume = change::wait(client, begun, &args.wait).await?;
    let verb = if args.wait.no_wait { "is to have" } else { "has" };
    let replicas = words::count(args.replicas as usize, "replica", "replicas");
    let text = format!("{} {verb} {replicas}\n", volume.name);
    Ok(Report::new(text, json::Volume::from(&volume)))
}
