//! A write that somebody waits for is written and durable at once, and told once: then.

#[path = "support/messages.rs"]
mod messages;
mod support;

use bytes::Bytes;
use messages::{gateway, open, start};
use quoin_storage_node::node::{Node, Output};
use quoin_store::SyncJob;
use quoin_types::{Epoch, Moment, ReplicaId, Seq, SessionId};
use quoin_wire::{Message, Position, Write};
use support::{assignment, node};

const NOW: Moment = Moment::ZERO;
const REPLICA: ReplicaId = ReplicaId(1);
const EPOCH: Epoch = Epoch(1);

/// A node with a replica that a gateway writes to, and the session.
fn with_replica() -> (Node, SessionId) {
    let mut node = node(100);
    node.on_assignments(&[assignment(REPLICA, 1)], NOW).unwrap();
    settle(&mut node);
    let session = node.on_session(gateway(1));
    say(&mut node, session, [Message::Open(open(REPLICA, 1, EPOCH))]);
    settle(&mut node);
    say(&mut node, session, [Message::StartEpoch(start(REPLICA, EPOCH))]);
    settle(&mut node);
    (node, session)
}

/// One batch of messages.
fn say(node: &mut Node, session: SessionId, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        node.on_message(session, message, NOW).unwrap();
    }
    node.end_batch(NOW).unwrap();
}

/// Does all that is to be done.
fn settle(node: &mut Node) {
    loop {
        let (told, job) = heard(node);
        drop(told);
        match job {
            Some(job) => node.on_synced(job.run(), NOW).unwrap(),
            None => return,
        }
    }
}

/// What was told, as (accepted, durable), and the sync that is wanted.
fn heard(node: &mut Node) -> (Vec<(u64, u64)>, Option<SyncJob>) {
    let (mut told, mut sync) = (Vec::new(), None);
    for output in node.outputs() {
        match output {
            Output::Send(_, Message::Positions(positions)) => {
                let told_of = |position: &Position| (position.accepted.0, position.durable.0);
                told.extend(positions.replicas.iter().map(told_of));
            }
            Output::Sync(job) => assert!(sync.replace(job).is_none(), "one at a time"),
            Output::Apply(job) => node.on_applied(job.run(), NOW).unwrap(),
            _ => {}
        }
    }
    (told, sync)
}

fn write(seq: u64) -> Message {
    let data = Bytes::from(vec![seq as u8; 4096]);
    let checksums = vec![crc32fast::hash(&data)];
    Message::Write(Write { replica: REPLICA, epoch: EPOCH, seq: Seq(seq), offset: 0, checksums, data })
}

#[test]
fn it_is_told_once_when_it_is_durable() {
    let (mut node, session) = with_replica();
    let before = node.engine().accepted();
    say(&mut node, session, [write(1), Message::Sync]);
    let (told, sync) = heard(&mut node);
    assert_eq!((told, node.engine().accepted()), (vec![], before));
    node.on_synced(sync.unwrap().run(), NOW).unwrap();
    let (told, sync) = heard(&mut node);
    assert_eq!((told, sync.is_none()), (vec![(1, 1)], true));
}

/// They are written together, and told when they are durable; what is told meanwhile is what was durable before them.
#[test]
fn writes_that_come_meanwhile_gather() {
    let (mut node, session) = with_replica();
    say(&mut node, session, [write(1), Message::Sync]);
    let (_, first) = heard(&mut node);
    for seq in 2..4 {
        say(&mut node, session, [write(seq), Message::Sync]);
        let (told, sync) = heard(&mut node);
        assert!(told.is_empty() && sync.is_none());
    }
    let batches = node.engine().statistics().batches;
    node.on_synced(first.unwrap().run(), NOW).unwrap();
    let (told, second) = heard(&mut node);
    assert_eq!((told, node.engine().statistics().batches - batches), (vec![(1, 1)], 1));
    node.on_synced(second.unwrap().run(), NOW).unwrap();
    let (told, third) = heard(&mut node);
    assert_eq!((told, third.is_none()), (vec![(3, 3)], true));
}

/// A write that nobody waits for is told when it is accepted, as soon as nothing is written through before it.
#[test]
fn a_write_that_nobody_waits_for_is_told_before_it_is_durable() {
    let (mut node, session) = with_replica();
    say(&mut node, session, [write(1), Message::Sync]);
    let (_, first) = heard(&mut node);
    say(&mut node, session, [write(2)]);
    assert_eq!(heard(&mut node).0, []);
    node.on_synced(first.unwrap().run(), NOW).unwrap();
    let (told, second) = heard(&mut node);
    assert_eq!(told, [(2, 1)]);
    node.on_synced(second.unwrap().run(), NOW).unwrap();
    assert_eq!(heard(&mut node).0, [(2, 2)]);
}

/// A flush whose sync had begun with the write leaves nothing behind: the next write is told at once.
#[test]
fn whoever_has_asked_for_what_is_durable_waits_for_nothing_more() {
    let (mut node, session) = with_replica();
    for asks_meanwhile in [true, false] {
        let seq = 1 + 2 * u64::from(!asks_meanwhile);
        say(&mut node, session, [Message::Sync]);
        say(&mut node, session, [write(seq)]);
        let (told, sync) = heard(&mut node);
        assert_eq!(told, [(seq, seq - 1)]);
        let sync = sync.expect("a sync that begins before it is asked for");
        if asks_meanwhile {
            say(&mut node, session, [Message::Sync]);
        }
        node.on_synced(sync.run(), NOW).unwrap();
        if !asks_meanwhile {
            say(&mut node, session, [Message::Sync]);
        }
        assert_eq!(heard(&mut node).0, [(seq, seq)]);
        say(&mut node, session, [write(seq + 1)]);
        let (told, sync) = heard(&mut node);
        assert_eq!(told, [(seq + 1, seq)], "nobody waits for it");
        node.on_synced(sync.unwrap().run(), NOW).unwrap();
        heard(&mut node);
    }
}
