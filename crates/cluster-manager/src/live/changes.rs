//! The next step of changes, snapshots and stewards, from what gateways report (rules C1, C3, C4).
//!
//! A step is taken on the word of the present attachment's gateway alone, and of its configuration what it says about the
//! present generation. Each is a compare-and-set, so a step that comes too late, or twice, is refused by the state.

use super::stewards::Slots;
use super::{Live, Presence};
use quoin_api::v1;
use quoin_cluster::{
    Attachment, ChangeStage, Command, Replica, ReplicaState, Segment, SegmentAt, SnapshotState, State, Volume,
};
use quoin_types::{Moment, SnapshotId, VolumeId, quorum};
use std::collections::{BTreeMap, BTreeSet};

/// The most steps of one kind that a look returns. The next look goes on.
pub(super) const STEPS_MAX: usize = 32;

/// What the present attachment's gateway says, by replica and by segment.
pub(super) struct Report<'a> {
    message: &'a v1::AttachmentReport,
    replicas: BTreeMap<u64, &'a v1::ReplicaReport>,
    segments: BTreeMap<u32, &'a v1::SegmentReport>,
}

impl<'a> Report<'a> {
    pub(super) fn new(message: &'a v1::AttachmentReport) -> Self {
        let replicas = message.replicas.iter().map(|report| (report.replica, report)).collect();
        let segments = message.segments.iter().map(|report| (report.index, report)).collect();
        Self { message, replicas, segments }
    }

    /// What it says about a segment, if it runs its present configuration.
    fn segment(&self, at: SegmentAt) -> Option<&'a v1::SegmentReport> {
        let report = self.segments.get(&at.index).copied();
        report.filter(|report| report.generation == at.generation.0)
    }

    /// Whether a segment runs its present configuration.
    pub(super) fn is_current(&self, at: SegmentAt) -> bool {
        self.segment(at).is_some()
    }

    fn health(&self, replica: &Replica) -> Option<v1::ReplicaHealth> {
        self.replicas.get(&replica.id.0).map(|report| report.health())
    }

    /// Whether a replica has everything.
    pub(super) fn in_sync(&self, replica: &Replica) -> bool {
        replica.state == ReplicaState::Ready && self.health(replica) == Some(v1::ReplicaHealth::InSync)
    }

    /// Whether a replica has lost what it promised to keep: no steward brings that back.
    pub(super) fn has_failed(&self, replica: &Replica) -> bool {
        self.health(replica) == Some(v1::ReplicaHealth::Failed)
    }

    /// Rule C3.
    fn is_whole(&self, replica: &Replica) -> bool {
        self.replicas.get(&replica.id.0).is_some_and(|report| report.whole)
    }
}

impl Live {
    /// What is to be done next, for all volumes: a few steps, each of which may be proposed by itself.
    pub(crate) fn next_steps(&mut self, state: &State, now: Moment) -> Vec<Command> {
        let stepping = |volume: &Volume| Some((volume.id, self.next_step(state, volume, now)?));
        let stepping: Vec<(VolumeId, Command)> =
            state.tended_volumes().filter_map(stepping).take(STEPS_MAX).collect();
        let mut busy: BTreeSet<VolumeId> = stepping.iter().map(|(volume, _)| *volume).collect();
        let mut steps: Vec<Command> = stepping.into_iter().map(|(_, step)| step).collect();
        for (volume, step) in self.replace_failed(state, &busy, now) {
            busy.insert(volume);
            steps.push(step);
        }
        steps.extend(self.replaced_attachments(state, now).take(STEPS_MAX));
        self.forget_given_up(state);
        let mut slots = Slots::new(self, state, now);
        for volume in state.tended_volumes().filter(|volume| !busy.contains(&volume.id)) {
            if steps.len() >= 2 * STEPS_MAX {
                break;
            }
            steps.extend(self.appoint_steward(state, volume, &mut slots, now));
        }
        steps
    }

    /// The next step of a volume whose gateway reports on it.
    fn next_step(&self, state: &State, volume: &Volume, now: Moment) -> Option<Command> {
        let attachment = volume.attachment.as_ref()?;
        let report = Report::new(self.word_of(volume, attachment, now)?);
        commit_snapshot(volume, attachment, &report)
            .or_else(|| enter_joint(volume, attachment, &report))
            .or_else(|| finish(volume, attachment, &report))
            .or_else(|| shrink(state, volume, attachment, &report))
    }

