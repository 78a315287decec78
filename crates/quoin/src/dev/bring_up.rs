//! From "the processes have been started" to "a client can use the volume", step by step.

use super::member::Role;
use super::probe;
use super::say::Say;
use super::state::{State, reachable};
use crate::client;
use crate::failure::Failure;
use crate::units::size::Size;
use crate::view::words;
use quoin_api::client::Managers;
use quoin_api::v1::{self, ClusterStatus, CreateVolumeRequest, GetStatusRequest, GetVolumeRequest};
use quoin_api::v1::{NodeHealth, Volume, VolumeState};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// The whole start must be done within this time.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A step that takes longer than this says what it waits for.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Brings the cluster up; its processes have been started.
pub(crate) struct BringUp {
    state: State,
    managers: Managers,
    size: Size,
    size_was_given: bool,
    say: Say,
    deadline: Instant,
}

impl BringUp {
    pub(crate) fn new(state: State, size: Size, size_was_given: bool, say: Say) -> Result<Self, Failure> {
        let managers = client::open(&state.manager_addresses())?;
        Ok(Self { state, managers, size, size_was_given, say, deadline: Instant::now() + PATIENCE })
    }

    /// Returns when a client can use the volume.
    pub(crate) async fn run(&self) -> Result<Volume, Failure> {
        let leader = self.wait("a leader among the cluster managers", async || self.leader().await).await?;
        self.say.progress(&format!("cluster managers: {leader} leads"));
        self.wait("the storage nodes", async || self.nodes().await).await?;
        let nodes = self.state.of(Role::StorageNode).count();
        self.say.progress(&format!("storage nodes: {nodes} online"));
        let gateway = self.state.gateway();
        self.wait("the gateway", async || probe::http(gateway.admin, "/readyz").await).await?;
        self.say.progress("gateway: ready");
        let volume = self.wait("the volume", async || self.volume().await).await?;
        self.tell_volume(&volume);
        let name = &self.state.volume;
        let export = async || probe::nbd(reachable(gateway.listen), name).await;
        self.wait("the volume's NBD export", export).await?;
        self.wait("a majority of the volume's replicas", async || self.available().await).await?;
        Ok(volume)
    }

    /// Asks until the answer is yes. The reason of the last no is told when it takes long, and when it takes too long.
    async fn wait<T>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<T, String>,
    ) -> Result<T, Failure> {
        let mut patience_ends = Instant::now() + SILENCE_MAX;
        loop {
            let reason = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            };
            let now = Instant::now();
            if now >= self.deadline {
                return Err(Failure::unavailable(format!("waited too long for {what}: {reason}"))
                    .hint("the logs in the directory's log/ say more; --reset starts afresh"));
            }
            if now >= patience_ends {
                self.say.progress(&format!("waiting for {what}: {reason}"));
                patience_ends = now + SILENCE_MAX;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn status(&self) -> Result<ClusterStatus, String> {
        let ask = async |mut cluster: v1::cluster_client::ClusterClient<_>| {
            Ok(cluster.get_status(GetStatusRequest {}).await?.into_inner())
        };
        self.managers.cluster(ask).await.map_err(|status| reason(&status))
    }

    async fn leader(&self) -> Result<String, String> {
        let status = self.status().await?;
        let leader = status.managers.iter().find(|manager| manager.leader);
        leader.map(|manager| format!("manager-{}", manager.id)).ok_or_else(|| "no leader yet".to_owned())
    }

    async fn nodes(&self) -> Result<(), String> {
        let status = self.status().await?;
        let is_online = |name: &str| {
            status.nodes.iter().any(|node| node.name == name && node.health() == NodeHealth::Online)
        };
        for member in self.state.of(Role::StorageNode) {
            if !is_online(&member.name) {
                let refused = status.nodes.iter().find(|node| node.name == member.name);
                let detail = refused.map_or("", |node| node.detail.as_str());
                let gap = if detail.is_empty() { "" } else { ": " };
                return Err(format!("{} is not online yet{gap}{detail}", member.name));
            }
            // The managers may remember it from before: it must answer now, too.
            let answer = probe::http(member.admin, "/readyz").await;
            answer.map_err(|reason| format!("{} is not ready: {reason}", member.name))?;
        }
        Ok(())
    }

    async fn get_volume(&self) -> Result<Volume, tonic::Status> {
        let get = async |mut cluster: v1::cluster_client::ClusterClient<_>| {
            let name = self.state.volume.clone();
            Ok(cluster.get_volume(GetVolumeRequest { name }).await?.into_inner())
        };
        self.managers.cluster(get).await
    }

    /// Whether the managers have heard from the gateway that the volume answers: `status` then says so too.
    async fn available(&self) -> Result<(), String> {
        let volume = self.get_volume().await.map_err(|status| reason(&status))?;
        match volume.attachment {
            Some(attachment) if attachment.available => Ok(()),
            Some(attachment) => Err(attachment.detail),
            None => Err("no gateway has it".to_owned()),
        }
    }

    /// The volume, made if it is missing.
    async fn volume(&self) -> Result<Volume, String> {
        let volume = match self.get_volume().await {
            Err(status) if status.code() == Code::NotFound => self.create().await?,
            answer => answer.map_err(|status| reason(&status))?,
        };
        match volume.state() {
            VolumeState::Ready => Ok(volume),
            state => Err(format!("{} is {}", volume.name, words::volume_state(state))),
        }
    }

    async fn create(&self) -> Result<Volume, String> {
        let nodes = self.state.of(Role::StorageNode).count();
        let request = CreateVolumeRequest {
            name: self.state.volume.clone(),
            size_bytes: self.size.0,
            replicas: u32::try_from(nodes.min(3)).unwrap_or(3),
            durability: v1::Durability::from(self.state.durability()).into(),
            ..CreateVolumeRequest::default()
        };
        let ask = async |mut cluster: v1::cluster_client::ClusterClient<_>| {
            Ok(cluster.create_volume(request.clone()).await?.into_inner())
        };
        self.managers.cluster(ask).await.map_err(|status| reason(&status))
    }

    fn tell_volume(&self, volume: &Volume) {
        let replicas = words::count(volume.replicas as usize, "replica", "replicas");
        let durability = volume.durability().or_default();
        self.say.progress(&format!(
            "volume {}: {}, {replicas}, {durability}",
            volume.name,
            Size(volume.size_bytes)
        ));
        if self.size_was_given && volume.size_bytes != self.size.0 {
            let name = &volume.name;
            self.say.progress(&format!(
                "note: --size {} is not applied, {name} exists: `quoin volume resize {name} --size …` grows it",
                self.size
            ));
        }
    }
}

/// Why a manager refused, without its advice, which is meant for someone who can follow it.
fn reason(status: &tonic::Status) -> String {
    status.message().lines().next().unwrap_or("no reason given").to_owned()
}
