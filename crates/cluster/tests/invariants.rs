//! What must hold whatever is asked, in whatever order.

mod support;

use proptest::prelude::*;
use quoin_cluster::{
    ClusterTime, Command, Health, Outcome, Proposal, ReplicaState, RequestId, State, apply, apply_proposal,
};
use quoin_types::{Epoch, NodeId, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use support::{command, initialised};

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
    revision: u64,
    ids_max: (u64, u64, u64),
}

impl History {
    fn check(&mut self, state: &State, outcome: Option<Outcome>) {
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
        self.check_replicas(state);
        for node in state.nodes().values() {
            let known = self.starts.insert(node.disk.0, node.start_count).unwrap_or(0);
            assert!(node.start_count >= known, "a start count fell");
        }
        self.check_healths(state);
        let counters = state.counters();
        let ids = (counters.volume, counters.replica, counters.node);
        assert!(ids.0 >= self.ids_max.0 && ids.1 >= self.ids_max.1 && ids.2 >= self.ids_max.2);
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

    fn check_replicas(&mut self, state: &State) {
        let mut seen = BTreeSet::new();
        for volume in state.volumes().values() {
            for segment in &volume.segments {
                let nodes: BTreeSet<_> = segment.replicas.iter().map(|replica| replica.node).collect();
                assert_eq!(nodes.len(), segment.replicas.len(), "two replicas of a segment on one node");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn invariants_hold_and_members_agree(commands in prop::collection::vec(command(), 1..80)) {
        let mut state = initialised();
        let mut other = initialised();
        let mut history = History { revision: state.revision(), ..History::default() };
        for (index, command) in commands.into_iter().enumerate() {
            let request = RequestId((index as u128).to_be_bytes());
            let proposal = Proposal { request, command };
            let before = state.encode();
            let result = apply_proposal(&mut state, &proposal);
            history.check(&state, result.as_ref().ok().copied());
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
    let mut state = initialised();
    let attach = Command::Attach {
        volume: "none".to_owned(),
        gateway: quoin_types::GatewayId("gw".to_owned()),
        instance: quoin_types::InstanceId([1; 16]),
        expected_epoch: Epoch::ZERO,
    };
    assert!(apply(&mut state, &attach).is_err());
    assert!(apply(&mut state, &attach).is_err());
}
