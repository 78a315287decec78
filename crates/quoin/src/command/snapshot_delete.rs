//! `quoin snapshot delete`.

use crate::client::{Client, Once};
use crate::command::volume_show;
use crate::failure::Failure;
use crate::view::Report;
use clap::Args;
use quoin_api::v1::DeleteSnapshotRequest;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The volume's name
    volume: String,
    /// The snapshot's name
    name: String,
}

pub(crate) async fn run(client: &Client, args: DeleteArgs) -> Result<Report, Failure> {
    let once = Once::new()?;
    let request = || DeleteSnapshotRequest { volume: args.volume.clone(), name: args.name.clone() };
    let answer = client
        .ask_raw(async |mut cluster| cluster.delete_snapshot(once.request(request())).await.map(drop))
        .await;
    if let Err(status) = answer {
        return Err(volume_show::refused(client, &args.volume, &status).await);
    }
    let text = format!("deleted snapshot {} of {}\n", args.name, args.volume);
    Ok(Report::new(text, serde_json::json!({ "volume": args.volume, "deleted": args.name })))
}
