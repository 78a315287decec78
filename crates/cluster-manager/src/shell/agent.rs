//! The `Agent` service: what storage nodes and gateways ask.

use super::cluster::volume_in_use;
use super::failure::{Failure, with_hint};
use super::route::{Api, Call, random_16};
use super::watch::{WatchStream, watch};
use crate::live::{GatewayReport, InUse, NodeReport};
use crate::view;
use quoin_api::v1;
use quoin_api::v1::agent_client::AgentClient;
use quoin_api::v1::agent_server::Agent;
use quoin_cluster::apply::check_unformatted_disk;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::rules::check_member_name;
use quoin_cluster::{Command, Node, Outcome, Previous, Refusal, RequestId, State};
use quoin_disk::clock;
use quoin_types::{ClusterId, DiskId, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, VolumeId};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Response, Status};

/// How often to look whether a gateway has reported.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The service, at any member.
pub(crate) struct AgentService(pub(crate) Arc<Api>);

/// Answers one method here or at the leader.
macro_rules! route {
    ($self:ident, $request:ident, $method:ident) => {
        $self
            .0
            .route(
                $request,
                |api, call, message| async move { api.$method(call, message).await },
                |channel, request| async move { AgentClient::new(channel).$method(request).await },
            )
            .await
    };
}

#[tonic::async_trait]
impl Agent for AgentService {
    type WatchReplicasStream = WatchStream<v1::ReplicaAssignments>;
    type WatchGatewayStream = WatchStream<v1::GatewayView>;

    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Result<Response<v1::RegisterNodeReply>, Status> {
        route!(self, request, register_node)
    }

    async fn node_heartbeat(
        &self,
        request: Request<v1::NodeHeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        route!(self, request, node_heartbeat)
    }

