//! Why a call was not answered as hoped, and how that reads at the other end.

use crate::member::Refused;
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

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(status)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Status(to_status(&refused))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Refused::from(refusal).into()
    }
}

/// A refusal as a status: its kind as the code; its message, and its hint on a line of its own.
pub(crate) fn to_status(refused: &Refused) -> Status {
    let text = match refused.hint.as_str() {
        "" => refused.message.clone(),
        hint => with_hint(&refused.message, hint),
    };
    match refused.kind {
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
