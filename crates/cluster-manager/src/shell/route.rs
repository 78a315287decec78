//! Where a call is answered: here if this member leads, else at the leader. While there is none, the call waits a while: an
//! election takes seconds, and clients should not see it.

use super::driver::Handle;
use super::failure::{Failure, with_hint};
use crate::member::{Answer, Current, OtherReply, Reply, Request as Asked};
use crate::shared::Shared;
use quoin_cluster::RequestId;
use quoin_types::hex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// Every call is answered within this, whatever happens: below the five seconds that `quoin_api::client` waits, so that a
/// client gets the answer, not its own time-out.
const ANSWER_WITHIN: Duration = Duration::from_millis(4500);
/// How long to wait before looking again for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Ticks of silence after which another member counts as unreachable.
pub(crate) const MEMBER_SILENCE_TICKS: u32 = 10;
/// Set on forwarded calls, to the milliseconds left: such a call is never forwarded again.
const FORWARDED: &str = "quoin-forwarded-budget-ms";
/// The request's id, in hex: kept through retries, so that a command is carried out once. A client may set it.
const REQUEST: &str = "quoin-request-id";

/// What every service has at hand.
pub(crate) struct Api {
    pub(crate) id: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) member: Handle,
    pub(crate) peers: BTreeMap<u64, Channel>,
    /// Who is a member, for status.
    pub(crate) addresses: BTreeMap<u64, String>,
    pub(crate) tick: Duration,
    /// Cancelled when this member stops, or is dropped.
    pub(crate) ended: CancellationToken,
}

/// One call, at the leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
}

impl Api {
    /// Answers `request` with `here` if this member leads, else with `there` at the leader; again, if leadership changes
    /// on the way, until the time is up.
    pub(crate) async fn route<Q, A, H, HF, T, TF>(
        self: &Arc<Self>,
        request: Request<Q>,
        here: H,
        there: T,
    ) -> Result<Response<A>, Status>
    where
        Q: Clone,
        H: Fn(Arc<Self>, Call, Q) -> HF,
        HF: Future<Output = Result<A, Failure>>,
        T: Fn(Channel, Request<Q>) -> TF,
        TF: Future<Output = Result<Response<A>, Status>>,
    {
        let (metadata, _, message) = request.into_parts();
        let forwarded = forwarded_budget(&metadata);
        let call = Call {
            request: request_id(&metadata)?,
            deadline: Instant::now() + forwarded.unwrap_or(ANSWER_WITHIN).min(ANSWER_WITHIN),
        };
        loop {
            if self.leads() {
                match here(self.clone(), call, message.clone()).await {
                    Ok(answer) => return Ok(Response::new(answer)),
                    Err(Failure::Status(status)) => return Err(status),
                    Err(Failure::TryAgain) => {}
                }
            } else if forwarded.is_some() && self.shared.leadership.borrow().leader != Some(self.id) {
                return Err(Status::unavailable("this member does not lead"));
            } else if let Some(answer) = self.forward(call, &message, &there).await {
                return answer;
            }
            self.wait_for_leader(call.deadline).await?;
        }
    }

    /// Whether this member leads a cluster that has its identity.
    pub(crate) fn leads(&self) -> bool {
        let leading = self.shared.leadership.borrow().leading && !self.ended.is_cancelled();
        leading && self.shared.state().cluster_id().is_some()
    }

    /// Asks the leader. `None` if it did not answer, or lost its place on the way.
    async fn forward<Q, A, T, TF>(
        &self,
        call: Call,
        message: &Q,
        there: &T,
    ) -> Option<Result<Response<A>, Status>>
    where
        Q: Clone,
        T: Fn(Channel, Request<Q>) -> TF,
        TF: Future<Output = Result<Response<A>, Status>>,
    {
        let mut leadership = self.shared.leadership.subscribe();
        let leader = leadership.borrow_and_update().leader?;
        let channel = self.peers.get(&leader)?.clone();
        let mut request = Request::new(message.clone());
        let left = call.deadline.saturating_duration_since(Instant::now());
        mark_forwarded(request.metadata_mut(), call.request, left);
        let other_leader = leadership.wait_for(|now| now.leader != Some(leader));
        let answer = tokio::select! {
            answer = there(channel, request) => answer,
            _ = other_leader => return None,
            () = tokio::time::sleep_until(call.deadline) => return None,
        };
        match answer {
            Err(status) if is_retryable(&status) => None,
            answer => Some(answer),
        }
    }

    async fn wait_for_leader(&self, deadline: Instant) -> Result<(), Status> {
        if Instant::now() + LOOK_AGAIN >= deadline {
            return Err(Status::unavailable(with_hint(
                "the cluster manager has no leader that answers",
                "a majority of its members must be running and must reach each other",
            )));
        }
        let mut leadership = self.shared.leadership.subscribe();
        tokio::select! {
            () = self.ended.cancelled() => Err(Status::unavailable("this member is stopping")),
            _ = leadership.changed() => Ok(()),
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(()),
        }
    }

    /// Asks the member under the call's request id, within its time.
    pub(crate) async fn ask<R>(&self, call: Call, request: Asked) -> Result<R, Failure>
    where
        R: TryFrom<Reply, Error = OtherReply>,
    {
        let left = call.deadline.saturating_duration_since(Instant::now());
        match self.member.ask(call.request, left, request).await {
            Answer::Reply(reply) => {
                R::try_from(reply).map_err(|_| Status::internal("the reply to another request").into())
            }
            Answer::Refused(refused) => Err(refused.into()),
            Answer::TryAgain { .. } => Err(Failure::TryAgain),
        }
    }

    /// Waits until this member has applied all that was committed when the call came: what follows is linearizable.
    pub(crate) async fn read_barrier(&self, call: Call) -> Result<(), Failure> {
        self.ask::<Current>(call, Asked::Read).await.map(drop)
    }
}

/// A fresh random id.
fn random_16() -> Result<[u8; 16], Status> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Status::internal(format!("no random bytes: {error}")))?;
    Ok(bytes)
}

fn request_id(metadata: &MetadataMap) -> Result<RequestId, Status> {
    let given = metadata.get(REQUEST).and_then(|value| value.to_str().ok());
    match given.map(hex::decode_16) {
        Some(Ok(id)) => Ok(RequestId(id)),
        Some(Err(_)) => Err(Status::invalid_argument("quoin-request-id must be 32 hexadecimal digits")),
        None => random_16().map(RequestId),
    }
}

fn forwarded_budget(metadata: &MetadataMap) -> Option<Duration> {
    let value = metadata.get(FORWARDED)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_millis)
}

fn mark_forwarded(metadata: &mut MetadataMap, request: RequestId, left: Duration) {
    if let Ok(value) = MetadataValue::try_from(hex::encode(&request.0)) {
        metadata.insert(REQUEST, value);
    }
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    metadata.insert(FORWARDED, MetadataValue::from(left));
}

/// Whether the leader may not have answered for itself: it is gone, or leads no more. A status that was made on this side,
/// whatever its code (a connection that breaks in the middle of a call is `Internal`), tells of its cause; one that came
/// over the wire has none.
fn is_retryable(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded)
        || std::error::Error::source(status).is_some()
}
