//! The disk engine: one directory is one disk, with a journal, extent maps and data slots.
//!
//! [`Engine`] is a single-owner, synchronous state machine: it has no clock, no thread and no random source, and reaches
//! the disk only through the traits of `quoin_disk`. The slow waits (data of whole extents, sync, checkpoint, uncached reads) are handed out as
//! jobs that may run on any thread; everything else is called by the owner. What it does *not* do: it knows nothing of
//! epochs, sessions or peers; a replica's replication state is opaque bytes to it (`meta`).
//!
//! The invariants E1–E4 (DESIGN §4) are cited where the fields that carry them live; `docs/disk-format.md` has the bytes.

mod apply;
mod blocks;
mod checkpoint;
mod dump;
mod engine;
mod error;
mod extents;
mod format;
mod found;
mod journal;
mod layer;
mod layer_index;
mod map;
mod offline;
mod open;
mod options;
mod overlay;
mod place;
mod pool;
mod possible;
mod put;
mod read;
mod reader;
mod recover;
mod replica;
mod report;
mod scrub;
mod slot_data;
mod slots;
mod snapshot;
mod sync;
mod tail;
mod task;
mod unopened;
mod view;
mod write;
mod write_through;
mod zero;

pub use apply::{ApplyDone, ApplyJob};
pub use checkpoint::{CheckpointDone, CheckpointJob};
pub use dump::dump;
pub use engine::{Engine, ReplicaView};
pub use error::Error;
pub use extents::{ExtentContent, ExtentOutcome, ExtentPlan};
pub use offline::check;
pub use options::{Identity, Lsn, Opened, Options, Space, Statistics};
pub use place::{PlaceDone, PlaceJob};
pub use read::{ReadOutcome, ReadPlan};
pub use report::{Part, Problem, Progress, Report};
pub use scrub::{Damage, Harm, Scrub, ScrubJob, ScrubReport};
pub use snapshot::Snapshot;
pub use sync::{SyncDone, SyncJob};
pub use unopened::{LastStart, Unopened};
pub use view::View;
