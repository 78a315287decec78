//! When faults have ended, all replicas of a segment are the same, bit for bit, and so is every snapshot that is kept, on
//! each of them.

use crate::world::World;
use quoin_cluster::SnapshotState;
use quoin_store::{Engine, ExtentContent, ExtentOutcome, View};
use quoin_types::{BootId, EXTENT_BYTES, ExtentIndex, ReplicaId};
use std::sync::Arc;

/// Checks all segments; reads straight from the disks, as a start of each node would find them.
pub(crate) fn check(world: &mut World) -> Result<(), String> {
    let Some(volume) = world.managers.volume().cloned() else { return Ok(()) };
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
        }
    }
    Ok(())
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
