//! Commands and state as messages, and back, once, at the edge.
//!
//! What this version does not know it refuses. A member that skipped an unknown command would go on with another state
//! than the others, without anyone noticing; one that stops can be upgraded.

mod change;
pub mod command;
mod health;
mod segment;
pub mod snapshot;
pub mod state;

use quoin_types::{ClusterId, DiskId, InstanceId};

/// Bytes of the log or of a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// No message at all.
    #[error("damaged: {0}")]
    Damaged(#[from] prost::DecodeError),
    /// A field has a value that no version writes.
    #[error("damaged: {0} has a value that cannot be")]
    Field(&'static str),
    /// Written by a later version.
    #[error("written by a later version of quoin ({0}): upgrade this member")]
    Unknown(&'static str),
}

fn random_16(bytes: &[u8], field: &'static str) -> Result<[u8; 16], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Field(field))
}

fn disk(bytes: &[u8]) -> Result<DiskId, CodecError> {
    random_16(bytes, "disk").map(DiskId)
}

fn cluster(bytes: &[u8]) -> Result<ClusterId, CodecError> {
    random_16(bytes, "cluster_id").map(ClusterId)
}

fn instance(bytes: &[u8]) -> Result<InstanceId, CodecError> {
    random_16(bytes, "instance").map(InstanceId)
}

fn optional_instance(bytes: &[u8]) -> Result<Option<InstanceId>, CodecError> {
    if bytes.is_empty() { Ok(None) } else { instance(bytes).map(Some) }
}

fn instance_bytes(instance: Option<InstanceId>) -> Vec<u8> {
    instance.map(|id| id.0.to_vec()).unwrap_or_default()
}

fn durability(value: i32) -> Result<quoin_types::Durability, CodecError> {
    let value = quoin_api::v1::Durability::try_from(value).map_err(|_| CodecError::Unknown("durability"))?;
    Ok(value.or_default())
}
