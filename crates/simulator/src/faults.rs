//! What goes wrong, and how it is mended.

use crate::queue::{MILLISECOND, Nanos, SECOND};
use crate::world::{Event, Process, World};
use serde::Deserialize;

/// A kind of fault. In a scenario's file by its name, `kill-node`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Connections between two machines break; both ends learn of it.
    BreakConnections,
    /// Two machines hear nothing of each other, and are not told.
    Partition,
    /// One of two machines hears nothing of the other.
    OneWayPartition,
    /// A storage node's machine hears nothing of anybody.
    IsolateNode,
    /// Everything between two machines takes long.
    SlowLink,
    KillNode,
    KillGateway,
    /// All storage nodes at once.
    KillAll,
    PowerNode,
    PowerGateway,
    PowerAllNodes,
    PowerEverything,
    PauseNode,
    PauseGateway,
    HangDisk,
    SlowDisk,
    /// Everything on a disk fails: the process ends.
    FailDisk,
    /// Syncs fail: the process ends.
    FailSyncs,
    /// All clients go to another gateway, whatever the present one does.
    TakeOver,
    /// Clients of several gateways want the volume at once.
    AttachRace,
    /// The old gateway is left with one node, and the new one is given the others.
    SplitTakeOver,
    /// All members of the managers are killed.
    ManagersAway,
    KillManager,
    PowerManager,
    PauseManager,
    /// A member hears nothing of the others, and shows those who watch it what was.
    CutManager,
    /// A member's directory is lost for good, and another member comes for it.
    LoseManager,
    /// Replicas are moved, added or taken away.
    Reconfigure,
    /// A snapshot is taken or deleted.
    Snapshot,
    /// The volume grows.
    Resize,
    /// A bit flips on a disk.
    Rot,
    /// A bit flips in the newest record of a journal, and the process ends before the next one.
    RotTail,
    /// A node comes back with an empty disk.
    Wipe,
    /// All clients leave for a while, and their gateway is stopped.
    Leave,
    /// A node does not come back before everything is healed.
    LoseNode,
    /// What strikes when a moment comes (`moments.rs`).
    AtMoment,
    /// A node comes back with its disk as it was before an earlier start.
    RollBack,
    /// Others take what is left of the filesystem under a disk.
    FillFilesystem,
    /// The same storage node, whenever it happens, is slow, hangs, is silent or gone.
    TroubleOne,
}

impl Kind {
    /// Whether a node comes back without what it had, or may have to: then others have to have it, and there must be a place for it.
    pub(crate) fn loses_disks(self) -> bool {
        matches!(self, Kind::Wipe | Kind::RollBack | Kind::RotTail)
    }
}

/// A fault that ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Partition,
    OneWay,
    Isolation,
    SlowLinks,
    SlowDisk,
    Disk,
    Race,
    FullFilesystem,
}

impl World {
    /// The next fault is under way.
    pub(crate) fn arm_fault(&mut self) {
        let wait = self.fault_random.wait(self.setup.fault_gap);
        self.queue.push(self.now + wait, Event::Fault);
    }

    pub(crate) fn begin_fault(&mut self) {
        if self.healed || self.setup.faults.is_empty() {
            return;
        }
        if self.plot.is_some() && self.fault_random.permille(800) {
            // It has its own.
            return self.arm_fault();
        }
        let kind = self.fault_random.pick(&self.setup.faults);
        let node = self.fault_random.index(self.setup.nodes);
        let gateway = self.fault_random.index(self.setup.gateways);
        let time = self.fault_random.wait(self.setup.fault_time).max(MILLISECOND);
        self.trace.line(self.now, || format!("fault {kind:?}: node {node}, gateway {gateway}, {time} ns"));
        self.carry_out_fault(kind, node, gateway, time);
        let is_grave = matches!(
            kind,
            Kind::KillAll
                | Kind::PowerAllNodes
                | Kind::PowerEverything
                | Kind::SplitTakeOver
                | Kind::IsolateNode
        );
        // Now and then there is time to come to: faults upon faults show little but that nothing works.
        let pause = if is_grave { 700 } else { 60 };
        if self.fault_random.permille(pause) {
            let lossy_after = self.setup.timing.lossy_after.as_nanos() as Nanos;
            let wait = self.fault_random.below(2 * lossy_after);
            return self.queue.push(self.now + time + wait, Event::Fault);
        }
        self.arm_fault();
    }

