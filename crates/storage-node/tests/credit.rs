//! Space credits (rule W5): what several gateways are granted of a disk with little room.

#[path = "support/messages.rs"]
mod messages;
mod support;

use bytes::Bytes;
use messages::{gateway, start};
use quoin_storage_node::node::{Assignment, Node, Output, Wanted};
use quoin_store::CheckpointJob;
use quoin_types::{EXTENT_BYTES, Epoch, Moment, ReplicaId, Seq, SessionId};
use quoin_wire::{Message, Positions, Write};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use support::{assignment, node};

const EXTENTS: u64 = 100;
/// By then everything that gathers is applied.
const LATER: Moment = Moment::from_nanos(1_000_000_000);

/// Replicas of a segment each, which are to be created, or dropped.
fn assign(node: &mut Node, wanted: Wanted, replicas: RangeInclusive<u64>, extents: u64) {
    let assignment = |number: u64| Assignment { wanted, ..assignment(ReplicaId(number), extents) };
    let assignments: Vec<Assignment> = replicas.map(assignment).collect();
    node.on_assignments(&assignments, Moment::ZERO).unwrap();
}

/// A session opens a replica under an epoch. Gives what each session was told of its credit.
fn open(node: &mut Node, session: SessionId, gateway: u8, replica: u64, epoch: u64) -> Vec<(SessionId, u64)> {
    let open = messages::open(ReplicaId(replica), gateway, Epoch(epoch));
    credits(&say(node, session, Message::Open(open)))
}

fn credits(heard: &Heard) -> Vec<(SessionId, u64)> {
    heard.told.iter().map(|(session, positions)| (*session, positions.credit)).collect()
}

/// Else each batch of requests would be followed by a tick, which looks at all sessions and replicas.
#[test]
fn a_node_rests_when_a_whole_interval_has_passed_without_a_request() {
    let mut node = node(EXTENTS);
    let session = node.on_session(gateway(1));
    for _ in 0..2 {
        node.tick(LATER).unwrap();
    }
    assert!(node.is_at_rest());
    let unknown = messages::open(ReplicaId(9), 1, Epoch(1));
    for _ in 0..3 {
        node.on_message(session, Message::Open(unknown.clone()), LATER).unwrap();
        assert!(!node.is_at_rest());
        node.tick(LATER).unwrap();
        assert!(!node.is_at_rest(), "there were requests before that tick");
    }
    node.tick(LATER).unwrap();
    assert!(node.is_at_rest());
}

#[test]
fn a_gateway_that_uses_nothing_leaves_some_for_others() {
    let mut node = node(EXTENTS);
    assign(&mut node, Wanted::Created, 1..=5, EXTENTS);
    let credit_of = |node: &mut Node, number: u8| {
        let session = node.on_session(gateway(number));
        assert_eq!(credits(&hear(node)), [], "before it opens something it needs none");
        let told = open(node, session, number, number.into(), 1);
        assert!(told.iter().all(|(to, _)| *to == session));
        told.last().expect("it is told its credit").1
    };
    let all: Vec<u64> = (1..=4).map(|number| credit_of(&mut node, number)).collect();
    assert_eq!(all, [50, 25, 13, 6]);
    for _ in 0..10 {
        hear(&mut node);
    }
    assert!(credit_of(&mut node, 5) > 0, "ticks give nobody more than a half");
    assert!(all.iter().sum::<u64>() <= EXTENTS, "no more than there is");
}

/// A gateway may keep its session for ever, though others have its volumes now.
#[test]
fn a_session_that_has_lost_its_replicas_holds_no_credit() {
    let mut node = node(EXTENTS);
    assign(&mut node, Wanted::Created, 1..=2, EXTENTS);
    let (former, next) = (node.on_session(gateway(1)), node.on_session(gateway(2)));
    assert_eq!(open(&mut node, former, 1, 1, 1), [(former, 50)]);
    assert_eq!(open(&mut node, former, 1, 2, 1), [(former, 50)]);
    assert_eq!(open(&mut node, next, 2, 1, 2), [(next, 25)], "the former has one yet");
    assert_eq!(open(&mut node, next, 2, 2, 2), [(former, 0), (next, 50)]);
    assert_eq!(credits(&hear(&mut node)), []);
    // Back again; and a replica that goes lets go of its session.
    assert_eq!(open(&mut node, former, 1, 1, 3), [(former, 25)]);
    assign(&mut node, Wanted::Dropped, 1..=1, EXTENTS);
    assert_eq!(credits(&hear(&mut node)), [(former, 0)]);
}

