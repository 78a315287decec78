//! When faults have ended, all replicas of a segment are the same, bit for bit, with the same versions of their extents.

use crate::world::World;
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
    for (index, segment) in volume.segments.iter().enumerate() {
        let mut first: Option<(ReplicaId, Vec<ExtentContent>)> = None;
        for (replica, _) in segment.members() {
            let node = world.nodes.iter().position(|process| process.id() == replica.node);
            let engine = node.and_then(|node| engines[node].as_mut());
            let engine =
                engine.ok_or_else(|| format!("the disk of replica {} cannot be opened", replica.id))?;
            let content = content(engine, replica.id, volume.segment_bytes)?;
            match &first {
                None => first = Some((replica.id, content)),
                Some((other, theirs)) => compare(index, (*other, theirs), (replica.id, &content))?,
            }
        }
    }
    Ok(())
}

fn content(
    engine: &mut Engine,
    replica: ReplicaId,
    segment_bytes: u64,
) -> Result<Vec<ExtentContent>, String> {
    let read = |engine: &mut Engine, extent| {
        let mut plan = engine.read_extent(replica, View::Live, extent)?;
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
    segment: usize,
    (one, ours): (ReplicaId, &[ExtentContent]),
    (other, theirs): (ReplicaId, &[ExtentContent]),
) -> Result<(), String> {
    for (a, b) in ours.iter().zip(theirs) {
        if (a.zero_mask, &a.data) != (b.zero_mask, &b.data) {
            return Err(format!(
                "segment {segment}: replicas {one} and {other} differ at extent {} (versions {} and {})",
                a.extent.0, a.version, b.version
            ));
        }
    }
    Ok(())
}
