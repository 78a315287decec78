//! What storage nodes ask.

use super::request::{Refused, Reply};
use super::step::{Context, Point, Step, Until, other_request};
use crate::live::NodeReport;
use quoin_api::v1;
use quoin_cluster::apply::{check_next_start, check_unformatted_disk};
use quoin_cluster::command::RegisterNode;
use quoin_cluster::rules::check_member_name;
use quoin_cluster::{Command, Node, Outcome, Refusal, RefusalKind};
use quoin_types::{ClusterId, DiskId, InstanceId, NodeId, ReplicaId, StartMark};

pub(super) fn register(
    asked: &v1::RegisterNodeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    let result = try_register(asked, point, cx);
    if let Err(refused) = &result
        && refused.kind == RefusalKind::Precondition
        && check_member_name(&asked.name, "a node").is_ok()
    {
        let why = refused.message.lines().next().unwrap_or_default().to_owned();
        tracing::warn!(node = asked.name, why, "a storage node is refused");
        cx.live.node_refused(&asked.name, why, cx.now);
    }
    result
}

fn try_register(
    asked: &v1::RegisterNodeRequest,
    point: Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    match point {
        Point::Begun => return Ok(Step::Read),
        Point::Applied(result) => {
            let Outcome::Node(id) = result? else { return Err(other_request()) };
            return registered(asked, id, cx);
        }
        Point::Current | Point::Look(_) => {}
    }
    let Some(this) = cx.state.cluster_id() else { return Ok(Step::TryAgain) };
    let given = ClusterId::from_slice(&asked.cluster_id);
    if let Some(disk_of) = given.filter(|given| *given != this) {
        return Err(Refusal::OtherCluster { disk_of, this }.into());
    }
    if asked.disk.is_empty() {
        check_unformatted_disk(cx.state, &asked.name)?;
        return Ok(Step::Answer(reply(this, NodeId(0))));
    }
    given.ok_or_else(|| Refused::invalid("a formatted disk names its cluster"))?;
    let node = register_command(asked, this)?;
    if asked.asks {
        check_next_start(cx.state, &node, start_mark(&asked.last_mark)?)?;
        return Ok(Step::Answer(reply(this, NodeId(0))));
    }
    let known = cx.state.node_named(&node.name).filter(|known| is_same(known, &node)).map(|known| known.id);
    match known {
        Some(id) => registered(asked, id, cx),
        None => Ok(Step::Propose(Command::RegisterNode(node))),
    }
}

fn registered(asked: &v1::RegisterNodeRequest, id: NodeId, cx: &mut Context<'_>) -> Result<Step, Refused> {
    let Some(this) = cx.state.cluster_id() else { return Ok(Step::TryAgain) };
    cx.live.node_accepted(&asked.name);
    let report = NodeReport {
        used_bytes: 0,
        capacity_bytes: asked.capacity_bytes,
        damaged_extents: 0,
        leaving: false,
    };
    hear(id, disk_id(&asked.disk)?, asked.start_count, report, cx);
    Ok(Step::Answer(reply(this, id)))
}

fn reply(cluster_id: ClusterId, node: NodeId) -> Reply {
    v1::RegisterNodeReply { cluster_id: cluster_id.0.to_vec(), node: node.0 }.into()
}

/// Whether a registration says what is known already, from the same process.
fn is_same(known: &Node, asked: &RegisterNode) -> bool {
    known.disk == asked.disk
        && known.start_count == asked.start_count
        && known.instance.is_some()
        && known.instance == asked.instance
        && known.data_address == asked.data_address
        && known.admin_address == asked.admin_address
        && known.zone == asked.zone
        && known.capacity_bytes == asked.capacity_bytes
        && known.version == asked.version
}

