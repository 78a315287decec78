//! Replicas that have failed: they are made anew, on the node that they are on, without being asked for.
//!
//! A gateway calls a replica failed when it has lost what it said was durable (rule W3), holds what cannot be, or is not there
//! any more. Nothing that it says counts again, and no resync is ordered for it: its id dies with what it has lost (rule C2).
//! Another replica takes its place as in any other change, learner first, so that being wrong about it costs a copy and
//! nothing else.

use super::Live;
use super::changes::{Report, STEPS_MAX};
use quoin_api::v1;
use quoin_cluster::{Command, Replica, Segment, SegmentAt, SegmentChange, State, Volume, VolumeStage};
use quoin_types::{Moment, ReplicaId, VolumeId, quorum};
use std::collections::{BTreeMap, BTreeSet};

/// So many heartbeats after one change was begun for a failed replica another one may be: an operator who gives it up has
/// time to move the copy elsewhere.
const AGAIN_AFTER: u32 = 20;

/// What gateways say of failed replicas, and what was begun about it.
#[derive(Debug, Default)]
pub(super) struct Failures {
    volumes: BTreeSet<VolumeId>,
    begun: BTreeMap<ReplicaId, Moment>,
}

impl Failures {
    /// A gateway reports on a volume.
    pub(super) fn heard(&mut self, volume: VolumeId, report: &v1::AttachmentReport) {
        if report.replicas.iter().any(|replica| replica.health() == v1::ReplicaHealth::Failed) {
            self.volumes.insert(volume);
        } else {
            self.volumes.remove(&volume);
        }
    }

    fn rests(&self, replica: ReplicaId) -> bool {
        self.begun.contains_key(&replica)
    }
}

impl Live {
    /// Changes that replace what has failed, for volumes that have nothing else to do.
    pub(super) fn replace_failed(
        &mut self,
        state: &State,
        busy: &BTreeSet<VolumeId>,
        now: Moment,
    ) -> Vec<(VolumeId, Command)> {
        let again_after = self.interval * AGAIN_AFTER;
        self.failures.begun.retain(|_, begun| now.since(*begun) < again_after);
        self.failures.volumes.retain(|id| state.volumes().contains_key(id));
        let idle = self.failures.volumes.iter().filter(|id| !busy.contains(id));
        let volumes = idle.filter_map(|id| state.volumes().get(id));
        let replaced = volumes.map(|volume| (volume, self.replaced_in(state, volume, now)));
        let replaced = replaced.filter(|(_, segments)| !segments.is_empty());
        let replaced: Vec<(&Volume, Vec<SegmentChange>)> = replaced.take(STEPS_MAX).collect();
        let lost = replaced.iter().flat_map(|(_, segments)| segments).flat_map(|change| &change.remove);
        self.failures.begun.extend(lost.map(|replica| (*replica, now)));
        let command = |(volume, segments): (&Volume, Vec<SegmentChange>)| {
            let (id, epoch) = (volume.id, volume.epoch);
            (id, Command::BeginChange { volume: id, epoch, replicas: None, segments })
        };
        replaced.into_iter().map(command).collect()
    }

    fn replaced_in(&self, state: &State, volume: &Volume, now: Moment) -> Vec<SegmentChange> {
        let attachment = volume.attachment.as_ref().filter(|_| volume.stage() == VolumeStage::Ready);
        let report = attachment.and_then(|attachment| self.word_of(volume, attachment, now)).map(Report::new);
        let Some(report) = report else { return Vec::new() };
        let current = volume.segments_at().filter(|(at, _)| report.is_current(*at));
        current
            .filter_map(|(at, segment)| {
                let failed = failed_voter(state, segment, &report)?;
                (!self.failures.rests(failed.id)).then(|| in_its_place(at, failed))
            })
            .collect()
    }
}

/// A voter that is to be replaced. A majority must be in sync without it: the new one is filled from them, and nobody waits
/// for it in the joint configuration.
fn failed_voter<'a>(state: &State, segment: &'a Segment, report: &Report<'_>) -> Option<&'a Replica> {
    let voters: Vec<&Replica> = segment.voters().collect();
    let in_sync = voters.iter().filter(|replica| report.in_sync(replica)).count();
    if segment.change.is_some() || in_sync < quorum::majority(voters.len()) {
        return None;
    }
    let is_online = |replica: &Replica| {
        let node = state.nodes().get(&replica.node);
        node.is_some_and(|node| node.health.is_online() && node.disk == replica.disk)
    };
    let is_alone =
        |failed: &Replica| segment.replicas.iter().filter(|replica| replica.node == failed.node).count() == 1;
    voters.into_iter().find(|replica| report.has_failed(replica) && is_online(replica) && is_alone(replica))
}

fn in_its_place(at: SegmentAt, failed: &Replica) -> SegmentChange {
    SegmentChange { at, add: vec![failed.node], remove: vec![failed.id] }
}
