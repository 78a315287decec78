//! What storage nodes said lately, and what follows from it.
//!
//! Whether a node is unreachable stands in the state, where the next leader finds it; what is here only leads to it. So
//! that nothing is concluded from what an earlier start of a node said, everything is kept by start.

use super::{Live, Presence};
use quoin_cluster::{Candidate, Cause, Command, HealthChange, Node, State};
use quoin_types::{DiskId, Moment};
use std::time::Duration;

/// How often the cluster's time is put into the state while a node is unreachable: what a change of leaders may make an
/// absence seem shorter than it is.
const READING_EVERY: Duration = Duration::from_secs(60);

/// A storage node's last heartbeat.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    pub(crate) used_bytes: u64,
    pub(crate) capacity_bytes: u64,
    /// Found damaged on its disk, and not repaired yet.
    pub(crate) damaged_extents: u64,
    /// It was the last one: the node stops.
    pub(crate) leaving: bool,
}

/// What was heard of one start of a node.
#[derive(Debug)]
pub(super) struct Heard {
    disk: DiskId,
    start_count: u64,
    /// When it was last heard of; without a report, from when on one is waited for.
    pub(super) at: Moment,
    report: Option<NodeReport>,
}

impl Heard {
    fn new(node: &Node, at: Moment, report: Option<NodeReport>) -> Self {
        Self { disk: node.disk, start_count: node.start_count, at, report }
    }
}

/// A registration that was refused.
#[derive(Clone, Debug)]
pub(crate) struct RefusedNode {
    pub(crate) at: Moment,
    pub(crate) why: String,
}

/// What follows from what was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    There,
    /// Not heard of, and not waited for long enough.
    NotKnown,
    Gone(Cause),
}

/// Where replicas may go.
#[derive(Clone, Default, Debug)]
pub(crate) struct Candidates {
    /// The nodes that are online.
    pub(crate) online: Vec<Candidate>,
    /// How many more may turn out to be, within three intervals.
    pub(crate) unknown: usize,
}

impl Live {
    /// Takes note of a heartbeat, or a registration, of the start that the state knows. A start that has said good-bye is
    /// not there any more, whatever else arrives: it was sent before.
    pub(crate) fn node_heard(&mut self, node: &Node, report: NodeReport, at: Moment) {
        let left = node.health.cause() == Some(Cause::Left) || self.finding(node, at) == GOODBYE;
        if report.leaving || !left {
            self.nodes.insert(node.id, Heard::new(node, at, Some(report)));
        }
    }

    fn heard_of(&self, node: &Node) -> Option<&Heard> {
        let same_start = |heard: &&Heard| heard.disk == node.disk && heard.start_count == node.start_count;
        self.nodes.get(&node.id).filter(same_start)
    }

    /// What a node said last, at its present start, to this leader.
    pub(crate) fn node_report(&self, node: &Node) -> Option<&NodeReport> {
        self.heard_of(node)?.report.as_ref()
    }

    fn finding(&self, node: &Node, now: Moment) -> Finding {
        let Some(heard) = self.heard_of(node) else { return Finding::NotKnown };
        match &heard.report {
            Some(report) if report.leaving => GOODBYE,
            _ if now.since(heard.at) > self.patience() => Finding::Gone(Cause::Silent),
            Some(_) => Finding::There,
            None => Finding::NotKnown,
        }
    }

    /// The one judgement of a node: everything that is shown of it or decided about it follows this.
    pub(crate) fn node_presence(&self, node: &Node, now: Moment) -> Presence {
        match self.finding(node, now) {
            _ if !node.health.is_online() => Presence::Unreachable,
            Finding::There => Presence::Online,
            Finding::NotKnown | Finding::Gone(_) => Presence::Unknown,
        }
    }

    /// What is to be put into the state: changes of health, all in one command, or, once a minute while a node is
    /// unreachable, the time alone. Also begins to wait for nodes that this leader has not heard of.
    pub(crate) fn conclude(&mut self, state: &State, now: Moment) -> Option<Command> {
        for node in state.nodes().values() {
            if self.heard_of(node).is_none() {
                self.nodes.insert(node.id, Heard::new(node, now, None));
            }
        }
        let nodes = state.nodes().values();
        let changes: Vec<HealthChange> = nodes.filter_map(|node| self.change_of(node, now)).collect();
        let at = self.time(now);
        let absent = state.nodes().values().any(|node| !node.health.is_online());
        let reading_due = absent && at.since(state.time()) >= READING_EVERY;
        (reading_due || !changes.is_empty()).then_some(Command::ChangeHealth { at, changes })
    }

    fn change_of(&self, node: &Node, now: Moment) -> Option<HealthChange> {
        let known = node.health.cause();
        let absent = match (self.finding(node, now), known) {
            (Finding::There, Some(_)) => None,
            (Finding::Gone(cause), None) => Some(cause),
            // Called silent too early, it said good-bye.
            (GOODBYE, Some(Cause::Silent)) => Some(Cause::Left),
            _ => return None,
        };
        let (disk, start_count) = (node.disk, node.start_count);
        Some(HealthChange { node: node.id, disk, start_count, known, absent })
    }

    /// How long a node has been silent, as far as this leader and those before it can tell.
    pub(crate) fn node_silence(&self, node: &Node, now: Moment) -> Duration {
        let here = now.since(self.heard_of(node).map_or(self.since, |heard| heard.at));
        let absent = node.health.absence().map(|absence| self.time(now).since(absence.since));
        here.max(absent.unwrap_or_default())
    }

    pub(crate) fn node_refused(&mut self, name: &str, why: String, at: Moment) {
        // Names come from whoever asks: the list stays short whatever they say.
        if self.refused.len() < 1024 || self.refused.contains_key(name) {
            self.refused.insert(name.to_owned(), RefusedNode { at, why });
        }
    }

    /// Why a node's registration was refused, if that is the last that was heard of it.
    pub(crate) fn refusal_of(&self, node: &Node) -> Option<&str> {
        let refused = self.refused.get(&node.name)?;
        let heard = self.heard_of(node).filter(|heard| heard.report.is_some());
        let accepted_since = heard.is_some_and(|heard| heard.at > refused.at);
        (!accepted_since).then_some(refused.why.as_str())
    }

    /// Registrations that were refused under names that no node has.
    pub(crate) fn refused_strangers<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let stranger = |name: &str| state.node_named(name).is_none();
        self.refused
            .iter()
            .filter(move |(name, _)| stranger(name))
            .map(|(name, refused)| (name.as_str(), refused.why.as_str()))
    }

    /// A replacement or start was accepted.
    pub(crate) fn node_accepted(&mut self, name: &str) {
        self.refused.remove(name);
    }

    /// The nodes that may be given replicas: those online. One that this leader has not heard of yet may be gone.
    pub(crate) fn candidates(&self, state: &State, now: Moment) -> Candidates {
        let mut candidates = Candidates::default();
        for node in state.nodes().values().filter(|node| self.refusal_of(node).is_none()) {
            match (self.node_presence(node, now), self.node_report(node)) {
                (Presence::Online, Some(report)) => {
                    let free_bytes = report.capacity_bytes.saturating_sub(report.used_bytes);
                    candidates.online.push(Candidate { node: node.id, free_bytes });
                }
                (Presence::Online | Presence::Unknown, _) => candidates.unknown += 1,
                (Presence::Unreachable, _) => {}
            }
        }
        candidates
    }
}

/// A node that said that it stops is gone at once.
const GOODBYE: Finding = Finding::Gone(Cause::Left);
