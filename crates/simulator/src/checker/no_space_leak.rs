//! When everything was trimmed and a checkpoint has passed, no disk uses any space; and none has a replica that nobody wants.

use crate::world::World;
use quoin_cluster::Replica;
use quoin_types::ReplicaId;
use std::collections::BTreeSet;

/// Checks all storage nodes, after the trims.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let volume = world.managers.volume();
    for process in &world.nodes {
        let Some(node) = &process.node else { continue };
        let is_here = |replica: &&Replica| replica.node == process.id();
        let replicas = volume.into_iter().flat_map(|volume| volume.replicas().map(|(.., replica)| replica));
        let wanted: BTreeSet<ReplicaId> = replicas.filter(is_here).map(|replica| replica.id).collect();
        let is_orphan = |id: &ReplicaId| !wanted.contains(id);
        if let Some(id) = node.engine().replicas().map(|(id, _)| id).find(is_orphan) {
            return Err(format!("nobody wants replica {id}, and node {} has it", process.index));
        }
        let (engine, index) = (node.engine(), process.index);
        let space = engine.space();
        if space.used_bytes > 0 {
            let snapshots: Vec<_> = engine.replicas().map(|(id, _)| (id, engine.snapshots(id))).collect();
            return Err(format!(
                "everything is trimmed, and node {index} uses {} bytes, of them {} on their way; snapshots {snapshots:?}",
                space.used_bytes, space.freeing_bytes
            ));
        }
    }
    Ok(())
}
