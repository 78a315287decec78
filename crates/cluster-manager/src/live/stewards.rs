//! Who looks after volumes that no gateway has (rule C4): appointed, relieved, replaced.
//!
//! A detached volume needs a steward for a change, for a snapshot, or because its last attachment did not end clean. A
//! steward is relieved when all is done, and when it can do no more, since what is missing is on nodes that are gone: it
//! has better things to do than wait. Then nobody is appointed until something is different.

use super::changes::Report;
use super::{Live, Presence};
use quoin_cluster::{Attachment, ChangeStage, Command, Replica, Segment, State, Volume, VolumeStage};
use quoin_types::{Epoch, GatewayId, InstanceId, Moment, ReplicaId, joint};
use std::collections::{BTreeMap, BTreeSet};

/// The most volumes that one gateway is the steward of.
pub(super) const STEWARDED_MAX: usize = 4;

/// How a volume was when its steward could do no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GivenUp {
    epoch: Epoch,
    /// Of all segments together: it rises with every step of any.
    generations: u64,
    /// The members on nodes that are gone.
    absent: BTreeSet<ReplicaId>,
}

impl GivenUp {
    fn of(state: &State, volume: &Volume) -> Self {
        let members = volume.segments.iter().flat_map(Segment::members).map(|(replica, _)| replica);
        Self {
            epoch: volume.epoch,
            generations: volume.segments.iter().map(|segment| segment.generation.0).sum(),
            absent: members.filter(|replica| is_absent(state, replica)).map(|replica| replica.id).collect(),
        }
    }
}

/// How many more volumes each gateway may look after.
pub(super) struct Slots {
    free: BTreeMap<GatewayId, (InstanceId, usize)>,
}

impl Slots {
    pub(super) fn new(live: &Live, state: &State, now: Moment) -> Self {
        let online = live.gateways.iter();
        let online = online.filter(|(id, _)| live.gateway_presence(id, now) == Presence::Online);
        let free = online.map(|(id, report)| {
            let mine = |volume: &&Volume| steward_of(volume).is_some_and(|at| at.instance == report.instance);
            let stewarded = state.volumes_attached_to(id).filter(mine).count();
            (id.clone(), (report.instance, STEWARDED_MAX.saturating_sub(stewarded)))
        });
        Self { free: free.collect() }
    }

    /// The gateway that has the most room, and less of it from now on; another one than that which is named, if there is.
    fn take(&mut self, rather_not: Option<&GatewayId>) -> Option<(GatewayId, InstanceId)> {
        let with_room = self.free.iter_mut().filter(|(_, (_, free))| *free > 0);
        // Of equals the first one, so that every look comes to the same.
        let best = with_room.rev().max_by_key(|(id, (_, free))| (Some(*id) != rather_not, *free));
        let (id, (instance, free)) = best?;
        *free -= 1;
        Some((id.clone(), *instance))
    }
}

