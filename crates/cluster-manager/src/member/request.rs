//! What a member is asked, and what it answers.

use quoin_api::v1;
use quoin_cluster::{Command, Outcome, Refusal, RefusalKind, RequestId};
use quoin_types::Moment;

/// A request's number, given by whoever asks; the answer bears it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A request, and what a member must know about it.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// Kept through retries, whichever member they go to: what it asks for is then carried out once.
    pub request_id: RequestId,
    /// Answered by then, if only with [`Answer::TryAgain`].
    pub deadline: Moment,
    /// What is asked.
    pub request: Request,
}

/// What a leader can be asked.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "each is the method of the same name in proto/quoin/v1")]
pub enum Request {
    RegisterNode(v1::RegisterNodeRequest),
    NodeHeartbeat(v1::NodeHeartbeatRequest),
    ReportReplicas(v1::ReportReplicasRequest),
    Attach(v1::AttachRequest),
    Detach(v1::DetachRequest),
    GatewayHeartbeat(v1::GatewayHeartbeatRequest),
    CreateVolume(v1::CreateVolumeRequest),
    ResizeVolume(v1::ResizeVolumeRequest),
    DeleteVolume(v1::DeleteVolumeRequest),
    MoveReplica(v1::MoveReplicaRequest),
    SetReplicas(v1::SetReplicasRequest),
    AbortChange(v1::AbortChangeRequest),
    CreateSnapshot(v1::CreateSnapshotRequest),
    DeleteSnapshot(v1::DeleteSnapshotRequest),
    /// Any command, as it is.
    Propose(Command),
    /// Answered when this member has applied everything that was committed when it was asked: what is seen in its state
    /// then is linearizable.
    Read,
    /// Takes a member in, lets one go, or both, one step after the other; answered when all is done. May be asked again
    /// at any time, and goes on where it stands. An id that was a member's once is never given to another.
    ChangeMembers {
        /// Who is to become a member, and where it is reached (`host:port`).
        add: Option<(u64, String)>,
        /// Who is to be one no more.
        remove: Option<u64>,
    },
}

/// What a leader answers.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "each is the reply to the request of the same name")]
pub enum Reply {
    RegisterNode(v1::RegisterNodeReply),
    /// Of a storage node or a gateway.
    Heartbeat(v1::HeartbeatReply),
    ReportReplicas(v1::ReportReplicasReply),
    Attach(Box<v1::AttachReply>),
    Detach(v1::DetachReply),
    /// It was created, grown or otherwise changed, or will be: its state says which.
    Volume(Box<v1::Volume>),
    DeleteVolume(v1::DeleteVolumeReply),
    /// It was taken, or will be: its state says which.
    Snapshot(v1::Snapshot),
    DeleteSnapshot(v1::DeleteSnapshotReply),
    /// What came of a command.
    Applied(Outcome),
    /// What is read now is current.
    Current(Current),
    /// The members are as wanted.
    MembersChanged,
}

/// What becomes of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// It was carried out.
    Reply(Reply),
    /// It cannot be; nothing was changed.
    Refused(Refused),
    /// This member does not lead, or led no longer than this, or ran out of time: the request may or may not have been
    /// carried out. Asked again under the same id, at whoever leads now, it is answered.
    TryAgain {
        /// Who leads, as far as this member knows.
        leader: Option<u64>,
    },
}

/// Why a request cannot be carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what is wrong.
    pub message: String,
    /// For people: what to do about it; empty if there is nothing to say.
    pub hint: String,
}

impl Refused {
    /// A request that is wrong whatever the state.
    pub(crate) fn invalid(message: &str) -> Self {
        Self { kind: RefusalKind::Invalid, message: message.to_owned(), hint: String::new() }
    }

    /// One that cannot be carried out now.
    pub(crate) fn precondition(message: String, hint: &str) -> Self {
        Self { kind: RefusalKind::Precondition, message, hint: hint.to_owned() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { kind: refusal.kind(), message: refusal.to_string(), hint: refusal.hint().to_owned() }
    }
}

/// What was read is current: the reply to [`Request::Read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Current;

/// The reply to another request than was asked: a mistake of this program's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherReply;

macro_rules! replies {
    ($($variant:ident: $message:ty, $wrap:expr, $unwrap:expr;)*) => {$(
        impl From<$message> for Reply {
            fn from(message: $message) -> Self {
                Reply::$variant($wrap(message))
            }
        }

        impl TryFrom<Reply> for $message {
            type Error = OtherReply;

            fn try_from(reply: Reply) -> Result<Self, OtherReply> {
                match reply {
                    Reply::$variant(message) => Ok($unwrap(message)),
                    _ => Err(OtherReply),
                }
            }
        }
    )*};
}

replies! {
    RegisterNode: v1::RegisterNodeReply, std::convert::identity, std::convert::identity;
    Heartbeat: v1::HeartbeatReply, std::convert::identity, std::convert::identity;
    ReportReplicas: v1::ReportReplicasReply, std::convert::identity, std::convert::identity;
    Attach: v1::AttachReply, Box::new, |boxed: Box<v1::AttachReply>| *boxed;
    Detach: v1::DetachReply, std::convert::identity, std::convert::identity;
    Volume: v1::Volume, Box::new, |boxed: Box<v1::Volume>| *boxed;
    DeleteVolume: v1::DeleteVolumeReply, std::convert::identity, std::convert::identity;
    Snapshot: v1::Snapshot, std::convert::identity, std::convert::identity;
    DeleteSnapshot: v1::DeleteSnapshotReply, std::convert::identity, std::convert::identity;
    Current: Current, std::convert::identity, std::convert::identity;
    Applied: Outcome, std::convert::identity, std::convert::identity;
}
