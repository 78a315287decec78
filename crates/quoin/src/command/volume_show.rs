//! `quoin volume show`.

use crate::client::Client;
use crate::command::{node_list, volume_list};
use crate::failure::Failure;
use crate::units::size::Size;
use crate::view::{Report, json, status, table};
use clap::Args;
use quoin_api::v1::{GetVolumeRequest, Volume};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tonic::{Code, Status};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The volume's name
    name: String,
}

pub(crate) async fn run(client: &Client, args: ShowArgs) -> Result<Report, Failure> {
    let volume = get(client, &args.name).await?;
    let nodes = node_list::all(client).await?;
    let names: BTreeMap<u64, String> = nodes.into_iter().map(|node| (node.id, node.name)).collect();
    let paint = client.paint;
    let mut fields = vec![
        ("name", volume.name.clone()),
        ("id", volume.id.to_string()),
        ("size", Size(volume.size_bytes).to_string()),
        ("segments", format!("{} of {} at most", volume.segments.len(), Size(volume.segment_bytes))),
        ("replicas", volume.replicas.to_string()),
        ("durability", volume.durability().or_default().to_string()),
        ("state", table::volume_state(&volume, paint)),
        ("epoch", volume.epoch.to_string()),
        ("attached to", table::attachment(&volume, paint)),
    ];
    fields.extend(status::change(&volume).map(|words| ("changing", words)));
    let mut text = table::fields(&fields);
    text.push_str("copies\n");
    for line in status::copies(&volume, &names, paint) {
        writeln!(text, "  {line}").expect("writing to a String cannot fail");
    }
    if !volume.snapshots.is_empty() {
        text.push_str("snapshots\n");
        text.push_str(&table::snapshots(std::slice::from_ref(&volume), paint, 2));
    }
    Ok(Report::new(text, json::Volume::from(&volume)))
}

/// The volume of that name.
pub(crate) async fn get(client: &Client, name: &str) -> Result<Volume, Failure> {
    let request = || GetVolumeRequest { name: name.to_owned() };
    let answer =
        client.ask_raw(async |mut cluster| Ok(cluster.get_volume(request()).await?.into_inner())).await;
    match answer {
        Ok(volume) => Ok(volume),
        Err(status) if status.code() == Code::NotFound => Err(not_found(client, name).await),
        Err(status) => Err(client.failure(&status)),
    }
}

/// What a refusal means, about a volume that may have been misspelt.
pub(crate) async fn refused(client: &Client, name: &str, status: &Status) -> Failure {
    let is_unknown = status.code() == Code::NotFound
        && status.message().starts_with(&format!("there is no volume `{name}`"));
    if is_unknown { not_found(client, name).await } else { client.failure(status) }
}

/// That there is no such volume, with those that there are: most often the name was misspelt.
pub(crate) async fn not_found(client: &Client, name: &str) -> Failure {
    let failure = Failure::not_found(format!("volume {name} does not exist"));
    let names: Vec<String> = match volume_list::all(client).await {
        Ok(volumes) => volumes.into_iter().map(|volume| volume.name).take(8).collect(),
        Err(_) => Vec::new(),
    };
    match names.is_empty() {
        true => failure.hint("`quoin volume list` shows the volumes that exist"),
        false => failure.hint(format!("there is {}; `quoin volume list` shows all", names.join(", "))),
    }
}
