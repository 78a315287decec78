//! What waits to be sent to one storage node stays below the windows of the segments: a slow replica is cut loose before
//! more is queued for it.

use crate::world::World;

/// What a segment has on its way to one voter at most, without an answer: the writer's window.
const WINDOW_BYTES: usize = 16 << 20;
/// Beside writes: the one that passes the window, reads, orders, heartbeats.
const SLACK_BYTES: usize = 2 << 20;

/// Checks the most that ever waited.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let segments = world.managers.volume().map_or(1, |volume| volume.segments.len());
    let bound = (WINDOW_BYTES + SLACK_BYTES) * segments;
    let most = world.network.queued_bytes_max;
    if most > bound {
        return Err(format!(
            "{most} bytes waited to be sent to one storage node; {bound} is the most there may be"
        ));
    }
    Ok(())
}
