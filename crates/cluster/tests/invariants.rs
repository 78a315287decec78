//! What must hold whatever is asked, in whatever order.

mod support;

use proptest::prelude::*;
use quoin_cluster::{
    ClusterTime, Command, Health, Outcome, Proposal, ReplicaState, RequestId, Segment, SnapshotState, State,
    apply, apply_proposal,
};
use quoin_types::{
    Epoch, GatewayId, Generation, NodeId, ReplicaId, ReplicaRole, SegmentId, SnapshotId, VolumeId, joint,
};
use std::collections::{BTreeMap, BTreeSet};
use support::{initialised_with, step};

/// The members of a configuration, with what they are.
type Configuration = Vec<(ReplicaId, ReplicaRole)>;

/// What is remembered of earlier states, to hold later ones against.
#[derive(Default)]
struct History {
    epochs: BTreeMap<VolumeId, Epoch>,
    given_epochs: BTreeSet<(VolumeId, Epoch)>,
    replicas: BTreeMap<ReplicaId, (u64, [u8; 16], ReplicaState)>,
    starts: BTreeMap<[u8; 16], u64>,
    sizes: BTreeMap<VolumeId, u64>,
    healths: BTreeMap<NodeId, Health>,
    time: ClusterTime,
    configurations: BTreeMap<SegmentId, (Generation, Configuration)>,
    snapshots: BTreeMap<SnapshotId, (VolumeId, String, SnapshotState)>,
    snapshots_gone: BTreeSet<SnapshotId>,
    runs: BTreeMap<VolumeId, Vec<Given>>,
    revision: u64,
    ids_max: [u64; 4],
}

/// An attachment that was given.
struct Given {
    gateway: GatewayId,
    epoch: Epoch,
    steward: bool,
    lossy: bool,
}

impl History {
    fn check(&mut self, state: &State, command: &Command, outcome: Option<Outcome>) {
        if let Some(Outcome::Attached { volume, epoch, .. }) = outcome {
            assert!(self.given_epochs.insert((volume, epoch)), "epoch {epoch} was given twice");
        }
        for volume in state.volumes().values() {
            let known = self.epochs.insert(volume.id, volume.epoch).unwrap_or_default();
            assert!(volume.epoch >= known, "an epoch fell");
            assert!(volume.attachment.as_ref().is_none_or(|at| at.epoch == volume.epoch));
            let size = self.sizes.insert(volume.id, volume.size_bytes).unwrap_or(0);
            assert!(volume.size_bytes >= size, "a volume shrank");
            assert!(volume.segments.len() as u64 >= volume.size_bytes.div_ceil(volume.segment_bytes));
            let named = state.volume_named(&volume.name).map(|named| named.id);
            assert_eq!(named == Some(volume.id), !volume.deleting, "names are those of living volumes");
        }
        self.check_runs(state);
        self.check_replicas(state);
        self.check_configurations(state, command);
        self.check_snapshots(state);
        for node in state.nodes().values() {
            let known = self.starts.insert(node.disk.0, node.start_count).unwrap_or(0);
            assert!(node.start_count >= known, "a start count fell");
        }
        self.check_healths(state);
        let counters = state.counters();
        let ids = [counters.volume, counters.replica, counters.node, counters.snapshot];
        assert!(ids.iter().zip(&self.ids_max).all(|(now, before)| now >= before));
        self.ids_max = ids;
        assert_eq!(state.revision(), self.revision + u64::from(outcome.is_some()));
        self.revision = state.revision();
    }

    fn check_healths(&mut self, state: &State) {
        assert!(state.time() >= self.time, "time went back");
        self.time = state.time();
        for node in state.nodes().values() {
            let known = self.healths.insert(node.id, node.health).and_then(Health::absence);
            let (Some(absence), since) = (node.health.absence(), known.map(|known| known.since)) else {
                continue;
            };
            assert!(absence.since <= state.time());
            assert!(since.is_none_or(|since| absence.since >= since), "an absence began earlier than before");
        }
    }

