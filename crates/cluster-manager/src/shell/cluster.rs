//! The `Cluster` service: what people and tools ask. What changes anything is decided in [`crate::member`].

use super::failure::Failure;
use super::route::{Api, Call, MEMBER_SILENCE_TICKS};
use crate::member::{Request as Asked, node_called};
use crate::problems::problems;
use crate::view::View;
use quoin_api::v1;
use quoin_api::v1::cluster_client::ClusterClient;
use quoin_api::v1::cluster_server::Cluster;
use quoin_cluster::Refusal;
use quoin_disk::clock;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service, at any member.
pub(crate) struct ClusterService(pub(crate) Arc<Api>);

/// Answers one method here or at the leader.
macro_rules! route {
    ($self:ident, $request:ident, $method:ident) => {
        $self
            .0
            .route(
                $request,
                |api, call, message| async move { api.$method(call, message).await },
                |channel, request| async move { ClusterClient::new(channel).$method(request).await },
            )
            .await
    };
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, create_volume)
    }

    async fn get_volume(
        &self,
        request: Request<v1::GetVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, get_volume)
    }

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesReply>, Status> {
        route!(self, request, list_volumes)
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeReply>, Status> {
        route!(self, request, delete_volume)
    }

    async fn resize_volume(
        &self,
        request: Request<v1::ResizeVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, resize_volume)
    }

    async fn move_replica(
        &self,
        request: Request<v1::MoveReplicaRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, move_replica)
    }

    async fn set_replicas(
        &self,
        request: Request<v1::SetReplicasRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, set_replicas)
    }

    async fn abort_change(
        &self,
        request: Request<v1::AbortChangeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        route!(self, request, abort_change)
    }

    async fn create_snapshot(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        route!(self, request, create_snapshot)
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::DeleteSnapshotReply>, Status> {
        route!(self, request, delete_snapshot)
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        route!(self, request, list_nodes)
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        route!(self, request, get_node)
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        route!(self, request, get_status)
    }
}

/// The methods, at the leader.
impl Api {
    async fn create_volume(&self, call: Call, asked: v1::CreateVolumeRequest) -> Result<v1::Volume, Failure> {
        self.ask(call, Asked::CreateVolume(asked)).await
    }

    async fn get_volume(&self, call: Call, asked: v1::GetVolumeRequest) -> Result<v1::Volume, Failure> {
        self.read_barrier(call).await?;
        self.view(|view| {
            let volume = view.state.volume_named(&asked.name);
            volume
                .map(|volume| view.volume(volume))
                .ok_or_else(|| Refusal::VolumeUnknown(asked.name.clone()).into())
        })
    }

    async fn list_volumes(
        &self,
        call: Call,
        _: v1::ListVolumesRequest,
    ) -> Result<v1::ListVolumesReply, Failure> {
        self.read_barrier(call).await?;
        Ok(v1::ListVolumesReply { volumes: self.view(|view| view.volumes()) })
    }

    async fn delete_volume(
        &self,
        call: Call,
        asked: v1::DeleteVolumeRequest,
    ) -> Result<v1::DeleteVolumeReply, Failure> {
        self.ask(call, Asked::DeleteVolume(asked)).await
    }

    async fn resize_volume(&self, call: Call, asked: v1::ResizeVolumeRequest) -> Result<v1::Volume, Failure> {
        self.ask(call, Asked::ResizeVolume(asked)).await
    }

    async fn move_replica(&self, call: Call, asked: v1::MoveReplicaRequest) -> Result<v1::Volume, Failure> {
        self.ask(call, Asked::MoveReplica(asked)).await
    }

    async fn set_replicas(&self, call: Call, asked: v1::SetReplicasRequest) -> Result<v1::Volume, Failure> {
        self.ask(call, Asked::SetReplicas(asked)).await
    }

    async fn abort_change(&self, call: Call, asked: v1::AbortChangeRequest) -> Result<v1::Volume, Failure> {
        self.ask(call, Asked::AbortChange(asked)).await
    }

    async fn create_snapshot(
        &self,
        call: Call,
        asked: v1::CreateSnapshotRequest,
    ) -> Result<v1::Snapshot, Failure> {
        self.ask(call, Asked::CreateSnapshot(asked)).await
    }

    async fn delete_snapshot(
        &self,
        call: Call,
        asked: v1::DeleteSnapshotRequest,
    ) -> Result<v1::DeleteSnapshotReply, Failure> {
        self.ask(call, Asked::DeleteSnapshot(asked)).await
    }

    async fn list_nodes(&self, call: Call, _: v1::ListNodesRequest) -> Result<v1::ListNodesReply, Failure> {
        self.read_barrier(call).await?;
        Ok(v1::ListNodesReply { nodes: self.view(|view| view.nodes()) })
    }

    async fn get_node(&self, call: Call, asked: v1::GetNodeRequest) -> Result<v1::Node, Failure> {
        self.read_barrier(call).await?;
        Ok(self.view(|view| node_called(view.state, &asked.name).map(|node| view.node(node)))?)
    }

    async fn get_status(&self, call: Call, _: v1::GetStatusRequest) -> Result<v1::ClusterStatus, Failure> {
        self.read_barrier(call).await?;
        let managers = self.managers();
        let raft_term = self.shared.leadership.borrow().term;
        Ok(self.view(|view| {
            let problems = problems(&view, &managers);
            v1::ClusterStatus {
                cluster_id: view.state.cluster_id().map(|id| id.0.to_vec()).unwrap_or_default(),
                nodes: view.nodes(),
                gateways: view.gateways(),
                volumes: view.volumes(),
                healthy: problems.is_empty(),
                problems,
                raft_term,
                managers,
            }
        }))
    }

    fn managers(&self) -> Vec<v1::Manager> {
        let now = clock::now();
        let applied = self.shared.applied.borrow().index;
        let leader = self.shared.leadership.borrow().leader;
        let progress = self.shared.progress().clone();
        let manager = |(id, address): (&u64, &String)| {
            let heard = progress.heard.get(id);
            let recently = heard.is_some_and(|at| now.since(*at) <= self.tick * MEMBER_SILENCE_TICKS);
            let matched = progress.matched.get(id).copied().unwrap_or(0);
            v1::Manager {
                id: *id,
                address: address.clone(),
                leader: leader == Some(*id),
                reachable: *id == self.id || recently,
                applied_index: if *id == self.id { applied } else { matched.min(applied) },
            }
        };
        self.addresses.iter().map(manager).collect()
    }

    /// Looks at the state and at what is live, together.
    pub(crate) fn view<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        let now = clock::now();
        let live = self.shared.live(now);
        let state = self.shared.state();
        look(View { state: &state, live: &live, now })
    }
}
