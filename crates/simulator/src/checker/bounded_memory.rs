//! What waits to be sent to one storage node stays below what the gateway may retain, and a little: a slow replica is cut
//! loose before that.

use crate::world::World;

/// Beside writes: reads, orders, and what a request that is being cut into pieces brings at once.
const SLACK_BYTES: usize = 4 << 20;

/// Checks the most that ever waited.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let segments = world.setup.segments as usize;
    let bound = world.setup.retained_bytes_max * segments * 2 + SLACK_BYTES;
    let most = world.network.queued_bytes_max;
    if most > bound {
        return Err(format!(
            "{most} bytes waited to be sent to one storage node; {bound} is the most there may be"
        ));
    }
    Ok(())
}
