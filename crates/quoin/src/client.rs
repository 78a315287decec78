//! Asking the cluster manager: which one, how, and what its refusals mean.

use crate::cli::{ClientArgs, Output};
use crate::dev::state::State;
use crate::failure::Failure;
use crate::options::setting::{HostPort, List, Value};
use crate::view::Report;
use crate::view::paint::Paint;
use quoin_api::client::Managers;
use quoin_api::v1::cluster_client::ClusterClient;
use quoin_types::hex;
use std::path::Path;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Where a dev cluster is looked for.
pub(crate) const DEV_DIR: &str = "./quoin-dev";

/// A command's way to the cluster.
pub(crate) struct Client {
    managers: Managers,
    pub(crate) output: Output,
    pub(crate) paint: Paint,
}

impl Client {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let managers = open(&addresses(args.manager.as_deref(), Path::new(DEV_DIR))?)?;
        Ok(Self { managers, output: args.output, paint: Paint::for_stdout() })
    }

    /// Asks whichever manager answers.
    pub(crate) async fn ask<T, F>(&self, call: F) -> Result<T, Failure>
    where
        F: AsyncFnMut(ClusterClient<Channel>) -> Result<T, Status>,
    {
        self.ask_raw(call).await.map_err(|status| self.failure(&status))
    }

    /// As [`Client::ask`], with the refusal as it came.
    pub(crate) async fn ask_raw<T, F>(&self, call: F) -> Result<T, Status>
    where
        F: AsyncFnMut(ClusterClient<Channel>) -> Result<T, Status>,
    {
        self.managers.cluster(call).await
    }

    /// What a refusal means to the user.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::status(status, self.managers.addresses())
    }

    /// Whether answers are to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Prints an answer.
    pub(crate) fn print(&self, report: &Report) -> Result<(), Failure> {
        report.print(self.is_json())
    }
}

/// A wish that is carried out once, however often managers are asked for it: one that did not answer in time may well have
/// done it.
pub(crate) struct Once(AsciiMetadataValue);

impl Once {
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Failure::failed(format!("no random bytes: {error}")))?;
        let id = AsciiMetadataValue::try_from(hex::encode(&id));
        Ok(Self(id.expect("hexadecimal digits are ASCII")))
    }

    /// The wish, to ask a manager for.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("quoin-request-id", self.0.clone());
        request
    }
}

/// Channels to managers whose addresses were checked.
pub(crate) fn open(addresses: &[String]) -> Result<Managers, Failure> {
    Managers::new(addresses).map_err(|error| Failure::bad_usage(error.to_string()))
}

/// The managers' addresses: as given, or those of the dev cluster in `dev_dir`.
fn addresses(given: Option<&str>, dev_dir: &Path) -> Result<Vec<String>, Failure> {
    if let Some(text) = given {
        let List(addresses) = List::<HostPort>::read(text).map_err(|reason| {
            Failure::bad_usage(format!("`--manager` (or QUOIN_MANAGER) = \"{text}\": {reason}"))
                .hint(List::<HostPort>::HINT)
        })?;
        return Ok(addresses.into_iter().map(|address| address.0).collect());
    }
    match State::load(dev_dir)? {
        Some(state) => Ok(state.manager_addresses()),
        None => Err(Failure::unavailable("no cluster manager is known").hint(
            "give --manager HOST:PORT, or set QUOIN_MANAGER, or run this where `quoin dev` has its ./quoin-dev",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn addresses_are_given_or_found() {
        let directory = tempfile::tempdir().unwrap();
        let none = addresses(None, directory.path()).unwrap_err();
        assert_eq!(none.kind, Kind::Unavailable);
        assert_eq!(addresses(Some("a:1, b:2"), directory.path()).unwrap(), ["a:1", "b:2"]);
        let bad = addresses(Some("a"), directory.path()).unwrap_err();
        assert_eq!(bad.kind, Kind::BadUsage);
        assert!(bad.message.contains("--manager"), "{}", bad.message);
    }
}
