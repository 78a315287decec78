//! `quoin volume move`.

use crate::client::{Client, Once};
use crate::command::{change, volume_show};
use crate::failure::Failure;
use crate::view::{Report, json};
use clap::Args;
use quoin_api::v1::MoveReplicaRequest;

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The volume's name
    volume: String,
    /// The storage node that its copies leave: a name or a number
    #[arg(long, value_name = "NODE")]
    from: String,
    /// The storage node that they go to [default: wherever they are placed best]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Only the copy of this segment, from 0
    #[arg(long, value_name = "N")]
    segment: Option<u32>,
    #[command(flatten)]
    wait: change::WaitArgs,
}

pub(crate) async fn run(client: &Client, args: MoveArgs) -> Result<Report, Failure> {
    let once = Once::new()?;
    let request = || MoveReplicaRequest {
        volume: args.volume.clone(),
        segment: args.segment,
        from: args.from.clone(),
        to: args.to.clone().unwrap_or_default(),
    };
    let answer = client
        .ask_raw(async |mut cluster| Ok(cluster.move_replica(once.request(request())).await?.into_inner()))
        .await;
    let begun = match answer {
        Ok(volume) => volume,
        Err(status) => return Err(volume_show::refused(client, &args.volume, &status).await),
    };
    let volume = change::wait(client, begun, &args.wait).await?;
    let verb = if args.wait.no_wait { "moving" } else { "moved" };
    let text = format!("{verb} the copies of {} off {}\n", volume.name, args.from);
    Ok(Report::new(text, json::Volume::from(&volume)))
}
