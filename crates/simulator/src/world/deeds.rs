//! What a plan does when its moment has come (`moments.rs`).

use super::gateway::GatewayProcess;
use super::{Event, Machine, Process, World};
use crate::faults::Fault;
use crate::moments::Deed;
use crate::queue::{MILLISECOND, Nanos};
use quoin_types::{BLOCK_BYTES, ReplicaRole};

impl World {
    pub(super) fn carry_out_deed(&mut self, deed: Deed) {
        let time = self.fault_random.wait(self.setup.fault_time).max(MILLISECOND);
        let some = self.fault_random.index(self.nodes.len());
        let (node, source) = self.plot.as_ref().map_or((None, None), |plot| (plot.node, plot.source));
        let (node, source) = (node.unwrap_or(some), source.unwrap_or(some));
        let gateway = self.serving().map_or(0, |(gateway, _)| gateway);
        let (node_machine, gateway_machine) = (self.nodes[node].machine, self.gateways[gateway].machine);
        match deed {
            Deed::Fault(kind) => self.carry_out_fault(kind, some, gateway, time),
            Deed::PickSource => self.pick_source(some),
            Deed::OnlySourceHears => self.only_source_hears(source, gateway_machine),
            Deed::SlowPull => self.slow_pull(node, source),
            Deed::CutNode => self.cut_both(node_machine, gateway_machine),
            Deed::CutPeers => self.cut_peers(node),
            Deed::MuteNode => self.cut(node_machine, gateway_machine),
            Deed::LetSpeak => self.unblock(node_machine, gateway_machine),
            Deed::BreakSession => self.break_connections(node_machine, gateway_machine),
            Deed::PowerNode => self.lose_power(node_machine, MILLISECOND),
            Deed::PowerSource => self.lose_power(self.nodes[source].machine, MILLISECOND),
            Deed::KillNode => self.kill(Process::Node(node), time),
            Deed::PauseNode => self.pause(Process::Node(node), time),
            Deed::HangNode => self.nodes[node].hung_until = self.now + time,
            Deed::IsolateNode => self.isolate(node),
            Deed::IsolateSource => self.isolate(source),
            Deed::IsolateAnother => self.isolate_another([node, source]),
            Deed::EndGateway => self.end_gateway_somehow(gateway, time),
            Deed::PauseGateway => self.pause(Process::Gateway(gateway), time),
            Deed::CutNextVoters => self.cut_next_voters(gateway_machine),
            Deed::HoldNews => self.hold_news(gateway_machine),
            Deed::IsolateKept => self.isolate_kept(),
            Deed::DeafenFormer => self.deafen_former(node, gateway),
            Deed::SplitSegments => self.split_segments(gateway, time),
            Deed::RotUnderWrite => self.rot_under_write(),
            Deed::KeepClientsThere => self.keep_clients_there(),
            Deed::ReadAcross => self.read_what_was_written(),
            Deed::AskMuch => self.ask_much(),
            Deed::ClientsAway => self.send_clients_to(gateway + 1),
            Deed::SomeClientsAway => {
                let clients = (0..self.setup.clients).filter(|client| client % 2 == 0);
                clients.for_each(|client| self.send_client(client, gateway + 1));
            }
            Deed::OneClientAway => {
                let client = self.fault_random.index(self.setup.clients);
                self.send_client(client, gateway + 1);
            }
            Deed::Mend => self.mend_cuts(),
        }
    }

    fn pick_source(&mut self, source: usize) {
        if let Some(plot) = &mut self.plot {
            plot.source = Some(source);
        }
    }

    fn only_source_hears(&mut self, source: usize, from: Machine) {
        for other in (0..self.nodes.len()).filter(|other| *other != source) {
            self.cut(from, self.nodes[other].machine);
        }
    }

    fn slow_pull(&mut self, node: usize, source: usize) {
        let by = self.fault_random.pick(&[2, 8, 20]) * MILLISECOND;
        self.network.set_slow(self.nodes[node].machine, self.nodes[source].machine, by);
        self.queue.push(self.now + 4 * by, Event::Mend(Fault::SlowLinks, 0, 0));
    }

    fn cut_peers(&mut self, node: usize) {
        let machine = self.nodes[node].machine;
        (0..self.nodes.len()).for_each(|other| self.cut(self.nodes[other].machine, machine));
    }

