//! `quoin snapshot list`.

use crate::client::Client;
use crate::command::{volume_list, volume_show};
use crate::failure::Failure;
use crate::view::{Report, json, table};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only those of this volume
    volume: Option<String>,
}

pub(crate) async fn run(client: &Client, args: ListArgs) -> Result<Report, Failure> {
    let mut volumes = match &args.volume {
        Some(name) => vec![volume_show::get(client, name).await?],
        None => volume_list::all(client).await?,
    };
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let of = |volume: &quoin_api::v1::Volume| -> Vec<json::Snapshot> {
        volume.snapshots.iter().map(|snapshot| json::Snapshot::of(&volume.name, snapshot)).collect()
    };
    let shapes: Vec<json::Snapshot> = volumes.iter().flat_map(of).collect();
    let text = table::snapshots(&volumes, client.paint, 0);
    Ok(Report::new(text, serde_json::json!({ "snapshots": shapes })))
}
