//! Watch streams: the whole projection at once, and again whenever it has changed. Served from what this member has
//! applied, so that a thousand watchers are not all the leader's.

use super::route::Api;
use quoin_cluster::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A stream of projections.
pub(crate) type WatchStream<T> = ReceiverStream<Result<T, Status>>;

/// A member that has had no leader for so long may be cut off and out of date: its watchers had better ask another.
const WITHOUT_LEADER_MAX: Duration = Duration::from_secs(5);
/// Projections between this and the socket. A slow watcher gets the newest, not all.
const BUFFER: usize = 1;

/// Starts a stream. `revision` is cheap and tells when `project` is worth being made.
pub(crate) fn watch<T, R, P>(api: &Arc<Api>, revision: R, project: P) -> WatchStream<T>
where
    T: Send + 'static,
    R: Fn(&State) -> u64 + Send + 'static,
    P: Fn(&State) -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFER);
    let api = api.clone();
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = api.ended.cancelled() => "this member is stopping",
            () = without_leader(&api) => "this member has lost its leader",
            () = follow(&api, &sender, revision, project) => return,
        };
        // If the watcher is slow the stream just ends, which tells it the same.
        let _ = sender.try_send(Err(Status::unavailable(ended)));
    });
    ReceiverStream::new(receiver)
}

/// Sends projections until nobody listens.
async fn follow<T>(
    api: &Api,
    sender: &mpsc::Sender<Result<T, Status>>,
    revision: impl Fn(&State) -> u64,
    project: impl Fn(&State) -> T,
) {
    let mut applied = api.shared.applied.subscribe();
    let mut seen = None;
    loop {
        // Wait for room first, then look: what is sent is what holds now.
        let Ok(room) = sender.reserve().await else { return };
        applied.borrow_and_update();
        let changed = {
            let state = api.shared.state();
            let now = revision(&state);
            (seen != Some(now)).then(|| (now, project(&state)))
        };
        if let Some((now, projection)) = changed {
            seen = Some(now);
            room.send(Ok(projection));
        } else {
            drop(room);
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

async fn without_leader(api: &Api) {
    let mut leadership = api.shared.leadership.subscribe();
    loop {
        if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
            return;
        }
        let found = leadership.wait_for(|now| now.leader.is_some());
        if tokio::time::timeout(WITHOUT_LEADER_MAX, found).await.is_err() {
            return;
        }
    }
}
