//! Who is unreachable: what the state makes of leaders' conclusions, and what older versions have left of it.

mod support;

use quoin_cluster::command::RegisterNode;
use quoin_cluster::{
    Absence, Cause, ClusterTime, Command, Health, HealthChange, Proposal, Refusal, RequestId, State,
    VolumeStage, apply,
};
use quoin_types::{DiskId, Durability, InstanceId, NodeId, hex};
use support::{candidates, initialised, node};

/// A conclusion about the given node as it is now.
fn seen(state: &State, number: u8, absent: Option<Cause>) -> HealthChange {
    let node = &state.nodes()[&NodeId(number.into())];
    let (disk, start_count, known) = (node.disk, node.start_count, node.health.cause());
    HealthChange { node: node.id, disk, start_count, known, absent }
}

fn conclude(state: &mut State, at: u64, changes: Vec<HealthChange>) {
    apply(state, &Command::ChangeHealth { at: ClusterTime::from_millis(at), changes }).unwrap();
}

fn health(state: &State, number: u64) -> Health {
    state.nodes()[&NodeId(number)].health
}

fn absent(cause: Cause, since: u64) -> Health {
    Health::Unreachable(Absence { cause, since: ClusterTime::from_millis(since) })
}

#[test]
fn a_node_goes_and_comes_back_and_one_command_tells_of_many() {
    let mut state = initialised();
    assert_eq!(health(&state, 1), Health::Online);
    let changes = vec![seen(&state, 1, Some(Cause::Silent)), seen(&state, 3, Some(Cause::Left))];
    conclude(&mut state, 100, changes);
    assert_eq!(health(&state, 1), absent(Cause::Silent, 100));
    assert_eq!(health(&state, 2), Health::Online);
    assert_eq!(health(&state, 3), absent(Cause::Left, 100));
    let back = vec![seen(&state, 1, None)];
    conclude(&mut state, 200, back);
    assert_eq!(health(&state, 1), Health::Online);
    // A start of its own makes a node online, without anybody's conclusion.
    apply(&mut state, &Command::RegisterNode(node(3, 3, 2))).unwrap();
    assert_eq!(health(&state, 3), Health::Online);
    // A reading alone carries time, and an older one does not turn it back.
    conclude(&mut state, 900, Vec::new());
    conclude(&mut state, 500, Vec::new());
    assert_eq!(state.time(), ClusterTime::from_millis(900));
}

#[test]
fn a_conclusion_about_an_earlier_start_changes_nothing() {
    let mut state = initialised();
    let late = seen(&state, 1, Some(Cause::Left));
    let of_other_disk = HealthChange { disk: DiskId([7; 16]), ..seen(&state, 2, Some(Cause::Silent)) };
    apply(&mut state, &Command::RegisterNode(node(1, 1, 2))).unwrap();
    conclude(&mut state, 100, vec![late, of_other_disk]);
    assert_eq!((health(&state, 1), health(&state, 2)), (Health::Online, Health::Online));
}

#[test]
fn a_conclusion_that_was_drawn_before_does_not_begin_an_absence_anew() {
    let mut state = initialised();
    let silent = seen(&state, 1, Some(Cause::Silent));
    conclude(&mut state, 100, vec![silent, silent]);
    conclude(&mut state, 200, vec![silent]);
    assert_eq!(health(&state, 1), absent(Cause::Silent, 100));
    // It was heard once more, to say good-bye: known as silent, it has left since.
    let left = seen(&state, 1, Some(Cause::Left));
    conclude(&mut state, 300, vec![left]);
    assert_eq!(health(&state, 1), absent(Cause::Left, 300));
}

#[test]
fn nothing_is_placed_on_a_node_that_went_between_look_and_entry() {
    let mut state = initialised();
    let create = |replicas| Command::CreateVolume {
        name: "v".to_owned(),
        size_bytes: 4096,
        segment_bytes: 65536,
        replicas,
        min_replicas: None,
        durability: Durability::Flush,
        candidates: candidates(1..=3),
    };
    let gone = vec![seen(&state, 2, Some(Cause::Silent))];
    conclude(&mut state, 100, gone);
    let refused = apply(&mut state, &create(3));
    assert_eq!(refused, Err(Refusal::TooFewNodes { replicas: 3, candidates: 2 }));
    apply(&mut state, &create(2)).unwrap();
    assert_eq!(state.replica_count_on(NodeId(2)), 0);
    let volume = state.volume_named("v").unwrap();
    assert_eq!((volume.segments[0].replicas.len(), volume.stage()), (2, VolumeStage::Creating));
}

/// Three nodes, as the version before health wrote them.
const SNAPSHOT_OF_FORMAT_1: &str = "080110051a100909090909090909090909090909090930033a08080112046d313a314237080112066e6f64652d311a1001010101010101010101010101010101200132086e6f64652d313a3142067a6f6e652d31488080808080204249080212066e6f64652d321a100202020202020202020202020202020220072a100404040404040404040404040404040432086e6f64652d323a3742067a6f6e652d30488080808080204237080312066e6f64652d331a1003030303030303030303030303030303200132086e6f64652d333a3142067a6f6e652d3148808080808020";

#[test]
fn nodes_of_a_snapshot_from_before_health_are_online() {
    let digits = SNAPSHOT_OF_FORMAT_1.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let old = State::decode(&digits.map(byte).collect::<Vec<u8>>()).unwrap();
    let mut same = initialised();
    let again = RegisterNode { instance: Some(InstanceId([4; 16])), ..node(2, 2, 7) };
    apply(&mut same, &Command::RegisterNode(again)).unwrap();
    assert_eq!(old, same);
    assert!(old.nodes().values().all(|node| node.health.is_online()));
    assert_eq!(old.time(), ClusterTime::ZERO);
}

#[test]
fn what_is_kept_of_health_is_written_as_before() {
    let mut state = initialised();
    let changes = vec![seen(&state, 1, Some(Cause::Silent)), seen(&state, 2, Some(Cause::Left))];
    let command = Command::ChangeHealth { at: ClusterTime::from_millis(300), changes };
    let proposal = Proposal { request: RequestId([5; 16]), command };
    assert_eq!(
        hex::encode(&proposal.encode()),
        concat!(
            "0a1005050505050505050505050505050505",
            "5a3b08ac02",
            // Each: the node, its disk and start, what was known, what it is now.
            "121a080112100101010101010101010101010101010118012001",
            "2802",
            "121a080212100202020202020202020202020202020218012001",
            "2803"
        )
    );
    apply(&mut state, &proposal.command).unwrap();
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
    assert_eq!(health(&State::decode(&state.encode()).unwrap(), 2), absent(Cause::Left, 300));
}

#[test]
fn a_health_of_a_later_version_is_refused() {
    // A change of node 1 to the health 9, which no version has yet.
    let mut change = vec![0x08, 1, 0x12, 16];
    change.extend([1; 16]);
    change.extend([0x28, 9]);
    let mut command = vec![0x12, u8::try_from(change.len()).unwrap()];
    command.extend(change);
    let mut bytes = vec![0x0a, 16];
    bytes.extend([1; 16]);
    bytes.extend([0x5a, u8::try_from(command.len()).unwrap()]);
    bytes.extend(command);
    let error = Proposal::decode(&bytes).unwrap_err();
    assert!(error.to_string().contains("later version"), "{error}");
}
