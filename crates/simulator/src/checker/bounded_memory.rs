//! What a process holds for others stays bounded, whatever becomes of them: what waits to be sent to one storage node stays below the
//! windows of the segments, for a slow replica is cut loose before more is queued for it; what a gateway keeps until it is durable on a
//! majority stays below its bound (rule W2); and what a storage node has not put in its place yet is no more than its journal.

use crate::world::{OPTIONS, World};

/// What a segment has on its way to one voter at most, without an answer: the writer's window.
const WINDOW_BYTES: usize = 16 << 20;
/// Beside writes: the one that passes the window, reads, orders, heartbeats.
const SLACK_BYTES: usize = 2 << 20;
/// The write that passes the bound on what is kept: clients ask for 40 blocks at most.
const LARGEST_WRITE_BYTES: usize = 256 << 10;

/// The most that was ever held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// By a gateway, for one volume.
    retained_bytes: usize,
    /// By a storage node.
    unapplied_bytes: u64,
}

impl Held {
    /// Looks at all processes.
    pub(crate) fn look(self, world: &World) -> Self {
        let running = world.gateways.iter().filter_map(|process| process.running.as_ref());
        let retained = running.flat_map(|running| running.core.reports()).map(|report| report.retained_bytes);
        let nodes = world.nodes.iter().filter_map(|process| process.node.as_ref());
        let unapplied = nodes.map(|node| node.engine().unapplied_bytes());
        Self {
            retained_bytes: retained.max().unwrap_or_default().max(self.retained_bytes),
            unapplied_bytes: unapplied.max().unwrap_or_default().max(self.unapplied_bytes),
        }
    }
}

/// Checks the most that ever waited, and that was ever held.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let segments = world.managers.volume().map_or(1, |volume| volume.segments.len());
    let below = |what: &str, most: usize, bound: usize| {
        if most <= bound {
            Ok(())
        } else {
            Err(format!("{most} bytes {what}; {bound} is the most there may be"))
        }
    };
    let queued = world.network.queued_bytes_max;
    below("waited to be sent to one storage node", queued, (WINDOW_BYTES + SLACK_BYTES) * segments)?;
    let kept = (world.setup.retained_bytes_max + LARGEST_WRITE_BYTES) * segments;
    below("of writes were kept by a gateway", world.held.retained_bytes, kept)?;
    let journal = (OPTIONS.journal_file_bytes * u64::from(OPTIONS.journal_files)) as usize;
    below("were not in their place on a storage node", world.held.unapplied_bytes as usize, journal)
}
