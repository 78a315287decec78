//! Why a call was not answered as hoped, and how that reads at the other end.

use crate::raft::TryAgain;
use quoin_cluster::{Refusal, RefusalKind};
use tonic::Status;

/// What went wrong at the leader.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer, for good.
    Status(Status),
    /// Leadership changed on the way: ask whoever leads now, under the same request id.
    TryAgain,
}

impl From<TryAgain> for Failure {
    fn from(_: TryAgain) -> Self {
        Failure::TryAgain
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(status)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Status(refused(&refusal))
    }
}

/// A refusal as a status: its kind as the code; its message, and its hint on a line of its own.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let text = with_hint(&refusal.to_string(), refusal.hint());
    match refusal.kind() {
        RefusalKind::Invalid => Status::invalid_argument(text),
        RefusalKind::NotFound => Status::not_found(text),
        RefusalKind::AlreadyExists => Status::already_exists(text),
        RefusalKind::Precondition => Status::failed_precondition(text),
        RefusalKind::Stale => Status::aborted(text),
    }
}

/// A message with a hint, as every error of this service has it.
pub(crate) fn with_hint(message: &str, hint: &str) -> String {
    format!("{message}\nhint: {hint}")
}
