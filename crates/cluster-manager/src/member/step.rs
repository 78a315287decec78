//! How a request gets on: a decision per step, with everything it depends on given to it.
//!
//! A decision is a function of the request, of the [`Point`] it has reached and of what the leader knows then; it says
//! what must happen next. Whoever calls it does that and comes back, so a decision never waits, and is the same in a
//! server and in a simulator.

use super::request::{Current, Refused, Reply, Request};
use super::{changes, gateways, managers, nodes, snapshots, volumes};
use crate::live::Live;
use crate::raft::{Consensus, MemberChange};
use crate::view::View;
use quoin_cluster::{Command, Outcome, Refusal, RequestId, State};
use quoin_types::{Moment, NodeId, SnapshotId, VolumeId};
use std::time::Duration;

/// How far a request is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Point {
    /// Nothing was done yet.
    Begun,
    /// All that was committed when it asked to read is applied here.
    Current,
    /// Something may have happened that it waits for, or its time is over.
    Look(Until),
    /// What it proposed was carried out, or refused.
    Applied(Result<Outcome, Refusal>),
}

/// What must happen next.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// That was it.
    Answer(Reply),
    /// Go on when this member is [`Point::Current`].
    Read,
    /// Propose this under the request's id, and go on when it is [`Point::Applied`].
    Propose(Command),
    /// As [`Step::Propose`], under an id of its own: one of several commands of one request.
    ProposeAlso(Command),
    /// Propose a change of the members, and go on when it is [`Point::Applied`].
    Change(MemberChange),
    /// Make sure that a majority of the members knows who they are, and go on with [`Until::Settled`].
    Settle,
    /// Hand over leadership: the next leader does the rest.
    Resign,
    /// Look again when something has happened.
    Wait(Until),
    /// There is no answer here.
    TryAgain,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Until {
    /// That enough is known to decide.
    Decidable,
    /// That a volume's replicas exist.
    Made(VolumeId),
    /// That a volume has grown.
    Grown(VolumeId),
    /// That a snapshot is ready.
    Taken(SnapshotId),
    /// That a majority of the members knows who they are.
    Settled,
    /// That it stands in the state that this start of a node is over.
    Gone(NodeId, u64),
}

/// What a decision is made from.
pub(super) struct Context<'a> {
    pub(super) id: u64,
    /// The request's own id.
    pub(super) request: RequestId,
    pub(super) state: &'a State,
    pub(super) live: &'a mut Live,
    pub(super) consensus: &'a Consensus,
    pub(super) now: Moment,
    /// How long the request may still take.
    pub(super) left: Duration,
    /// Set if the leader's duties should not wait for their time.
    pub(super) hurry: bool,
}

impl Context<'_> {
    /// Whether the request's time lasts for this, and a little more for the answer.
    pub(super) fn has_time_for(&self, wait: Duration) -> bool {
        self.left > wait
    }

    pub(super) fn view(&self) -> View<'_> {
        View { state: self.state, live: self.live, now: self.now }
    }
}

/// Decides what comes next for a request.
pub(super) fn step(request: &Request, point: Point, cx: &mut Context<'_>) -> Result<Step, Refused> {
    match request {
        Request::RegisterNode(asked) => nodes::register(asked, point, cx),
        Request::NodeHeartbeat(asked) => nodes::heartbeat(asked, &point, cx),
        Request::ReportReplicas(asked) => nodes::report_replicas(asked, point, cx),
        Request::Attach(asked) => gateways::attach(asked, point, cx),
        Request::Detach(asked) => gateways::detach(asked, point),
        Request::GatewayHeartbeat(asked) => gateways::heartbeat(asked, point, cx),
        Request::CreateVolume(asked) => volumes::create(asked, point, cx),
        Request::ResizeVolume(asked) => volumes::resize(asked, point, cx),
        Request::DeleteVolume(asked) => volumes::delete(asked, point, cx),
        Request::MoveReplica(asked) => changes::move_replica(asked, point, cx),
        Request::SetReplicas(asked) => changes::set_replicas(asked, point, cx),
        Request::AbortChange(asked) => changes::abort(asked, point, cx),
        Request::CreateSnapshot(asked) => snapshots::create(asked, point, cx),
        Request::DeleteSnapshot(asked) => snapshots::delete(asked, point),
        Request::Propose(command) => match point {
            Point::Applied(result) => Ok(Step::Answer(Reply::Applied(result?))),
            _ => Ok(Step::Propose(command.clone())),
        },
        Request::Read => match point {
            Point::Current => Ok(Step::Answer(Current.into())),
            _ => Ok(Step::Read),
        },
        Request::ChangeMembers { add, remove } => managers::change(add.as_ref(), *remove, point, cx),
    }
}

/// The outcome of another command than was proposed: the request's id was used before, for something else.
pub(super) fn other_request() -> Refused {
    Refused::invalid("the request id belongs to another request")
}
