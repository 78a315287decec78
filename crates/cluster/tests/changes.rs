//! Changes of who holds a segment, as stories (rules C1 and C3).

mod support;

use quoin_cluster::planner::changes::{Move, plan_count, plan_move};
use quoin_cluster::{
    Candidate, ChangeStage, Command, Outcome, Refusal, RefusalKind, Replica, ReplicaState, SegmentAt,
    SegmentChange, State, Volume, VolumeStage, apply,
};
use quoin_types::{
    DiskId, Durability, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, ReplicaRole, VolumeId,
};
use support::{candidates, gone_or_back, initialised_with, node, settle};

/// A volume `v` of so many copies on five nodes, which exist, and attached under epoch 1.
fn attached(replicas: u32, min_replicas: Option<u32>) -> State {
    let mut state = initialised_with(5);
    let create = Command::CreateVolume {
        name: "v".to_owned(),
        size_bytes: 2 * 65536,
        segment_bytes: 65536,
        replicas,
        min_replicas,
        durability: Durability::Flush,
        candidates: candidates(1..=u64::from(replicas)),
    };
    apply(&mut state, &create).unwrap();
    settle(&mut state);
    attach(&mut state);
    state
}

fn attach(state: &mut State) {
    let expected_epoch = volume(state).epoch;
    let (gateway, instance) = (GatewayId("gw".to_owned()), InstanceId([1; 16]));
    let command = Command::Attach { volume: "v".to_owned(), gateway, instance, expected_epoch };
    apply(state, &command).unwrap();
}

fn volume(state: &State) -> &Volume {
    state.volume_named("v").unwrap()
}

/// Segment 0 as it is now.
fn now(state: &State) -> SegmentAt {
    SegmentAt { index: 0, generation: volume(state).segments[0].generation }
}

/// The roles in segment 0, by node.
fn roles(state: &State) -> Vec<(u64, ReplicaRole)> {
    let mut roles: Vec<_> =
        volume(state).segments[0].members().map(|(replica, role)| (replica.node.0, role)).collect();
    roles.sort_unstable();
    roles
}

fn replica_on(state: &State, node: u64) -> ReplicaId {
    let replicas = &volume(state).segments[0].replicas;
    replicas.iter().find(|replica| replica.node.0 == node).unwrap().id
}

fn begin(state: &mut State, add: &[u64], remove: &[u64]) -> Result<Outcome, Refusal> {
    let change = SegmentChange {
        at: now(state),
        add: add.iter().copied().map(NodeId).collect(),
        remove: remove.iter().map(|node| replica_on(state, *node)).collect(),
    };
    let epoch = volume(state).epoch;
    let command = Command::BeginChange { volume: VolumeId(1), epoch, replicas: None, segments: vec![change] };
    apply(state, &command)
}

fn enter_joint(state: &mut State) -> Result<Outcome, Refusal> {
    let (epoch, segments) = (volume(state).epoch, vec![now(state)]);
    apply(state, &Command::EnterJoint { volume: VolumeId(1), epoch, segments })
}

fn finish(state: &mut State) -> Result<Outcome, Refusal> {
    let (epoch, segments) = (volume(state).epoch, vec![now(state)]);
    apply(state, &Command::FinishChange { volume: VolumeId(1), epoch, segments })
}

fn abort(state: &mut State) -> Result<Outcome, Refusal> {
    let (epoch, segments) = (volume(state).epoch, vec![now(state)]);
    apply(state, &Command::AbortChange { volume: VolumeId(1), epoch, segments })
}

fn shrink(state: &mut State, remove: u64) -> Result<Outcome, Refusal> {
    let (epoch, segment, remove) = (volume(state).epoch, now(state), replica_on(state, remove));
    apply(state, &Command::Shrink { volume: VolumeId(1), epoch, segment, remove })
}

fn lose_node(state: &mut State, number: u64) {
    let gone = gone_or_back(state, number);
    apply(state, &gone).unwrap();
}

const VOTER: ReplicaRole = ReplicaRole::Voter;

