//! Machines: power, and the processes on them.

use super::{Event, Machine, Process, World};
use crate::queue::Nanos;

impl World {
    pub(crate) fn machine_is_up(&self, machine: Machine) -> bool {
        self.machines[machine].0
    }

    pub(super) fn boot_number(&self, machine: Machine) -> u64 {
        self.machines[machine].1
    }

    /// A machine loses power and has it back after a time.
    pub(crate) fn lose_power(&mut self, machine: Machine, away: Nanos) {
        if !std::mem::replace(&mut self.machines[machine].0, false) {
            return;
        }
        self.machines[machine].1 += 1;
        for process in self.processes_on(machine) {
            match process {
                Process::Node(index) => self.end_node_by_power(index),
                Process::Gateway(index) => self.end_gateway(index, true),
                Process::Manager(index) => self.end_manager(index, true),
                Process::Client(_) | Process::Operator => {}
            }
        }
        self.queue.push(self.now + away, Event::PowerBack { machine });
    }

    pub(super) fn power_back(&mut self, machine: Machine) {
        self.machines[machine].0 = true;
        self.reset_old_connections(machine);
        for process in self.processes_on(machine) {
            match process {
                Process::Node(index) => self.restart_node_later(index),
                Process::Gateway(index) => self.restart_gateway_later(index),
                Process::Manager(index) => self.start_manager_later(index, 0),
                Process::Client(_) | Process::Operator => {}
            }
        }
    }

    fn processes_on(&self, machine: Machine) -> Vec<Process> {
        let nodes = (0..self.nodes.len()).filter(|index| self.nodes[*index].machine == machine);
        let gateways = (0..self.gateways.len()).filter(|index| self.gateways[*index].machine == machine);
        let members = &self.managers.members;
        let managers = (0..members.len()).filter(|index| members[*index].machine == machine);
        nodes
            .map(Process::Node)
            .chain(gateways.map(Process::Gateway))
            .chain(managers.map(Process::Manager))
            .collect()
    }

    /// `kill -9`; the supervisor starts it again after a time.
    pub(crate) fn kill(&mut self, process: Process, away: Nanos) {
        match process {
            Process::Node(index) => {
                self.end_node(index);
                let incarnation = self.nodes[index].incarnation;
                self.queue.push(self.now + away, Event::NodeStart { node: index, incarnation });
            }
            Process::Gateway(index) => {
                self.end_gateway(index, false);
                let incarnation = self.gateways[index].incarnation;
                self.queue.push(self.now + away, Event::GatewayStart { gateway: index, incarnation });
            }
            Process::Manager(index) => {
                self.end_manager(index, false);
                self.start_manager_later(index, away);
            }
            Process::Client(_) | Process::Operator => {}
        }
    }

    /// All storage nodes, as an operator would one after the other.
    pub(crate) fn restart_nodes(&mut self) {
        (0..self.nodes.len()).for_each(|index| self.kill(Process::Node(index), 0));
    }

    fn start_manager_later(&mut self, index: usize, away: Nanos) {
        let incarnation = self.managers.members[index].incarnation;
        self.queue.push(self.now + away, Event::ManagerStart { manager: index, incarnation });
    }

    /// SIGSTOP, and SIGCONT after a time.
    pub(crate) fn pause(&mut self, process: Process, time: Nanos) {
        let until = self.now + time;
        match process {
            Process::Node(index) => self.nodes[index].paused_until = until,
            Process::Gateway(index) => self.gateways[index].paused_until = until,
            Process::Manager(index) => self.managers.members[index].paused_until = until,
            Process::Client(_) | Process::Operator => {}
        }
    }
}