    pub(crate) fn carry_out_fault(&mut self, kind: Kind, node: usize, gateway: usize, time: Nanos) {
        // As often as not the one that leads.
        let manager = match self.fault_random.below(2) {
            0 => self.managers.leader(),
            _ => self.fault_random.index(self.managers.members.len()),
        };
        match kind {
            Kind::BreakConnections | Kind::Partition | Kind::OneWayPartition | Kind::SlowLink => {
                self.between_machines(kind, node, gateway, time);
            }
            Kind::IsolateNode => {
                let machine = self.nodes[node].machine;
                for other in 0..self.client_machine {
                    self.block(machine, other);
                    self.block(other, machine);
                }
                self.mend_later(Fault::Isolation, machine, 0, time);
            }
            Kind::KillNode => self.kill(Process::Node(node), time),
            Kind::KillGateway => self.kill(Process::Gateway(gateway), time),
            Kind::KillAll => {
                for node in 0..self.setup.nodes {
                    let away = self.fault_random.wait(time);
                    self.kill(Process::Node(node), away);
                }
            }
            Kind::PowerNode => self.lose_power(self.nodes[node].machine, time),
            Kind::PowerGateway => self.lose_power(self.gateways[gateway].machine, time),
            Kind::PowerAllNodes | Kind::PowerEverything => {
                let everything = kind == Kind::PowerEverything;
                let machines = self.setup.nodes + if everything { self.setup.gateways } else { 0 };
                for machine in 0..machines {
                    let away = self.fault_random.wait(time);
                    self.lose_power(machine, away);
                }
            }
            Kind::PauseNode => self.pause(Process::Node(node), time),
            Kind::PauseGateway => {
                self.pause(Process::Gateway(gateway), time);
                if self.fault_random.permille(500) {
                    self.send_clients_to(gateway + 1);
                }
            }
            Kind::HangDisk => self.nodes[node].hung_until = self.now + time,
            Kind::SlowDisk => {
                self.nodes[node].slowness = self.fault_random.pick(&[5, 50]);
                self.mend_later(Fault::SlowDisk, node, 0, time);
            }
            Kind::FailDisk => {
                self.nodes[node].disk.set_failing(true);
                self.mend_later(Fault::Disk, node, 0, time);
            }
            Kind::FailSyncs => {
                self.nodes[node].disk.set_syncs_fail(true);
                self.mend_later(Fault::Disk, node, 0, time);
            }
            Kind::TakeOver => self.send_clients_to(gateway),
            Kind::AttachRace => {
                for client in 0..self.setup.clients {
                    self.workload.targets[client] = self.fault_random.index(self.setup.gateways);
                }
                self.mend_later(Fault::Race, gateway, 0, time);
            }
            Kind::SplitTakeOver => {
                let restart = self.fault_random.permille(500);
                self.split_take_over(&[node], gateway, time, restart);
            }
            Kind::ManagersAway => {
                for member in 0..self.managers.members.len() {
                    self.kill(Process::Manager(member), time);
                }
            }
            Kind::KillManager => self.kill(Process::Manager(manager), time),
            Kind::PowerManager => self.lose_power(self.managers.members[manager].machine, time),
            Kind::PauseManager => self.pause(Process::Manager(manager), time),
            Kind::CutManager => self.cut_manager(manager, 4 * time),
            Kind::LoseManager => self.lose_manager(manager, time),
            Kind::Reconfigure => self.reconfigure(),
            Kind::Snapshot => self.snapshot(),
            Kind::Resize => self.resize(),
            Kind::Rot => {
                self.rot();
            }
            Kind::RotTail => self.rot_tail(node, time),
            Kind::Wipe => self.wipe(node, time),
            Kind::Leave => {
                let away = time + self.fault_random.below(2 * SECOND);
                self.leave_volume(away);
            }
            Kind::LoseNode => self.lose_node(node),
            Kind::AtMoment => self.begin_plot(),
            Kind::RollBack => self.roll_back(node, time),
            Kind::FillFilesystem => self.fill_filesystem(node, time),
            Kind::TroubleOne => self.trouble_one(gateway, time),
        }
    }

    /// The first one, so that the others are well.
    fn trouble_one(&mut self, gateway: usize, time: Nanos) {
        let kinds = [
            Kind::PauseNode,
            Kind::HangDisk,
            Kind::SlowDisk,
            Kind::IsolateNode,
            Kind::KillNode,
            Kind::PowerNode,
        ];
        let kind = self.fault_random.pick(&kinds);
        self.carry_out_fault(kind, 0, gateway, 2 * time);
    }

