//! The health of a storage node, as commands and snapshots have it.

use super::CodecError;
use crate::health::Cause;
use quoin_api::v1::StoredHealth;

/// Why a node is absent; `None` if it is there.
pub(super) fn to_message(absent: Option<Cause>) -> StoredHealth {
    match absent {
        None => StoredHealth::Online,
        Some(Cause::Silent) => StoredHealth::Silent,
        Some(Cause::Left) => StoredHealth::Left,
    }
}

/// Why a node is absent. Nodes of a snapshot that is older than health are there: what they are is found out soon.
pub(super) fn from_message(value: i32) -> Result<Option<Cause>, CodecError> {
    match StoredHealth::try_from(value).map_err(|_| CodecError::Unknown("health of a node"))? {
        StoredHealth::Unspecified | StoredHealth::Online => Ok(None),
        StoredHealth::Silent => Ok(Some(Cause::Silent)),
        StoredHealth::Left => Ok(Some(Cause::Left)),
    }
}
