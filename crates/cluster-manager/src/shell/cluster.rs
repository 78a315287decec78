//! The `Cluster` service: what people and tools ask.

use super::failure::{Failure, with_hint};
use super::route::{Api, Call, MEMBER_SILENCE_TICKS};
use crate::live::InUse;
use crate::problems::problems;
use crate::view::View;
use quoin_api::v1;
use quoin_api::v1::cluster_client::ClusterClient;
use quoin_api::v1::cluster_server::Cluster;
use quoin_cluster::{Command, Node, Outcome, Refusal, State, Volume, VolumeStage};
use quoin_disk::clock;
use quoin_types::limits::SEGMENT_BYTES_DEFAULT;
use quoin_types::{NodeId, VolumeId};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Copies of a volume whose creator does not say.
const REPLICAS_DEFAULT: u32 = 3;
/// What is kept of a call's time for answering it.
const TIME_TO_ANSWER: Duration = Duration::from_millis(500);

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
        let durability = v1::Durability::try_from(asked.durability)
            .map_err(|_| Status::invalid_argument("an unknown durability"))?
            .or_default();
        let or_default = |value, default| if value == 0 { default } else { value };
        let replicas = if asked.replicas == 0 { REPLICAS_DEFAULT } else { asked.replicas };
        let command = Command::CreateVolume {
            name: asked.name,
            size_bytes: asked.size_bytes,
            segment_bytes: or_default(asked.segment_bytes, SEGMENT_BYTES_DEFAULT),
            replicas,
            min_replicas: Some(asked.min_replicas).filter(|min| *min > 0),
            durability,
            candidates: self.candidates(call, replicas).await?,
        };
        let outcome = self.propose(call, command).await?;
        let id = volume_of(outcome)?;
        self.wait_for_volume(call, id, |volume| volume.stage() != VolumeStage::Creating).await?;
        self.volume_by_id(id)
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
        let mut expected_epoch = None;
        if !asked.force {
            // Only looking at the present: if somebody attaches meanwhile, the command is refused. A retry of a deletion
            // that was carried out finds no volume, and is answered from the table of requests.
            self.read_barrier(call).await?;
            expected_epoch = self.view(|view| {
                let Some(volume) = view.state.volume_named(&asked.name) else { return Ok(None) };
                match view.live.in_use(volume, None, view.now) {
                    Some(in_use) => {
                        Err(volume_in_use(&asked.name, &in_use, "disconnect them, or delete with --force"))
                    }
                    None => Ok(Some(volume.epoch)),
                }
            })?;
        }
        self.propose(call, Command::DeleteVolume { name: asked.name, expected_epoch }).await?;
        Ok(v1::DeleteVolumeReply {})
    }

    async fn resize_volume(&self, call: Call, asked: v1::ResizeVolumeRequest) -> Result<v1::Volume, Failure> {
        let (name, size_bytes) = (asked.name, asked.size_bytes);
        let candidates = self.candidates_to_grow(call, &name, size_bytes).await?;
        let command = Command::ResizeVolume { name, size_bytes, candidates };
        let id = volume_of(self.propose(call, command).await?)?;
        self.wait_for_volume(call, id, |volume| volume.growing_to_bytes.is_none()).await?;
        self.volume_by_id(id)
    }

    async fn list_nodes(&self, call: Call, _: v1::ListNodesRequest) -> Result<v1::ListNodesReply, Failure> {
        self.read_barrier(call).await?;
        Ok(v1::ListNodesReply { nodes: self.view(|view| view.nodes()) })
    }

    async fn get_node(&self, call: Call, asked: v1::GetNodeRequest) -> Result<v1::Node, Failure> {
        self.read_barrier(call).await?;
        let found = self.view(|view| node_called(view.state, &asked.name).map(|node| view.node(node)));
        found.ok_or_else(|| node_unknown(&asked.name))
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

    pub(super) fn volume_by_id(&self, id: VolumeId) -> Result<v1::Volume, Failure> {
        let found = self.view(|view| view.state.volumes().get(&id).map(|volume| view.volume(volume)));
        found.ok_or_else(|| Status::not_found("the volume has been deleted meanwhile").into())
    }

    /// Waits until the volume is as wanted, or gone, or most of the call's time has passed.
    pub(super) async fn wait_for_volume(
        &self,
        call: Call,
        id: VolumeId,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<(), Failure> {
        let mut applied = self.shared.applied.subscribe();
        let done = applied.wait_for(|_| self.shared.state().volumes().get(&id).is_none_or(&wanted));
        tokio::select! {
            _ = done => Ok(()),
            () = tokio::time::sleep_until(call.deadline - TIME_TO_ANSWER) => Ok(()),
            () = self.ended.cancelled() => Err(Failure::TryAgain),
        }
    }
}

/// The storage node of this name, or of this id in decimal.
pub(super) fn node_called<'a>(state: &'a State, name: &str) -> Option<&'a Node> {
    let by_id = || state.nodes().get(&NodeId(name.parse().ok()?));
    state.node_named(name).or_else(by_id)
}

pub(super) fn node_unknown(name: &str) -> Failure {
    let message = format!("there is no storage node `{name}`");
    Status::not_found(with_hint(&message, "`quoin node list` shows the nodes there are")).into()
}

/// The refusal to take a volume from clients that use it.
pub(crate) fn volume_in_use(name: &str, in_use: &InUse, hint: &str) -> Failure {
    let (message, hint) = match in_use {
        InUse::Clients { gateway, clients } => (
            format!("volume `{name}` is attached to gateway {gateway}, which has {clients} clients on it"),
            hint,
        ),
        InUse::NotKnownYet { gateway } => (
            format!(
                "volume `{name}` is attached to gateway {gateway}, and it is not known yet whether clients use it"
            ),
            "try again in a few seconds",
        ),
    };
    Status::failed_precondition(with_hint(&message, hint)).into()
}

pub(super) fn volume_of(outcome: Outcome) -> Result<VolumeId, Failure> {
    match outcome {
        Outcome::Volume(id) => Ok(id),
        _ => Err(Status::invalid_argument("the request id belongs to another request").into()),
    }
}
