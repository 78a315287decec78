//! When everything was trimmed and a checkpoint has passed, no disk uses any space.

use crate::world::World;

/// Checks all storage nodes, after the trims.
pub(crate) fn check(world: &World) -> Result<(), String> {
    for process in &world.nodes {
        let Some(node) = &process.node else { continue };
        let used = node.engine().space().used_bytes;
        if used > 0 {
            return Err(format!("everything is trimmed, and node {} uses {used} bytes", process.index));
        }
    }
    Ok(())
}
