//! The rules one by one, as stories.

mod support;

use prost::Message as _;
use quoin_api::v1;
use quoin_cluster::apply::check_next_start;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{Command, Outcome, Refusal, ReplicaState, State, VolumeStage, apply};
use quoin_types::{DiskId, Durability, Epoch, GatewayId, InstanceId, NodeId, ReplicaId, StartMark};
use support::{candidates, initialised, initialised_with, node, report_of, settle};

fn create(state: &mut State, name: &str, replicas: u32) {
    let command = Command::CreateVolume {
        name: name.to_owned(),
        size_bytes: 100 * 4096,
        segment_bytes: 65536,
        replicas,
        min_replicas: None,
        durability: Durability::Flush,
        candidates: candidates(1..=3),
    };
    apply(state, &command).unwrap();
}

fn attach(state: &mut State, gateway: &str, expected: u64) -> Result<Outcome, Refusal> {
    let gateway = GatewayId(gateway.to_owned());
    let instance = InstanceId([1; 16]);
    apply(
        state,
        &Command::Attach { volume: "v".to_owned(), gateway, instance, expected_epoch: Epoch(expected) },
    )
}

#[test]
fn a_volume_is_attached_once_it_exists_everywhere() {
    let mut state = initialised();
    create(&mut state, "v", 3);
    assert_eq!(state.volume_named("v").unwrap().segments.len(), 7);
    assert!(matches!(attach(&mut state, "a", 0), Err(Refusal::VolumeNotReady(_))));
    settle(&mut state);
    assert!(matches!(
        attach(&mut state, "a", 0),
        Ok(Outcome::Attached { epoch: Epoch(1), previous: None, .. })
    ));
    // Whoever looked before that must look again.
    assert!(matches!(attach(&mut state, "b", 0), Err(Refusal::AttachedMeanwhile(_))));
    let Ok(Outcome::Attached { epoch, previous, .. }) = attach(&mut state, "b", 1) else { panic!() };
    assert_eq!((epoch, previous.unwrap().epoch), (Epoch(2), Epoch(1)));
    // A late detach of the one replaced changes nothing; the epoch stays after one that counts.
    let detach = |gateway: &str, epoch| Command::Detach {
        volume: "v".to_owned(),
        gateway: GatewayId(gateway.to_owned()),
        epoch: Epoch(epoch),
        clean: true,
    };
    apply(&mut state, &detach("a", 1)).unwrap();
    assert!(state.volume_named("v").unwrap().attachment.is_some());
    apply(&mut state, &detach("b", 2)).unwrap();
    let volume = state.volume_named("v").unwrap();
    assert_eq!((volume.attachment.is_none(), volume.epoch), (true, Epoch(2)));
}

/// What a gateway's clients may go on with: what they were told under any epoch from this one on holds (rules A2, C4).
#[test]
fn a_gateway_has_a_volume_without_a_break_until_another_one_had_it_or_something_was_lost() {
    let mut state = initialised();
    create(&mut state, "v", 3);
    settle(&mut state);
    let id = state.volume_named("v").unwrap().id;
    let since = |state: &State| state.volume_named("v").unwrap().unbroken_since().map(|epoch| epoch.0);
    let detach = |state: &mut State, gateway: &str, epoch, clean| {
        let (volume, gateway) = ("v".to_owned(), GatewayId(gateway.to_owned()));
        apply(state, &Command::Detach { volume, gateway, epoch: Epoch(epoch), clean }).unwrap();
    };
    let steward = |state: &mut State, gateway: &str, expected| {
        let (gateway, instance) = (GatewayId(gateway.to_owned()), InstanceId([3; 16]));
        let expected_epoch = Epoch(expected);
        apply(state, &Command::AssignSteward { volume: id, gateway, instance, expected_epoch }).unwrap();
    };
    let lose = |state: &mut State, epoch| {
        apply(state, &Command::MarkLossy { volume: id, epoch: Epoch(epoch) }).unwrap();
    };
    assert_eq!(since(&state), None);
    attach(&mut state, "a", 0).unwrap();
    assert_eq!(since(&state), Some(1));
    // It is killed, and started again; then it is upgraded, and a steward looks after the volume meanwhile.
    attach(&mut state, "a", 1).unwrap();
    assert_eq!(since(&state), Some(1));
    detach(&mut state, "a", 2, false);
    assert_eq!(since(&state), None);
    steward(&mut state, "b", 2);
    assert_eq!(since(&state), None, "nobody is served by a steward");
    attach(&mut state, "a", 3).unwrap();
    assert_eq!(since(&state), Some(1));
    // A member that comes by a snapshot knows it, too, attached or not.
    assert_eq!(since(&State::decode(&state.encode()).unwrap()), Some(1));
    detach(&mut state, "a", 4, true);
    let mut state = State::decode(&state.encode()).unwrap();
    attach(&mut state, "a", 4).unwrap();
    assert_eq!(since(&state), Some(1));
    // Another gateway, if only for a moment.
    attach(&mut state, "b", 5).unwrap();
    assert_eq!(since(&state), Some(6));
    attach(&mut state, "a", 6).unwrap();
    assert_eq!(since(&state), Some(7));
    // Accepted writes may be gone: in its own attachment, or in that of a steward between two.
    attach(&mut state, "a", 7).unwrap();
    lose(&mut state, 7);
    assert_eq!(since(&state), Some(7), "that attachment is over");
    lose(&mut state, 8);
    lose(&mut state, 8);
    attach(&mut state, "a", 8).unwrap();
    assert_eq!(since(&state), Some(8));
    detach(&mut state, "a", 9, false);
    steward(&mut state, "a", 9);
    lose(&mut state, 10);
    attach(&mut state, "a", 10).unwrap();
    assert_eq!(since(&state), Some(10), "none of the epochs of before, nor of those that had clients");
}

