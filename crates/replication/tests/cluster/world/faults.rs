//! What can go wrong: machines, processes, and the ways between them.

use super::{Event, MILLISECOND, World, new_machine};
use quoin_types::Epoch;
use quoin_wire::LeaseHolder;

impl World {
    pub(crate) fn current(&self) -> usize {
        self.gateways.len() - 1
    }

    pub(crate) fn stop_node(&mut self, node: usize, power_lost: bool, downtime: u64) {
        if !self.nodes[node].up {
            return;
        }
        self.nodes[node].stop(power_lost, &mut self.rng);
        for session in 0..self.sessions.len() {
            if self.sessions[session].node == node {
                self.break_session(session);
            }
        }
        if power_lost {
            self.node_machines[node] = new_machine(&mut self.rng);
        }
        self.later(downtime, Event::Restart { node });
    }

    pub(super) fn restart(&mut self, node: usize) {
        self.node_machines[node].paused_until = 0;
        let now = self.clock(&self.node_machines[node]);
        self.nodes[node].start(now);
        let delay = self.rng.below(20 * MILLISECOND);
        self.later(delay, Event::Unwanted { node });
    }

    pub(crate) fn pause_node(&mut self, node: usize, time: u64) {
        // A pause is never cut short: what waits for its end must stay in order.
        let machine = &mut self.node_machines[node];
        machine.paused_until = machine.paused_until.max(self.now + time);
    }

    pub(crate) fn pause_gateway(&mut self, gateway: usize, time: u64) {
        let machine = &mut self.gateway_machines[gateway];
        machine.paused_until = machine.paused_until.max(self.now + time);
    }

    pub(crate) fn cut_gateway(&mut self, gateway: usize, node: usize, time: u64) {
        self.cut_gateway.insert((gateway, node), self.now + time);
        // The gateway may be one that is yet to come.
        if let Some(session) = self.gateways.get(gateway).and_then(|gateway| gateway.sessions[node]) {
            self.break_session(session);
        }
    }

    pub(crate) fn cut_nodes(&mut self, a: usize, b: usize, time: u64) {
        self.cut_nodes.insert((a.min(b), a.max(b)), self.now + time);
    }

    pub(crate) fn stop_gateway(&mut self, gateway: usize) {
        self.gateways[gateway].up = false;
        for session in 0..self.sessions.len() {
            if self.sessions[session].gateway == gateway {
                self.break_session(session);
            }
        }
    }

    /// Another gateway is given the volume after a while; `proven`: the last one is known to be gone.
    pub(crate) fn attach_later(&mut self, delay: u64, proven: bool) {
        let last = &self.gateways[self.current()];
        let void =
            (proven && !last.up).then_some(LeaseHolder { instance: last.instance, epoch: Epoch(last.epoch) });
        self.attach_pending = true;
        self.later(delay, Event::Attach { void });
    }

    pub(crate) fn fill(&mut self, node: usize, time: u64) {
        self.later(0, Event::Full { node, full: true });
        self.later(time, Event::Full { node, full: false });
    }

    /// All ways are open again, from now on; pauses end by themselves.
    pub(crate) fn heal(&mut self) {
        self.cut_gateway.clear();
        self.cut_nodes.clear();
        self.nodes.iter_mut().for_each(|node| node.refuses = false);
    }
}
