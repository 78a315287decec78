//! What storage nodes and gateways said lately: heartbeats. In the leader's memory alone, gone with its term; what it
//! concludes about storage nodes goes into the state ([`Live::conclude`]), as do the next steps of changes, snapshots and
//! stewards ([`Live::next_steps`]). Time is a parameter.

mod changes;
#[cfg(test)]
mod changes_tests;
mod failed;
mod gateways;
mod nodes;
mod stewards;
#[cfg(test)]
mod tests;

pub(crate) use gateways::{GatewayReport, InUse};
pub(crate) use nodes::{Candidates, NodeReport};

use failed::Failures;
use nodes::{Heard, RefusedNode};
use quoin_cluster::ClusterTime;
use quoin_types::{GatewayId, Moment, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;
use stewards::GivenUp;

/// Reports missed in a row after which somebody is unreachable.
const MISSED_MAX: u32 = 3;

/// How somebody stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Reported within three intervals.
    Online,
    /// Not known to be gone, and not heard of lately by this leader: it is new, or is about to conclude that it is gone.
    Unknown,
    /// Missed three reports, or said that it stops. Of a storage node this is so from when it stands in the state.
    Unreachable,
}

/// Everything live.
#[derive(Debug)]
pub(crate) struct Live {
    interval: Duration,
    /// The term in which this member leads; `None` while it does not.
    leads_in: Option<u64>,
    /// When it began to lead.
    since: Moment,
    /// What the cluster's time was then.
    time_then: ClusterTime,
    /// When anybody last looked at this.
    looked: Moment,
    nodes: BTreeMap<NodeId, Heard>,
    gateways: BTreeMap<GatewayId, GatewayReport>,
    /// When a gateway was about to be given a volume.
    attaching: BTreeMap<(VolumeId, GatewayId), Moment>,
    refused: BTreeMap<String, RefusedNode>,
    /// Volumes whose steward could do no more for them, and how they were then.
    given_up: BTreeMap<VolumeId, GivenUp>,
    failures: Failures,
}

impl Live {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            leads_in: None,
            since: Moment::ZERO,
            time_then: ClusterTime::ZERO,
            looked: Moment::ZERO,
            nodes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            attaching: BTreeMap::new(),
            refused: BTreeMap::new(),
            given_up: BTreeMap::new(),
            failures: Failures::default(),
        }
    }

    /// Goes before every use. Forgets everything if this member leads in another term than before, or no more; the
    /// cluster's time goes on from the one given.
    pub(crate) fn enter(
        &mut self,
        leads_in: Option<u64>,
        now: Moment,
        time_then: impl FnOnce() -> ClusterTime,
    ) {
        if leads_in != self.leads_in {
            let time_then = time_then();
            *self = Self { leads_in, since: now, time_then, ..Self::new(self.interval) };
        } else if now.since(self.looked) > self.interval {
            self.oversleep(now.since(self.looked));
        }
        self.looked = now;
    }

    /// This process was not running for so long: the machine slept, or had no time for it. Whatever was sent to it then
    /// waits to be read, so nobody was silent meanwhile, as far as anyone can tell.
    fn oversleep(&mut self, slept: Duration) {
        self.since = self.since + slept;
        self.nodes.values_mut().for_each(|heard| heard.at = heard.at + slept);
        for report in self.gateways.values_mut() {
            report.at = report.at + slept;
            report.alone_since = report.alone_since + slept;
        }
        self.attaching.values_mut().for_each(|at| *at = *at + slept);
        self.refused.values_mut().for_each(|refused| refused.at = refused.at + slept);
    }

    /// How long somebody may be silent before being called unreachable.
    pub(crate) fn patience(&self) -> Duration {
        self.interval * MISSED_MAX
    }

    /// The cluster's time, by this leader's clock.
    pub(crate) fn time(&self, now: Moment) -> ClusterTime {
        self.time_then.after(now.since(self.since))
    }
}
