//! The control plane's messages and services, generated from `/proto`.
//!
//! Converted into `quoin_types` once, at the edge (see [`convert`]); nothing here decides anything.

pub mod client;
pub mod convert;

/// Package `quoin.v1`.
#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("quoin.v1");
}
