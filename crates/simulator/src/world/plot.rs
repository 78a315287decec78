//! A plan that is being carried out (`moments.rs`): the simulator looks at what passes, and strikes.

use super::{Event, Machine, World};
use crate::moments::{At, Moment, Step};
use crate::queue::{MILLISECOND, Nanos};
use quoin_cluster::Segment;
use quoin_types::{BLOCK_BYTES, BLOCKS_PER_EXTENT, NodeId, ReplicaId, ReplicaRole};
use quoin_wire::{Message, Refusal, ResyncMode, ResyncState};
use std::collections::VecDeque;

/// How long a moment is waited for, beside the leases that may have to end before it comes.
const PATIENCE: Nanos = 1_000 * MILLISECOND;
/// How long what was cut stays cut after the last step, on average.
const HOLD: Nanos = 400 * MILLISECOND;

/// A plan that is being carried out.
pub(crate) struct Plot {
    steps: VecDeque<Step>,
    /// Of the next step: what was armed for an earlier one is over.
    number: u64,
    /// Nothing older is waited for.
    epoch: u64,
    pub(super) node: Option<usize>,
    pub(super) source: Option<usize>,
    /// Of the change of a configuration: the segment, and voters that were not cut off.
    pub(super) segment: usize,
    pub(super) kept: Vec<usize>,
    /// What it is about: the first block and the number of blocks.
    pub(super) place: Option<(u64, u64)>,
    /// The segment and the extent across whose end was written.
    pub(super) across: Option<(usize, u64)>,
    /// How long what was cut stays cut after the last step, at least.
    pub(super) hold: Nanos,
    /// Who does not hear whom.
    pub(super) cuts: Vec<(Machine, Machine)>,
}

impl Plot {
    fn waits_for(&self, moment: Moment) -> bool {
        match self.steps.front().map(|step| step.at) {
            Some(At::Next(awaited) | At::Its(awaited, _)) => awaited == moment,
            _ => false,
        }
    }
}

impl World {
    /// Begins a plan, unless one is being carried out.
    pub(crate) fn begin_plot(&mut self) {
        if self.plot.is_some() {
            return;
        }
        let steps = crate::moments::draw(&mut self.fault_random, &self.setup.faults);
        self.trace.line(self.now, || format!("plot: {steps:?}"));
        self.plot = Some(Plot {
            steps: steps.into(),
            number: 0,
            epoch: 0,
            node: None,
            source: None,
            segment: 0,
            kept: Vec::new(),
            place: None,
            across: None,
            hold: 0,
            cuts: Vec::new(),
        });
        self.arm_step();
    }

    /// Everything is mended, and nothing is waited for any more.
    pub(crate) fn end_plot(&mut self) {
        self.mend_cuts();
        self.workload.bounds.fill(None);
        self.plot = None;
    }

    fn arm_step(&mut self) {
        let epoch = self.serving().map_or(0, |(_, epoch)| epoch);
        let wait = match self.plot.as_ref().and_then(|plot| plot.steps.front()).map(|step| step.at) {
            Some(At::Once) => 0,
            Some(At::After(mean) | At::Its(_, mean)) => self.fault_random.wait(mean),
            Some(At::Next(_)) => PATIENCE + 2 * self.setup.timing.lease.as_nanos() as Nanos,
            None => self.fault_random.wait(HOLD).max(self.plot.as_ref().map_or(0, |plot| plot.hold)),
        };
        self.plot_number += 1;
        let number = self.plot_number;
        if let Some(plot) = &mut self.plot {
            plot.epoch = epoch;
            plot.number = number;
        }
        self.queue.push(self.now + wait, Event::PlotTimer { number });
    }

    /// A step's time has come; or the moment that it waits for has not, and the plan is given up.
    pub(super) fn on_plot_timer(&mut self, number: u64) {
        let Some(plot) = self.plot.as_ref().filter(|plot| plot.number == number) else { return };
        match plot.steps.front().map(|step| step.at) {
            None | Some(At::Next(_)) => self.end_plot(),
            Some(_) => self.strike(),
        }
    }

    /// The moment has come.
    pub(super) fn on_plot_moment(&mut self, number: u64) {
        if self.plot.as_ref().is_some_and(|plot| plot.number == number) {
            self.strike();
        }
    }

    /// Something happens; it is acted on as soon as whoever does it is done.
    fn notice(&mut self, moment: Moment, node: Option<usize>, source: Option<usize>, epoch: Option<u64>) {
        let Some(plot) = &mut self.plot else { return };
        let is_its = match plot.steps.front().map(|step| step.at) {
            Some(At::Its(..)) => plot.node.is_none() || plot.node == node,
            _ => true,
        };
        if !plot.waits_for(moment) || !is_its || epoch.is_some_and(|epoch| epoch <= plot.epoch) {
            return;
        }
        if node.is_some() {
            (plot.node, plot.source) = (node, source.or(plot.source));
        }
        let number = plot.number;
        self.trace.line(self.now, || format!("plot: {moment:?}, node {node:?}, source {source:?}"));
        self.queue.push(self.now, Event::PlotMoment { number });
    }

