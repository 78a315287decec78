//! Snapshots and stewards, as stories (rule C4).

mod support;

use quoin_cluster::{Command, Outcome, Refusal, SnapshotState, State, Volume, apply};
use quoin_types::{Durability, Epoch, GatewayId, InstanceId, SnapshotId, VolumeId};
use support::{candidates, initialised_with, settle};

fn created() -> State {
    let mut state = initialised_with(3);
    let create = Command::CreateVolume {
        name: "v".to_owned(),
        size_bytes: 65536,
        segment_bytes: 65536,
        replicas: 3,
        min_replicas: None,
        durability: Durability::Flush,
        candidates: candidates(1..=3),
    };
    apply(&mut state, &create).unwrap();
    settle(&mut state);
    state
}

fn volume(state: &State) -> &Volume {
    state.volume_named("v").unwrap()
}

fn gateway() -> GatewayId {
    GatewayId("gw".to_owned())
}

fn attach(state: &mut State) -> Result<Outcome, Refusal> {
    let (expected_epoch, instance) = (volume(state).epoch, InstanceId([1; 16]));
    apply(state, &Command::Attach { volume: "v".to_owned(), gateway: gateway(), instance, expected_epoch })
}

fn assign(state: &mut State) -> Result<Outcome, Refusal> {
    let (expected_epoch, instance) = (volume(state).epoch, InstanceId([2; 16]));
    let volume = VolumeId(1);
    apply(state, &Command::AssignSteward { volume, gateway: gateway(), instance, expected_epoch })
}

fn detach(state: &mut State, clean: bool) {
    let epoch = volume(state).epoch;
    apply(state, &Command::Detach { volume: "v".to_owned(), gateway: gateway(), epoch, clean }).unwrap();
}

fn snapshot(state: &mut State, name: &str) -> Result<Outcome, Refusal> {
    apply(state, &Command::BeginSnapshot { volume: "v".to_owned(), name: name.to_owned() })
}

fn commit(state: &mut State, id: u64, epoch: u64) -> Result<Outcome, Refusal> {
    let snapshot = SnapshotId(id);
    apply(state, &Command::CommitSnapshot { volume: VolumeId(1), snapshot, epoch: Epoch(epoch) })
}

/// Ids, states and epochs.
fn snapshots(state: &State) -> Vec<(u64, SnapshotState, Option<u64>)> {
    let told = volume(state).snapshots.iter();
    told.map(|snapshot| (snapshot.id.0, snapshot.state, snapshot.epoch.map(|epoch| epoch.0))).collect()
}

#[test]
fn a_snapshot_is_kept_under_the_epoch_that_took_it_and_ends_with_it_otherwise() {
    let mut state = created();
    attach(&mut state).unwrap();
    assert_eq!(snapshot(&mut state, "one"), Ok(Outcome::Snapshot(SnapshotId(1))));
    snapshot(&mut state, "two").unwrap();
    assert!(matches!(snapshot(&mut state, "two"), Err(Refusal::SnapshotExists { .. })));
    assert_eq!(commit(&mut state, 1, 2), Err(Refusal::SnapshotEnded));
    commit(&mut state, 1, 1).unwrap();
    commit(&mut state, 1, 1).unwrap();
    // Another attachment: what it did not keep is gone, and its id with it.
    attach(&mut state).unwrap();
    assert_eq!(snapshots(&state), [(1, SnapshotState::Ready, Some(1))]);
    assert_eq!(commit(&mut state, 2, 1), Err(Refusal::SnapshotEnded));
    assert_eq!(snapshot(&mut state, "two"), Ok(Outcome::Snapshot(SnapshotId(3))));
    detach(&mut state, true);
    assert_eq!(snapshots(&state), [(1, SnapshotState::Ready, Some(1))]);
}

#[test]
fn a_snapshot_of_a_detached_volume_waits_for_the_next_attachment() {
    let mut state = created();
    snapshot(&mut state, "one").unwrap();
    assert_eq!(snapshots(&state), [(1, SnapshotState::Taking, None)]);
    assign(&mut state).unwrap();
    assert_eq!(snapshots(&state), [(1, SnapshotState::Taking, Some(1))]);
    commit(&mut state, 1, 1).unwrap();
    assert_eq!(volume(&state).snapshots[0].size_bytes, 65536);
    // Storage nodes are told at once: that is what the revision is for.
    let node = volume(&state).segments[0].replicas[0].node;
    let before = state.node_revision(node);
    let delete = Command::DeleteSnapshot { volume: "v".to_owned(), name: "one".to_owned() };
    apply(&mut state, &delete).unwrap();
    assert!(state.node_revision(node) > before);
    assert!(matches!(apply(&mut state, &delete), Err(Refusal::SnapshotUnknown { .. })));
    assert!(matches!(snapshot(&mut state, "/etc"), Err(Refusal::Invalid(..))));
}

#[test]
fn a_steward_yields_to_everyone_and_takes_from_nobody() {
    let mut state = created();
    assert!(matches!(assign(&mut state), Ok(Outcome::Attached { epoch: Epoch(1), previous: None, .. })));
    assert!(volume(&state).attachment.as_ref().unwrap().steward);
    // Another steward in its place, and then somebody with clients.
    assert!(matches!(assign(&mut state), Ok(Outcome::Attached { epoch: Epoch(2), .. })));
    assert!(matches!(attach(&mut state), Ok(Outcome::Attached { epoch: Epoch(3), .. })));
    assert!(!volume(&state).attachment.as_ref().unwrap().steward);
    assert_eq!(assign(&mut state), Err(Refusal::NoStewardNeeded(VolumeId(1))));
    let late = Command::AssignSteward {
        volume: VolumeId(1),
        gateway: gateway(),
        instance: InstanceId([2; 16]),
        expected_epoch: Epoch(2),
    };
    assert!(matches!(apply(&mut state, &late), Err(Refusal::AttachedMeanwhile(_))));
}

#[test]
fn a_volume_is_dirty_from_an_end_that_was_not_clean_to_one_that_was() {
    let mut state = created();
    assert!(!volume(&state).dirty);
    attach(&mut state).unwrap();
    detach(&mut state, false);
    assert!(volume(&state).dirty);
    assign(&mut state).unwrap();
    assign(&mut state).unwrap();
    assert!(volume(&state).dirty, "a steward that is replaced has not looked to the end");
    detach(&mut state, true);
    assert!(!volume(&state).dirty);
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
}

#[test]
fn what_was_stored_before_there_were_snapshots_is_read_and_what_comes_after_is_refused() {
    let mut state = created();
    attach(&mut state).unwrap();
    // The format is the first field.
    let mut bytes = state.encode();
    assert_eq!(bytes[..2], [0x08, 4]);
    bytes[1] = 2;
    assert_eq!(State::decode(&bytes).unwrap(), state);
    bytes[1] = 5;
    let refused = State::decode(&bytes).unwrap_err();
    assert!(refused.to_string().contains("later version"), "{refused}");
}