    /// The last report of the very process that has the attachment.
    pub(super) fn word_of<'a>(
        &'a self,
        volume: &Volume,
        attachment: &Attachment,
        now: Moment,
    ) -> Option<&'a v1::AttachmentReport> {
        let process = self.gateways.get(&attachment.gateway)?.instance;
        let online = self.gateway_presence(&attachment.gateway, now) == Presence::Online;
        self.attachment_report(volume).filter(|_| online && process == attachment.instance)
    }

    /// What a steward reports of its volume.
    pub(super) fn word_of_steward<'a>(
        &'a self,
        volume: &Volume,
        steward: &Attachment,
        now: Moment,
    ) -> Option<Report<'a>> {
        self.word_of(volume, steward, now).map(Report::new)
    }
}

fn stage(segment: &Segment) -> Option<ChangeStage> {
    segment.change.as_ref().map(|change| change.stage)
}

fn commit_snapshot(volume: &Volume, attachment: &Attachment, report: &Report<'_>) -> Option<Command> {
    let placed = |id: SnapshotId| report.message.snapshots.contains(&id.0);
    let taken = volume.snapshots.iter().find(|snapshot| {
        let mine = snapshot.state == SnapshotState::Taking && snapshot.epoch == Some(attachment.epoch);
        mine && placed(snapshot.id)
    })?;
    Some(Command::CommitSnapshot { volume: volume.id, snapshot: taken.id, epoch: attachment.epoch })
}

/// Filled: all that is added is in sync, and so is a majority of those who vote afterwards, for they are waited for from then
/// on.
fn enter_joint(volume: &Volume, attachment: &Attachment, report: &Report<'_>) -> Option<Command> {
    let is_filled = |segment: &Segment| {
        let next: Vec<&Replica> = segment.next_voters().collect();
        let in_sync = next.iter().filter(|replica| report.in_sync(replica)).count();
        let added = segment.change.iter().flat_map(|change| &change.add);
        let mut added = added.map(|id| next.iter().find(|replica| replica.id == *id));
        let all_added = added.all(|replica| replica.is_some_and(|replica| report.in_sync(replica)));
        all_added && in_sync >= quorum::majority(next.len())
    };
    let filled = volume.segments_at().filter(|(at, segment)| {
        stage(segment) == Some(ChangeStage::Filling) && report.is_current(*at) && is_filled(segment)
    });
    let segments: Vec<SegmentAt> = filled.map(|(at, _)| at).collect();
    let (volume, epoch) = (volume.id, attachment.epoch);
    (!segments.is_empty()).then_some(Command::EnterJoint { volume, epoch, segments })
}

/// Settled: what was acknowledged before the joint configuration is durable on a majority of the next voters (rule C1).
fn finish(volume: &Volume, attachment: &Attachment, report: &Report<'_>) -> Option<Command> {
    let settled = volume.segments_at().filter(|(at, segment)| {
        let is_settled = report.segment(*at).is_some_and(|report| report.settled);
        stage(segment) == Some(ChangeStage::Joint) && is_settled
    });
    let segments: Vec<SegmentAt> = settled.map(|(at, _)| at).collect();
    let (volume, epoch) = (volume.id, attachment.epoch);
    (!segments.is_empty()).then_some(Command::FinishChange { volume, epoch, segments })
}

/// Rule C3: of two voters, one is gone, and the other one surely has everything. The gateway, too, has lost the one that is gone
/// when it says so: nothing was acknowledged since, for that would have taken both.
fn shrink(state: &State, volume: &Volume, attachment: &Attachment, report: &Report<'_>) -> Option<Command> {
    if volume.fewest_replicas() > 1 {
        return None;
    }
    volume.segments_at().find_map(|(at, segment)| {
        let is_gone =
            |replica: &Replica| state.nodes().get(&replica.node).is_some_and(|node| !node.health.is_online());
        let voters: Vec<&Replica> = segment.voters().collect();
        let &[one, other] = voters.as_slice() else { return None };
        let (gone, left) = match (is_gone(one), is_gone(other)) {
            (true, false) => (one, other),
            (false, true) => (other, one),
            _ => return None,
        };
        let may = stage(segment) != Some(ChangeStage::Joint)
            && report.is_current(at)
            && report.is_whole(left)
            && !report.in_sync(gone);
        let (volume, epoch) = (volume.id, attachment.epoch);
        may.then_some(Command::Shrink { volume, epoch, segment: at, remove: gone.id })
    })
}
