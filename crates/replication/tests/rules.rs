//! Rules at their edges, one small conversation each; and that nothing a peer says makes anyone panic.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use quoin_replication::Timing;
use quoin_replication::replica::{Puller, Replica, ReplicaMeta};
use quoin_replication::writer::*;
use quoin_types::block::{BlockRun, BlockState};
use quoin_types::*;
use quoin_wire::*;
use std::time::Duration;
use support::{Sent, config, member, report};

fn at(milliseconds: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(milliseconds)
}

fn segment(epoch: u64) -> Segment {
    let voters = (0..3).map(|number| member(number, ReplicaRole::Voter)).collect();
    Segment::new(config(epoch, voters, 1 << 20), at(0))
}

fn opened(segment: &mut Segment, links: &mut Sent, epoch: u64, replica: u64, report: ReplicaReport) {
    let reply = OpenReply { replica: ReplicaId(replica), epoch: Epoch(epoch), result: Ok(report) };
    segment.on_open_reply(reply, at(1), links);
}

fn started(segment: &mut Segment, links: &mut Sent, epoch: u64, replica: u64) {
    let reply = StartEpochReply { replica: ReplicaId(replica), epoch: Epoch(epoch), result: Ok(()) };
    segment.on_start_epoch_reply(&reply, at(1), links);
}

fn position(segment: &mut Segment, links: &mut Sent, replica: u64, accepted: u64, durable: u64) {
    let (accepted, durable) = (Seq(accepted), Seq(durable));
    segment.on_position(
        &Position { replica: ReplicaId(replica), epoch: Epoch(1), accepted, durable },
        at(2),
        links,
    );
}

/// Three new replicas, of which all are live under epoch 1, with leases.
fn running(links: &mut Sent, epoch: u64) -> Segment {
    let mut segment = segment(epoch);
    for node in 0..3 {
        segment.session_up(NodeId(node), at(0), links);
    }
    (0..3).for_each(|replica| opened(&mut segment, links, epoch, replica, report(&[], 0)));
    (0..3).for_each(|replica| started(&mut segment, links, epoch, replica));
    (0..3).for_each(|replica| segment.on_lease(ReplicaId(replica), at(1), at(1), links));
    segment.allow_serving(at(1), links);
    segment
}

fn write_one(segment: &mut Segment, links: &mut Sent, token: u64) {
    let operation = Operation::Zero { offset: 0, length: BLOCK_BYTES };
    segment.submit(Token(token), Request::Replicate { operation, durable: false }, at(2), links);
}

#[test]
fn w3_what_a_failed_replica_had_no_longer_counts() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    write_one(&mut segment, links, 1);
    (0..3).for_each(|replica| position(&mut segment, links, replica, 1, 0));
    position(&mut segment, links, 1, 1, 1);
    segment.submit(Token(2), Request::Flush, at(2), links);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [Completion::Done(Token(1))]);
    // Replica 1 comes back without the write that it had made durable.
    segment.session_up(NodeId(1), at(3), links);
    opened(&mut segment, links, 1, 1, report(&[(1, 1)], 0));
    assert!(matches!(segment.status()[1].health, VoterHealth::Failed(_)));
    position(&mut segment, links, 0, 1, 1);
    assert_eq!(segment.completions().count(), 0, "one copy is no majority");
    position(&mut segment, links, 2, 1, 1);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [Completion::Done(Token(2))]);
}

#[test]
fn w3_a_new_session_replaces_accepted_downwards() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    write_one(&mut segment, links, 1);
    position(&mut segment, links, 1, 1, 0);
    // Replica 1 comes back from a loss of power without it.
    segment.session_up(NodeId(1), at(3), links);
    opened(&mut segment, links, 1, 1, ReplicaReport { shaken: true, ..report(&[(1, 1)], 0) });
    position(&mut segment, links, 0, 1, 0);
    assert_eq!(segment.completions().count(), 0, "only replica 0 has it");
    position(&mut segment, links, 1, 1, 0);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [Completion::Done(Token(1))]);
}

#[test]
fn positions_during_attach_condemn_nobody() {
    let links = &mut Sent::default();
    let mut segment = segment(2);
    (0..3).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    opened(&mut segment, links, 2, 0, report(&[(1, 1)], 7));
    opened(&mut segment, links, 2, 1, report(&[(1, 1)], 5));
    opened(&mut segment, links, 2, 2, report(&[(1, 1)], 5));
    let told = Position { replica: ReplicaId(1), epoch: Epoch(2), accepted: Seq(7), durable: Seq(5) };
    segment.on_position(&told, at(2), links);
    assert!(!matches!(segment.status()[1].health, VoterHealth::Failed(_)));
}

/// A position may be on its way when the order to join is sent: with the answer to `Open`, from a tail that has to go.
#[test]
fn a_position_from_before_a_join_condemns_nobody() {
    let links = &mut Sent::default();
    let mut segment = segment(2);
    (0..3).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    (0..2).for_each(|replica| opened(&mut segment, links, 2, replica, report(&[(1, 1)], 4)));
    segment.tick(at(200), links);
    (0..2).for_each(|replica| started(&mut segment, links, 2, replica));
    opened(&mut segment, links, 2, 2, report(&[(1, 1)], 9));
    assert!(
        links
            .messages
            .iter()
            .any(|(node, message)| *node == NodeId(2) && matches!(message, Message::Resync(_)))
    );
    let (replica, epoch) = (ReplicaId(2), Epoch(2));
    let stale = Position { replica, epoch, accepted: Seq(9), durable: Seq(9) };
    segment.on_position(&stale, at(3), links);
    assert!(matches!(segment.status()[2].health, VoterHealth::CatchingUp { .. }), "{:?}", segment.status());
}