#[test]
fn a_copy_is_moved_in_three_steps_and_a_generation_each() {
    let mut state = attached(3, None);
    begin(&mut state, &[4], &[1]).unwrap();
    assert_eq!(now(&state).generation.0, 2);
    assert_eq!(roles(&state), [(1, VOTER), (2, VOTER), (3, VOTER), (4, ReplicaRole::Learner)]);
    // A learner that does not exist yet neither keeps the volume from its clients nor becomes a voter.
    assert_eq!(volume(&state).stage(), VolumeStage::Ready);
    assert!(matches!(enter_joint(&mut state), Err(Refusal::NotAtThisStep(_))));
    settle(&mut state);
    assert!(matches!(finish(&mut state), Err(Refusal::NotAtThisStep(_))));
    enter_joint(&mut state).unwrap();
    assert_eq!(
        roles(&state),
        [(1, ReplicaRole::Outgoing), (2, VOTER), (3, VOTER), (4, ReplicaRole::Incoming)]
    );
    assert!(matches!(abort(&mut state), Err(Refusal::JointAlready(_))));
    finish(&mut state).unwrap();
    assert_eq!(roles(&state), [(2, VOTER), (3, VOTER), (4, VOTER)]);
    assert_eq!((now(&state).generation.0, volume(&state).is_changing()), (4, false));
    // What left stays listed until its node has dropped it.
    assert_eq!(state.replica_count_on(NodeId(1)), 2);
    settle(&mut state);
    assert_eq!(state.replica_count_on(NodeId(1)), 1);
}

#[test]
fn a_step_is_refused_to_whoever_looked_at_something_else() {
    let mut state = attached(3, None);
    let stale = now(&state);
    begin(&mut state, &[4], &[1]).unwrap();
    settle(&mut state);
    let step = |state: &mut State, epoch, at| {
        let command = Command::EnterJoint { volume: VolumeId(1), epoch: Epoch(epoch), segments: vec![at] };
        apply(state, &command).map_err(|refusal| refusal.kind())
    };
    let current = now(&state);
    assert_eq!(step(&mut state, 1, stale), Err(RefusalKind::Stale));
    assert_eq!(step(&mut state, 2, current), Err(RefusalKind::Stale));
    // Nobody reports on a volume that is detached: what is known of it was before.
    let detach = Command::Detach {
        volume: "v".to_owned(),
        gateway: GatewayId("gw".to_owned()),
        epoch: Epoch(1),
        clean: true,
    };
    apply(&mut state, &detach).unwrap();
    assert_eq!(step(&mut state, 1, current), Err(RefusalKind::Stale));
    attach(&mut state);
    assert!(step(&mut state, 2, current).is_ok());
}

#[test]
fn changes_that_cannot_be_are_refused() {
    let mut state = attached(3, None);
    assert!(matches!(begin(&mut state, &[2], &[]), Err(Refusal::NodeHasReplica { .. })));
    assert!(matches!(begin(&mut state, &[], &[1, 2, 3]), Err(Refusal::Invalid(..))), "nobody would vote");
    assert!(matches!(begin(&mut state, &[], &[]), Err(Refusal::Invalid(..))));
    assert!(matches!(begin(&mut state, &[4, 4], &[]), Err(Refusal::Invalid(..))));
    assert!(matches!(begin(&mut state, &[9], &[]), Err(Refusal::NodeUnknown(_))));
    lose_node(&mut state, 5);
    assert!(matches!(begin(&mut state, &[5], &[]), Err(Refusal::NodeNotOnline(_))));
    begin(&mut state, &[4], &[1]).unwrap();
    assert!(matches!(begin(&mut state, &[], &[2]), Err(Refusal::Changing(_))), "one at a time");
    // A node that is still to drop one gets no other.
    abort(&mut state).unwrap();
    assert!(matches!(begin(&mut state, &[4], &[]), Err(Refusal::NodeHasReplica { .. })));
    settle(&mut state);
    begin(&mut state, &[4], &[]).unwrap();
}

#[test]
fn a_change_is_given_up_while_its_learners_are_filled() {
    let mut state = attached(3, None);
    begin(&mut state, &[4], &[1]).unwrap();
    let learner = replica_on(&state, 4);
    abort(&mut state).unwrap();
    assert_eq!(roles(&state), [(1, VOTER), (2, VOTER), (3, VOTER)]);
    assert_eq!(now(&state).generation.0, 3);
    // Created meanwhile or not: it is dropped, and does not come back.
    settle(&mut state);
    assert!(volume(&state).replicas().all(|(.., replica)| replica.id != learner));
}

