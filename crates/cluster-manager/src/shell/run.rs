//! The life of a member, from its configuration to its end.

use super::admin;
use super::agent::AgentService;
use super::cluster::ClusterService;
use super::directory::Directory;
use super::driver::{Driver, Handle};
use super::figures::Figures;
use super::route::Api;
use super::transport::{MESSAGE_BYTES_MAX, PeerLink, Peers, RaftService, channel};
use crate::config::Config;
use crate::member::{Member, MemberConfig, MemberError, StoreError};
use crate::metrics::Metrics;
use crate::shared::Shared;
use quoin_api::v1::agent_server::AgentServer;
use quoin_api::v1::cluster_server::ClusterServer;
use quoin_api::v1::raft_server::RaftServer;
use quoin_disk::clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// How long calls under way may take once the member stops.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// When a client that vanished is asked whether it is there, and how long it has for its answer. Nothing but what is kept
/// for its streams depends on that: who is unreachable, and who leads, is told by heartbeats.
const CLIENT_GONE_AFTER: Duration = Duration::from_secs(10);

/// Why a member ended by itself, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration makes no sense.
    #[error("the configuration: {0}")]
    Config(String),
    /// A port cannot be served.
    #[error("listening on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// gRPC failed.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The raft log, or the state machine.
    #[error(transparent)]
    Raft(#[from] MemberError),
    /// The member's task panicked: raft-rs found its own rules broken.
    #[error("the member ended unexpectedly")]
    RaftPanicked,
    /// The system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Ends the member's task when the member's future is dropped, as a crash would.
struct KillOnDrop(Handle);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Runs a member of the cluster manager until `shutdown` is cancelled; then hands over leadership, ends its streams and
/// returns. Dropping the future ends the member as a crash would.
///
/// # Errors
/// A port that cannot be served, a data directory that cannot be used, or a log that this version does not understand.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    check(&config)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| RunError::Listen { address: config.listen, error })?;
    let ended = CancellationToken::new();
    let _end_streams = ended.clone().drop_guard();
    let (metrics, mut registry) = Metrics::new();
    let shared = Arc::new(Shared::new(config.heartbeat_interval, metrics.clone()));
    let others = || config.peers.iter().filter(|peer| peer.id != config.id);
    let peers = Peers::new(others().map(|peer| peer.id), metrics);

    let (raft, mut driver_ended) = start_driver(&config, &peers, &shared)?;
    let _kill = KillOnDrop(raft.clone());
    let mut channels = BTreeMap::new();
    for peer in others() {
        channels.insert(peer.id, channel(&peer.address)?);
    }
    let mut tasks = JoinSet::new();
    for (peer, channel) in channels.clone() {
        let link = PeerLink { this: config.id, peer, channel, shared: shared.clone(), raft: raft.clone() };
        tasks.spawn(link.run(peers.clone()));
    }
    let api = Arc::new(Api {
        id: config.id,
        shared: shared.clone(),
        member: raft.clone(),
        peers: channels,
        addresses: config.peers.iter().map(|peer| (peer.id, peer.address.clone())).collect(),
        tick: config.tick,
        ended: ended.clone(),
    });
    registry.register_collector(Box::new(Figures(shared.clone())));
    let admin = admin::serve(config.admin_listen, registry, shared.clone(), ended.clone());
    let mut admin = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(admin));
    let grpc = serve_grpc(listener, &config, &api);
    tokio::pin!(grpc);

    tracing::info!(id = config.id, listen = %config.listen, "the cluster manager runs");
    tokio::select! {
        () = shutdown.cancelled() => {}
        result = &mut driver_ended => return driver_result(result),
        result = &mut grpc => result?,
        result = &mut admin => {
            let error = match result {
                Ok(Ok(())) => std::io::Error::other("ended unexpectedly"),
                Ok(Err(error)) => error,
                Err(error) => std::io::Error::other(error),
            };
            return Err(RunError::Listen { address: config.admin_listen, error });
        }
    }

    // Leadership goes first: calls under way, forwarded or not, find the next leader by themselves. Messages must still
    // flow for that, so the server runs on meanwhile.
    raft.stop();
    let result = tokio::select! {
        result = &mut driver_ended => driver_result(result),
        _ = &mut grpc => driver_result(driver_ended.await),
    };
    ended.cancel();
    let _ = tokio::time::timeout(DRAIN_MAX, grpc).await;
    let _ = tokio::time::timeout(DRAIN_MAX, admin).await;
    tracing::info!(id = config.id, "the cluster manager has stopped");
    result
}

fn check(config: &Config) -> Result<(), RunError> {
    let mut ids: Vec<u64> = config.peers.iter().map(|peer| peer.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != config.peers.len() || ids.contains(&0) {
        return Err(RunError::Config("the peers' ids must differ, and none may be 0".to_owned()));
    }
    if !ids.contains(&config.id) {
        return Err(RunError::Config(format!("the peers do not name this member, {}", config.id)));
    }
    if config.tick.is_zero() || config.heartbeat_interval.is_zero() {
        return Err(RunError::Config("the tick and the heartbeat interval must not be zero".to_owned()));
    }
    Ok(())
}

type DriverEnded = oneshot::Receiver<Result<(), MemberError>>;

/// Opens the log and starts the member's task.
fn start_driver(
    config: &Config,
    peers: &Peers,
    shared: &Arc<Shared>,
) -> Result<(Handle, DriverEnded), RunError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(RunError::Random)?;
    let member = MemberConfig {
        id: config.id,
        members: config.peers.iter().map(|peer| (peer.id, peer.address.clone())).collect(),
        seed: u64::from_le_bytes(seed),
        tick: config.tick,
        heartbeat_interval: config.heartbeat_interval,
    };
    let directory =
        Directory::open(&config.data_dir).map_err(|error| MemberError::Store(StoreError::Io(error)))?;
    let member = Member::open_with(member, &directory, shared.clone(), clock::now())?;
    let outbox = {
        let peers = peers.clone();
        Box::new(move |message| peers.send(message))
    };
    let (driver, handle) = Driver::new(member, config.tick, outbox);
    let (ended, receiver) = oneshot::channel();
    // Not awaited: it says itself how it ended, and one that panics says nothing.
    drop(tokio::spawn(async move { ended.send(driver.run().await) }));
    Ok((handle, receiver))
}

fn driver_result(result: Result<Result<(), MemberError>, oneshot::error::RecvError>) -> Result<(), RunError> {
    match result {
        Ok(result) => result.map_err(RunError::from),
        Err(_) => Err(RunError::RaftPanicked),
    }
}

async fn serve_grpc(
    listener: TcpListener,
    config: &Config,
    api: &Arc<Api>,
) -> Result<(), tonic::transport::Error> {
    let raft = RaftService {
        this: config.id,
        members: config.peers.iter().map(|peer| peer.id).collect(),
        shared: api.shared.clone(),
        raft: api.member.clone(),
        ended: api.ended.clone(),
    };
    // The server's own option for this is for listeners that it opens itself. Without it an answer in two pieces waits 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(CLIENT_GONE_AFTER))
        .http2_keepalive_timeout(Some(CLIENT_GONE_AFTER))
        .add_service(ClusterServer::new(ClusterService(api.clone())))
        .add_service(AgentServer::new(AgentService(api.clone())))
        .add_service(RaftServer::new(raft).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, api.ended.clone().cancelled_owned())
        .await
}