/// What the authority cannot give, for its disk has damaged it, is not waited for while a majority of others answers.
#[test]
fn step_3_a_damaged_authority_counts_as_absent() {
    let links = &mut Sent::default();
    let mut segment = segment(2);
    (0..3).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    opened(&mut segment, links, 2, 0, report(&[(1, 1)], 6));
    (1..3).for_each(|replica| opened(&mut segment, links, 2, replica, report(&[(1, 1)], 4)));
    segment.tick(at(200), links);
    let sources = |links: &Sent| -> Vec<ReplicaId> {
        let resyncs = links.messages.iter().filter_map(|(_, message)| match message {
            Message::Resync(order) => Some(order.source.replica),
            _ => None,
        });
        resyncs.collect()
    };
    assert_eq!(sources(links), [ReplicaId(0); 2]);
    links.messages.clear();
    let state = ResyncState::Failed(Refusal::PeerDamaged);
    let failed =
        ResyncReport { replica: ReplicaId(1), epoch: Epoch(2), done_bytes: 0, total_bytes: 0, state };
    segment.on_resync_report(&failed, at(201), links);
    segment.tick(at(500), links);
    opened(&mut segment, links, 2, 0, report(&[(1, 1)], 6));
    let mixed = ReplicaReport { mixed: true, ..report(&[(1, 1)], 4) };
    (1..3).for_each(|replica| opened(&mut segment, links, 2, replica, mixed.clone()));
    segment.tick(at(700), links);
    assert!(!sources(links).contains(&ReplicaId(0)), "{:?}", links.messages);
    assert!(segment.is_promised());
}

#[test]
fn w2_a_write_onto_a_damaged_entry_makes_its_voter_pull() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    (1..=2).for_each(|token| write_one(&mut segment, links, token));
    (0..2).for_each(|replica| position(&mut segment, links, replica, 2, 2));
    position(&mut segment, links, 2, 1, 1);
    links.messages.clear();
    let refused = Refused { replica: ReplicaId(2), epoch: Epoch(1), seq: Seq(2), reason: Refusal::Disk };
    segment.on_refused(&refused, at(3), links);
    opened(&mut segment, links, 1, 2, report(&[(1, 1)], 1));
    let order = links.messages.iter().find_map(|(node, message)| match message {
        Message::Resync(order) if *node == NodeId(2) => Some(order.clone()),
        _ => None,
    });
    let order = order.expect("memory still has the write, but re-sending it would meet the damage again");
    assert_eq!((order.mode, order.common.seq), (ResyncMode::Round, Seq(1)));
    // From then on it is mixed; when the round has ended it joins, and is live.
    let told =
        |state| ResyncReport { replica: ReplicaId(2), epoch: Epoch(1), done_bytes: 0, total_bytes: 0, state };
    segment.on_resync_report(&told(ResyncState::RoundDone), at(4), links);
    opened(&mut segment, links, 1, 2, ReplicaReport { mixed: true, ..report(&[(1, 1)], 1) });
    segment.on_resync_report(&told(ResyncState::Complete), at(5), links);
    assert_eq!(segment.status()[2].health, VoterHealth::InSync);
}

#[test]
fn r3_a_repair_names_a_live_voter_that_was_not_tried() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    (1..=2).for_each(|token| write_one(&mut segment, links, token));
    position(&mut segment, links, 0, 1, 0);
    position(&mut segment, links, 2, 2, 0);
    let mut ask = |tried: &[u64], epoch: u64| {
        links.messages.clear();
        let tried = tried.iter().map(|replica| ReplicaId(*replica)).collect();
        let (replica, epoch, version) = (ReplicaId(1), Epoch(epoch), Some(Seq(1)));
        let damaged = Damaged { replica, epoch, extent: ExtentIndex(7), version, tried };
        segment.on_damaged(&damaged, links);
        links.messages.iter().find_map(|(node, message)| match message {
            Message::Repair(order) if *node == NodeId(1) => Some((order.source.replica.0, order.version)),
            _ => None,
        })
    };
    assert_eq!(ask(&[], 1), Some((2, Some(Seq(1)))), "the one that has the most");
    assert_eq!(ask(&[2], 1), Some((0, Some(Seq(1)))));
    assert_eq!(ask(&[2, 0], 1), None);
    assert_eq!(ask(&[], 2), None);
}

fn answer_damaged(segment: &mut Segment, links: &mut Sent, now: Moment) -> usize {
    let reads: Vec<(NodeId, u64)> = std::mem::take(&mut links.messages)
        .into_iter()
        .filter_map(
            |(node, message)| if let Message::Read(read) = message { Some((node, read.id)) } else { None },
        )
        .collect();
    for (node, id) in &reads {
        let result = ReadResult::Mismatch { extent: ExtentIndex(0), version: None };
        segment.on_read_reply(ReadReply { id: *id, replica: ReplicaId(node.0), result }, now, links);
    }
    reads.len()
}

/// With every copy damaged a read waits for a repair, for a while; then it fails, and says whether all were asked.
fn until_it_fails(segment: &mut Segment, links: &mut Sent) -> (u64, Completion) {
    links.messages.clear();
    segment.submit(Token(9), Request::Read { offset: 0, length: 4096, in_order: false }, at(2), links);
    for step in 0..2000 {
        let now = at(2 + step * 5);
        (0..3).for_each(|replica| segment.on_lease(ReplicaId(replica), now, now, links));
        segment.tick(now, links);
        while answer_damaged(segment, links, now) > 0 {}
        if let Some(completion) = segment.completions().next() {
            return (step * 5, completion);
        }
    }
    panic!("it is never answered");
}

#[test]
fn r3_a_read_fails_only_when_no_copy_in_reach_is_good() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    let (waited, completion) = until_it_fails(&mut segment, links);
    assert_eq!(completion, Completion::Failed(Token(9), Failure::Damaged));
    assert!((5_000..6_000).contains(&waited), "{waited}");
    segment.session_down(NodeId(2), at(2), links);
    let (_, completion) = until_it_fails(&mut segment, links);
    assert_eq!(completion, Completion::Failed(Token(9), Failure::DamagedInReach));
    segment.submit(Token(10), Request::Read { offset: 0, length: 4096, in_order: false }, at(2), links);
    answer_damaged(&mut segment, links, at(2));
    answer_damaged(&mut segment, links, at(2));
    assert!(segment.is_busy());
    segment.fence();
    assert_eq!(segment.completions().last(), Some(Completion::Failed(Token(10), Failure::Fenced)));
}

