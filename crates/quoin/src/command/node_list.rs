//! `quoin node list`.

use crate::client::Client;
use crate::failure::Failure;
use crate::view::{Report, json, table};
use quoin_api::v1::{ListNodesRequest, Node};

pub(crate) async fn run(client: &Client) -> Result<Report, Failure> {
    let mut nodes = all(client).await?;
    nodes.sort_by_key(|node| node.id);
    let shapes: Vec<json::Node> = nodes.iter().map(json::Node::from).collect();
    let text = table::nodes(&nodes, client.paint, 0);
    Ok(Report::new(text, serde_json::json!({ "nodes": shapes })))
}

/// All storage nodes, in the manager's order.
pub(crate) async fn all(client: &Client) -> Result<Vec<Node>, Failure> {
    let reply = client
        .ask(async |mut cluster| Ok(cluster.list_nodes(ListNodesRequest {}).await?.into_inner()))
        .await?;
    Ok(reply.nodes)
}