#[test]
fn a_learner_whose_disk_is_replaced_ends_the_change() {
    let mut state = attached(3, None);
    begin(&mut state, &[4, 5], &[1]).unwrap();
    settle(&mut state);
    apply(&mut state, &Command::RegisterNode(node(4, 9, 1))).unwrap();
    assert_eq!(roles(&state), [(1, VOTER), (2, VOTER), (3, VOTER)]);
    assert_eq!((state.replica_count_on(NodeId(4)), now(&state).generation.0), (0, 3));
    let other = volume(&state).segments[0].replicas.iter().find(|replica| replica.node == NodeId(5));
    assert_eq!(other.unwrap().state, ReplicaState::Dropping);
    // Once it votes, its disk is not given up for another.
    settle(&mut state);
    begin(&mut state, &[4], &[1]).unwrap();
    settle(&mut state);
    enter_joint(&mut state).unwrap();
    let replaced = apply(&mut state, &Command::RegisterNode(node(4, 10, 1)));
    assert!(matches!(replaced, Err(Refusal::DiskReplaced { .. })));
}

#[test]
fn one_of_two_is_gone_on_with_only_if_its_owner_said_so() {
    let mut state = attached(2, None);
    lose_node(&mut state, 2);
    assert!(matches!(shrink(&mut state, 2), Err(Refusal::MayNotShrink { .. })), "nobody said so");
    let mut state = attached(2, Some(1));
    assert!(matches!(shrink(&mut state, 2), Err(Refusal::MayNotShrink { .. })), "its node is there");
    lose_node(&mut state, 2);
    shrink(&mut state, 2).unwrap();
    assert_eq!((roles(&state), volume(&state).replicas), (vec![(1, VOTER)], 2));
    assert!(matches!(shrink(&mut state, 1), Err(Refusal::MayNotShrink { .. })), "the last one");
    // It comes back as another copy, when there is a node for it.
    begin(&mut state, &[3], &[]).unwrap();
    settle(&mut state);
    enter_joint(&mut state).unwrap();
    finish(&mut state).unwrap();
    assert_eq!(roles(&state), [(1, VOTER), (3, VOTER)]);
    let mut state = attached(3, Some(1));
    lose_node(&mut state, 3);
    assert!(
        matches!(shrink(&mut state, 3), Err(Refusal::MayNotShrink { .. })),
        "two of three are a majority"
    );
}

#[test]
fn shrinking_lets_a_learner_be_filled_on_and_keeps_the_last_one() {
    let mut state = attached(2, Some(1));
    begin(&mut state, &[3], &[2]).unwrap();
    lose_node(&mut state, 2);
    shrink(&mut state, 2).unwrap();
    assert_eq!(roles(&state), [(1, VOTER), (3, ReplicaRole::Learner)]);
    settle(&mut state);
    enter_joint(&mut state).unwrap();
    finish(&mut state).unwrap();
    assert_eq!(roles(&state), [(1, VOTER), (3, VOTER)]);
    // The one that was to leave is all that is left.
    let mut state = attached(2, Some(1));
    begin(&mut state, &[], &[1]).unwrap();
    lose_node(&mut state, 2);
    shrink(&mut state, 2).unwrap();
    assert_eq!((roles(&state), volume(&state).is_changing()), (vec![(1, VOTER)], false));
}

#[test]
fn a_volume_that_is_deleted_or_grows_meanwhile() {
    let mut state = attached(3, None);
    begin(&mut state, &[4], &[1]).unwrap();
    let resize =
        Command::ResizeVolume { name: "v".to_owned(), size_bytes: 3 * 65536, candidates: candidates(1..=3) };
    apply(&mut state, &resize).unwrap();
    // Only what votes is waited for: the learner on node 4 does not exist yet.
    for number in 1..=3 {
        let report = support::report_of(&state, number);
        apply(&mut state, &report).unwrap();
    }
    assert_eq!(volume(&state).size_bytes, 3 * 65536);
    apply(&mut state, &Command::DeleteVolume { name: "v".to_owned(), expected_epoch: None }).unwrap();
    let tombstone = &state.volumes()[&VolumeId(1)];
    assert!(tombstone.replicas().all(|(.., replica)| replica.state == ReplicaState::Dropping));
    assert!(!tombstone.is_changing());
    let gone = Command::AbortChange { volume: VolumeId(1), epoch: Epoch(1), segments: Vec::new() };
    assert_eq!(apply(&mut state, &gone), Err(Refusal::VolumeGone(VolumeId(1))));
    settle(&mut state);
    assert!(state.volumes().is_empty());
}

fn everywhere() -> Vec<Candidate> {
    candidates(1..=5)
}

fn plan(state: &State, replicas: u32, worst: Option<u64>) -> Result<Vec<SegmentChange>, Refusal> {
    let worth = |replica: &Replica| u32::from(Some(replica.node.0) != worst);
    plan_count(state, volume(state), &everywhere(), replicas, worth)
}