    /// Rule C1: one step and one generation at a time, and every majority of a configuration meets every one of the next.
    fn check_configurations(&mut self, state: &State, command: &Command) {
        for volume in state.volumes().values().filter(|volume| !volume.deleting) {
            for (index, segment) in (0..).zip(&volume.segments) {
                let id = SegmentId { volume: volume.id, index };
                let now = configuration(segment);
                assert!(now.iter().any(|(_, role)| role.votes_before()), "nobody votes");
                assert!(now.iter().any(|(_, role)| role.votes_after()), "nobody will vote");
                let next = (segment.generation, now.clone());
                let Some((generation, before)) = self.configurations.insert(id, next) else { continue };
                if segment.generation == generation {
                    assert_eq!(before, now, "a configuration changed under its generation");
                    continue;
                }
                assert_eq!(segment.generation, generation.next(), "a generation fell, or two steps at once");
                match command {
                    // Rule C3, which asks for a proof instead.
                    Command::Shrink { .. } => {
                        assert_eq!(voters(&before).len(), 2);
                        assert!(voters(&before).is_superset(&voters(&now)) && voters(&now).len() == 1);
                    }
                    // Nobody has used the configuration before, nor can anybody yet.
                    Command::RegisterNode(_) if index as usize >= volume.usable_segments().len() => {
                        assert_eq!(voters(&before).len(), voters(&now).len());
                    }
                    _ => assert!(majorities_meet(&before, &now), "{before:?} and {now:?} can be split"),
                }
            }
        }
    }

    /// The dumb twin of `Volume::run`: looks back over all attachments that were ever given.
    fn check_runs(&mut self, state: &State) {
        for volume in state.volumes().values() {
            let Some(now) = &volume.attachment else {
                assert_eq!(volume.unbroken_since(), None);
                continue;
            };
            let given = self.runs.entry(volume.id).or_default();
            if given.last().is_none_or(|last| last.epoch != now.epoch) {
                let (gateway, epoch, steward) = (now.gateway.clone(), now.epoch, now.steward);
                given.push(Given { gateway, epoch, steward, lossy: false });
            }
            given.last_mut().expect("just pushed").lossy = now.lossy;
            let mut unbroken = BTreeSet::new();
            for back in given.iter().rev() {
                if !back.steward && back.gateway != now.gateway {
                    break;
                }
                unbroken.extend((!back.steward).then_some(back.epoch));
                if back.lossy {
                    break;
                }
            }
            let served = given.iter().filter(|given| !given.steward).map(|given| given.epoch);
            match volume.unbroken_since() {
                None => assert!(now.steward),
                Some(since) => {
                    assert!(!now.steward);
                    assert_eq!(served.filter(|epoch| *epoch >= since).collect::<BTreeSet<_>>(), unbroken);
                }
            }
        }
    }

    fn check_snapshots(&mut self, state: &State) {
        let mut there = BTreeSet::new();
        for volume in state.volumes().values() {
            for snapshot in &volume.snapshots {
                assert!(there.insert(snapshot.id), "a snapshot's id is there twice");
                assert!(!self.snapshots_gone.contains(&snapshot.id), "a snapshot came back");
                let now = (volume.id, snapshot.name.clone(), snapshot.state);
                let before = self.snapshots.insert(snapshot.id, now.clone()).unwrap_or_else(|| now.clone());
                assert_eq!((before.0, before.1), (now.0, now.1), "an id of a snapshot was given twice");
                match snapshot.state {
                    SnapshotState::Taking => {
                        assert_eq!(before.2, SnapshotState::Taking);
                        let epoch = volume.attachment.as_ref().map(|attachment| attachment.epoch);
                        assert_eq!(snapshot.epoch, epoch, "it is taken by the present attachment or waits");
                    }
                    SnapshotState::Ready => assert!(snapshot.epoch.is_some()),
                }
            }
        }
        let gone = self.snapshots.keys().filter(|id| !there.contains(id));
        self.snapshots_gone.extend(gone);
    }

    fn check_replicas(&mut self, state: &State) {
        let mut seen = BTreeSet::new();
        for volume in state.volumes().values() {
            for segment in &volume.segments {
                let leaves =
                    |id: ReplicaId| segment.change.as_ref().is_some_and(|change| change.remove.contains(&id));
                let staying = || segment.members().map(|m| m.0).filter(|replica| !leaves(replica.id));
                let nodes: BTreeSet<_> = staying().map(|replica| replica.node).collect();
                assert_eq!(nodes.len(), staying().count(), "two replicas of a segment stay on one node");
            }
            for (segment, _, replica) in volume.replicas() {
                assert!(seen.insert(replica.id), "a replica's id is there twice");
                let now = (replica.node.0, replica.disk.0, replica.state);
                let before = self.replicas.insert(replica.id, now).unwrap_or_else(|| {
                    let there = state.nodes()[&replica.node].health.is_online();
                    assert!(there, "a replica was placed on a node that is unreachable");
                    now
                });
                assert_eq!((before.0, before.1), (now.0, now.1), "a replica moved under its id");
                assert!(now.2 >= before.2, "a replica went back to an earlier state");
                let listed =
                    state.replicas_on(replica.node).any(|(_, id, _, r)| id == segment && r.id == replica.id);
                assert!(listed, "the index misses a replica");
            }
        }
        let listed: usize = state.nodes().keys().map(|node| state.replicas_on(*node).count()).sum();
        assert_eq!(listed, seen.len(), "the index has replicas that are not there");
    }
}

