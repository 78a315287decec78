//! Space credits (rule W5): what several gateways are granted of a disk with little room.

mod support;

use bytes::Bytes;
use quoin_storage_node::node::{Assignment, KeptSnapshots, Node, Output, Wanted};
use quoin_store::CheckpointJob;
use quoin_types::{
    EXTENT_BYTES, Epoch, Generation, InstanceId, Moment, ReplicaId, SegmentId, Seq, SessionId,
};
use quoin_wire::{EpochStart, Message, Open, Point, Positions, Speaker, StartEpoch, Write};
use support::node;

const EXTENTS: u64 = 100;
/// By then everything that gathers is applied.
const LATER: Moment = Moment::from_nanos(1_000_000_000);

/// A new gateway's credit.
fn credit_of(node: &mut Node, gateway: u8) -> u64 {
    let session = node.on_session(Speaker::Gateway(InstanceId([gateway; 16])));
    let told = node.outputs().into_iter().filter_map(|output| match output {
        Output::Send(to, Message::Positions(positions)) if to == session => Some(positions.credit),
        _ => None,
    });
    told.last().expect("a new session is told its credit")
}

#[test]
fn a_gateway_that_uses_nothing_leaves_some_for_others() {
    let mut node = node(EXTENTS);
    let credits: Vec<u64> = (1..=4).map(|gateway| credit_of(&mut node, gateway)).collect();
    assert_eq!(credits, [50, 25, 13, 6]);
    for _ in 0..10 {
        node.tick(Moment::ZERO).unwrap();
    }
    assert!(credit_of(&mut node, 5) > 0, "ticks give nobody more than a half");
    assert!(credits.iter().sum::<u64>() <= EXTENTS, "no more than there is");
}

/// A replica that a gateway has opened and started, and the session.
fn with_replica(node: &mut Node, extents: u64) -> SessionId {
    let (replica, segment, generation) = (ReplicaId(1), SegmentId::default(), Generation(1));
    let assignment = Assignment {
        replica,
        segment,
        generation,
        segment_bytes: extents * EXTENT_BYTES,
        wanted: Wanted::Created,
        snapshots: KeptSnapshots::default(),
    };
    node.on_assignments(&[assignment], Moment::ZERO).unwrap();
    let session = node.on_session(Speaker::Gateway(InstanceId([1; 16])));
    let (epoch, instance) = (Epoch(1), InstanceId([1; 16]));
    say(node, session, Message::Open(Open { replica, segment, epoch, generation, instance, void: None }));
    let history = vec![EpochStart { epoch, first: Seq(1) }];
    let start = StartEpoch { replica, epoch, history, expect: Point::default(), allow_mixed: false };
    say(node, session, Message::StartEpoch(start));
    session
}

/// What the gateway was told last, and the checkpoint that was asked for; everything else is done at once.
#[derive(Default)]
struct Heard {
    positions: Option<Positions>,
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
    let mut outputs = node.outputs();
    while let Some(output) = outputs.pop() {
        match output {
            Output::Send(_, Message::Positions(positions)) => heard.positions = Some(positions),
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
    let mut told = Positions { credit: 0, full: false, replicas: Vec::new() };
    for seq in 1..=DISK {
        if seq > 1 && told.credit < seq {
            break;
        }
        let (checksums, data) = (checksums.clone(), data.clone());
        let (replica, epoch, seq) = (ReplicaId(1), Epoch(1), Seq(seq));
        let write = Write { replica, epoch, seq, offset: 0, checksums, data };
        let heard = say(&mut node, session, Message::Write(write));
        told = heard.positions.unwrap_or(told);
        checkpoint = checkpoint.or(heard.checkpoint);
        assert!(seq == Seq(1) || !told.full, "{seq}: one extent of {DISK} is in use");
    }
    let space = node.engine().space();
    assert!(space.freeing_bytes > space.capacity_bytes / 2, "{space:?}");
    let checkpoint = checkpoint.expect("a checkpoint gives it back");
    node.on_checkpointed(checkpoint.run(), LATER).unwrap();
    let more = hear(&mut node).positions.expect("there is more credit");
    assert!(more.credit > told.credit && node.engine().space().freeing_bytes < space.freeing_bytes);
}