/// Before format 4 it was not kept.
#[test]
fn a_run_begins_with_the_attachment_that_an_older_version_stored() {
    let mut state = initialised();
    create(&mut state, "v", 3);
    settle(&mut state);
    for epoch in 0..3 {
        attach(&mut state, "a", epoch).unwrap();
    }
    let mut stored = v1::StateSnapshot::decode(state.encode().as_slice()).unwrap();
    stored.format = 3;
    stored.volumes[0].run = None;
    let mut state = State::decode(&stored.encode_to_vec()).unwrap();
    let since = |state: &State| state.volume_named("v").unwrap().unbroken_since();
    assert_eq!(since(&state), Some(Epoch(3)));
    attach(&mut state, "a", 3).unwrap();
    assert_eq!(since(&state), Some(Epoch(3)));
    // Whoever had it before it was detached is not known either.
    stored.volumes[0].attachment = None;
    let mut state = State::decode(&stored.encode_to_vec()).unwrap();
    attach(&mut state, "a", 3).unwrap();
    assert_eq!(since(&state), Some(Epoch(4)));
}

#[test]
fn a_volume_grows_when_its_new_segments_exist() {
    let mut state = initialised();
    create(&mut state, "v", 2);
    settle(&mut state);
    let resize = |size_bytes| Command::ResizeVolume {
        name: "v".to_owned(),
        size_bytes,
        candidates: candidates(1..=3),
    };
    // Within the last segment at once; beyond it when the replicas are there.
    apply(&mut state, &resize(101 * 4096)).unwrap();
    assert_eq!(state.volume_named("v").unwrap().size_bytes, 101 * 4096);
    apply(&mut state, &resize(200 * 4096)).unwrap();
    let volume = state.volume_named("v").unwrap();
    assert_eq!((volume.size_bytes, volume.stage()), (101 * 4096, VolumeStage::Ready));
    assert_eq!((volume.served_segments().len(), volume.segments.len()), (7, 13));
    settle(&mut state);
    assert_eq!(state.volume_named("v").unwrap().size_bytes, 200 * 4096);
    assert!(matches!(apply(&mut state, &resize(4096)), Err(Refusal::Shrinking { .. })));
}

