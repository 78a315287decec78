//! What storage nodes and gateways said lately: heartbeats and health. In the leader's memory alone, gone with its term.
//! Time is a parameter.

mod gateways;
mod nodes;

pub(crate) use gateways::{GatewayReport, InUse};
pub(crate) use nodes::{NodeReport, is_registered};

use nodes::RefusedNode;
use quoin_types::{GatewayId, Moment, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Reports missed in a row after which somebody is unreachable.
const MISSED_MAX: u32 = 3;

/// How somebody stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// Reported within three intervals.
    Online,
    /// Not heard of by this leader, which is too new to draw conclusions.
    Unknown,
    /// Missed three reports.
    Unreachable,
}

/// Everything live.
#[derive(Debug)]
pub(crate) struct Live {
    interval: Duration,
    term: u64,
    since: Moment,
    nodes: BTreeMap<NodeId, NodeReport>,
    gateways: BTreeMap<GatewayId, GatewayReport>,
    refused: BTreeMap<String, RefusedNode>,
}

impl Live {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            term: 0,
            since: Moment::ZERO,
            nodes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Forgets everything if the term is another one.
    pub(crate) fn begin_term(&mut self, term: u64, now: Moment) {
        if term != self.term {
            *self = Self { term, since: now, ..Self::new(self.interval) };
        }
    }

    /// How long somebody may be silent before being called unreachable.
    pub(crate) fn patience(&self) -> Duration {
        self.interval * MISSED_MAX
    }

    fn presence(&self, last: Option<Moment>, now: Moment) -> Presence {
        match last {
            Some(at) if now.since(at) <= self.patience() => Presence::Online,
            None if now.since(self.since) <= self.patience() => Presence::Unknown,
            _ => Presence::Unreachable,
        }
    }
}