    async fn report_replicas(
        &self,
        request: Request<v1::ReportReplicasRequest>,
    ) -> Result<Response<v1::ReportReplicasReply>, Status> {
        route!(self, request, report_replicas)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachReply>, Status> {
        route!(self, request, attach)
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::DetachReply>, Status> {
        route!(self, request, detach)
    }

    async fn gateway_heartbeat(
        &self,
        request: Request<v1::GatewayHeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        route!(self, request, gateway_heartbeat)
    }

    async fn watch_replicas(
        &self,
        request: Request<v1::WatchReplicasRequest>,
    ) -> Result<Response<Self::WatchReplicasStream>, Status> {
        let asked = request.into_inner();
        let (node, disk) = (NodeId(asked.node), disk_id(&asked.disk)?);
        let revision = move |state: &State| state.node_revision(node);
        let project = move |state: &State| view::replica_assignments(state, node, disk);
        Ok(Response::new(watch(&self.0, revision, project)))
    }

    async fn watch_gateway(
        &self,
        request: Request<v1::WatchGatewayRequest>,
    ) -> Result<Response<Self::WatchGatewayStream>, Status> {
        let gateway = GatewayId(request.into_inner().gateway);
        check_member_name(&gateway.0, "a gateway").map_err(|refusal| super::failure::refused(&refusal))?;
        let of = gateway.clone();
        let revision = move |state: &State| state.gateway_revision(&of);
        let project = move |state: &State| view::gateway_view(state, &gateway);
        Ok(Response::new(watch(&self.0, revision, project)))
    }
}

/// The methods, at the leader.
impl Api {
    async fn register_node(
        &self,
        call: Call,
        asked: v1::RegisterNodeRequest,
    ) -> Result<v1::RegisterNodeReply, Failure> {
        let result = self.try_register_node(call, &asked).await;
        if let Err(Failure::Status(status)) = &result
            && status.code() == Code::FailedPrecondition
            && check_member_name(&asked.name, "a node").is_ok()
        {
            let why = status.message().lines().next().unwrap_or_default().to_owned();
            tracing::warn!(node = asked.name, why, "a storage node is refused");
            let now = clock::now();
            self.shared.live(now).node_refused(&asked.name, why, now);
        }
        result
    }

    async fn try_register_node(
        &self,
        call: Call,
        asked: &v1::RegisterNodeRequest,
    ) -> Result<v1::RegisterNodeReply, Failure> {
        self.read_barrier(call).await?;
        let this = self.shared.state().cluster_id().ok_or(Failure::TryAgain)?;
        let given = ClusterId::from_slice(&asked.cluster_id);
        if let Some(disk_of) = given.filter(|given| *given != this) {
            return Err(Refusal::OtherCluster { disk_of, this }.into());
        }
        if asked.disk.is_empty() {
            check_unformatted_disk(&self.shared.state(), &asked.name)?;
            return Ok(v1::RegisterNodeReply { cluster_id: this.0.to_vec(), node: 0 });
        }
        given.ok_or_else(|| Status::invalid_argument("a formatted disk names its cluster"))?;
        let node = register_command(asked, this)?;
        let disk = node.disk;
        let known =
            self.shared.state().node_named(&node.name).filter(|known| is_same(known, &node)).map(|n| n.id);
        let id = match known {
            Some(id) => id,
            None => match self.propose(call, Command::RegisterNode(node)).await? {
                Outcome::Node(id) => id,
                _ => return Err(other_request()),
            },
        };
        self.shared.live(clock::now()).node_accepted(&asked.name);
        let report = NodeReport {
            used_bytes: 0,
            capacity_bytes: asked.capacity_bytes,
            damaged_extents: 0,
            leaving: false,
        };
        self.hear(id, disk, asked.start_count, report);
        Ok(v1::RegisterNodeReply { cluster_id: this.0.to_vec(), node: id.0 })
    }

    async fn node_heartbeat(
        &self,
        call: Call,
        asked: v1::NodeHeartbeatRequest,
    ) -> Result<v1::HeartbeatReply, Failure> {
        let (node, disk) = (NodeId(asked.node), disk_id(&asked.disk)?);
        let v1::NodeHeartbeatRequest {
            start_count,
            used_bytes,
            capacity_bytes,
            damaged_extents,
            leaving,
            ..
        } = asked;
        let report = NodeReport { used_bytes, capacity_bytes, damaged_extents, leaving };
        let known = self.hear(node, disk, start_count, report);
        if known && leaving {
            self.until_gone(call, node, start_count).await?;
        }
        Ok(v1::HeartbeatReply { known })
    }

    /// Takes note of a report, if it is of the process that registered last. Another one must register again, and will be
    /// refused.
    fn hear(&self, node: NodeId, disk: DiskId, start_count: u64, report: NodeReport) -> bool {
        let now = clock::now();
        let mut live = self.shared.live(now);
        let state = self.shared.state();
        let this_start = |node: &&Node| node.disk == disk && node.start_count == start_count;
        let node = state.nodes().get(&node).filter(this_start);
        if let Some(node) = node {
            live.node_heard(node, report, now);
        }
        node.is_some()
    }

    /// Waits until it stands in the state that a node has left: once the node is told so, no leader to come places
    /// anything on it.
    async fn until_gone(&self, call: Call, node: NodeId, start_count: u64) -> Result<(), Failure> {
        self.goodbye.notify_one();
        let is_gone = |node: &Node| !node.health.is_online() || node.start_count != start_count;
        let mut applied = self.shared.applied.subscribe();
        let gone = applied.wait_for(|_| self.shared.state().nodes().get(&node).is_none_or(is_gone));
        let mut leadership = self.shared.leadership.subscribe();
        tokio::select! {
            _ = gone => Ok(()),
            _ = leadership.wait_for(|now| !now.leading) => Err(Failure::TryAgain),
            () = tokio::time::sleep_until(call.deadline) => Err(Failure::TryAgain),
        }
    }

    async fn report_replicas(
        &self,
        call: Call,
        asked: v1::ReportReplicasRequest,
    ) -> Result<v1::ReportReplicasReply, Failure> {
        let command = Command::ReportReplicas {
            node: NodeId(asked.node),
            disk: disk_id(&asked.disk)?,
            created: asked.created.into_iter().map(ReplicaId).collect(),
            dropped: asked.dropped.into_iter().map(ReplicaId).collect(),
        };
        self.propose(call, command).await?;
        Ok(v1::ReportReplicasReply {})
    }

    async fn attach(&self, call: Call, asked: v1::AttachRequest) -> Result<v1::AttachReply, Failure> {
        let gateway = GatewayId(asked.gateway);
        let instance = instance_id(&asked.instance)?;
        loop {
            self.read_barrier(call).await?;
            let expected_epoch = self.may_attach(call, &asked.volume, &gateway, asked.take_over).await?;
            let command = Command::Attach {
                volume: asked.volume.clone(),
                gateway: gateway.clone(),
                instance,
                expected_epoch,
            };
            match self.propose(call, command).await {
                // Somebody else attached between the look and the command: look again.
                Err(Failure::Status(status)) if status.code() == Code::Aborted => {}
                Err(failure) => return Err(failure),
                Ok(Outcome::Attached { volume, epoch, previous }) => {
                    return self.attached(volume, epoch, previous);
                }
                Ok(_) => return Err(other_request()),
            }
        }
    }

    /// The epoch of the attachment that may be replaced. If it is not known yet whether clients would be hurt, this waits
    /// until it is, as long as the call's time allows.
    async fn may_attach(
        &self,
        call: Call,
        name: &str,
        gateway: &GatewayId,
        take_over: bool,
    ) -> Result<Epoch, Failure> {
        loop {
            let found = self.view(|view| {
                let volume = view.state.volume_named(name)?;
                Some((volume.id, volume.epoch, view.live.in_use(volume, Some(gateway), view.now)))
            });
            let (id, epoch, in_use) = found.ok_or_else(|| Refusal::VolumeUnknown(name.to_owned()))?;
            let hint = "disconnect its clients first, or take the volume over, which cuts them off";
            match in_use {
                Some(InUse::NotKnownYet { .. }) if !take_over && call.has_time_for(LOOK_AGAIN * 4) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Some(in_use) if !take_over => return Err(volume_in_use(name, &in_use, hint)),
                _ => {
                    let now = clock::now();
                    self.shared.live(now).attaching(id, gateway.clone(), now);
                    return Ok(epoch);
                }
            }
        }
    }

    fn attached(
        &self,
        id: VolumeId,
        epoch: Epoch,
        previous: Option<Previous>,
    ) -> Result<v1::AttachReply, Failure> {
        let state = self.shared.state();
        let volume = state.volumes().get(&id);
        let current = volume.filter(|volume| volume.attachment.as_ref().is_some_and(|at| at.epoch == epoch));
        let volume = current.ok_or_else(|| {
            let message = format!("the attachment of epoch {epoch} has been replaced already");
            Status::failed_precondition(with_hint(&message, "look at the volume's attachment and try again"))
        })?;
        Ok(v1::AttachReply {
            volume: Some(view::gateway_volume(volume)),
            nodes: view::node_addresses(&state, std::iter::once(volume)),
            cluster_id: state.cluster_id().map(|id| id.0.to_vec()).unwrap_or_default(),
            previous_epoch: previous.map_or(0, |previous| previous.epoch.0),
            previous_instance: previous.map(|previous| previous.instance.0.to_vec()).unwrap_or_default(),
        })
    }

    async fn detach(&self, call: Call, asked: v1::DetachRequest) -> Result<v1::DetachReply, Failure> {
        let (volume, gateway, epoch) = (asked.volume, GatewayId(asked.gateway), Epoch(asked.epoch));
        self.propose(call, Command::Detach { volume, gateway, epoch, clean: asked.clean }).await?;
        Ok(v1::DetachReply {})
    }

    async fn gateway_heartbeat(
        &self,
        call: Call,
        asked: v1::GatewayHeartbeatRequest,
    ) -> Result<v1::HeartbeatReply, Failure> {
        check_member_name(&asked.gateway, "a gateway")?;
        let at = clock::now();
        let report = GatewayReport {
            at,
            alone_since: at,
            instance: instance_id(&asked.instance)?,
            nbd_address: asked.nbd_address,
            version: asked.version,
            attachments: asked
                .attachments
                .into_iter()
                .map(|report| (VolumeId(report.volume), report))
                .collect(),
        };
        let lossy: Vec<(VolumeId, Epoch)> = report
            .attachments
            .iter()
            .filter(|(_, report)| report.lossy)
            .map(|(volume, report)| (*volume, Epoch(report.epoch)))
            .filter(|(volume, epoch)| is_news(&self.shared.state(), *volume, *epoch))
            .collect();
        self.shared.live(report.at).gateway_heard(GatewayId(asked.gateway), report);
        for (volume, epoch) in lossy {
            let call = Call { request: RequestId(random_16()?), ..call };
            self.propose(call, Command::MarkLossy { volume, epoch }).await?;
        }
        Ok(v1::HeartbeatReply { known: true })
    }
}

/// Whether this attachment is not recorded as lossy yet.
fn is_news(state: &State, volume: VolumeId, epoch: Epoch) -> bool {
    let attachment = state.volumes().get(&volume).and_then(|volume| volume.attachment.as_ref());
    attachment.is_some_and(|attachment| attachment.epoch == epoch && !attachment.lossy)
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

fn register_command(asked: &v1::RegisterNodeRequest, cluster_id: ClusterId) -> Result<RegisterNode, Failure> {
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

fn disk_id(bytes: &[u8]) -> Result<DiskId, Status> {
    DiskId::from_slice(bytes).ok_or_else(|| Status::invalid_argument("a disk's id has 16 bytes"))
}

fn instance_id(bytes: &[u8]) -> Result<InstanceId, Status> {
    InstanceId::from_slice(bytes).ok_or_else(|| Status::invalid_argument("an instance id has 16 bytes"))
}

fn other_request() -> Failure {
    Status::invalid_argument("the request id belongs to another request").into()
}