/// Asks what the first two blocks are; gives the node that was asked, and the question.
fn ask_status(segment: &mut Segment, links: &mut Sent, token: u64) -> (NodeId, BlockStatus) {
    links.messages.clear();
    let since = Some(SnapshotId(3));
    segment.submit(Token(token), Request::Status { offset: 0, length: 8192, since }, at(2), links);
    the_question(links)
}

fn the_question(links: &mut Sent) -> (NodeId, BlockStatus) {
    let messages = std::mem::take(&mut links.messages);
    let mut asked = messages.into_iter().filter_map(|(node, message)| match message {
        Message::BlockStatus(status) => Some((node, status)),
        _ => None,
    });
    asked.next().expect("a voter is asked")
}

fn tell(
    segment: &mut Segment,
    links: &mut Sent,
    (node, asked): (NodeId, BlockStatus),
    result: Result<u32, Refusal>,
) {
    let result = result.map(|blocks| vec![BlockRun { blocks, state: BlockState::Changed }]);
    let reply = BlockStatusReply { id: asked.id, replica: ReplicaId(node.0), result };
    segment.on_block_status_reply(reply, at(2), links);
}

#[test]
fn r0_what_blocks_are_is_asked_like_a_read_and_another_voter_if_one_is_behind() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    write_one(&mut segment, links, 1);
    (0..2).for_each(|replica| position(&mut segment, links, replica, 1, 0));
    assert_eq!(segment.completions().count(), 1);
    let first = ask_status(&mut segment, links, 2);
    assert_eq!((first.1.after, first.1.since), (Seq(1), Some(SnapshotId(3))));
    tell(&mut segment, links, first, Err(Refusal::Behind));
    let second = the_question(links);
    assert_ne!(first.0, second.0);
    // More blocks than were asked about is nonsense, and asked elsewhere.
    tell(&mut segment, links, second, Ok(3));
    let third = the_question(links);
    assert!(third.0 != first.0 && third.0 != second.0);
    tell(&mut segment, links, third, Ok(1));
    let told = vec![BlockRun { blocks: 1, state: BlockState::Changed }];
    assert_eq!(segment.completions().collect::<Vec<_>>(), [Completion::Status(Token(2), told)]);
}

#[test]
fn r1_what_blocks_are_is_not_told_before_the_write_that_made_them_so_is_committed() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    write_one(&mut segment, links, 1);
    let asked = ask_status(&mut segment, links, 2);
    tell(&mut segment, links, asked, Ok(2));
    assert_eq!(segment.completions().count(), 0);
    (0..2).for_each(|replica| position(&mut segment, links, replica, 1, 0));
    let tokens: Vec<Token> = segment.completions().map(|completion| completion.token()).collect();
    assert!(tokens.contains(&Token(1)) && tokens.contains(&Token(2)), "{tokens:?}");
}

#[test]
fn r2_what_blocks_are_is_not_told_without_leases() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    let asked = ask_status(&mut segment, links, 2);
    let (node, question) = asked;
    let told = Ok(vec![BlockRun { blocks: 2, state: BlockState::Changed }]);
    let reply = BlockStatusReply { id: question.id, replica: ReplicaId(node.0), result: told };
    segment.on_block_status_reply(reply, at(100_000), links);
    assert_eq!(segment.completions().count(), 0);
    assert!(segment.is_busy(), "it waits for leases");
}

#[test]
fn a_snapshot_that_is_no_more_ends_the_question() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    let asked = ask_status(&mut segment, links, 2);
    tell(&mut segment, links, asked, Err(Refusal::LacksSnapshot));
    let failed = Completion::Failed(Token(2), Failure::NoSnapshot);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [failed]);
    assert!(!segment.is_busy());
}

#[test]
fn step_3_a_late_answer_that_has_more_becomes_the_authority() {
    let links = &mut Sent::default();
    let mut segment = segment(2);
    (0..3).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    opened(&mut segment, links, 2, 0, report(&[(1, 1)], 5));
    opened(&mut segment, links, 2, 1, report(&[(1, 1)], 3));
    segment.tick(at(200), links);
    links.messages.clear();
    opened(&mut segment, links, 2, 2, report(&[(1, 1)], 9));
    assert!(
        !links.messages.iter().any(|(_, message)| matches!(message, Message::Resync(_))),
        "nothing is copied over it"
    );
    (0..3).for_each(|replica| {
        opened(&mut segment, links, 2, replica, report(&[(1, 1)], [5, 3, 9][replica as usize]));
    });
    segment.tick(at(400), links);
    let sources = links.messages.iter().filter_map(|(_, message)| match message {
        Message::Resync(order) => Some((order.replica.0, order.source.replica.0)),
        _ => None,
    });
    assert_eq!(sources.collect::<Vec<_>>(), [(0, 2), (1, 2)]);
}

#[test]
fn step_3_a_longer_tail_of_an_older_epoch_is_no_authority() {
    let links = &mut Sent::default();
    let mut segment = segment(3);
    (0..2).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    opened(&mut segment, links, 3, 0, report(&[(1, 1)], 15));
    opened(&mut segment, links, 3, 1, report(&[(1, 1), (2, 11)], 11));
    segment.tick(at(200), links);
    let orders: Vec<_> = links
        .messages
        .iter()
        .filter_map(|(_, m)| if let Message::Resync(r) = m { Some(r) } else { None })
        .collect();
    let [order] = orders.as_slice() else { panic!("one is brought to the other's state: {orders:?}") };
    assert_eq!((order.replica, order.source.replica), (ReplicaId(0), ReplicaId(1)));
    assert_eq!(order.common, Point { epoch: Epoch(1), seq: Seq(10) });
}

