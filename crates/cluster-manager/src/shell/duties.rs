//! What a leader does unasked: it gives a new cluster its identity, and keeps the figures that only it knows.

use super::route::{Api, random_16};
use crate::live::Presence;
use crate::metrics::StateLabel;
use quoin_cluster::{Command, Proposal, RequestId, VolumeStage};
use quoin_types::ClusterId;
use std::sync::Arc;
use std::time::Duration;

const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Does the duties for ever. Ends when dropped.
pub(crate) async fn run(api: Arc<Api>) {
    tokio::join!(init_cluster(&api), keep_figures(&api));
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

async fn keep_figures(api: &Api) {
    let mut interval = tokio::time::interval(FIGURES_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let leading = api.shared.leadership.borrow().leading;
        api.view(|view| {
            let nodes = view.state.nodes().keys();
            let online = nodes.filter(|id| view.live.node_presence(**id, view.now) == Presence::Online);
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
