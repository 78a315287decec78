//! When faults have ended, all replicas of a segment are the same, bit for bit, and so is every snapshot that is kept, on
//! each of them.

use crate::world::{World, registers};
use quoin_cluster::SnapshotState;
use quoin_store::{Engine, ExtentContent, ExtentOutcome, View};
use quoin_types::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BootId, EXTENT_BYTES, ExtentIndex, ReplicaId, SnapshotId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Registers with their values, of each snapshot.
pub(crate) type Shown = BTreeMap<SnapshotId, Vec<(u64, u64)>>;

/// Checks all segments; reads straight from the disks, as a start of each node would find them. Gives what the snapshots show.
pub(crate) fn check(world: &mut World) -> Result<Shown, String> {
    let mut shown = Shown::default();
    let Some(volume) = world.managers.volume().cloned() else { return Ok(shown) };
    let mut engines = Vec::new();
    for process in &world.nodes {
        let disk = process.disk.process_crash();
        let options = crate::world::OPTIONS;
        engines.push(
            Engine::open(Arc::new(disk), None, BootId([0; 16]), options).ok().map(|(engine, _)| engine),
        );
    }
    for (index, segment) in (0..).zip(&volume.segments) {
        // A snapshot is of the segments that there were when it was asked for.
        let from = index * volume.segment_bytes;
        let kept = volume
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.state == SnapshotState::Ready && from < snapshot.size_bytes);
        let views = kept.map(|snapshot| View::Snapshot(snapshot.id)).chain([View::Live]);
        for view in views {
            world.trace.line(world.now, || format!("segment {index}: {view:?} is compared"));
            let mut first: Option<(ReplicaId, Vec<ExtentContent>)> = None;
            for (replica, _) in segment.members() {
                let node = world.nodes.iter().position(|process| process.id() == replica.node);
                let engine = node.and_then(|node| engines[node].as_mut());
                let engine =
                    engine.ok_or_else(|| format!("the disk of replica {} cannot be opened", replica.id))?;
                let content = content(engine, replica.id, view, volume.segment_bytes)
                    .map_err(|problem| format!("{view:?}: {problem}"))?;
                match &first {
                    None => first = Some((replica.id, content)),
                    Some((other, theirs)) => compare((*other, theirs), (replica.id, &content))
                        .map_err(|problem| format!("segment {index}, {view:?}: {problem}"))?,
                }
            }
            if let (View::Snapshot(id), Some((_, content))) = (view, first) {
                let values = shown.entry(id).or_default();
                for content in content {
                    values.extend(values_of(from, &content)?);
                }
            }
        }
    }
    Ok(shown)
}

/// What the registers of an extent hold.
fn values_of(segment_from: u64, content: &ExtentContent) -> Result<Vec<(u64, u64)>, String> {
    let mut whole = vec![0; EXTENT_BYTES as usize];
    let (block_bytes, mut data) = (BLOCK_BYTES as usize, content.data.chunks(BLOCK_BYTES as usize));
    for block in (0..BLOCKS_PER_EXTENT as usize).filter(|block| content.zero_mask >> block & 1 == 0) {
        let stored = data.next().ok_or("an extent has less data than it says")?;
        whole[block * block_bytes..][..block_bytes].copy_from_slice(stored);
    }
    registers(segment_from + content.extent.byte_offset(), &whole)
}

fn content(
    engine: &mut Engine,
    replica: ReplicaId,
    view: View,
    segment_bytes: u64,
) -> Result<Vec<ExtentContent>, String> {
    let read = |engine: &mut Engine, extent| {
        let mut plan = engine.read_extent(replica, view, extent)?;
        plan.run();
        engine.finish_extent(plan)
    };
    let mut extents = Vec::new();
    for extent in 0..segment_bytes / EXTENT_BYTES {
        match read(engine, ExtentIndex(extent as u32)) {
            Ok(ExtentOutcome::Data(content)) => extents.push(content),
            Ok(_) => return Err(format!("replica {replica} is damaged at extent {extent}")),
            Err(error) => {
                return Err(format!("replica {replica} cannot be read at extent {extent}: {error}"));
            }
        }
    }
    Ok(extents)
}

fn compare(
    (one, ours): (ReplicaId, &[ExtentContent]),
    (other, theirs): (ReplicaId, &[ExtentContent]),
) -> Result<(), String> {
    for (a, b) in ours.iter().zip(theirs) {
        if (a.zero_mask, &a.data) != (b.zero_mask, &b.data) {
            return Err(format!(
                "replicas {one} and {other} differ at extent {} (versions {} and {})",
                a.extent.0, a.version, b.version
            ));
        }
    }
    Ok(())
}