fn set_replicas(state: &mut State, replicas: u32, segments: Vec<SegmentChange>) -> Result<Outcome, Refusal> {
    let epoch = volume(state).epoch;
    let replicas = Some(replicas);
    apply(state, &Command::BeginChange { volume: VolumeId(1), epoch, replicas, segments })
}

#[test]
fn the_number_of_copies_changes_for_all_segments_or_none() {
    let mut state = attached(1, None);
    let planned = plan(&state, 3, None).unwrap();
    assert_eq!(planned.iter().map(|change| change.add.len()).collect::<Vec<_>>(), [2, 2]);
    let half = planned[..1].to_vec();
    assert!(matches!(set_replicas(&mut state, 3, half), Err(Refusal::Invalid(..))));
    set_replicas(&mut state, 3, planned).unwrap();
    assert_eq!(volume(&state).replicas, 3);
    settle(&mut state);
    // Given up for one segment, the wish stands; for both, what there is is what is wished.
    abort(&mut state).unwrap();
    assert_eq!(volume(&state).replicas, 3);
    let other = SegmentAt { index: 1, generation: volume(&state).segments[1].generation };
    let segments = vec![other];
    apply(&mut state, &Command::AbortChange { volume: VolumeId(1), epoch: Epoch(1), segments }).unwrap();
    assert_eq!(volume(&state).replicas, 1);
    let too_many = plan(&state, 7, None);
    assert_eq!(too_many, Err(Refusal::TooFewOtherNodes { replicas: 6, candidates: 2 }));
}

#[test]
fn fewer_copies_are_those_that_are_worth_the_most() {
    let mut state = attached(3, Some(3));
    let planned = plan(&state, 1, Some(2)).unwrap();
    // Node 2 has the worst copy; nodes 1 and 3 are in one zone, and the younger one goes.
    let removed: Vec<ReplicaId> = [2, 3].map(|node| replica_on(&state, node)).to_vec();
    assert_eq!(planned[0].remove, removed);
    set_replicas(&mut state, 1, planned).unwrap();
    // What was said about three copies is not said about one.
    assert_eq!((volume(&state).replicas, volume(&state).min_replicas), (1, None));
    let stages: Vec<_> = volume(&state).segments.iter().map(|s| s.change.as_ref().unwrap().stage).collect();
    assert_eq!(stages, [ChangeStage::Filling; 2], "the leader looks first whether the rest is in sync");
    enter_joint(&mut state).unwrap();
    finish(&mut state).unwrap();
    assert_eq!(roles(&state), [(1, VOTER)]);
}

#[test]
fn a_move_finds_a_zone_that_the_others_are_not_in() {
    let state = attached(2, None);
    // Nodes 1, 3 and 5 are in one zone, 2 and 4 in the other.
    let wish = Move { segment: None, from: NodeId(2), to: None };
    let planned = plan_move(&state, volume(&state), &everywhere(), wish).unwrap();
    assert_eq!(planned.len(), 2);
    assert!(planned.iter().all(|change| change.add == [NodeId(4)] && change.remove.len() == 1));
    let one = Move { segment: Some(1), to: Some(NodeId(5)), ..wish };
    let planned = plan_move(&state, volume(&state), &everywhere(), one).unwrap();
    assert_eq!((planned.len(), planned[0].at.index, &planned[0].add), (1, 1, &vec![NodeId(5)]));
    let onto_itself = Move { to: Some(NodeId(1)), ..wish };
    let refused = plan_move(&state, volume(&state), &everywhere(), onto_itself);
    assert!(matches!(refused, Err(Refusal::NodeHasReplica { .. })));
    let from_nowhere = Move { from: NodeId(4), ..wish };
    let refused = plan_move(&state, volume(&state), &everywhere(), from_nowhere);
    assert!(matches!(refused, Err(Refusal::NodeHasNoReplica { .. })));
    let refused = plan_move(&state, volume(&state), &candidates([1, 2]), wish);
    assert_eq!(refused, Err(Refusal::TooFewOtherNodes { replicas: 1, candidates: 0 }));
}

#[test]
fn disks_of_voters_are_not_replaced_while_a_change_only_plans_to_remove_them() {
    let mut state = attached(3, None);
    begin(&mut state, &[4], &[1]).unwrap();
    let replaced = apply(&mut state, &Command::RegisterNode(node(1, 9, 1)));
    assert!(matches!(replaced, Err(Refusal::DiskReplaced { .. })));
    assert_eq!(state.nodes()[&NodeId(1)].disk, DiskId([1; 16]));
}
