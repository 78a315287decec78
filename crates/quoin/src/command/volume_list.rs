//! `quoin volume list`.

use crate::client::Client;
use crate::failure::Failure;
use crate::view::{Report, json, table};
use quoin_api::v1::{ListVolumesRequest, Volume};

pub(crate) async fn run(client: &Client) -> Result<Report, Failure> {
    let mut volumes = all(client).await?;
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let shapes: Vec<json::Volume> = volumes.iter().map(json::Volume::from).collect();
    let text = table::volumes(&volumes, client.paint, 0);
    Ok(Report::new(text, serde_json::json!({ "volumes": shapes })))
}

/// All volumes, in the manager's order.
pub(crate) async fn all(client: &Client) -> Result<Vec<Volume>, Failure> {
    let reply = client
        .ask(async |mut cluster| Ok(cluster.list_volumes(ListVolumesRequest {}).await?.into_inner()))
        .await?;
    Ok(reply.volumes)
}