fn configuration(segment: &Segment) -> Configuration {
    let mut members: Configuration = segment.members().map(|(replica, role)| (replica.id, role)).collect();
    members.sort_unstable();
    members
}

fn voters(of: &Configuration) -> BTreeSet<ReplicaId> {
    of.iter().filter(|(_, role)| role.votes()).map(|(id, _)| *id).collect()
}

/// By trying all subsets.
fn majorities_meet(one: &Configuration, other: &Configuration) -> bool {
    let majorities = |of: &Configuration| -> Vec<BTreeSet<ReplicaId>> {
        let subset = |bits: u32| -> BTreeSet<ReplicaId> {
            let chosen = of.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
            chosen.map(|(_, (id, _))| *id).collect()
        };
        let subsets = (0..1_u32 << of.len()).map(subset);
        subsets.filter(|ids| joint::is_majority(of, |m| m.1, |m| ids.contains(&m.0))).collect()
    };
    let others = majorities(other);
    majorities(one).iter().all(|majority| others.iter().all(|other| !majority.is_disjoint(other)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn invariants_hold_and_members_agree(steps in prop::collection::vec(step(), 1..120)) {
        let mut state = initialised_with(4);
        let mut other = initialised_with(4);
        let mut history = History { revision: state.revision(), ..History::default() };
        for (index, step) in steps.into_iter().enumerate() {
            let command = step.command(&state);
            let steward = matches!(command, Command::AssignSteward { .. });
            let attached: Vec<_> = state.volumes().values().map(|v| (v.id, v.attachment.clone())).collect();
            let request = RequestId((index as u128).to_be_bytes());
            let proposal = Proposal { request, command };
            let before = state.encode();
            let result = apply_proposal(&mut state, &proposal);
            history.check(&state, &proposal.command, result.as_ref().ok().copied());
            if let (true, Ok(Outcome::Attached { volume, .. })) = (steward, &result) {
                let before = attached.iter().find(|(id, _)| id == volume).and_then(|(_, at)| at.as_ref());
                prop_assert!(before.is_none_or(|at| at.steward), "a steward took a real attachment's place");
            }
            if result.is_err() {
                prop_assert_eq!(&before, &state.encode(), "a refused command changed something");
            } else {
                // A retry is answered as before and changes nothing.
                let after = state.encode();
                prop_assert_eq!(&apply_proposal(&mut state, &proposal), &result);
                prop_assert_eq!(after, state.encode());
            }
            // Another member: the entry goes through bytes, the state through a snapshot.
            let decoded = Proposal::decode(&proposal.encode()).unwrap();
            prop_assert_eq!(&decoded, &proposal);
            other = State::decode(&other.encode()).unwrap();
            prop_assert_eq!(apply_proposal(&mut other, &decoded), result);
            prop_assert_eq!(&other, &state);
        }
    }

    #[test]
    fn bytes_from_nowhere_are_refused_not_believed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Proposal::decode(&bytes);
        let _ = State::decode(&bytes);
    }
}

#[test]
fn a_command_of_a_later_version_is_refused() {
    // A proposal with a request id and field 99, which no version has yet.
    let mut bytes = vec![0x0a, 16];
    bytes.extend([1; 16]);
    bytes.extend([0x9a, 0x06, 0]);
    let error = Proposal::decode(&bytes).unwrap_err();
    assert!(error.to_string().contains("later version"), "{error}");
}

#[test]
fn a_command_that_is_refused_is_tried_anew() {
    let mut state = initialised_with(3);
    let attach = Command::Attach {
        volume: "none".to_owned(),
        gateway: GatewayId("gw".to_owned()),
        instance: quoin_types::InstanceId([1; 16]),
        expected_epoch: Epoch::ZERO,
    };
    assert!(apply(&mut state, &attach).is_err());
    assert!(apply(&mut state, &attach).is_err());
}