fn read_sent(segment: &mut Segment, links: &mut Sent) -> Option<Read> {
    segment.submit(Token(9), Request::Read { offset: 0, length: 4096, in_order: false }, at(2), links);
    links
        .messages
        .iter()
        .find_map(|(_, message)| if let Message::Read(read) = message { Some(*read) } else { None })
}

#[test]
fn read_numbers_of_two_epochs_differ() {
    let number = |epoch: u64| {
        let links = &mut Sent::default();
        read_sent(&mut running(links, epoch), links).expect("a live voter is asked").id
    };
    assert_ne!(number(1), number(2));
}

#[test]
fn r0_a_read_names_the_last_write_that_was_sent() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    (1..=3).for_each(|token| write_one(&mut segment, links, token));
    assert_eq!(read_sent(&mut segment, links).map(|read| read.after), Some(Seq(3)));
}

fn replica(history: &[(u64, u64)], last: u64, power_was_lost: bool) -> Replica {
    let mut meta = ReplicaMeta::new(SegmentId::default(), Generation(1));
    meta.history = report(history, last).history;
    meta.promise = LeaseHolder { instance: InstanceId([1; 16]), epoch: Epoch(1) };
    Replica::restore(ReplicaId(0), meta, Seq(last), power_was_lost, at(0), Timing::default()).0
}

fn open(epoch: u64) -> Open {
    Open {
        replica: ReplicaId(0),
        segment: SegmentId::default(),
        epoch: Epoch(epoch),
        generation: Generation(1),
        instance: InstanceId([1; 16]),
        void: None,
    }
}

fn resync(epoch: u64, common: u64, join_at: u64) -> Resync {
    Resync {
        replica: ReplicaId(0),
        epoch: Epoch(epoch),
        mode: ResyncMode::Join,
        common: Point { epoch: Epoch(1), seq: Seq(common) },
        history: report(&[(1, 1)], 0).history,
        join_at: Seq(join_at),
        source_mixed: false,
        source: Source { node: NodeId(1), address: String::new(), replica: ReplicaId(1) },
    }
}

#[test]
fn a2_only_a_started_epoch_ends_being_shaken() {
    let session = SessionId(1);
    let mut replica = replica(&[(1, 1)], 3, true);
    replica.open(session, &open(2)).unwrap();
    let order = resync(2, 3, 6);
    replica.begin_resync(session, &order).unwrap();
    assert!(
        replica.finish_join(&order).meta.shaken,
        "the attach may yet fail, and the authority be shaken too"
    );
    let start = StartEpoch {
        replica: ReplicaId(0),
        epoch: Epoch(2),
        history: report(&[(1, 1), (2, 6)], 0).history,
        expect: Point { epoch: Epoch(1), seq: Seq(5) },
        allow_mixed: false,
    };
    assert!(!replica.start_epoch(session, &start).unwrap().unwrap().meta.shaken);
}

#[test]
fn s2_no_reads_and_no_pulls_until_complete() {
    let session = SessionId(1);
    let mut replica = replica(&[(1, 1)], 3, false);
    replica.open(session, &open(1)).unwrap();
    assert!(
        replica.may_read(Epoch(1), Seq(3)).is_ok()
            && replica.may_pull(Epoch(1), Epoch(1), Seq(3), false).is_ok()
    );
    assert_eq!(replica.may_read(Epoch(1), Seq(4)), Err(Refusal::Behind), "R0");
    let order = resync(1, 3, 4);
    replica.begin_resync(session, &order).unwrap();
    for allow_mixed in [false, true] {
        assert_eq!(replica.may_pull(Epoch(1), Epoch(1), Seq(0), allow_mixed), Err(Refusal::Behind));
    }
    assert_eq!(replica.may_read(Epoch(1), Seq(0)), Err(Refusal::Behind));
    assert!(!replica.counts());
    replica.finish_join(&order);
    assert!(replica.may_read(Epoch(1), Seq(3)).is_ok() && replica.counts());
}

#[test]
fn a3_what_is_pulled_from_a_mixed_authority_stays_mixed() {
    let session = SessionId(1);
    let mut replica = replica(&[(1, 1)], 3, false);
    replica.open(session, &open(2)).unwrap();
    let order = Resync { source_mixed: true, ..resync(2, 3, 6) };
    replica.begin_resync(session, &order).unwrap();
    assert_eq!(replica.finish_join(&order).meta.mixed, Some(Point { epoch: Epoch(1), seq: Seq(5) }));
    assert!(replica.report(at(0)).mixed);
}

#[test]
fn s4_what_rounds_pulled_counts_within_one_epoch_only() {
    let session = SessionId(1);
    let mut replica = replica(&[(1, 1)], 3, false);
    replica.open(session, &open(2)).unwrap();
    let round = |epoch| Resync { mode: ResyncMode::Round, ..resync(epoch, 3, 6) };
    replica.begin_resync(session, &round(2)).unwrap();
    replica.finish_round(Seq(7));
    replica.open(session, &open(2)).unwrap();
    assert_eq!(replica.begin_resync(session, &round(2)).unwrap().1, Seq(7));
    replica.open(session, &open(3)).unwrap();
    assert_eq!(replica.begin_resync(session, &round(3)).unwrap().1, Seq(3));
}

/// A puller whose peer, and whose replica, have no snapshots.
fn puller(order: Resync, since: u64, extents: u64) -> Puller {
    let position = order.join_at.previous();
    let mut puller = Puller::new(order, Seq(since), extents * EXTENT_BYTES);
    assert!(matches!(puller.next_request(1), Some(Message::ListSnapshots(_))));
    let told = SnapshotList { replica: ReplicaId(1), result: Ok((position, vec![])) };
    let stage = puller.on_snapshots(told, &[], |_| true).unwrap().unwrap();
    assert_eq!(stage.since, Seq(since));
    puller.begin_stage([]);
    puller
}

