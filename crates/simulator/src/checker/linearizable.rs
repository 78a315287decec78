//! What clients saw is what one disk would have shown, across takeovers and losses of power.

use crate::world::World;

/// Checks the whole history.
pub(crate) fn check(world: &World) -> Result<(), String> {
    quoin_history::check(&world.observer.history).map_err(|violation| violation.to_string())
}
