//! A channel to whichever cluster manager answers.
//!
//! Any manager serves any request (it forwards to the leader), so a client needs one that is alive. [`Managers`] keeps the
//! addresses, remembers the last one that worked, and moves on to the next when a call fails for want of a connection.

use crate::v1::HeartbeatReply;
use crate::v1::agent_client::AgentClient;
use crate::v1::cluster_client::ClusterClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one call may take before another manager is tried. Watch streams are not bound by it.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many heartbeats go past a leader that did not answer one.
const SHUNNED_FOR: usize = 30;

/// The managers of one cluster, as a client sees them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Managers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    addresses: Vec<String>,
    calls: Vec<Channel>,
    streams: Vec<Channel>,
    current: AtomicUsize,
    /// Whom heartbeats go to: the leader, once one was answered.
    heartbeats: AtomicUsize,
    /// Who did not answer one in time, and how many more do not go to him first, though he is the leader: he may be out of reach
    /// from here alone.
    shunned: AtomicUsize,
    shunned_for: AtomicUsize,
}

/// An address that is no `host:port`, or none at all.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` is no address of a cluster manager: expected host:port")]
pub struct AddressError {
    /// The text in question.
    pub address: String,
}

impl Managers {
    /// Prepares channels to the given `host:port` addresses; connects on first use. Must be called within a tokio runtime.
    pub fn new(addresses: &[String]) -> Result<Self, AddressError> {
        let mut calls = Vec::with_capacity(addresses.len());
        let mut streams = Vec::with_capacity(addresses.len());
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|_| AddressError { address: address.clone() })?
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(2))
                .keep_alive_while_idle(false)
                .tcp_nodelay(true);
            streams.push(endpoint.connect_lazy());
            calls.push(endpoint.timeout(CALL_TIMEOUT).connect_lazy());
        }
        if calls.is_empty() {
            return Err(AddressError { address: String::new() });
        }
        let [current, heartbeats, shunned, shunned_for] = std::array::from_fn(|_| AtomicUsize::new(0));
        let addresses = addresses.to_vec();
        let inner = Inner { addresses, calls, streams, current, heartbeats, shunned, shunned_for };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The addresses, as given.
    pub fn addresses(&self) -> &[String] {
        &self.inner.addresses
    }

    /// Calls `call` on one manager after another until one is not unavailable: at most once round.
    pub async fn cluster<T, F>(&self, mut call: F) -> Result<T, Status>
    where
        F: AsyncFnMut(ClusterClient<Channel>) -> Result<T, Status>,
    {
        let current = &self.inner.current;
        self.each(current, async |index| call(ClusterClient::new(self.inner.calls[index].clone())).await)
            .await
    }

    /// As [`Managers::cluster`], for the service that storage nodes and gateways use.
    pub async fn agent<T, F>(&self, mut call: F) -> Result<T, Status>
    where
        F: AsyncFnMut(AgentClient<Channel>) -> Result<T, Status>,
    {
        let current = &self.inner.current;
        self.each(current, async |index| call(AgentClient::new(self.inner.calls[index].clone())).await).await
    }

    /// As [`Managers::agent`], for heartbeats. They go to the leader that the last one's reply has named, where the others
    /// need not forward them. Each manager is given so long: one that waits for a manager that hangs is late for all of them,
    /// and its sender would be missed for another's fault.
    pub async fn heartbeat<F>(&self, limit: Duration, mut call: F) -> Result<HeartbeatReply, Status>
    where
        F: AsyncFnMut(AgentClient<Channel>) -> Result<HeartbeatReply, Status>,
    {
        let Inner { addresses, heartbeats, shunned, shunned_for, .. } = &*self.inner;
        let reply = self.each(heartbeats, async |index| {
            let client = AgentClient::new(self.inner.calls[index].clone());
            match tokio::time::timeout(limit, call(client)).await {
                Ok(answer) => answer,
                Err(_) => {
                    shunned.store(index, Ordering::Relaxed);
                    shunned_for.store(SHUNNED_FOR, Ordering::Relaxed);
                    Err(Status::deadline_exceeded("the cluster manager did not answer in time"))
                }
            }
        });
        let reply = reply.await?;
        // Who is reached under another name than the managers give each other is asked as before.
        if let Some(leader) = addresses.iter().position(|address| *address == reply.leader) {
            let left = shunned_for.load(Ordering::Relaxed);
            if left > 0 && shunned.load(Ordering::Relaxed) == leader {
                shunned_for.store(left - 1, Ordering::Relaxed);
            } else {
                heartbeats.store(leader, Ordering::Relaxed);
            }
        }
        Ok(reply)
    }

    /// As [`Managers::agent`], without a time limit: for opening watch streams.
    pub async fn agent_stream<T, F>(&self, mut call: F) -> Result<T, Status>
    where
        F: AsyncFnMut(AgentClient<Channel>) -> Result<T, Status>,
    {
        let current = &self.inner.current;
        self.each(current, async |index| call(AgentClient::new(self.inner.streams[index].clone())).await)
            .await
    }

    async fn each<T>(
        &self,
        current: &AtomicUsize,
        mut call: impl AsyncFnMut(usize) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let count = self.inner.addresses.len();
        let mut last = Status::unavailable("no cluster manager answers");
        for _ in 0..count {
            let index = current.load(Ordering::Relaxed) % count;
            match call(index).await {
                Err(status) if is_unreachable(&status) => {
                    last = status;
                    let next = (index + 1) % count;
                    let _ = current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

/// Whether another manager may do better: the call did not reach this one, or broke on the way, or this one could not
/// reach its leader. A status that was made here, of a connection that broke, has a source; one that a manager sent has none.
pub fn is_unreachable(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || std::error::Error::source(status).is_some()
}