impl Live {
    /// Attachments of processes that are gone: they end, and not clean. Whoever still has the volume at a gateway that is
    /// only silent keeps it: its clients may go on for as long as the managers do not hear of it.
    pub(super) fn replaced_attachments<'a>(
        &'a self,
        state: &'a State,
        now: Moment,
    ) -> impl Iterator<Item = Command> + 'a {
        let attached = self.gateways.keys().flat_map(|gateway| state.volumes_attached_to(gateway));
        attached.filter_map(move |volume| {
            let attachment = volume.attachment.as_ref().filter(|attachment| !attachment.steward)?;
            // A process that has just attached may not have reported at all yet.
            let gone = self.is_replaced(attachment, now) && !self.is_new(volume, &attachment.gateway, now);
            gone.then(|| detach(volume, attachment, false))
        })
    }

    /// Gives a volume a steward, or another one, or relieves the one it has.
    pub(super) fn appoint_steward(
        &mut self,
        state: &State,
        volume: &Volume,
        slots: &mut Slots,
        now: Moment,
    ) -> Option<Command> {
        let rather_not = match &volume.attachment {
            None if self.needs_steward(state, volume) => None,
            Some(attachment) if attachment.steward => {
                let report = self.word_of_steward(volume, attachment, now);
                if let Some(relieved) = report.map(|report| relieved(state, volume, &report)) {
                    let clean = relieved?;
                    if !clean {
                        self.given_up.insert(volume.id, GivenUp::of(state, volume));
                    }
                    return Some(detach(volume, attachment, clean));
                }
                if !self.is_lost(volume, attachment, now) {
                    return None;
                }
                if is_hopeless(state, volume) {
                    return Some(detach(volume, attachment, false));
                }
                Some(attachment.gateway.clone())
            }
            _ => return None,
        };
        let Some((gateway, instance)) = slots.take(rather_not.as_ref()) else {
            // Nobody is there to take its place. Until somebody is, the volume is nobody's.
            return volume.attachment.as_ref().map(|lost| detach(volume, lost, false));
        };
        self.attaching(volume.id, gateway.clone(), now);
        let expected_epoch = volume.epoch;
        Some(Command::AssignSteward { volume: volume.id, gateway, instance, expected_epoch })
    }

    fn needs_steward(&self, state: &State, volume: &Volume) -> bool {
        let has_work = volume.is_changing() || volume.dirty;
        let in_vain = || self.given_up.get(&volume.id) == Some(&GivenUp::of(state, volume));
        volume.stage() == VolumeStage::Ready
            && !is_hopeless(state, volume)
            && (volume.is_taking() || (has_work && !in_vain()))
    }

    /// Whether a steward's process is gone, or has had time enough and does not report on the volume.
    fn is_lost(&self, volume: &Volume, steward: &Attachment, now: Moment) -> bool {
        match self.gateway_presence(&steward.gateway, now) {
            Presence::Unreachable => true,
            Presence::Unknown => false,
            Presence::Online => !self.is_new(volume, &steward.gateway, now),
        }
    }

    /// Keeps what was given up to volumes that are still without one.
    pub(super) fn forget_given_up(&mut self, state: &State) {
        self.given_up.retain(|id, given_up| {
            state.volumes().get(id).is_some_and(|volume| volume.epoch == given_up.epoch)
        });
    }
}

fn steward_of(volume: &Volume) -> Option<&Attachment> {
    volume.attachment.as_ref().filter(|attachment| attachment.steward)
}

fn detach(volume: &Volume, attachment: &Attachment, clean: bool) -> Command {
    Command::Detach {
        volume: volume.name.clone(),
        gateway: attachment.gateway.clone(),
        epoch: attachment.epoch,
        clean,
    }
}

/// Whether a steward has nothing more to do, or can do no more; and if so, whether all is well.
fn relieved(state: &State, volume: &Volume, report: &Report<'_>) -> Option<bool> {
    let is_done = || {
        volume.segments_at().all(|(at, segment)| report.is_current(at) && is_at_rest(state, segment, report))
    };
    if !is_hopeless(state, volume) && (volume.is_taking() || !is_done()) {
        return None;
    }
    let in_sync = |segment: &Segment| segment.members().all(|(replica, _)| report.in_sync(replica));
    Some(!volume.is_changing() && volume.served_segments().iter().all(in_sync))
}

fn is_absent(state: &State, replica: &Replica) -> bool {
    state.nodes().get(&replica.node).is_none_or(|node| !node.health.is_online())
}

/// Whether so many nodes are gone that no majority of some segment is left. Nothing is served then, of no segment; what
/// remains is that one of two copies may be gone on with, if that is the volume's policy.
fn is_hopeless(state: &State, volume: &Volume) -> bool {
    let may_shrink = volume.fewest_replicas() == 1;
    volume.served_segments().iter().any(|segment| {
        let members: Vec<_> = segment.members().collect();
        let there = |member: &(&Replica, _)| !is_absent(state, member.0);
        let one_of_two = segment.voters().count() == 2 && members.iter().any(there);
        let goes_on = joint::is_majority(&members, |m| m.1, there);
        let shrinks = may_shrink && one_of_two;
        !goes_on && !shrinks
    })
}

/// Whether every member of a segment has everything, or cannot be had; and nothing is to come of it by itself.
fn is_at_rest(state: &State, segment: &Segment, report: &Report<'_>) -> bool {
    let is_final = |replica: &Replica| {
        report.in_sync(replica) || report.has_failed(replica) || is_absent(state, replica)
    };
    let members: Vec<_> = segment.members().collect();
    let is_joint = segment.change.as_ref().is_some_and(|change| change.stage == ChangeStage::Joint);
    // It will be settled soon.
    let settles = is_joint && joint::is_majority(&members, |m| m.1, |m| report.in_sync(m.0));
    !settles && members.iter().all(|(replica, _)| is_final(replica))
}
