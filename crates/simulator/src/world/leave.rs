//! A volume that nobody uses for a while, and a node that is gone for long.

use super::gateway::EXPORT;
use super::{Process, World};
use crate::queue::{MILLISECOND, Nanos};
use quoin_api::v1;
use quoin_cluster_manager::member::Request;

/// In which a gateway that was stopped is started again.
const STARTED_AGAIN: Nanos = 20 * MILLISECOND;

impl World {
    /// All clients leave, and the gateway that they used is stopped as its operator would: what it leaves to be repaired is a
    /// steward's (rule C4). The clients are back after a time.
    pub(crate) fn leave_volume(&mut self, away: Nanos) {
        self.send_clients_away(self.now + away);
        for index in 0..self.gateways.len() {
            self.stop_gateway(index);
        }
    }

    /// As the shell does at its end: leases are given back, and the managers are told whether all is well.
    fn stop_gateway(&mut self, index: usize) {
        let process = &self.gateways[index];
        let (Some(export), Some(running)) = (process.export(), &process.running) else { return };
        let report = running.core.reports().into_iter().find(|report| report.volume == export.id);
        let clean = report.is_some_and(|report| report.is_clean());
        let gateway = process.name.0.clone();
        self.gateway_event(index, |core, now| core.detach(export.id, now));
        self.operate(Request::Detach(v1::DetachRequest {
            volume: EXPORT.into(),
            epoch: export.epoch.0,
            gateway,
            clean,
        }));
        self.kill(Process::Gateway(index), STARTED_AGAIN);
    }

    /// A node ends and is not started again before everything is healed: for the managers it is gone for good. Of a volume
    /// that may go on with one of two copies, and one node at most (rule C3).
    pub(crate) fn lose_node(&mut self, index: usize) {
        let is_lost = self.nodes.iter().any(|process| process.held);
        if is_lost || self.setup.min_replicas != 1 {
            return;
        }
        self.trace.line(self.now, || format!("node {index} does not come back"));
        self.kill(Process::Node(index), 0);
        self.nodes[index].held = true;
    }

    /// Nodes that were lost are back.
    pub(crate) fn find_lost_nodes(&mut self) {
        for index in 0..self.nodes.len() {
            if std::mem::replace(&mut self.nodes[index].held, false) {
                self.kill(Process::Node(index), 0);
            }
        }
    }
}
