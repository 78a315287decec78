//! The cluster manager's part in changes of the configuration (rules C1, C3): it takes a step when the gateway of the last
//! epoch has reported, under the present generation, that it may. Reports and news of steps are late.

use super::{Event, MILLISECOND, World};
use crate::gateway::Gateway;
use quoin_replication::writer::{VoterConfig, VoterHealth};
use quoin_types::{Generation, NodeId, ReplicaId, ReplicaRole};

/// The configuration: each node holds one replica, of the same number.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) generation: u64,
    pub(crate) members: Vec<(usize, ReplicaRole)>,
    /// The voter to be removed once the learner is full.
    leaving: Option<usize>,
}

/// What a gateway reports.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    epoch: u64,
    generation: u64,
    settled: bool,
    in_sync: Vec<usize>,
    whole: Vec<usize>,
}

impl Configuration {
    pub(super) fn new(voters: usize) -> Self {
        let members = (0..voters).map(|node| (node, ReplicaRole::Voter)).collect();
        Self { generation: 1, members, leaving: None }
    }

    pub(super) fn voters(&self) -> Vec<VoterConfig> {
        let voter = |(node, role): &(usize, ReplicaRole)| VoterConfig {
            node: NodeId(*node as u64),
            name: format!("n{node}"),
            address: String::new(),
            replica: ReplicaId(*node as u64),
            role: *role,
        };
        self.members.iter().map(voter).collect()
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.members.iter().any(|(_, role)| *role != ReplicaRole::Voter)
    }

    fn has(&self, role: ReplicaRole) -> bool {
        self.members.iter().any(|(_, own)| *own == role)
    }

    /// The step that a report allows. `shrink`: two voters may become one.
    fn step(&mut self, report: &Report, shrink: bool) -> bool {
        if report.generation != self.generation {
            return false;
        }
        if self.has(ReplicaRole::Learner) {
            let learners = self.members.iter().filter(|(_, role)| *role == ReplicaRole::Learner);
            if !learners.clone().all(|(node, _)| report.in_sync.contains(node)) {
                return false;
            }
            for (node, role) in &mut self.members {
                match role {
                    ReplicaRole::Learner => *role = ReplicaRole::Incoming,
                    _ if self.leaving == Some(*node) => *role = ReplicaRole::Outgoing,
                    _ => {}
                }
            }
        } else if self.is_changing() {
            if !report.settled {
                return false;
            }
            self.members.retain(|(_, role)| *role != ReplicaRole::Outgoing);
            self.members.iter_mut().for_each(|(_, role)| *role = ReplicaRole::Voter);
            self.leaving = None;
        } else if shrink && self.members.len() == 2 {
            let Some(survivor) = report.whole.first() else { return false };
            self.members.retain(|(node, _)| node == survivor);
        } else {
            return false;
        }
        self.generation += 1;
        true
    }
}

impl World {
    /// Begins a change, if none is under way: adds a spare node, removes a voter, or both.
    pub(crate) fn begin_change(&mut self) {
        if self.configuration.is_changing() {
            return;
        }
        let spare = self.next_spare;
        let add = spare < self.nodes.len() && self.rng.permille(800);
        let voters = self.configuration.members.len();
        let remove = (add || voters > 1) && self.rng.permille(if voters > 3 { 900 } else { 500 });
        let leaving = remove.then(|| self.configuration.members[self.rng.below(voters as u64) as usize].0);
        if add {
            self.next_spare += 1;
            self.configuration.members.push((spare, ReplicaRole::Learner));
            self.configuration.leaving = leaving;
        } else if let Some(leaving) = leaving {
            let member = self.configuration.members.iter_mut().find(|(node, _)| *node == leaving);
            member.expect("a member").1 = ReplicaRole::Outgoing;
        } else {
            return;
        }
        self.configuration.generation += 1;
        self.tell_configuration();
    }

    /// The gateway hears of the configuration, later.
    fn tell_configuration(&mut self) {
        // Long enough, now and then, for the gateway to go on as before, and to end, without having heard.
        let latest = self.rng.pick(&[5, 30, 300]);
        let delay = self.rng.between(1, latest) * MILLISECOND;
        let (gateway, configuration) = (self.current(), self.configuration.clone());
        self.later(delay, Event::Configure { gateway, configuration });
    }

    pub(super) fn configure(&mut self, gateway: usize, configuration: &Configuration) {
        if !self.gateways[gateway].up {
            return;
        }
        let now = self.gateway_clock(gateway);
        let Gateway { segment, outbox, sessions, .. } = &mut self.gateways[gateway];
        let generation = Generation(configuration.generation);
        for node in segment.configure(generation, &configuration.voters(), now, outbox) {
            if sessions[node.0 as usize].is_some() {
                segment.session_up(node, now, outbox);
            }
        }
        self.after_gateway(gateway);
    }

    /// A gateway's heartbeat takes its report along.
    pub(super) fn report(&mut self, gateway: usize) {
        let Gateway { epoch, segment, .. } = &self.gateways[gateway];
        let status = segment.status();
        let nodes = |yes: &dyn Fn(&quoin_replication::writer::VoterStatus) -> bool| {
            status.iter().filter(|status| yes(status)).map(|status| status.replica.0 as usize).collect()
        };
        let report = Report {
            epoch: *epoch,
            generation: segment.generation().0,
            settled: segment.is_settled(),
            in_sync: nodes(&|status| status.health == VoterHealth::InSync),
            whole: nodes(&|status| status.whole),
        };
        let delay = self.rng.between(1, 30) * MILLISECOND;
        self.later(delay, Event::Report(report));
    }

    /// Each step is a compare-and-set on epoch and generation.
    pub(super) fn reported(&mut self, report: &Report) {
        let current = self.gateways[self.current()].epoch;
        let shrink = self.shrinks && self.clients_active;
        if report.epoch == current && self.configuration.step(report, shrink) {
            self.tell_configuration();
        }
    }
}