    /// A storage node hears a message.
    pub(super) fn node_hears(&mut self, node: usize, message: &Message) {
        if self.plot.is_none() {
            return;
        }
        let (moment, replica, source, extent) = match message {
            Message::Resync(order) if order.mode == ResyncMode::Join => {
                (Moment::Joins, order.replica, &order.source, None)
            }
            Message::Resync(order) => (Moment::BeginsRound, order.replica, &order.source, None),
            Message::Repair(order) => {
                (Moment::Repairs, order.replica, &order.source, Some(u64::from(order.extent.0)))
            }
            _ => return,
        };
        if !self.plot.as_ref().is_some_and(|plot| plot.waits_for(moment)) {
            return;
        }
        if let Some(segment) = self.segment_of(replica) {
            self.place_plot(segment, extent);
        }
        let source = source.address.parse().ok().filter(|source| *source < self.nodes.len());
        self.notice(moment, Some(node), source, None);
    }

    /// The plot is about a segment, or one extent of it.
    pub(super) fn place_plot(&mut self, segment: usize, extent: Option<u64>) {
        let from = segment as u64 * self.setup.segment_bytes / BLOCK_BYTES;
        let blocks = u64::from(BLOCKS_PER_EXTENT);
        if let Some(plot) = &mut self.plot {
            plot.place = Some(match extent {
                Some(extent) => (from + extent * blocks, blocks),
                None => (from, self.setup.segment_bytes / BLOCK_BYTES),
            });
        }
    }

    fn segment_of(&self, replica: ReplicaId) -> Option<usize> {
        let holds = |segment: &Segment| segment.replicas.iter().any(|other| other.id == replica);
        self.managers.volume()?.segments.iter().position(holds)
    }

    /// A peer has given a storage node an extent.
    pub(super) fn node_is_fed(&mut self, node: usize) {
        self.notice(Moment::IsFed, Some(node), None, None);
    }

    /// A storage node says something.
    pub(super) fn node_speaks(&mut self, node: usize, message: &Message) {
        if self.plot.is_none() {
            return;
        }
        match message {
            Message::OpenReply(reply) if reply.result.is_ok() => {
                self.notice(Moment::Promises, Some(node), None, Some(reply.epoch.0));
            }
            Message::StartEpochReply(reply) if reply.result.is_ok() => {
                self.notice(Moment::Starts, Some(node), None, None);
            }
            Message::ResyncReport(report) => match report.state {
                ResyncState::Complete => self.notice(Moment::HasJoined, Some(node), None, None),
                ResyncState::RoundDone => self.notice(Moment::EndsRound, Some(node), None, None),
                _ => {}
            },
            Message::Refused(refused) if refused.reason == Refusal::Disk => {
                self.notice(Moment::Refuses, Some(node), None, None);
            }
            _ => {}
        }
    }

    /// A gateway learns that a session is over.
    pub(super) fn session_is_over(&mut self, node: NodeId) {
        if self.plot.is_some() {
            let node = self.nodes.iter().position(|process| process.id() == node);
            self.notice(Moment::SessionEnds, node, None, None);
        }
    }

    /// A client is told that its write is done.
    pub(super) fn write_is_acknowledged(&mut self, epoch: u64) {
        self.notice(Moment::IsAcknowledged, None, None, Some(epoch));
    }

    /// The managers may have taken a step.
    pub(super) fn look_at_configurations(&mut self) {
        let Some(plot) = &self.plot else { return };
        let Some(volume) = self.managers.volume() else { return };
        let is_joint = |segment: &Segment| {
            segment.members().any(|(_, role)| matches!(role, ReplicaRole::Incoming | ReplicaRole::Outgoing))
        };
        if plot.waits_for(Moment::IsJoint) {
            let Some(segment) = volume.segments.iter().position(is_joint) else { return };
            if let Some(plot) = &mut self.plot {
                plot.segment = segment;
            }
            self.notice(Moment::IsJoint, None, None, None);
        } else if !volume.segments.get(plot.segment).is_some_and(is_joint) {
            self.notice(Moment::IsPlain, None, None, None);
        }
    }

    fn strike(&mut self) {
        let Some(step) = self.plot.as_mut().and_then(|plot| plot.steps.pop_front()) else { return };
        for deed in step.then {
            self.trace.line(self.now, || format!("plot: {deed:?}"));
            self.carry_out_deed(deed);
        }
        self.arm_step();
    }
}
