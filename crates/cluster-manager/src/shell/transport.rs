//! Raft's messages between members: one stream per peer, fed from a bounded queue that drops its oldest when full (raft
//! sends again what matters), opened anew with backoff when it breaks. Snapshots go by calls of their own.

use super::driver::Handle;
use crate::metrics::Metrics;
use crate::raft::{OutboundMessage, parse_message};
use crate::shared::Shared;
use hyper_util::client::legacy::connect::HttpConnector;
use quoin_api::v1;
use quoin_api::v1::raft_client::RaftClient;
use quoin_api::v1::raft_server::Raft;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Messages waiting for one peer.
const QUEUE_MAX: usize = 1024;
/// Messages between the queue and the socket.
const STREAM_MAX: usize = 16;
/// The largest message taken. A snapshot is one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long a snapshot may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may bring nothing through. Without a limit of its own, TCP tries for a quarter of an hour, at ever
/// greater distances, and so goes on late when the network is whole again.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Messages for one peer, oldest first.
#[derive(Default)]
struct Queue {
    messages: Mutex<VecDeque<OutboundMessage>>,
    filled: Notify,
}

impl Queue {
    fn push(&self, message: OutboundMessage) -> bool {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = messages.len() >= QUEUE_MAX && messages.pop_front().is_some();
        messages.push_back(message);
        drop(messages);
        self.filled.notify_one();
        dropped
    }

    async fn pop(&self) -> OutboundMessage {
        loop {
            let message = self.messages.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match message {
                Some(message) => return message,
                None => self.filled.notified().await,
            }
        }
    }
}

/// The queues to all peers. What raft sends goes in here.
#[derive(Clone)]
pub(crate) struct Peers {
    queues: Arc<BTreeMap<u64, Arc<Queue>>>,
    metrics: Metrics,
}

impl Peers {
    pub(crate) fn new(ids: impl Iterator<Item = u64>, metrics: Metrics) -> Self {
        Self { queues: Arc::new(ids.map(|id| (id, Arc::default())).collect()), metrics }
    }

    /// Queues a message. Never blocks.
    pub(crate) fn send(&self, message: OutboundMessage) {
        let dropped = self.queues.get(&message.to).is_none_or(|queue| queue.push(message));
        if dropped {
            self.metrics.messages_dropped.inc();
        }
    }
}

/// A channel to a peer, connected on first use. The system watches over it, which wakes nobody: a connection whose other end
/// does not take what was sent to it, or is not there any more, breaks after [`SILENCE_MAX`], and another is opened. Raft itself notices
/// a member that is there and says nothing.
pub(crate) fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_millis(500));
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_tcp_user_timeout(Some(SILENCE_MAX));
    connector.set_keepalive(Some(SILENCE_MAX / 3));
    connector.set_keepalive_interval(Some(SILENCE_MAX / 3));
    connector.set_keepalive_retries(Some(2));
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// One direction: from this member to one peer.
pub(crate) struct PeerLink {
    pub(crate) this: u64,
    pub(crate) peer: u64,
    pub(crate) channel: Channel,
    pub(crate) shared: Arc<Shared>,
    pub(crate) raft: Handle,
}

impl PeerLink {
    /// Carries messages for ever. Ends when dropped.
    pub(crate) async fn run(self, peers: Peers) {
        let Some(queue) = peers.queues.get(&self.peer).cloned() else { return };
        let link = Arc::new(self);
        let mut backoff = BACKOFF_MIN;
        loop {
            let carried = link.clone().carry(&queue).await;
            link.raft.unreachable(link.peer);
            backoff = if carried > 0 { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
            tokio::time::sleep(backoff).await;
        }
    }

    /// Opens one stream and feeds it until it breaks. Returns how many messages went into it after its first ones had left.
    async fn carry(self: Arc<Self>, queue: &Queue) -> u64 {
        let (sender, receiver) = mpsc::channel(STREAM_MAX);
        let mut client = RaftClient::new(self.channel.clone());
        let mut carried = 0;
        let feed = async {
            loop {
                let message = queue.pop().await;
                if message.snapshot {
                    tokio::spawn(self.clone().install(message));
                } else if sender.send(self.envelope(message)).await.is_err() {
                    return;
                } else {
                    carried += u64::from(sender.capacity() > 0);
                }
            }
        };
        tokio::select! {
            result = client.exchange(ReceiverStream::new(receiver)) => {
                if let Err(status) = result {
                    tracing::debug!(peer = self.peer, %status, "the stream to a member broke");
                }
            }
            () = feed => {}
        }
        carried.saturating_sub(STREAM_MAX as u64)
    }

    async fn install(self: Arc<Self>, message: OutboundMessage) {
        let mut client = RaftClient::new(self.channel.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.install(self.envelope(message));
        let arrived = matches!(tokio::time::timeout(SNAPSHOT_TIMEOUT, call).await, Ok(Ok(_)));
        tracing::info!(peer = self.peer, arrived, "sent a snapshot to a member that is far behind");
        self.raft.snapshot_sent(self.peer, arrived);
    }

    fn envelope(&self, message: OutboundMessage) -> v1::RaftEnvelope {
        let cluster_id = self.shared.state().cluster_id();
        v1::RaftEnvelope {
            from: self.this,
            to: message.to,
            cluster_id: cluster_id.map(|id| id.0.to_vec()).unwrap_or_default(),
            message: message.bytes,
        }
    }
}

/// The receiving end.
pub(crate) struct RaftService {
    pub(crate) this: u64,
    pub(crate) members: Vec<u64>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) raft: Handle,
    pub(crate) ended: CancellationToken,
}

impl RaftService {
    /// Checks a message and hands it to raft. Fails if the sender has no business here, so that its stream ends.
    fn take(&self, envelope: &v1::RaftEnvelope) -> Result<(), Status> {
        if !self.members.contains(&envelope.from) || envelope.from == self.this {
            return Err(Status::permission_denied(format!("{} is no other member", envelope.from)));
        }
        let known = self.shared.state().cluster_id();
        let theirs = &envelope.cluster_id;
        if !theirs.is_empty() && known.is_some_and(|known| theirs.as_slice() != known.as_bytes()) {
            return Err(Status::failed_precondition(
                "a member of another cluster; check the addresses of the peers",
            ));
        }
        match parse_message(&envelope.message, envelope.from, self.this) {
            Ok(message) => {
                self.raft.message(message).map_err(|_| Status::unavailable("this member is stopping"))
            }
            Err(error) => {
                tracing::warn!(from = envelope.from, %error, "a raft message is dropped");
                Ok(())
            }
        }
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn exchange(
        &self,
        request: Request<Streaming<v1::RaftEnvelope>>,
    ) -> Result<Response<v1::RaftAck>, Status> {
        let mut stream = request.into_inner();
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return Err(Status::unavailable("this member is stopping")),
                message = stream.message() => match message? {
                    Some(envelope) => self.take(&envelope)?,
                    None => return Ok(Response::new(v1::RaftAck {})),
                },
            }
        }
    }

    async fn install(&self, request: Request<v1::RaftEnvelope>) -> Result<Response<v1::RaftAck>, Status> {
        self.take(request.get_ref())?;
        Ok(Response::new(v1::RaftAck {}))
    }
}