/// Nobody has written to the new segments, so nothing is lost with their copies; and without them the growth would never
/// come to its end, nor could the node ever be back.
#[test]
fn a_disk_that_is_lost_while_a_volume_grows_is_replaced_by_a_new_one() {
    let mut state = initialised_with(4);
    create(&mut state, "v", 3);
    settle(&mut state);
    let grow = Command::ResizeVolume {
        name: "v".to_owned(),
        size_bytes: 200 * 4096,
        candidates: candidates(4..=4).into_iter().chain(candidates(1..=2)).collect(),
    };
    apply(&mut state, &grow).unwrap();
    // One copy exists by the disk's own report, the others do not yet.
    let first = state.replicas_on(NodeId(4)).map(|(.., replica)| replica.id).next().unwrap();
    let disk = DiskId([4; 16]);
    let report = Command::ReportReplicas { node: NodeId(4), disk, created: vec![first], dropped: vec![] };
    apply(&mut state, &report).unwrap();
    let before: Vec<ReplicaId> = state.replicas_on(NodeId(4)).map(|(.., replica)| replica.id).collect();
    apply(&mut state, &Command::RegisterNode(node(4, 14, 1))).unwrap();
    let anew: Vec<_> = state.replicas_on(NodeId(4)).map(|(.., replica)| replica).collect();
    assert_eq!(anew.len(), before.len());
    for replica in anew {
        assert!(!before.contains(&replica.id), "C2: an id dies with its disk");
        assert_eq!((replica.disk, replica.state), (DiskId([14; 16]), ReplicaState::Creating));
    }
    settle(&mut state);
    let volume = state.volume_named("v").unwrap();
    assert_eq!((volume.size_bytes, volume.growing_to_bytes), (200 * 4096, None));
    // From now on somebody may write to them.
    let refused = apply(&mut state, &Command::RegisterNode(node(4, 24, 1)));
    assert!(matches!(refused, Err(Refusal::DiskReplaced { .. })));
}

#[test]
fn a_disk_that_is_lost_while_a_volume_is_created_is_replaced_by_a_new_one() {
    let mut state = initialised();
    create(&mut state, "v", 3);
    for number in [1, 2] {
        let report = report_of(&state, number);
        apply(&mut state, &report).unwrap();
    }
    apply(&mut state, &Command::RegisterNode(node(2, 12, 1))).unwrap();
    settle(&mut state);
    let volume = state.volume_named("v").unwrap();
    assert_eq!(volume.stage(), VolumeStage::Ready);
    assert!(volume.replicas().all(|(.., replica)| replica.disk != DiskId([2; 16])));
}

#[test]
fn a_deleted_volume_frees_its_name_and_keeps_its_tombstone() {
    let mut state = initialised();
    create(&mut state, "v", 3);
    settle(&mut state);
    let first = state.volume_named("v").unwrap().id;
    apply(&mut state, &Command::DeleteVolume { name: "v".to_owned(), expected_epoch: None }).unwrap();
    create(&mut state, "v", 3);
    let second = state.volume_named("v").unwrap().id;
    assert!(second > first && state.volumes().contains_key(&first));
    settle(&mut state);
    assert!(!state.volumes().contains_key(&first));
    assert_eq!(state.volume_named("v").unwrap().stage(), VolumeStage::Ready);
}

#[test]
fn a_wiped_disk_answers_for_nothing() {
    let mut state = initialised();
    let register = |state: &mut State, node: RegisterNode| apply(state, &Command::RegisterNode(node));
    create(&mut state, "v", 3);
    settle(&mut state);
    assert!(matches!(register(&mut state, node(1, 7, 1)), Err(Refusal::DiskReplaced { replicas: 7, .. })));
    // What only waits to be dropped goes with the disk.
    apply(&mut state, &Command::DeleteVolume { name: "v".to_owned(), expected_epoch: None }).unwrap();
    assert_eq!(register(&mut state, node(1, 7, 1)), Ok(Outcome::Node(NodeId(1))));
    assert_eq!(state.replica_count_on(NodeId(1)), 0);
    assert!(matches!(register(&mut state, node(1, 1, 9)), Err(Refusal::DiskRetired(_))));
    assert!(matches!(register(&mut state, node(4, 7, 9)), Err(Refusal::DiskOfOtherNode { .. })));
}

#[test]
fn a_start_that_is_known_is_refused_unless_the_same_process_repeats_it() {
    let mut state = initialised();
    let register = |state: &mut State, node: RegisterNode| apply(state, &Command::RegisterNode(node));
    let mine = RegisterNode { instance: Some(InstanceId([1; 16])), ..node(1, 1, 2) };
    register(&mut state, mine.clone()).unwrap();
    register(&mut state, mine.clone()).unwrap();
    let clone = RegisterNode { instance: Some(InstanceId([2; 16])), ..mine };
    assert!(matches!(register(&mut state, clone), Err(Refusal::StartCountNotAbove { .. })));
    assert!(matches!(register(&mut state, node(1, 1, 2)), Err(Refusal::StartCountNotAbove { .. })));
    assert!(matches!(register(&mut state, node(1, 1, 1)), Err(Refusal::StartCountNotAbove { .. })));
    register(&mut state, node(1, 1, 3)).unwrap();
    let other = RegisterNode { cluster_id: quoin_types::ClusterId([1; 16]), ..node(1, 1, 4) };
    assert!(matches!(register(&mut state, other), Err(Refusal::OtherCluster { .. })));
}

