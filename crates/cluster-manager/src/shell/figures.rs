//! The figures that only a look at the whole state gives: made when somebody asks for them.

use crate::metrics::StateLabel;
use crate::shared::Shared;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use quoin_cluster::VolumeStage;
use std::fmt;
use std::sync::Arc;

/// Looks at what a member has applied.
pub(crate) struct Figures(pub(crate) Arc<Shared>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let leading = self.0.leadership.borrow().leading;
        let volumes = Family::<StateLabel, Gauge>::default();
        let (nodes, online) = {
            let state = self.0.state();
            for (label, stage) in [
                ("creating", VolumeStage::Creating),
                ("ready", VolumeStage::Ready),
                ("deleting", VolumeStage::Deleting),
            ] {
                let of_stage = state.volumes().values().filter(|volume| volume.stage() == stage);
                volumes.get_or_create(&StateLabel { state: label }).set(count(of_stage.count()));
            }
            let online = state.nodes().values().filter(|node| node.health.is_online());
            (count(state.nodes().len()), count(online.count()))
        };
        for (name, help, figure) in [
            (
                "nodes_online",
                "Storage nodes that are not unreachable (0 at followers)",
                if leading { online } else { 0 },
            ),
            ("nodes", "Storage nodes that are registered", nodes),
        ] {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(figure).encode(encoder)?;
        }
        volumes.encode(encoder.encode_descriptor("volumes", "Volumes by state", None, MetricType::Gauge)?)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
