//! The `Agent` service: what storage nodes and gateways ask. What is answered is decided in [`crate::member`].

use super::failure::to_status;
use super::route::Api;
use super::watch::{WatchStream, watch};
use crate::member::Request as Asked;
use crate::view;
use quoin_api::v1;
use quoin_api::v1::agent_client::AgentClient;
use quoin_api::v1::agent_server::Agent;
use quoin_cluster::State;
use quoin_cluster::rules::check_member_name;
use quoin_types::{DiskId, GatewayId, NodeId};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service, at any member.
pub(crate) struct AgentService(pub(crate) Arc<Api>);

/// Answers one method here or at the leader.
macro_rules! route {
    ($self:ident, $request:ident, $method:ident, $asked:path) => {
        $self
            .0
            .route(
                $request,
                |api, call, message| async move { api.ask(call, $asked(message)).await },
                |channel, request| async move { AgentClient::new(channel).$method(request).await },
            )
            .await
    };
}

impl AgentService {
    /// Heartbeats are all that storage nodes and gateways at rest ask. Whoever sends them to the leader spares another member
    /// the forwarding.
    fn name_leader(&self, reply: &mut v1::HeartbeatReply) {
        let leader = self.0.shared.leadership.borrow().leader;
        reply.leader = leader.and_then(|leader| self.0.addresses.get(&leader).cloned()).unwrap_or_default();
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    type WatchReplicasStream = WatchStream<v1::ReplicaAssignments>;
    type WatchGatewayStream = WatchStream<v1::GatewayView>;

    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Result<Response<v1::RegisterNodeReply>, Status> {
        route!(self, request, register_node, Asked::RegisterNode)
    }

    async fn node_heartbeat(
        &self,
        request: Request<v1::NodeHeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        let mut reply = route!(self, request, node_heartbeat, Asked::NodeHeartbeat)?;
        self.name_leader(reply.get_mut());
        Ok(reply)
    }

    async fn report_replicas(
        &self,
        request: Request<v1::ReportReplicasRequest>,
    ) -> Result<Response<v1::ReportReplicasReply>, Status> {
        route!(self, request, report_replicas, Asked::ReportReplicas)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<v1::AttachReply>, Status> {
        route!(self, request, attach, Asked::Attach)
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::DetachReply>, Status> {
        route!(self, request, detach, Asked::Detach)
    }

    async fn gateway_heartbeat(
        &self,
        request: Request<v1::GatewayHeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        let mut reply = route!(self, request, gateway_heartbeat, Asked::GatewayHeartbeat)?;
        self.name_leader(reply.get_mut());
        Ok(reply)
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
        check_member_name(&gateway.0, "a gateway").map_err(|refusal| to_status(&refusal.into()))?;
        let of = gateway.clone();
        let revision = move |state: &State| state.gateway_revision(&of);
        let project = move |state: &State| view::gateway_view(state, &gateway);
        Ok(Response::new(watch(&self.0, revision, project)))
    }
}

fn disk_id(bytes: &[u8]) -> Result<DiskId, Status> {
    DiskId::from_slice(bytes).ok_or_else(|| Status::invalid_argument("a disk's id has 16 bytes"))
}