/// A peer's answer: the extent is all zeros, and of its present position.
fn trimmed(extent: u32, position: u64) -> FetchReply {
    let (position, data) = (Seq(position), Bytes::new());
    let fetched =
        FetchedExtent { position, version: position, zero_mask: u16::MAX, checksums: [0; 16], data };
    FetchReply { replica: ReplicaId(1), extent: ExtentIndex(extent), result: Ok(fetched) }
}

#[test]
fn s2_complete_at_the_highest_stated_position() {
    let mut puller = puller(resync(2, 3, 6), 3, 10);
    let replica = ReplicaId(1);
    assert!(puller.next_request(1).is_some());
    puller.on_list(ListReply { replica, result: Ok((Seq(6), vec![ExtentIndex(2)])) }).unwrap();
    assert!(puller.next_request(1).is_some());
    let reply = trimmed(2, 9);
    assert!(puller.on_fetch(reply).unwrap().is_some());
    assert!(puller.is_drained() && !puller.is_complete(Seq(8)), "what was pulled is from its future");
    assert!(puller.is_complete(Seq(9)));
}

/// A full disk: what was trimmed on the peer comes behind, and makes room for the next pull.
#[test]
fn what_there_is_no_room_for_keeps_nothing_else_from_being_pulled() {
    let mut puller = puller(resync(2, 3, 6), 3, 10);
    assert!(puller.next_request(1).is_some());
    let listed = vec![ExtentIndex(2), ExtentIndex(5)];
    puller.on_list(ListReply { replica: ReplicaId(1), result: Ok((Seq(6), listed)) }).unwrap();
    for extent in [2, 5] {
        let asked = puller.next_request(1);
        assert!(matches!(asked, Some(Message::Fetch(fetch)) if fetch.extent == ExtentIndex(extent)));
        assert!(!puller.lacks_room());
        assert!(puller.on_fetch(trimmed(extent, 6)).unwrap().is_some());
        if extent == 2 {
            puller.had_no_room_for(ExtentIndex(extent));
        }
    }
    assert!(puller.next_request(1).is_none() && puller.lacks_room());
    assert!(!puller.is_drained() && !puller.is_complete(Seq(9)), "one is lacking");
    assert_eq!(puller.progress_bytes(), (EXTENT_BYTES, 2 * EXTENT_BYTES));
}

#[test]
fn an_older_session_of_an_epoch_does_not_take_the_replica_back() {
    let mut replica = replica(&[(1, 1)], 3, false);
    replica.open(SessionId(5), &open(2)).unwrap();
    assert_eq!(replica.open(SessionId(4), &open(2)).unwrap_err(), Refusal::StaleSession);
    assert!(replica.open(SessionId(4), &open(3)).is_ok(), "a higher epoch may come on any");
}

#[test]
fn a_replica_that_pulls_starts_no_epoch() {
    let session = SessionId(1);
    let mut replica = replica(&[(1, 1)], 3, false);
    replica.open(session, &open(2)).unwrap();
    replica.begin_resync(session, &resync(2, 3, 6)).unwrap();
    let start = StartEpoch {
        replica: ReplicaId(0),
        epoch: Epoch(2),
        history: report(&[(1, 1), (2, 4)], 0).history,
        expect: Point { epoch: Epoch(1), seq: Seq(3) },
        allow_mixed: true,
    };
    assert_eq!(replica.start_epoch(session, &start), Err(Refusal::WrongState));
}

#[test]
fn a_peer_s_list_is_believed_within_the_segment_only() {
    let list = |extents: Vec<u32>| {
        let mut puller = puller(resync(2, 3, 6), 3, 10);
        assert!(matches!(puller.next_request(4), Some(Message::List(_))));
        let extents = extents.into_iter().map(ExtentIndex).collect();
        puller.on_list(ListReply { replica: ReplicaId(1), result: Ok((Seq(5), extents)) }).is_ok()
    };
    assert!(list(vec![0, 9]));
    assert!(!list(vec![10]));
    assert!(!list(vec![1, 1]));
    assert!(
        !list((u32::MAX - 8191..=u32::MAX).collect()),
        "a full page that ends at the last number there is"
    );
}

fn some_number() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..4, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn some_report() -> impl Strategy<Value = ReplicaReport> {
    let starts = proptest::collection::vec((some_number(), some_number()), 0..4);
    (starts, some_number(), some_number(), any::<bool>(), any::<bool>()).prop_map(
        |(starts, last, nanos, a, b)| {
            let lease_remainder = Duration::from_nanos(nanos);
            ReplicaReport { lease_remainder, mixed: a, shaken: b, ..report(&starts, last) }
        },
    )
}

fn some_refusal() -> impl Strategy<Value = Refusal> {
    (0..6, some_number()).prop_map(|(kind, number)| match kind {
        0 => Refusal::HigherEpoch(Epoch(number)),
        1 => Refusal::Gap(Seq(number)),
        2 => Refusal::StaleSession,
        3 => Refusal::Behind,
        4 => Refusal::NoSpace,
        _ => Refusal::WrongState,
    })
}