/// A replica that a gateway has opened and started, and the session.
fn with_replica(node: &mut Node, extents: u64) -> SessionId {
    assign(node, Wanted::Created, 1..=1, extents);
    let session = node.on_session(gateway(1));
    open(node, session, 1, 1, 1);
    say(node, session, Message::StartEpoch(start(ReplicaId(1), Epoch(1))));
    session
}

/// What gateways were told, in order, and the checkpoint that was asked for; everything else is done at once.
#[derive(Default)]
struct Heard {
    told: Vec<(SessionId, Positions)>,
    checkpoint: Option<CheckpointJob>,
}

fn say(node: &mut Node, session: SessionId, message: Message) -> Heard {
    node.on_message(session, message, Moment::ZERO).unwrap();
    node.end_batch(Moment::ZERO).unwrap();
    hear(node)
}

/// Nothing gathers for longer.
fn hear(node: &mut Node) -> Heard {
    node.tick(LATER).unwrap();
    let mut heard = Heard::default();
    let mut outputs = VecDeque::from(node.outputs());
    while let Some(output) = outputs.pop_front() {
        match output {
            Output::Send(to, Message::Positions(positions)) => heard.told.push((to, positions)),
            Output::Place(job) => node.on_placed(job.run(), LATER).unwrap(),
            Output::Sync(job) => node.on_synced(job.run(), LATER).unwrap(),
            Output::Apply(job) => node.on_applied(job.run(), LATER).unwrap(),
            Output::Checkpoint(job) => heard.checkpoint = Some(job),
            _ => {}
        }
        outputs.extend(node.outputs());
    }
    heard
}

/// One extent is written again and again: what it leaves behind waits for a checkpoint, which is not a lack of space.
#[test]
fn what_a_checkpoint_gives_back_is_not_said_to_be_lacking() {
    const DISK: u64 = 24;
    let mut node = node(DISK);
    let session = with_replica(&mut node, 4);
    let data = Bytes::from(vec![1; EXTENT_BYTES as usize]);
    let checksums: Vec<u32> = data.chunks(4096).map(crc32fast::hash).collect();
    let mut checkpoint = None;
    let mut told = Positions::default();
    for seq in 1..=DISK {
        if seq > 1 && told.credit < seq {
            break;
        }
        let (checksums, data) = (checksums.clone(), data.clone());
        let (replica, epoch, seq) = (ReplicaId(1), Epoch(1), Seq(seq));
        let write = Write { replica, epoch, seq, offset: 0, checksums, data };
        let heard = say(&mut node, session, Message::Write(write));
        told = heard.told.last().map_or(told, |(_, positions)| positions.clone());
        checkpoint = checkpoint.or(heard.checkpoint);
        assert!(seq == Seq(1) || !told.full, "{seq}: one extent of {DISK} is in use");
    }
    let space = node.engine().space();
    assert!(space.freeing_bytes > space.capacity_bytes / 2, "{space:?}");
    let before = told.credit;
    let mut next = Some(checkpoint.expect("a checkpoint gives it back"));
    while let Some(checkpoint) = next {
        node.on_checkpointed(checkpoint.run(), LATER).unwrap();
        let heard = hear(&mut node);
        told = heard.told.last().map_or(told, |(_, positions)| positions.clone());
        next = heard.checkpoint;
    }
    assert!(told.credit > before + DISK / 4, "{} and {before}", told.credit);
    assert_eq!(node.engine().space().freeing_bytes, 0);
}
