//! `quoin node show`.

use crate::client::Client;
use crate::command::{node_list, volume_list};
use crate::failure::Failure;
use crate::units::duration::human;
use crate::units::size::Size;
use crate::view::{Report, json, table, words};
use clap::Args;
use quoin_api::v1::{GetNodeRequest, Node, Volume};
use quoin_types::hex;
use std::time::Duration;
use tonic::Code;

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The node's name or number
    node: String,
}

pub(crate) async fn run(client: &Client, args: ShowArgs) -> Result<Report, Failure> {
    let node = get(client, &args.node).await?;
    let volumes = volume_list::all(client).await?;
    let text = render(client, &node, &volumes);
    let placements = json::placements(&volumes, node.id);
    Ok(Report::new(text, json::NodeDetail { node: json::Node::from(&node), placements }))
}

async fn get(client: &Client, name: &str) -> Result<Node, Failure> {
    let request = || GetNodeRequest { name: name.to_owned() };
    let answer =
        client.ask_raw(async |mut cluster| Ok(cluster.get_node(request()).await?.into_inner())).await;
    match answer {
        Ok(node) => Ok(node),
        Err(status) if status.code() == Code::NotFound => {
            let nodes = node_list::all(client).await.unwrap_or_default();
            let names: Vec<String> = nodes.into_iter().map(|node| node.name).take(8).collect();
            let hint = match names.is_empty() {
                true => "no storage node has registered yet".to_owned(),
                false => format!("there is {}; `quoin node list` shows all", names.join(", ")),
            };
            Err(Failure::not_found(format!("storage node {name} does not exist")).hint(hint))
        }
        Err(status) => Err(client.failure(&status)),
    }
}

fn damage(extents: u64) -> String {
    match extents {
        0 => "none".to_owned(),
        1 => "1 extent, not repaired yet".to_owned(),
        more => format!("{more} extents, not repaired yet"),
    }
}

fn render(client: &Client, node: &Node, volumes: &[Volume]) -> String {
    let mut text = table::fields(&[
        ("name", node.name.clone()),
        ("id", node.id.to_string()),
        ("health", table::node_health(node, client.paint)),
        ("last heard of", format!("{} ago", human(Duration::from_millis(node.last_heartbeat_age_ms)))),
        ("zone", node.zone.clone()),
        ("data address", node.data_address.clone()),
        ("admin address", node.admin_address.clone()),
        ("disk", hex::encode(&node.disk)),
        ("used", format!("{} of {}", Size(node.used_bytes), Size(node.capacity_bytes))),
        ("damage", damage(node.damaged_extents)),
        ("starts", node.start_count.to_string()),
        ("version", node.version.clone()),
    ]);
    let mut rows = Vec::new();
    for volume in volumes {
        for segment in &volume.segments {
            for replica in segment.replicas.iter().filter(|replica| replica.node == node.id) {
                rows.push(vec![
                    volume.name.clone(),
                    segment.index.to_string(),
                    replica.id.to_string(),
                    words::replica_health(replica.health()).replace('_', " "),
                ]);
            }
        }
    }
    text.push('\n');
    text.push_str(&table::table(&["VOLUME", "SEGMENT", "REPLICA", "HEALTH"], rows, 0, "it holds no replica"));
    text
}