fn said_by_a_node() -> impl Strategy<Value = Message> {
    let state = prop_oneof![
        Just(ResyncState::Running),
        Just(ResyncState::Complete),
        Just(ResyncState::RoundDone),
        some_refusal().prop_map(ResyncState::Failed)
    ];
    let result = prop_oneof![
        Just(ReadResult::Data { checksums: vec![1], data: Bytes::from_static(b"short") }),
        some_refusal().prop_map(ReadResult::Refused),
        (any::<u32>(), some_number())
            .prop_map(|(e, v)| ReadResult::Mismatch { extent: ExtentIndex(e), version: Some(Seq(v)) }),
    ];
    let who = || (0_u64..4).prop_map(ReplicaId);
    let epoch = || prop_oneof![4 => Just(Epoch(2)), 1 => some_number().prop_map(Epoch)];
    prop_oneof![
        4 => (who(), epoch(), proptest::result::maybe_ok(some_report(), some_refusal()))
            .prop_map(|(replica, epoch, result)| Message::OpenReply(OpenReply { replica, epoch, result })),
        3 => (who(), epoch(), proptest::result::maybe_ok(Just(()), some_refusal()))
            .prop_map(|(replica, epoch, result)| Message::StartEpochReply(StartEpochReply { replica, epoch, result })),
        3 => (who(), epoch(), some_number(), some_number()).prop_map(|(replica, epoch, accepted, durable)| {
            let position = Position { replica, epoch, accepted: Seq(accepted), durable: Seq(durable) };
            Message::Positions(Positions { replicas: vec![position], ..Positions::default() })
        }),
        1 => (who(), epoch(), some_number(), some_refusal())
            .prop_map(|(replica, epoch, seq, reason)| Message::Refused(Refused { replica, epoch, seq: Seq(seq), reason })),
        2 => (who(), epoch(), some_number(), some_number(), state).prop_map(|(replica, epoch, a, b, state)| {
            Message::ResyncReport(ResyncReport { replica, epoch, done_bytes: a, total_bytes: b, state })
        }),
        2 => (0_u64..3, who(), result).prop_map(|(id, replica, result)| {
            Message::ReadReply(ReadReply { id: (2 << 32) + id, replica, result })
        }),
    ]
}

fn hear(segment: &mut Segment, message: Message, now: Moment, links: &mut Sent) {
    match message {
        Message::OpenReply(reply) => segment.on_open_reply(reply, now, links),
        Message::StartEpochReply(reply) => segment.on_start_epoch_reply(&reply, now, links),
        Message::Positions(positions) => segment.on_position(&positions.replicas[0], now, links),
        Message::Refused(refused) => segment.on_refused(&refused, now, links),
        Message::ResyncReport(report) => segment.on_resync_report(&report, now, links),
        Message::ReadReply(reply) => segment.on_read_reply(reply, now, links),
        other => unreachable!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_a_node_says_makes_a_gateway_panic(
        messages in proptest::collection::vec(said_by_a_node(), 0..40), honest in any::<bool>(),
    ) {
        let links = &mut Sent::default();
        let mut segment = if honest { running(links, 2) } else { segment(2) };
        (0..3).filter(|_| !honest).for_each(|node| segment.session_up(NodeId(node), at(0), links));
        for (step, message) in messages.into_iter().enumerate() {
            let now = at(step as u64 * 40);
            if step % 3 == 0 {
                write_one(&mut segment, links, step as u64);
                segment.submit(Token(1000 + step as u64), Request::Read { offset: 0, length: 4096, in_order: false }, now, links);
            }
            hear(&mut segment, message, now, links);
            segment.tick(now, links);
            let _ = (segment.status(), segment.is_busy(), segment.completions().count());
        }
    }

    #[test]
    fn nothing_a_gateway_says_makes_a_replica_panic(
        steps in proptest::collection::vec((0..6, [some_number(), some_number(), some_number(), some_number()], some_report(), any::<bool>()), 0..30),
    ) {
        let session = SessionId(1);
        let mut replica = replica(&[(1, 1)], 3, false);
        replica.open(session, &open(2)).unwrap();
        for (kind, [a, b, c, d], other, flag) in steps {
            match kind {
                0 => drop(replica.open(SessionId(a), &Open { generation: Generation(b % 3), ..open(c) })),
                1 => {
                    let (expect, epoch) = (Point { epoch: Epoch(b), seq: Seq(c) }, Epoch(2));
                    let (id, history) = (ReplicaId(0), other.history);
                    let start = StartEpoch { replica: id, epoch, history, expect, allow_mixed: flag };
                    let _ = replica.start_epoch(session, &start);
                }
                2 => if replica.take(session, Epoch(2), Seq(a)).is_ok_and(|take| take == quoin_replication::replica::Take::Append) {
                    replica.appended(Seq(a));
                    replica.made_durable(Seq(b));
                },
                3 => drop(replica.settle(session, Epoch(2), Seq(a))),
                4 => {
                    let mode = if flag { ResyncMode::Join } else { ResyncMode::Round };
                    let common = Point { epoch: Epoch(a), seq: Seq(b) };
                    let order = Resync { mode, common, history: other.history, ..resync(2, 0, c) };
                    if let Ok((_, since)) = replica.begin_resync(session, &order) {
                        let mut puller = Puller::new(order, since, 5 * EXTENT_BYTES);
                        let _ = puller.next_request(2);
                        let point = |seq| SnapshotPoint { id: SnapshotId(1), seq: Seq(seq) };
                        let told = SnapshotList { replica: ReplicaId(1), result: Ok((Seq(d), vec![point(a)])) };
                        if let Ok(Some(_)) = puller.on_snapshots(told, &[point(b)], |_| flag) {
                            puller.begin_stage([ExtentIndex(a as u32)]);
                        }
                        let _ = puller.next_request(2);
                        let _ = puller.wrote_live(b, d);
                        let _ = puller.on_list(ListReply { replica: ReplicaId(1), result: Ok((Seq(d), vec![])) });
                        let _ = (puller.next_request(2), puller.is_complete(replica.position()), puller.progress_bytes());
                    }
                }
                _ => {
                    let _ = (replica.may_read(Epoch(a), Seq(b)), replica.may_pull(Epoch(a), Epoch(b), Seq(c), flag));
                    let _ = replica.grant_lease(at(a), session, InstanceId([1; 16]), Epoch(2));
                }
            }
            let _ = (replica.report(at(0)), replica.state());
        }
    }
}

fn reads_sent(links: &Sent) -> usize {
    links.messages.iter().filter(|(_, message)| matches!(message, Message::Read(_))).count()
}

#[test]
fn a_read_does_not_wait_for_a_change_that_waits_for_a_majority() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    (1..3).for_each(|node| segment.session_down(NodeId(node), at(1), links));
    write_one(&mut segment, links, 1);
    segment.submit(Token(2), Request::Read { offset: 0, length: 4096, in_order: false }, at(2), links);
    assert_eq!(reads_sent(links), 1, "the leases of all three run on, and one of them is there");
}

