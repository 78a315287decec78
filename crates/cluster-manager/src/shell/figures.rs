//! Keeps the figures that only a look at the whole state gives.

use super::route::Api;
use crate::metrics::StateLabel;
use quoin_cluster::VolumeStage;
use std::sync::Arc;
use std::time::Duration;

const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Keeps them for ever. Ends when dropped.
pub(crate) async fn keep(api: Arc<Api>) {
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
