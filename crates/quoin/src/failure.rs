//! What goes wrong, as the user is told: a kind, a message and a hint.
//!
//! The kinds and their exit codes are a contract (docs/operations/cli.md). Nothing else decides an exit code.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::process::ExitCode;
use tonic::{Code, Status};

/// What scripts may tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Tried and did not succeed.
    Failed,
    /// The command or an option makes no sense as given.
    BadUsage,
    /// The thing named does not exist.
    NotFound,
    /// Nobody answers, or not enough of the cluster; it may succeed later.
    Unavailable,
    /// A disk was looked at, and it is damaged.
    Damaged,
}

impl Kind {
    /// The process's exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::BadUsage => 2,
            Kind::NotFound => 3,
            Kind::Unavailable => 4,
            Kind::Damaged => 5,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::BadUsage => "bad usage",
            Kind::NotFound => "not found",
            Kind::Unavailable => "unavailable",
            Kind::Damaged => "damaged",
        }
    }
}

/// Why a command did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn bad_usage(message: impl Into<String>) -> Self {
        Self::new(Kind::BadUsage, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An operation of the operating system that failed: `cannot {action}: {error}`.
    pub(crate) fn io(action: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::failed(format!("cannot {action}: {error}"))
    }

    /// A manager's refusal, or its silence.
    pub(crate) fn status(status: &Status, managers: &[String]) -> Self {
        // A manager that knows what to do about it says so on a line of its own.
        let (message, advice) = match status.message().split_once("\nhint: ") {
            Some((message, advice)) => (message, Some(advice)),
            None => (status.message(), None),
        };
        if quoin_api::client::is_unreachable(status) {
            let asked = managers.join(", ");
            let advice =
                advice.unwrap_or("a majority of the managers must run; for a dev cluster: start `quoin dev`");
            return Self::unavailable(format!("no cluster manager could answer ({asked}): {message}"))
                .hint(advice);
        }
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument => Kind::BadUsage,
            _ => Kind::Failed,
        };
        let failure = Self::new(kind, message);
        match (status.code(), advice) {
            (_, Some(advice)) => failure.hint(advice),
            (Code::NotFound, None) => {
                failure.hint("`quoin volume list` and `quoin node list` show what exists")
            }
            (Code::Unimplemented, None) => {
                failure.hint("the manager is of another version than this command")
            }
            _ => failure,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }

    /// `error: KIND: MESSAGE`, and the hint on a line of its own.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("error: {}: {}\n", self.kind.words(), self.message.trim_end());
        if let Some(hint) = &self.hint {
            writeln!(text, "  hint: {hint}").expect("writing to a String cannot fail");
        }
        text
    }

    /// One line: `{"error":{"kind":…,"message":…,"hint":…,"exit_code":…}}`.
    pub(crate) fn to_json(&self) -> String {
        let error = serde_json::json!({
            "kind": self.kind,
            "message": self.message.trim_end(),
            "hint": self.hint,
            "exit_code": self.kind.code(),
        });
        format!("{}\n", serde_json::json!({ "error": error }))
    }
}

impl From<clap::Error> for Failure {
    /// A command line that clap refused. Its own text is kept: it shows the usage and what may have been meant.
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        Self::bad_usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_kind_its_message_and_a_hint() {
        let failure = Failure::not_found("volume vol9 does not exist").hint("`quoin volume list` shows them");
        assert_eq!(
            failure.to_text(),
            "error: not found: volume vol9 does not exist\n  hint: `quoin volume list` shows them\n"
        );
        let json: serde_json::Value = serde_json::from_str(&failure.to_json()).unwrap();
        assert_eq!(json["error"]["kind"], "not_found");
        assert_eq!(json["error"]["message"], "volume vol9 does not exist");
        assert_eq!(json["error"]["hint"], "`quoin volume list` shows them");
        assert_eq!(json["error"]["exit_code"], 3);
    }

    #[test]
    fn without_a_hint_the_json_says_null() {
        let json: serde_json::Value = serde_json::from_str(&Failure::failed("no").to_json()).unwrap();
        assert!(json["error"]["hint"].is_null());
    }

    #[test]
    fn the_exit_codes_are_the_contract() {
        let managers = ["m:1".to_owned()];
        for (status, code) in [
            (Status::not_found("x"), 3),
            (Status::unavailable("x"), 4),
            (Status::deadline_exceeded("x"), 4),
            (Status::invalid_argument("x"), 2),
            (Status::failed_precondition("x"), 1),
            (Status::already_exists("x"), 1),
            (Status::internal("x"), 1),
        ] {
            assert_eq!(Failure::status(&status, &managers).kind.code(), code, "{status:?}");
        }
        let advised = Failure::status(&Status::failed_precondition("it is in use\nhint: stop it"), &managers);
        assert_eq!((advised.message.as_str(), advised.hint.as_deref()), ("it is in use", Some("stop it")));
        let silent = Failure::status(&Status::unavailable("refused"), &managers);
        assert!(silent.message.contains("m:1") && silent.message.contains("refused"), "{}", silent.message);
    }
}
