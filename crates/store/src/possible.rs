//! What a checkpoint or a record says is untrusted even with the right checksum: here is what can be.

use crate::Error;
use crate::format::COUNT_MAX;
use crate::format::checkpoint::{Checkpoint, LayerState, ReplicaState};
use crate::format::entry::{Layer, MapId};
use crate::pool::CHUNK_ENTRIES;
use quoin_types::limits::{SEGMENT_BYTES_DEFAULT, SNAPSHOTS_MAX};
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES};

/// The highest number of a layer: further ones must have room.
pub(crate) const LAYER_MAX: Layer = Layer(u32::MAX / 2);

/// Numbers that only rise must have room to, the journal's files must be as [`crate::Options`] allows, and the replicas as
/// they are created.
pub(crate) fn check_checkpoint(checkpoint: &Checkpoint) -> Result<(), Error> {
    let Checkpoint { number, lsn, position, incarnation, geometry, replicas, .. } = checkpoint;
    let is_possible = [*number, lsn.0, *position, *incarnation].iter().all(|number| *number < COUNT_MAX)
        && position.is_multiple_of(BLOCK_BYTES)
        && geometry.first_file < u32::MAX / 2
        && geometry.files <= 1024
        && geometry.file_bytes <= 1 << 34
        && geometry.file_bytes.is_multiple_of(BLOCK_BYTES)
        && replicas.is_sorted_by(|a, b| a.id < b.id)
        && replicas.iter().all(|state| is_replica(state) && has_base(state, replicas));
    is_possible.then_some(()).ok_or_else(|| Error::corrupt("the checkpoint", "it tells what cannot be"))
}

fn is_replica(state: &ReplicaState) -> bool {
    let ascends = |layers: &[LayerState]| layers[0].layer < layers[1].layer;
    is_segment(state.segment_bytes)
        && state.last_layer <= LAYER_MAX
        && state.layers.len() <= SNAPSHOTS_MAX
        && state.layers.windows(2).all(ascends)
        && state.layers.first().is_none_or(|first| first.layer > Layer::LIVE)
        && state.layers.last().is_none_or(|last| last.layer <= state.last_layer)
        && state.layers.iter().flat_map(|layer| &layer.chunks).all(|(number, _)| {
            *number < (state.segment_bytes.div_ceil(EXTENT_BYTES) as u32).div_ceil(CHUNK_ENTRIES)
        })
}

/// Whether what it is a clone of is there, and is not itself in the end.
fn has_base(state: &ReplicaState, all: &[ReplicaState]) -> bool {
    let find = |map: MapId| {
        let base = all.iter().find(|base| base.id == map.replica)?;
        base.layers.iter().any(|layer| layer.layer == map.layer).then_some(base)
    };
    let mut at = state;
    for _ in 0..all.len() {
        let Some(base) = at.base else { return true };
        let Some(next) = find(base) else { return false };
        at = next;
    }
    at.base.is_none()
}

/// Whether [`crate::Engine::create_replica`] would have taken it.
pub(crate) fn is_segment(bytes: u64) -> bool {
    (1..=SEGMENT_BYTES_DEFAULT).contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES)
}