    fn isolate_another(&mut self, but: [usize; 2]) {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| !but.contains(other)).collect();
        if !others.is_empty() {
            let other = self.fault_random.pick(&others);
            self.isolate(other);
        }
    }

    fn isolate_kept(&mut self) {
        let kept = self.plot.as_mut().map(|plot| std::mem::take(&mut plot.kept)).unwrap_or_default();
        kept.into_iter().for_each(|node| self.isolate(node));
    }

    fn end_gateway_somehow(&mut self, gateway: usize, time: Nanos) {
        // The machine of a gateway that is on a node's would take the node along.
        if self.setup.local_gateways || self.fault_random.permille(500) {
            self.kill(Process::Gateway(gateway), time);
        } else {
            self.lose_power(self.gateways[gateway].machine, time);
        }
    }

    fn hold_news(&mut self, to: Machine) {
        let wait = self.fault_random.pick(&[20, 60, 200]) * MILLISECOND;
        for member in 0..self.managers.members.len() {
            let from = self.managers.members[member].machine;
            self.block(from, to);
            self.queue.push(self.now + wait, Event::Mend(Fault::OneWay, from, to));
        }
    }

    fn send_client(&mut self, client: usize, gateway: usize) {
        self.workload.targets[client] = gateway % self.setup.gateways;
    }

    fn keep_clients_there(&mut self) {
        let place = self.plot.as_ref().and_then(|plot| plot.place);
        self.workload.bounds.fill(place);
    }

    fn read_what_was_written(&mut self) {
        if let Some((segment, extent)) = self.plot.as_ref().and_then(|plot| plot.across) {
            self.read_across(segment, extent);
        }
    }

    /// The gateway that has the volume under the latest epoch, with that.
    pub(super) fn serving(&self) -> Option<(usize, u64)> {
        self.exports().max_by_key(|(_, epoch)| *epoch)
    }

    fn exports(&self) -> impl Iterator<Item = (usize, u64)> {
        let export = |(index, gateway): (usize, &GatewayProcess)| {
            gateway.export().map(|export| (index, export.epoch.0))
        };
        self.gateways.iter().enumerate().filter_map(export)
    }

    fn cut(&mut self, from: Machine, to: Machine) {
        self.block(from, to);
        if let Some(plot) = &mut self.plot {
            plot.cuts.push((from, to));
        }
    }

    fn cut_both(&mut self, a: Machine, b: Machine) {
        self.cut(a, b);
        self.cut(b, a);
    }

    fn isolate(&mut self, node: usize) {
        let machine = self.nodes[node].machine;
        (0..self.client_machine).for_each(|other| self.cut_both(machine, other));
    }

    pub(super) fn mend_cuts(&mut self) {
        let cuts = self.plot.as_mut().map(|plot| std::mem::take(&mut plot.cuts)).unwrap_or_default();
        for (from, to) in cuts {
            self.unblock(from, to);
        }
    }

    /// C1: what the gateway numbers from here on reaches a majority of the former voters, and as few of the next as can be.
    fn cut_next_voters(&mut self, gateway_machine: Machine) {
        let Some(plot) = &self.plot else { return };
        let Some(segment) = self.managers.volume().and_then(|volume| volume.segments.get(plot.segment))
        else {
            return;
        };
        let place = |id| self.nodes.iter().position(|process| process.id() == id);
        let with = |wanted: ReplicaRole| {
            let members = segment.members().filter(move |(_, role)| *role == wanted);
            members.filter_map(|(replica, _)| place(replica.node)).collect::<Vec<usize>>()
        };
        let (mut staying, leaving, mut cut) =
            (with(ReplicaRole::Voter), with(ReplicaRole::Outgoing).len(), with(ReplicaRole::Incoming));
        let needed = (staying.len() + leaving) / 2 + 1;
        let kept = staying.split_off(staying.len() - needed.saturating_sub(leaving).min(staying.len()));
        cut.extend(staying);
        for node in cut {
            self.cut_both(self.nodes[node].machine, gateway_machine);
        }
        if let Some(plot) = &mut self.plot {
            plot.kept = kept;
        }
    }

    fn deafen_former(&mut self, node: usize, gateway: usize) {
        let former = self.exports().filter(|(index, _)| *index != gateway).max_by_key(|(_, epoch)| *epoch);
        let Some((former, _)) = former else { return };
        let to = self.gateways[former].machine;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut(self.nodes[other].machine, to);
        }
        for member in 0..self.managers.members.len() {
            self.cut(self.managers.members[member].machine, to);
        }
    }

    /// Attach, step 6: the former gateway is left with a majority of one segment's voters, and its clients with that
    /// segment; the new one has all other nodes, and its clients another segment.
    fn split_segments(&mut self, gateway: usize, time: Nanos) {
        let Some(volume) = self.managers.volume() else { return };
        let count = volume.segments.len();
        let at = self.fault_random.index(count);
        let mut kept: Vec<usize> = volume.segments[at]
            .voters()
            .filter_map(|replica| self.nodes.iter().position(|process| process.id() == replica.node))
            .collect();
        kept.truncate(kept.len() / 2 + 1);
        let new = (gateway + 1) % self.setup.gateways;
        let lease = self.setup.timing.lease.as_nanos() as Nanos;
        let time = time.max(lease);
        self.split_take_over(&kept, new, time, false);
        if let Some(plot) = &mut self.plot {
            plot.hold = 2 * time;
        }
        let blocks = self.setup.segment_bytes / BLOCK_BYTES;
        for client in 0..self.setup.clients {
            let segment = if self.workload.targets[client] == new { (at + 1) % count } else { at };
            self.workload.bounds[client] = Some((segment as u64 * blocks, blocks));
        }
    }

    /// W1: a write that cannot be taken, in part because nobody knows the rest of the extent, and what follows it.
    fn rot_under_write(&mut self) {
        let Some((segment, extent)) = self.rot_entry() else { return };
        self.place_plot(segment, Some(extent));
        if let Some(plot) = &mut self.plot {
            plot.across = Some((segment, extent));
        }
        self.write_across(segment, extent);
    }
}
