//! What a leader does unasked: it gives a new cluster its identity, takes note of who is unreachable, sees changes, snapshots
//! and stewards through, and keeps the figures that only it knows.

use super::route::{ANSWER_WITHIN, Api, random_16};
use crate::metrics::StateLabel;
use quoin_cluster::{Cause, Command, Proposal, RequestId, VolumeStage};
use quoin_disk::clock;
use quoin_types::ClusterId;
use std::sync::Arc;
use std::time::Duration;

const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// Looks at who is missing, in the time of a heartbeat. A look costs one command at most, so it bounds them, too.
const LOOKS_PER_HEARTBEAT: u32 = 4;

/// Does the duties for ever. Ends when dropped.
pub(crate) async fn run(api: Arc<Api>) {
    tokio::join!(init_cluster(&api), keep_health(&api), keep_changes(&api), keep_figures(&api));
}

/// Gives the cluster its identity as soon as this member leads, unless it has one.
async fn init_cluster(api: &Api) {
    let mut leadership = api.shared.leadership.subscribe();
    loop {
        if leadership.wait_for(|now| now.leading).await.is_err() || api.shared.state().cluster_id().is_some()
        {
            return;
        }
        if let (Ok(request), Ok(cluster_id)) = (random_16(), random_16()) {
            let command =
                Command::InitCluster { cluster_id: ClusterId(cluster_id), managers: api.addresses.clone() };
            if api.raft.propose(&Proposal { request: RequestId(request), command }).await.is_ok() {
                tracing::info!(cluster_id = %ClusterId(cluster_id), "the cluster has its identity");
                return;
            }
        }
        tokio::time::sleep(api.tick).await;
    }
}

/// Puts into the state what follows from heartbeats, while this member leads. One command at a time: what is found meanwhile
/// goes into the next one, and nothing is proposed twice.
async fn keep_health(api: &Api) {
    let mut leadership = api.shared.leadership.subscribe();
    let mut interval = tokio::time::interval(api.heartbeat_interval / LOOKS_PER_HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while leadership.wait_for(|now| now.leading).await.is_ok() {
        tokio::select! {
            _ = interval.tick() => {}
            () = api.goodbye.notified() => {}
        }
        let command = {
            let now = clock::now();
            let mut live = api.shared.live(now);
            live.conclude(&api.shared.state(), now)
        };
        let (Some(command), Ok(request)) = (command, random_16()) else { continue };
        let proposal = Proposal { request: RequestId(request), command };
        // If it is not known what became of it, the next look tells: what is in the state is not proposed again, and what
        // comes into it twice changes nothing.
        let answer = tokio::time::timeout(ANSWER_WITHIN, api.raft.propose(&proposal)).await;
        if matches!(answer, Ok(Ok(Ok(_)))) {
            tell(api, &proposal.command);
        }
    }
}

/// Brings changes and snapshots to their end and appoints stewards, while this member leads. Each step compares with what was
/// looked at, so one that is refused is simply looked at again.
async fn keep_changes(api: &Api) {
    let mut leadership = api.shared.leadership.subscribe();
    let mut interval = tokio::time::interval(api.heartbeat_interval / LOOKS_PER_HEARTBEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while leadership.wait_for(|now| now.leading).await.is_ok() {
        interval.tick().await;
        let steps = {
            let now = clock::now();
            let mut live = api.shared.live(now);
            live.next_steps(&api.shared.state(), now)
        };
        for command in steps {
            let Ok(request) = random_16() else { break };
            tracing::debug!(?command, "a step that follows from reports");
            let proposal = Proposal { request: RequestId(request), command };
            let answer = tokio::time::timeout(ANSWER_WITHIN, api.raft.propose(&proposal)).await;
            match answer {
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err(refusal))) => tracing::debug!(%refusal, "a step came too late"),
                // Leadership is lost, or about to be.
                _ => break,
            }
        }
    }
}

fn tell(api: &Api, command: &Command) {
    let Command::ChangeHealth { changes, .. } = command else { return };
    let state = api.shared.state();
    for change in changes {
        let node = state.nodes().get(&change.node).map_or("", |node| node.name.as_str());
        match change.absent {
            None => tracing::info!(node, "a storage node is online again"),
            Some(Cause::Left) => tracing::info!(node, "a storage node was stopped"),
            Some(Cause::Silent) => tracing::warn!(node, "a storage node is unreachable"),
        }
    }
}

async fn keep_figures(api: &Api) {
    let mut interval = tokio::time::interval(FIGURES_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let leading = api.shared.leadership.borrow().leading;
        api.view(|view| {
            let online = view.state.nodes().values().filter(|node| node.health.is_online());
            let figures = &api.shared.metrics;
            figures.nodes_online.set(if leading { count(online.count()) } else { 0 });
            figures.nodes.set(count(view.state.nodes().len()));
            for (state, stage) in [
                ("creating", VolumeStage::Creating),
                ("ready", VolumeStage::Ready),
                ("deleting", VolumeStage::Deleting),
            ] {
                let volumes = view.state.volumes().values().filter(|volume| volume.stage() == stage);
                figures.volumes.get_or_create(&StateLabel { state }).set(count(volumes.count()));
            }
        });
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
