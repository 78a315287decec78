//! Real members on loopback in one process, and a storage node that only says that it did what it was told.

// Each test binary uses some of this.
#![allow(dead_code, unreachable_pub)]

use quoin_api::client::Managers;
use quoin_api::v1;
use quoin_api::v1::cluster_client::ClusterClient;
use quoin_cluster_manager::{Config, Peer, RunError, run};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The tick that the binary uses, so that the times measured here are those that users see.
const TICK: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Waits until `look` finds something. Panics after `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    loop {
        interval.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
    }
}

struct Running {
    task: JoinHandle<Result<(), RunError>>,
    shutdown: CancellationToken,
}

/// A cluster manager of several members.
pub struct TestCluster {
    directory: TempDir,
    configs: Vec<Config>,
    running: Vec<Option<Running>>,
}

/// A port that nobody listens on. Below the range from which the system gives ports to outgoing connections: one of those
/// would be taken again between this and its use.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_process = u16::try_from(std::process::id() % 180).unwrap() * 100;
    loop {
        let port = 12_000 + of_process + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

impl TestCluster {
    pub fn start(members: u64) -> Self {
        let mut cluster = Self::prepare(members);
        for index in 0..cluster.configs.len() {
            cluster.start_member(index);
        }
        cluster
    }

    pub fn prepare(members: u64) -> Self {
        // `RUST_LOG=debug` shows raft's own words.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let directory = tempfile::tempdir().unwrap();
        let listen: Vec<SocketAddr> = (0..members).map(|_| free_port()).collect();
        let peers: Vec<Peer> = (1..=members)
            .zip(&listen)
            .map(|(id, address)| Peer { id, address: address.to_string() })
            .collect();
        let config = |(id, listen): (u64, &SocketAddr)| Config {
            id,
            data_dir: directory.path().join(format!("manager-{id}")),
            listen: *listen,
            admin_listen: free_port(),
            peers: peers.clone(),
            tick: TICK,
            heartbeat_interval: HEARTBEAT,
        };
        let configs: Vec<Config> = (1..=members).zip(&listen).map(config).collect();
        let running = configs.iter().map(|_| None).collect();
        Self { directory, configs, running }
    }

    pub fn config(&self, index: usize) -> &Config {
        &self.configs[index]
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.configs[index].data_dir.clone()
    }

    pub fn start_member(&mut self, index: usize) {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run_when_free(self.configs[index].clone(), shutdown.clone()));
        self.running[index] = Some(Running { task, shutdown });
    }

    /// Drops a member's task, as a crash would.
    pub async fn kill(&mut self, index: usize) {
        let running = self.running[index].take().unwrap();
        running.task.abort();
        let _ = running.task.await;
    }

    /// Stops a member as a signal would.
    pub async fn stop(&mut self, index: usize) {
        let running = self.running[index].take().unwrap();
        running.shutdown.cancel();
        running.task.await.unwrap().unwrap();
    }

    /// A client of all members.
    pub fn managers(&self) -> Managers {
        Managers::new(&self.configs.iter().map(|config| config.listen.to_string()).collect::<Vec<_>>())
            .unwrap()
    }

    /// A client of one member.
    pub fn member(&self, index: usize) -> Managers {
        Managers::new(&[self.configs[index].listen.to_string()]).unwrap()
    }

    /// A client of one member that can be moved into tasks.
    pub async fn client(&self, index: usize) -> ClusterClient<Channel> {
        let address = format!("http://{}", self.configs[index].listen);
        ClusterClient::new(Endpoint::from_shared(address).unwrap().connect().await.unwrap())
    }

    /// The leader's index, once somebody answers.
    pub async fn leader(&self) -> usize {
        let managers = self.managers();
        eventually("a leader", Duration::from_secs(10), async || {
            let status = status(&managers).await.ok()?;
            let leader = status.managers.iter().find(|manager| manager.leader)?.id;
            let index = usize::try_from(leader).unwrap() - 1;
            self.running[index].is_some().then_some(index)
        })
        .await
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.configs.len()).find(|index| *index != leader && self.running[*index].is_some()).unwrap()
    }
}

/// A killed member's thread may hold its database for a moment yet.
async fn run_when_free(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match run(config.clone(), shutdown.clone()).await {
            Err(RunError::Raft(_) | RunError::Listen { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

pub async fn status(managers: &Managers) -> Result<v1::ClusterStatus, Status> {
    managers
        .cluster(async |mut client| Ok(client.get_status(v1::GetStatusRequest {}).await?.into_inner()))
        .await
}

pub async fn create(managers: &Managers, name: &str, replicas: u32) -> Result<v1::Volume, Status> {
    let request = v1::CreateVolumeRequest {
        name: name.to_owned(),
        size_bytes: 1 << 20,
        replicas,
        ..v1::CreateVolumeRequest::default()
    };
    managers.cluster(async |mut client| Ok(client.create_volume(request.clone()).await?.into_inner())).await
}

pub async fn get(managers: &Managers, name: &str) -> Result<v1::Volume, Status> {
    let request = v1::GetVolumeRequest { name: name.to_owned() };
    managers.cluster(async |mut client| Ok(client.get_volume(request.clone()).await?.into_inner())).await
}

pub async fn delete(managers: &Managers, name: &str, force: bool) -> Result<(), Status> {
    let request = v1::DeleteVolumeRequest { name: name.to_owned(), force };
    managers.cluster(async |mut client| client.delete_volume(request.clone()).await.map(drop)).await
}

pub async fn resize(managers: &Managers, name: &str, size_bytes: u64) -> Result<v1::Volume, Status> {
    let request = v1::ResizeVolumeRequest { name: name.to_owned(), size_bytes };
    managers.cluster(async |mut client| Ok(client.resize_volume(request.clone()).await?.into_inner())).await
}

pub async fn attach(
    managers: &Managers,
    volume: &str,
    gateway: &str,
    take_over: bool,
) -> Result<v1::AttachReply, Status> {
    let request = v1::AttachRequest {
        volume: volume.to_owned(),
        gateway: gateway.to_owned(),
        instance: instance(gateway),
        take_over,
    };
    managers.agent(async |mut client| Ok(client.attach(request.clone()).await?.into_inner())).await
}

pub fn instance(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

pub async fn gateway_reports(managers: &Managers, gateway: &str, attachments: Vec<v1::AttachmentReport>) {
    let request = v1::GatewayHeartbeatRequest {
        gateway: gateway.to_owned(),
        instance: instance(gateway),
        attachments,
        ..v1::GatewayHeartbeatRequest::default()
    };
    managers.agent(async |mut client| client.gateway_heartbeat(request.clone()).await).await.unwrap();
}

pub async fn register(
    managers: &Managers,
    request: &v1::RegisterNodeRequest,
) -> Result<v1::RegisterNodeReply, Status> {
    managers.agent(async |mut client| Ok(client.register_node(request.clone()).await?.into_inner())).await
}

pub fn registration(cluster_id: &[u8], name: &str, disk: u8, start_count: u64) -> v1::RegisterNodeRequest {
    v1::RegisterNodeRequest {
        cluster_id: cluster_id.to_vec(),
        name: name.to_owned(),
        disk: vec![disk; 16],
        start_count,
        instance: vec![u8::try_from(start_count).unwrap(); 16],
        data_address: format!("127.0.0.1:{disk}"),
        capacity_bytes: 1 << 40,
        ..v1::RegisterNodeRequest::default()
    }
}

/// A storage node without a disk: it registers, and reports at once whatever it is told to create or drop.
pub struct FakeNode {
    pub id: u64,
    number: u8,
    start_count: u64,
    stopped: CancellationToken,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

impl FakeNode {
    pub async fn start(managers: &Managers, number: u8) -> Self {
        Self::start_again(managers, number, 1).await
    }

    /// A start of a node, by its number.
    pub async fn start_again(managers: &Managers, number: u8, start_count: u64) -> Self {
        let name = format!("node-{number}");
        let unformatted =
            v1::RegisterNodeRequest { name: name.clone(), ..v1::RegisterNodeRequest::default() };
        // The members may not even listen yet.
        let cluster_id = eventually("a manager", Duration::from_secs(10), async || {
            register(managers, &unformatted).await.ok().map(|reply| reply.cluster_id)
        })
        .await;
        let asked = registration(&cluster_id, &name, number, start_count);
        let id = register(managers, &asked).await.unwrap().node;
        let (watching, beating) = (managers.clone(), managers.clone());
        let stopped = CancellationToken::new();
        let until = stopped.clone();
        // A thread of its own: futures of `Managers` are not `Send` in the eyes of the compiler.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = keep_replicas(watching, id, number) => {}
                    () = keep_beating(beating, id, number, start_count) => {}
                    () = until.cancelled() => {}
                }
            });
        });
        Self { id, number, start_count, stopped }
    }

    /// Says good-bye, and is silent.
    pub async fn leave(self, managers: &Managers) {
        self.stopped.cancel();
        let last =
            v1::NodeHeartbeatRequest { leaving: true, ..heartbeat(self.id, self.number, self.start_count) };
        managers.agent(async |mut client| client.node_heartbeat(last.clone()).await).await.unwrap();
    }

    pub async fn start_all(managers: &Managers, count: u8) -> Vec<Self> {
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(Self::start(managers, number).await);
        }
        nodes
    }
}

pub fn heartbeat(node: u64, number: u8, start_count: u64) -> v1::NodeHeartbeatRequest {
    v1::NodeHeartbeatRequest {
        node,
        disk: vec![number; 16],
        start_count,
        capacity_bytes: 1 << 40,
        ..v1::NodeHeartbeatRequest::default()
    }
}

async fn keep_beating(managers: Managers, node: u64, number: u8, start_count: u64) {
    let mut interval = tokio::time::interval(HEARTBEAT / 2);
    loop {
        interval.tick().await;
        let request = heartbeat(node, number, start_count);
        let _ = managers.agent(async |mut client| client.node_heartbeat(request.clone()).await).await;
    }
}

async fn keep_replicas(managers: Managers, node: u64, number: u8) {
    let disk = vec![number; 16];
    loop {
        let request = v1::WatchReplicasRequest { node, disk: disk.clone() };
        let opened = managers
            .agent_stream(async |mut client| Ok(client.watch_replicas(request.clone()).await?.into_inner()))
            .await;
        if let Ok(mut stream) = opened {
            while let Ok(Some(assignments)) = stream.message().await {
                report(&managers, node, &disk, &assignments).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn report(managers: &Managers, node: u64, disk: &[u8], assignments: &v1::ReplicaAssignments) {
    let in_state = |state: v1::ReplicaState| -> Vec<u64> {
        let replicas = assignments.replicas.iter().filter(|replica| replica.state() == state);
        replicas.map(|replica| replica.replica).collect()
    };
    let request = v1::ReportReplicasRequest {
        node,
        disk: disk.to_vec(),
        created: in_state(v1::ReplicaState::Creating),
        dropped: in_state(v1::ReplicaState::Dropping),
    };
    if request.created.is_empty() && request.dropped.is_empty() {
        return;
    }
    while managers.agent(async |mut client| client.report_replicas(request.clone()).await).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A gateway without clients, which says of every volume that it is given what its managers hope for: all copies are in
/// sync, every configuration is settled, every snapshot is durable.
pub struct FakeGateway {
    stopped: CancellationToken,
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

impl FakeGateway {
    pub fn start(managers: &Managers, name: &str) -> Self {
        let (managers, name, stopped) = (managers.clone(), name.to_owned(), CancellationToken::new());
        let until = stopped.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = keep_reporting(managers, name) => {}
                    () = until.cancelled() => {}
                }
            });
        });
        Self { stopped }
    }
}

async fn keep_reporting(managers: Managers, name: String) {
    let request = v1::WatchGatewayRequest { gateway: name.clone(), instance: instance(&name) };
    let mut stream = managers
        .agent_stream(async |mut client| Ok(client.watch_gateway(request.clone()).await?.into_inner()))
        .await
        .unwrap();
    let mut interval = tokio::time::interval(HEARTBEAT / 10);
    let mut view = v1::GatewayView::default();
    loop {
        tokio::select! {
            next = stream.message() => match next {
                Ok(Some(next)) => view = next,
                _ => return,
            },
            _ = interval.tick() => {
                let attachments = view.volumes.iter().map(all_well).collect();
                gateway_reports(&managers, &name, attachments).await;
            }
        }
    }
}

/// What a gateway reports of a volume when nothing is left to be wished for.
pub fn all_well(volume: &v1::Volume) -> v1::AttachmentReport {
    let replicas = volume.segments.iter().flat_map(|segment| &segment.replicas);
    let taking = volume.snapshots.iter().filter(|s| s.state() == v1::SnapshotState::Taking);
    let segment = |segment: &v1::Segment| v1::SegmentReport {
        index: segment.index,
        generation: segment.generation,
        settled: true,
    };
    v1::AttachmentReport {
        volume: volume.id,
        epoch: volume.epoch,
        available: true,
        replicas: replicas
            .map(|replica| v1::ReplicaReport {
                replica: replica.id,
                health: v1::ReplicaHealth::InSync.into(),
                ..v1::ReplicaReport::default()
            })
            .collect(),
        segments: volume.segments.iter().map(segment).collect(),
        snapshots: taking.map(|snapshot| snapshot.id).collect(),
        ..v1::AttachmentReport::default()
    }
}

/// The nodes of a volume's copies, by segment, those left out that are only to be dropped.
pub fn placement(volume: &v1::Volume) -> Vec<Vec<u64>> {
    let members = |segment: &v1::Segment| {
        let members = segment.replicas.iter().filter(|r| r.state() != v1::ReplicaState::Dropping);
        let mut nodes: Vec<u64> = members.map(|replica| replica.node).collect();
        nodes.sort_unstable();
        nodes
    };
    volume.segments.iter().map(members).collect()
}