/// What changed meanwhile is not in the snapshot: that a gateway has nothing any more is news to it all the same.
#[test]
fn watchers_of_a_member_that_came_by_a_snapshot_are_told_that_nothing_is_left() {
    let empty = State::default();
    let mut state = initialised_with(4);
    create(&mut state, "v", 1);
    settle(&mut state);
    attach(&mut state, "old", 0).unwrap();
    attach(&mut state, "new", 1).unwrap();
    let caught_up = State::decode(&state.encode()).unwrap();
    let gateway = GatewayId("old".to_owned());
    assert_ne!(caught_up.gateway_revision(&gateway), empty.gateway_revision(&gateway));
    let idle = state.nodes().keys().find(|id| state.replica_count_on(**id) == 0).unwrap();
    assert_ne!(caught_up.node_revision(*idle), empty.node_revision(*idle));
}

/// C2: what a disk says before it starts. Nothing is recorded by the question, so who is refused is refused for ever, and who crashes
/// between the answer and its start, or after it, is not locked out.
#[test]
fn a_disk_is_judged_before_it_starts() {
    let mut state = initialised();
    let by =
        |number: u8, count| RegisterNode { instance: Some(InstanceId([number; 16])), ..node(5, 5, count) };
    let mark = |number: u8| StartMark([number; 8]);
    let may = |state: &State, count, last| check_next_start(state, &by(9, count), last);
    let register = |state: &mut State, node: RegisterNode| apply(state, &Command::RegisterNode(node));
    assert_eq!(may(&state, 1, StartMark::default()), Ok(()));
    register(&mut state, by(1, 1)).unwrap();
    let before = state.revision();
    // The process is gone before its disk was written to, or after it, once or twice.
    for count in [2, 2, 3, 4] {
        let last = if count == 2 { mark(1) } else { mark(8) };
        assert_eq!(may(&state, count, last), Ok(()));
    }
    assert_eq!(state.revision(), before);
    register(&mut state, by(2, 4)).unwrap();
    // Rolled back to before that start.
    for _ in 0..3 {
        for count in 1..=4 {
            assert!(matches!(may(&state, count, mark(1)), Err(Refusal::StartCountNotAbove { .. })));
        }
    }
    // Of two copies that were both told that they may make start 4, the other one did.
    assert!(matches!(register(&mut state, by(3, 4)), Err(Refusal::StartCountNotAbove { .. })));
    assert!(matches!(may(&state, 5, mark(3)), Err(Refusal::DiskCloned { start_count: 4, .. })));
    assert_eq!(may(&state, 5, mark(2)), Ok(()));
    // A disk of before marks were kept, or whose record of starts is damaged.
    assert_eq!(may(&state, 5, StartMark::default()), Ok(()));
    let other_disk = RegisterNode { disk: DiskId([7; 16]), ..node(1, 1, 1) };
    assert_eq!(check_next_start(&state, &other_disk, StartMark::default()), Ok(()));
    create(&mut state, "v", 3);
    settle(&mut state);
    let refused = check_next_start(&state, &other_disk, StartMark::default());
    assert!(matches!(refused, Err(Refusal::DiskReplaced { .. })));
}

#[test]
fn watchers_are_told_by_the_revision() {
    let mut state = initialised();
    create(&mut state, "v", 1);
    settle(&mut state);
    let holder = state.volume_named("v").unwrap().segments[0].replicas[0].node;
    let before = state.node_revision(holder);
    apply(&mut state, &Command::RegisterNode(node(3, 3, 2))).unwrap();
    assert_eq!(state.node_revision(holder), before);
    attach(&mut state, "gw", 0).unwrap();
    let gateway = GatewayId("gw".to_owned());
    let attached = state.gateway_revision(&gateway);
    assert_eq!(attached, state.revision());
    // A node that moves is news to the gateways that use it.
    let number = u8::try_from(holder.0).unwrap();
    apply(&mut state, &Command::RegisterNode(node(number, number, 5))).unwrap();
    assert_eq!(state.gateway_revision(&gateway), state.revision());
    apply(&mut state, &Command::DeleteVolume { name: "v".to_owned(), expected_epoch: None }).unwrap();
    assert_eq!(state.volumes_attached_to(&gateway).count(), 0);
    assert!(
        state.gateway_revision(&gateway) == state.revision()
            && state.node_revision(holder) == state.revision()
    );
}