    fn between_machines(&mut self, kind: Kind, node: usize, gateway: usize, time: Nanos) {
        let here = self.nodes[node].machine;
        // Another storage node, a gateway, or the managers.
        let there = match self.fault_random.below(6) {
            0 | 1 => self.nodes[self.fault_random.index(self.setup.nodes)].machine,
            2 => self.managers.members[self.managers.leader()].machine,
            _ => self.gateways[gateway].machine,
        };
        match kind {
            Kind::BreakConnections => self.break_connections(here, there),
            Kind::Partition => {
                self.block(here, there);
                self.block(there, here);
                self.mend_later(Fault::Partition, here, there, time);
            }
            Kind::OneWayPartition => {
                let (from, to) = if self.fault_random.permille(500) { (here, there) } else { (there, here) };
                self.block(from, to);
                self.mend_later(Fault::OneWay, from, to, time);
            }
            _ => {
                let by = self.fault_random.pick(&[5, 50, 200]) * MILLISECOND;
                self.network.set_slow(here, there, by);
                self.mend_later(Fault::SlowLinks, here, there, time);
            }
        }
    }

    /// What the old gateway goes on to serve is bounded by its leases only (rule R2). Some of the others restart, and must
    /// not have forgotten what they granted.
    pub(crate) fn split_take_over(&mut self, kept: &[usize], gateway: usize, time: Nanos, restart: bool) {
        let old = self.workload.targets[0];
        let new = if gateway == old { (gateway + 1) % self.setup.gateways } else { gateway };
        let (old_machine, new_machine) = (self.gateways[old].machine, self.gateways[new].machine);
        let time = time * 2;
        for member in 0..self.managers.members.len() {
            let machine = self.managers.members[member].machine;
            self.block(machine, old_machine);
            self.mend_later(Fault::OneWay, machine, old_machine, time);
        }
        for other in 0..self.setup.nodes {
            let machine = self.nodes[other].machine;
            let cut = if kept.contains(&other) { new_machine } else { old_machine };
            self.block(cut, machine);
            self.block(machine, cut);
            self.mend_later(Fault::Partition, cut, machine, time);
            if !kept.contains(&other) && restart {
                self.kill(Process::Node(other), MILLISECOND);
            }
        }
        // Half of the clients stay.
        for client in (0..self.setup.clients).filter(|client| client % 2 == 0) {
            self.workload.targets[client] = new;
        }
        self.mend_later(Fault::Race, new, 0, time);
    }

    fn cut_manager(&mut self, index: usize, time: Nanos) {
        self.managers.apart_until = self.now + time;
        let machine = self.managers.members[index].machine;
        for other in (0..self.managers.members.len()).filter(|other| *other != index) {
            let other = self.managers.members[other].machine;
            self.block(machine, other);
            self.block(other, machine);
            self.mend_later(Fault::Partition, machine, other, time);
        }
    }

    pub(crate) fn send_clients_to(&mut self, gateway: usize) {
        let gateway = gateway % self.setup.gateways;
        self.workload.targets.iter_mut().for_each(|target| *target = gateway);
    }

    pub(crate) fn mend_later(&mut self, fault: Fault, a: usize, b: usize, time: Nanos) {
        self.queue.push(self.now + time, Event::Mend(fault, a, b));
    }

    pub(crate) fn end_fault(&mut self, fault: Fault, a: usize, b: usize) {
        match fault {
            Fault::Partition => {
                self.unblock(a, b);
                self.unblock(b, a);
            }
            Fault::OneWay => self.unblock(a, b),
            Fault::Isolation => {
                for other in 0..self.client_machine {
                    self.unblock(a, other);
                    self.unblock(other, a);
                }
            }
            Fault::SlowLinks => self.network.no_longer_slow(),
            Fault::SlowDisk => self.nodes[a].slowness = 1,
            Fault::Disk => {
                self.nodes[a].disk.set_failing(false);
                self.nodes[a].disk.set_syncs_fail(false);
            }
            Fault::FullFilesystem => self.nodes[a].disk.set_full(false),
            Fault::Race => {
                if !self.healed {
                    self.send_clients_to(a);
                }
            }
        }
    }

    /// Everything is mended, and nothing breaks any more.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.end_plot();
        self.unblock_all();
        self.network.no_longer_slow();
        for member in &mut self.managers.members {
            member.paused_until = member.paused_until.min(self.now);
        }
        for node in &mut self.nodes {
            node.slowness = 1;
            node.hung_until = node.hung_until.min(self.now);
            node.paused_until = node.paused_until.min(self.now);
            node.disk.set_failing(false);
            node.disk.set_syncs_fail(false);
            node.disk.set_full(false);
        }
        for gateway in &mut self.gateways {
            gateway.paused_until = gateway.paused_until.min(self.now);
        }
        self.find_lost_nodes();
        let target = self.fault_random.index(self.setup.gateways);
        self.send_clients_to(target);
    }
}