/// A part of a block is written as the whole block, read before. If that read overtook an earlier write of the block, the
/// write would be undone.
#[test]
fn a_read_in_order_stays_behind_the_changes_before_it() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    (1..3).for_each(|node| segment.session_down(NodeId(node), at(1), links));
    write_one(&mut segment, links, 1);
    segment.submit(Token(2), Request::Read { offset: 0, length: 4096, in_order: true }, at(2), links);
    assert_eq!(reads_sent(links), 0);
    segment.session_up(NodeId(1), at(3), links);
    opened(&mut segment, links, 1, 1, report(&[(1, 1)], 0));
    let sent: Vec<&Message> =
        links.messages.iter().filter(|(node, _)| *node == NodeId(0)).map(|(_, m)| m).collect();
    let zero = sent.iter().position(|message| matches!(message, Message::Zero(_)));
    let read = sent.iter().position(|message| matches!(message, Message::Read(_)));
    assert!(zero.is_some() && read > zero, "{sent:?}");
}

fn write_data(segment: &mut Segment, links: &mut Sent, token: u64, extents: usize) {
    let (data, offset) = (Bytes::from(vec![1; extents * EXTENT_BYTES as usize]), 0);
    let operation = Operation::Write { offset, checksums: block_checksums(&data), data };
    segment.submit(Token(token), Request::Replicate { operation, durable: false }, at(2), links);
}

/// As above, and a voter was not even sent the earlier write: it has no room for it now.
#[test]
fn a_read_in_order_asks_nobody_who_was_not_sent_the_changes_before_it() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    segment.set_local(NodeId(2), true);
    links.granted.insert(NodeId(2), 0);
    write_data(&mut segment, links, 1, 1);
    let readers = |links: &Sent| -> Vec<NodeId> {
        let is_read = |(_, message): &&(NodeId, Message)| matches!(message, Message::Read(_));
        links.messages.iter().filter(is_read).map(|(node, _)| *node).collect()
    };
    segment.submit(Token(2), Request::Read { offset: 0, length: 4096, in_order: false }, at(2), links);
    assert_eq!(readers(links), [NodeId(2)], "what nobody was told of need not be seen");
    segment.submit(Token(3), Request::Read { offset: 0, length: 4096, in_order: true }, at(2), links);
    assert_ne!(readers(links)[1], NodeId(2));
    // It stays so when it is asked of another, and when it has to wait.
    segment.session_down(NodeId(0), at(3), links);
    segment.session_down(NodeId(1), at(3), links);
    assert!(readers(links)[2..].iter().all(|node| *node != NodeId(2)), "{:?}", readers(links));
    let before = readers(links).len();
    links.granted.clear();
    segment.on_credit(NodeId(2), at(4), links);
    segment.tick(at(5), links);
    assert_eq!(readers(links)[before..], [NodeId(2)]);
}

/// A replica that has no room is lagging. It does not wait in the stream, for what gives room back may be behind what it
/// cannot take: it pulls.
#[test]
fn w5_a_replica_without_room_for_what_the_others_took_is_lagging() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    links.full = vec![NodeId(2)];
    write_data(&mut segment, links, 1, 1);
    position(&mut segment, links, 0, 1, 1);
    position(&mut segment, links, 1, 1, 1);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [Completion::Done(Token(1))]);
    let health = |segment: &Segment| segment.status()[2].health.clone();
    segment.tick(at(3), links);
    assert_eq!(health(&segment), VoterHealth::InSync, "credit may be on its way");
    links.messages.clear();
    let limit = Timing::default().unanswered_max;
    segment.tick(at(4) + limit, links);
    assert!(matches!(health(&segment), VoterHealth::CatchingUp { .. }), "{:?}", health(&segment));
    assert!(matches!(links.messages.as_slice(), [(NodeId(2), Message::Open(_))]), "{:?}", links.messages);
    opened(&mut segment, links, 1, 2, report(&[(1, 1)], 0));
    let resyncs = |links: &Sent| -> Vec<ResyncMode> {
        let mode = |(_, message): &(NodeId, Message)| match message {
            Message::Resync(order) => Some(order.mode),
            _ => None,
        };
        links.messages.iter().filter_map(mode).collect()
    };
    assert_eq!(resyncs(links), [ResyncMode::Round], "the stream would be where it was");
    // Each time that there is no room for all, the next pull waits longer.
    let mut now = at(5) + limit;
    for doublings in 0..3 {
        let state = ResyncState::Failed(Refusal::NoSpace);
        let report =
            ResyncReport { replica: ReplicaId(2), epoch: Epoch(1), done_bytes: 0, total_bytes: 0, state };
        segment.on_resync_report(&report, now, links);
        links.messages.clear();
        let pause = Timing::default().retry * (1 << doublings);
        segment.tick(now + pause - Duration::from_millis(1), links);
        assert_eq!(links.messages.len(), 0, "{doublings}");
        now = now + pause;
        segment.tick(now, links);
        let mixed = ReplicaReport { mixed: true, ..self::report(&[(1, 1)], 0) };
        opened(&mut segment, links, 1, 2, mixed);
        assert_eq!(resyncs(links).len(), 1);
    }
}