fn register_command(asked: &v1::RegisterNodeRequest, cluster_id: ClusterId) -> Result<RegisterNode, Refused> {
    let instance = if asked.instance.is_empty() { None } else { Some(instance_id(&asked.instance)?) };
    Ok(RegisterNode {
        cluster_id,
        name: asked.name.clone(),
        disk: disk_id(&asked.disk)?,
        start_count: asked.start_count,
        instance,
        data_address: asked.data_address.clone(),
        admin_address: asked.admin_address.clone(),
        zone: asked.zone.clone(),
        capacity_bytes: asked.capacity_bytes,
        version: asked.version.clone(),
    })
}

/// The last heartbeat of a node that stops is answered when it stands in the state that the node has left: once the node is
/// told so, no leader to come places anything on it.
pub(super) fn heartbeat(
    asked: &v1::NodeHeartbeatRequest,
    point: &Point,
    cx: &mut Context<'_>,
) -> Result<Step, Refused> {
    let (node, start_count) = (NodeId(asked.node), asked.start_count);
    let mut known = true;
    if *point == Point::Begun {
        let report = NodeReport {
            used_bytes: asked.used_bytes,
            capacity_bytes: asked.capacity_bytes,
            damaged_extents: asked.damaged_extents,
            leaving: asked.leaving,
        };
        known = hear(node, disk_id(&asked.disk)?, start_count, report, cx);
        cx.hurry = known && asked.leaving;
    }
    let is_there = |node: &Node| node.health.is_online() && node.start_count == start_count;
    if known && asked.leaving && cx.state.nodes().get(&node).is_some_and(is_there) {
        return Ok(Step::Wait(Until::Gone(node, start_count)));
    }
    Ok(Step::Answer(v1::HeartbeatReply { known, leader: String::new() }.into()))
}

/// Takes note of a report, if it is of the process that registered last. Another one must register again, and will be
/// refused.
fn hear(node: NodeId, disk: DiskId, start_count: u64, report: NodeReport, cx: &mut Context<'_>) -> bool {
    let this_start = |node: &&Node| node.disk == disk && node.start_count == start_count;
    let node = cx.state.nodes().get(&node).filter(this_start);
    if let Some(node) = node {
        cx.live.node_heard(node, report, cx.now);
    }
    node.is_some()
}

/// A node is told which of its replicas are unwanted once its report is applied: whatever view it created them for, this
/// state comes after it. A replica that a view from behind brought back to a disk goes this way.
pub(super) fn report_replicas(
    asked: &v1::ReportReplicasRequest,
    point: Point,
    cx: &Context<'_>,
) -> Result<Step, Refused> {
    let (node, disk) = (NodeId(asked.node), disk_id(&asked.disk)?);
    let created: Vec<ReplicaId> = asked.created.iter().copied().map(ReplicaId).collect();
    if let Point::Applied(result) = point {
        result?;
        let unwanted = cx.state.unwanted_on(node, disk, &created);
        let unwanted = unwanted.into_iter().map(|id| id.0).collect();
        return Ok(Step::Answer(v1::ReportReplicasReply { unwanted }.into()));
    }
    Ok(Step::Propose(Command::ReportReplicas {
        node,
        disk,
        created,
        dropped: asked.dropped.iter().copied().map(ReplicaId).collect(),
    }))
}

fn disk_id(bytes: &[u8]) -> Result<DiskId, Refused> {
    DiskId::from_slice(bytes).ok_or_else(|| Refused::invalid("a disk's id has 16 bytes"))
}

/// What a disk says of its last start.
fn start_mark(bytes: &[u8]) -> Result<StartMark, Refused> {
    if bytes.is_empty() {
        return Ok(StartMark::default());
    }
    let mark = bytes.try_into().map_err(|_| Refused::invalid("the mark of a start has 8 bytes"))?;
    Ok(StartMark(mark))
}

/// The id of a process, as it says it.
pub(super) fn instance_id(bytes: &[u8]) -> Result<InstanceId, Refused> {
    InstanceId::from_slice(bytes).ok_or_else(|| Refused::invalid("an instance id has 16 bytes"))
}
