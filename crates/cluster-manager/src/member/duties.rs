//! What a leader does unasked. Pure: what it knows in, commands out.

use crate::live::Live;
use quoin_cluster::{Cause, Command, State};
use quoin_types::Moment;

/// Looks at what is to be done, in the time of a heartbeat.
pub(super) const LOOKS_PER_HEARTBEAT: u32 = 4;

/// What is to be put into the state now. Proposed all at once; the next look is made when all are answered, so that nothing
/// is proposed twice. If it is not known what became of one, that look tells: what is in the state is not found again, and
/// what comes into it twice changes nothing.
pub(super) fn due(state: &State, live: &mut Live, now: Moment) -> Vec<Command> {
    let mut due: Vec<Command> = live.conclude(state, now).into_iter().collect();
    // Each of these compares with what was looked at, so one that comes too late is refused, and looked at again.
    due.extend(live.next_steps(state, now));
    due
}

/// Says what was done, to people.
pub(super) fn tell(command: &Command, state: &State) {
    match command {
        Command::InitCluster { cluster_id, .. } => {
            tracing::info!(%cluster_id, "the cluster has its identity");
        }
        Command::ChangeHealth { changes, .. } => {
            for change in changes {
                let node = state.nodes().get(&change.node).map_or("", |node| node.name.as_str());
                match change.absent {
                    None => tracing::info!(node, "a storage node is online again"),
                    Some(Cause::Left) => tracing::info!(node, "a storage node was stopped"),
                    Some(Cause::Silent) => tracing::warn!(node, "a storage node is unreachable"),
                }
            }
        }
        _ => {}
    }
}