/// Without it nothing would be acknowledged: it is sent what has its number, whether or not it has granted credit.
#[test]
fn w5_a_replica_without_room_that_writes_cannot_do_without_is_sent_them_all_the_same() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    write_data(&mut segment, links, 1, 1);
    position(&mut segment, links, 0, 1, 0);
    links.granted = [(NodeId(1), 0), (NodeId(2), 0)].into();
    (1..3).for_each(|node| segment.session_up(NodeId(node), at(3), links));
    (1..3).for_each(|replica| opened(&mut segment, links, 1, replica, report(&[(1, 1)], 0)));
    // What may give room back does not wait for credit, though it stands behind what does.
    write_one(&mut segment, links, 2);
    links.messages.clear();
    let limit = Timing::default().unanswered_max;
    segment.tick(at(1) + limit, links);
    assert_eq!(links.messages.len(), 0);
    segment.tick(at(2) + limit, links);
    let sent_to = |links: &Sent, node: u64| -> Vec<Message> {
        let to_it = links.messages.iter().filter(|(to, _)| *to == NodeId(node));
        to_it.map(|(_, message)| message.clone()).collect()
    };
    assert!(matches!(sent_to(links, 1).as_slice(), [Message::Write(_), Message::Zero(_)]));
    assert!(
        matches!(sent_to(links, 2).as_slice(), [Message::Open(_)]),
        "the other two are enough now: it pulls"
    );
    position(&mut segment, links, 1, 2, 0);
    let done: Vec<Completion> = segment.completions().collect();
    assert_eq!(done, [Completion::Done(Token(1))], "the trim waits for replica 0");
    // Not even in the reserve: it is asked again, for there is nobody else.
    let refused = Refused { replica: ReplicaId(1), epoch: Epoch(1), seq: Seq(2), reason: Refusal::NoSpace };
    links.messages.clear();
    segment.on_refused(&refused, at(3) + limit, links);
    assert!(links.messages.is_empty());
    segment.tick(at(3) + limit + Timing::default().retry, links);
    assert!(matches!(sent_to(links, 1).as_slice(), [Message::Open(_)]));
}

/// Writes cannot do without it before it has what it missed: who asks whether another replica may go is not told that it is in
/// sync.
#[test]
fn w2_a_replica_that_is_being_re_sent_what_it_missed_lags() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    let health = |segment: &Segment| segment.status()[2].health.clone();
    segment.session_down(NodeId(2), at(2), links);
    (1..=3).for_each(|token| write_one(&mut segment, links, token));
    (0..2).for_each(|replica| position(&mut segment, links, replica, 3, 3));
    segment.session_up(NodeId(2), at(3), links);
    opened(&mut segment, links, 1, 2, report(&[(1, 1)], 0));
    position(&mut segment, links, 2, 2, 0);
    assert!(matches!(health(&segment), VoterHealth::CatchingUp { .. }), "{:?}", health(&segment));
    position(&mut segment, links, 2, 3, 0);
    assert_eq!(health(&segment), VoterHealth::InSync);
    // What comes later is the usual way of things.
    write_one(&mut segment, links, 4);
    assert_eq!(health(&segment), VoterHealth::InSync);
}

/// Reads that can be served do not wait behind one that must see more.
#[test]
fn a_read_in_order_that_waits_keeps_no_other_read_waiting() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    links.granted = [(NodeId(1), 1), (NodeId(2), 0)].into();
    write_data(&mut segment, links, 1, 1);
    segment.submit(Token(2), Request::Read { offset: 0, length: 4096, in_order: true }, at(2), links);
    segment.session_down(NodeId(0), at(3), links);
    segment.session_down(NodeId(1), at(3), links);
    let before = reads_sent(links);
    segment.submit(Token(3), Request::Read { offset: 0, length: 4096, in_order: false }, at(3), links);
    assert_eq!(reads_sent(links), before + 1, "the third replica may serve it");
}

/// Credit that an earlier write waits for is not there for a later one, though that one is smaller.
#[test]
fn w5_what_a_replica_was_not_sent_yet_uses_its_credit_first() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    links.granted = [(NodeId(1), 1), (NodeId(2), 2)].into();
    write_data(&mut segment, links, 1, 2);
    write_data(&mut segment, links, 2, 1);
    let sent_to = |links: &Sent, node: u64| {
        let is_write =
            |(to, message): &&(NodeId, Message)| *to == NodeId(node) && matches!(message, Message::Write(_));
        links.messages.iter().filter(is_write).count()
    };
    assert_eq!([0, 1, 2].map(|node| sent_to(links, node)), [1, 0, 1], "the second one is given no seq");
    links.granted = [(NodeId(1), 3)].into();
    segment.on_credit(NodeId(1), at(3), links);
    assert_eq!([0, 1, 2].map(|node| sent_to(links, node)), [2, 2, 2]);
}

#[test]
fn w5_lack_of_space_is_decided_when_no_majority_has_or_expects_any() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    links.granted = [(NodeId(0), 0), (NodeId(1), 0)].into();
    links.full = vec![NodeId(2)];
    write_data(&mut segment, links, 1, 1);
    assert_eq!(segment.completions().count(), 0, "two of three expect some");
    links.full.push(NodeId(1));
    segment.on_credit(NodeId(1), at(3), links);
    let failed = Completion::Failed(Token(1), Failure::NoSpace);
    assert_eq!(segment.completions().collect::<Vec<_>>(), [failed]);
}

/// A gateway that nobody told of its end, and whose clients only read, would wait for leases for ever.
#[test]
fn r2_voters_that_grant_no_more_leases_are_asked_what_they_have_promised() {
    let links = &mut Sent::default();
    let mut segment = running(links, 1);
    let opens = |links: &Sent| {
        links.messages.iter().filter(|(_, message)| matches!(message, Message::Open(_))).count()
    };
    let lease = Timing::default().lease.as_millis() as u64;
    (0..3).for_each(|replica| segment.on_lease(ReplicaId(replica), at(1000), at(1000), links));
    links.messages.clear();
    segment.tick(at(1000 + 2 * lease), links);
    assert_eq!(opens(links), 0, "a little late is not never");
    segment.tick(at(1100 + 3 * lease), links);
    assert_eq!(opens(links), 3);
    segment.submit(Token(1), Request::Read { offset: 0, length: 4096, in_order: false }, at(9000), links);
    let refused =
        OpenReply { replica: ReplicaId(0), epoch: Epoch(1), result: Err(Refusal::HigherEpoch(Epoch(2))) };
    segment.on_open_reply(refused, at(9000), links);
    assert_eq!(
        segment.completions().collect::<Vec<_>>(),
        [Completion::Failed(Token(1), Failure::Fenced)],
        "its clients hear of it"
    );
}
