//! The rules of snapshots (N1–N6) at their edges, one small conversation each.

mod support;

use bytes::Bytes;
use quoin_replication::Timing;
use quoin_replication::replica::{PullError, Puller, Replica, ReplicaMeta, Stage, Take};
use quoin_replication::writer::*;
use quoin_types::*;
use quoin_wire::*;
use std::time::Duration;
use support::{Sent, config, member, report};

impl Sent {
    /// The stream to a voter, and what is sent besides, since this was last asked: each seq, with the snapshot if it is one.
    fn stream(&mut self, voter: u64) -> Vec<(u64, Option<u64>)> {
        let of = |(node, message): &(NodeId, Message)| match message {
            Message::Zero(zero) if node.0 == voter => Some((zero.seq.0, None)),
            Message::Snapshot(snapshot) if node.0 == voter => {
                Some((snapshot.seq.0, Some(snapshot.snapshot.0)))
            }
            _ => None,
        };
        let stream = self.messages.iter().filter_map(of).collect();
        self.messages.retain(|message| of(message).is_none());
        stream
    }

    fn last_resync(&self) -> Option<&Resync> {
        let of = |(_, message): &'_ (NodeId, Message)| matches!(message, Message::Resync(_));
        self.messages.iter().rfind(|message| of(message)).and_then(|(_, message)| match message {
            Message::Resync(order) => Some(order),
            _ => None,
        })
    }
}

fn at(milliseconds: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(milliseconds)
}

fn history(starts: &[(u64, u64)]) -> Vec<EpochStart> {
    starts.iter().map(|(epoch, first)| EpochStart { epoch: Epoch(*epoch), first: Seq(*first) }).collect()
}

fn opened(
    segment: &mut Segment,
    links: &mut Sent,
    replica: u64,
    starts: &[(u64, u64)],
    last: u64,
    mixed: bool,
) {
    let report = ReplicaReport { mixed, ..report(starts, last) };
    let reply = OpenReply { replica: ReplicaId(replica), epoch: Epoch(1), result: Ok(report) };
    segment.on_open_reply(reply, at(1), links);
}

fn durable(segment: &mut Segment, links: &mut Sent, replica: u64, seq: u64) {
    let (replica, epoch) = (ReplicaId(replica), Epoch(1));
    segment.on_position(&Position { replica, epoch, accepted: Seq(seq), durable: Seq(seq) }, at(2), links);
}

/// Three new replicas that are asked to promise epoch 1.
fn opening(links: &mut Sent) -> Segment {
    let voters = (0..3).map(|number| member(number, ReplicaRole::Voter)).collect();
    let mut segment = Segment::new(config(1, voters, 600), at(0));
    (0..3).for_each(|node| segment.session_up(NodeId(node), at(0), links));
    segment
}

/// All live under epoch 1.
fn running(links: &mut Sent) -> Segment {
    let mut segment = opening(links);
    (0..3).for_each(|replica| opened(&mut segment, links, replica, &[], 0, false));
    for replica in 0..3 {
        let reply = StartEpochReply { replica: ReplicaId(replica), epoch: Epoch(1), result: Ok(()) };
        segment.on_start_epoch_reply(&reply, at(1), links);
    }
    segment.allow_serving(at(1), links);
    segment
}

fn zero(segment: &mut Segment, links: &mut Sent) {
    let operation = Operation::Zero { offset: 0, length: BLOCK_BYTES };
    segment.submit(Token(0), Request::Replicate { operation, durable: false }, at(2), links);
}

fn place(segment: &mut Segment, links: &mut Sent, id: u64) -> Option<Seq> {
    segment.place_snapshot(SnapshotId(id), at(2), links)
}

#[test]
fn n1_a_snapshot_has_its_place_in_every_stream() {
    let links = &mut Sent::default();
    let mut segment = running(links);
    zero(&mut segment, links);
    assert_eq!(place(&mut segment, links, 7), Some(Seq(2)));
    zero(&mut segment, links);
    for voter in 0..3 {
        assert_eq!(links.stream(voter), [(1, None), (2, Some(7)), (3, None)]);
    }
}

#[test]
fn n1_none_is_placed_before_the_epoch_s_start_is_decided() {
    let links = &mut Sent::default();
    let mut segment = opening(links);
    assert!(!segment.can_place_snapshot());
    assert_eq!(place(&mut segment, links, 7), None);
    (0..2).for_each(|replica| opened(&mut segment, links, replica, &[], 0, false));
    // A majority is equal: the start is decided, though nobody has it yet.
    assert_eq!(place(&mut segment, links, 7), Some(Seq(1)));
    let reply = StartEpochReply { replica: ReplicaId(0), epoch: Epoch(1), result: Ok(()) };
    segment.on_start_epoch_reply(&reply, at(1), links);
    assert_eq!(links.stream(0), [(1, Some(7))]);
}

#[test]
fn n1_a_snapshot_is_durable_when_a_majority_has_it_so() {
    let links = &mut Sent::default();
    let mut segment = running(links);
    let seq = place(&mut segment, links, 7).unwrap();
    durable(&mut segment, links, 0, 1);
    assert!(!segment.is_durable(seq));
    durable(&mut segment, links, 2, 1);
    assert!(segment.is_durable(seq));
}

#[test]
fn w2_a_snapshot_is_re_sent_like_a_write() {
    let links = &mut Sent::default();
    let mut segment = running(links);
    zero(&mut segment, links);
    place(&mut segment, links, 7);
    segment.session_down(NodeId(1), at(3), links);
    links.stream(1);
    segment.session_up(NodeId(1), at(3), links);
    opened(&mut segment, links, 1, &[(1, 1)], 1, false);
    assert_eq!(links.stream(1), [(2, Some(7))]);
}

#[test]
fn w5_a_snapshot_waits_for_no_space() {
    let links = &mut Sent::default();
    let mut segment = running(links);
    links.full = (0..3).map(NodeId).collect();
    assert_eq!(place(&mut segment, links, 7), Some(Seq(1)));
    assert_eq!(links.stream(0), [(1, Some(7))]);
}

/// Replica 2 was away for longer than memory reaches, and joins the live stream.
fn with_one_joining(links: &mut Sent) -> Segment {
    let mut segment = running(links);
    segment.session_down(NodeId(2), at(3), links);
    for seq in 1..=9 {
        zero(&mut segment, links);
        (0..2).for_each(|replica| durable(&mut segment, links, replica, seq));
    }
    segment.session_up(NodeId(2), at(3), links);
    opened(&mut segment, links, 2, &[(1, 1)], 0, false);
    assert_eq!(
        links.last_resync().map(|order| (order.mode, order.join_at)),
        Some((ResyncMode::Join, Seq(10)))
    );
    links.stream(2);
    segment
}

#[test]
fn n3_a_voter_that_joins_is_sent_no_snapshot_and_goes_through_a_round() {
    let links = &mut Sent::default();
    let mut segment = with_one_joining(links);
    zero(&mut segment, links);
    links.messages.clear();
    place(&mut segment, links, 7);
    assert_eq!(links.stream(1), [(11, Some(7))]);
    assert_eq!(links.stream(2), []);
    assert!(
        links
            .messages
            .iter()
            .any(|(node, message)| *node == NodeId(2) && matches!(message, Message::Open(_)))
    );
    opened(&mut segment, links, 2, &[(1, 1)], 0, true);
    assert_eq!(
        links.last_resync().map(|order| (order.mode, order.join_at)),
        Some((ResyncMode::Round, Seq(12)))
    );
}

#[test]
fn n5_a_join_that_lacks_a_snapshot_is_followed_by_a_round() {
    let links = &mut Sent::default();
    let mut segment = with_one_joining(links);
    let state = ResyncState::Failed(Refusal::LacksSnapshot);
    let report =
        ResyncReport { replica: ReplicaId(2), epoch: Epoch(1), done_bytes: 0, total_bytes: 0, state };
    segment.on_resync_report(&report, at(4), links);
    segment.tick(at(900), links);
    opened(&mut segment, links, 2, &[(1, 1)], 0, true);
    assert_eq!(links.last_resync().map(|order| order.mode), Some(ResyncMode::Round));
}

/// What only a snapshot keeps is not repaired, so a source on whose disk that is damaged is not asked twice in a row.
#[test]
fn n5_another_source_is_asked_where_a_snapshot_is_damaged() {
    let links = &mut Sent::default();
    let mut segment = with_one_joining(links);
    let mut sources = vec![links.last_resync().unwrap().source.replica.0];
    for round in 1..=2 {
        let state = ResyncState::Failed(Refusal::PeerDamaged);
        let (replica, epoch) = (ReplicaId(2), Epoch(1));
        let report = ResyncReport { replica, epoch, done_bytes: 0, total_bytes: 0, state };
        segment.on_resync_report(&report, at(1000 * round), links);
        segment.tick(at(1000 * round + 500), links);
        opened(&mut segment, links, 2, &[(1, 1)], 0, true);
        sources.push(links.last_resync().unwrap().source.replica.0);
    }
    assert_eq!(sources, [1, 0, 1]);
}

fn order(mode: ResyncMode) -> Resync {
    Resync {
        replica: ReplicaId(0),
        epoch: Epoch(2),
        mode,
        common: Point { epoch: Epoch(1), seq: Seq(5) },
        history: history(&[(1, 1), (2, 6)]),
        join_at: Seq(12),
        source_mixed: false,
        source: Source { node: NodeId(1), address: String::new(), replica: ReplicaId(1) },
    }
}

#[test]
fn n3_a_replica_that_joins_takes_writes_and_no_snapshot() {
    let session = SessionId(1);
    let mut meta = ReplicaMeta::new(SegmentId::default(), Generation(1));
    meta.history = history(&[(1, 1)]);
    let (mut replica, _) = Replica::restore(ReplicaId(0), meta, Seq(5), false, at(0), Timing::default());
    let open = |epoch| Open {
        replica: ReplicaId(0),
        segment: SegmentId::default(),
        epoch: Epoch(epoch),
        generation: Generation(1),
        instance: InstanceId([1; 16]),
        void: None,
    };
    replica.open(session, &open(1)).unwrap();
    assert_eq!(replica.take_snapshot(session, Epoch(1), Seq(6)), Ok(Take::Append));
    assert_eq!(replica.take_snapshot(session, Epoch(1), Seq(5)), Ok(Take::Known), "sent again");
    assert_eq!(replica.take_snapshot(session, Epoch(1), Seq(7)), Err(Refusal::Gap(Seq(5))));
    replica.open(session, &open(2)).unwrap();
    assert_eq!(replica.take_snapshot(session, Epoch(1), Seq(6)), Err(Refusal::HigherEpoch(Epoch(2))));
    replica.begin_resync(session, &order(ResyncMode::Join)).unwrap();
    assert_eq!(replica.take(session, Epoch(2), Seq(12)), Ok(Take::Append));
    assert_eq!(replica.take_snapshot(session, Epoch(2), Seq(12)), Err(Refusal::WrongState));
}

fn points(points: &[(u64, u64)]) -> Vec<SnapshotPoint> {
    points.iter().map(|(id, seq)| SnapshotPoint { id: SnapshotId(*id), seq: Seq(*seq) }).collect()
}

fn puller(mode: ResyncMode) -> Puller {
    let mut puller = Puller::new(order(mode), Seq(5), 4 * EXTENT_BYTES);
    assert!(matches!(puller.next_request(4), Some(Message::ListSnapshots(list)) if list.after == Seq(11)));
    assert_eq!(puller.next_request(4), None, "one question at a time");
    puller
}

fn told(
    puller: &mut Puller,
    position: u64,
    theirs: &[(u64, u64)],
    own: &[(u64, u64)],
) -> Result<Option<Stage>, PullError> {
    let reply = SnapshotList { replica: ReplicaId(1), result: Ok((Seq(position), points(theirs))) };
    puller.on_snapshots(reply, &points(own), |id| id != SnapshotId(99))
}

/// The view and the common point of the next list, which names an extent or none.
fn listed(puller: &mut Puller, position: u64, extents: &[u32]) -> (Option<u64>, u64) {
    let Some(Message::List(list)) = puller.next_request(4) else { panic!("a list is asked for") };
    let extents = extents.iter().copied().map(ExtentIndex).collect();
    puller.on_list(ListReply { replica: ReplicaId(1), result: Ok((Seq(position), extents)) }).unwrap();
    (list.view.map(|id| id.0), list.since.0)
}

/// The extent that is fetched next, and the view.
fn fetched(puller: &mut Puller, position: u64, version: u64) -> (u32, Option<u64>) {
    let Some(Message::Fetch(fetch)) = puller.next_request(1) else { panic!("an extent is asked for") };
    let (position, version, data) = (Seq(position), Seq(version), Bytes::new());
    let fetched = FetchedExtent { position, version, zero_mask: u16::MAX, checksums: [0; 16], data };
    let reply = FetchReply { replica: ReplicaId(1), extent: fetch.extent, result: Ok(fetched) };
    assert!(puller.on_fetch(reply).unwrap().is_some());
    (fetch.extent.0, fetch.view.map(|id| id.0))
}

#[test]
fn n5_a_round_brings_one_snapshot_after_the_other_and_then_the_present() {
    let mut puller = puller(ResyncMode::Round);
    let theirs = [(1, 3), (2, 7), (3, 9)];
    let stage = told(&mut puller, 14, &theirs, &[(1, 3)]).unwrap().unwrap();
    assert_eq!(stage, Stage { delete: vec![], since: Seq(5) });
    puller.begin_stage([ExtentIndex(3)]);
    assert_eq!(listed(&mut puller, 14, &[2]), (Some(2), 5));
    assert_eq!(puller.snapshot_due(), None, "two extents are still to come");
    assert_eq!(fetched(&mut puller, 14, 6), (2, Some(2)));
    assert_eq!(
        fetched(&mut puller, 14, 2),
        (3, Some(2)),
        "its own change is taken back to what the peer had then"
    );
    assert!(!puller.is_complete(Seq(100)));
    assert_eq!(puller.snapshot_due(), points(&[(2, 7)]).pop());
    puller.made_snapshot();
    assert!(
        matches!(puller.next_request(4), Some(Message::ListSnapshots(_))),
        "the peer may have others by now"
    );
    let stage = told(&mut puller, 15, &theirs, &[(1, 3), (2, 7)]).unwrap().unwrap();
    puller.begin_stage([]);
    assert_eq!((stage.since, listed(&mut puller, 15, &[])), (Seq(7), (Some(3), 7)));
    assert_eq!(puller.snapshot_due(), points(&[(3, 9)]).pop());
    puller.made_snapshot();
    puller.next_request(4);
    told(&mut puller, 16, &theirs, &[(1, 3), (2, 7), (3, 9)]).unwrap().unwrap();
    puller.begin_stage([]);
    assert_eq!(listed(&mut puller, 19, &[0]), (None, 9));
    assert_eq!(fetched(&mut puller, 21, 12), (0, None));
    assert!(puller.is_complete(Seq(0)));
    // A snapshot at 17 would have been overlooked at 19.
    assert_eq!(puller.pulled_through(), Seq(16));
}

#[test]
fn n4_snapshots_of_another_history_are_deleted_first() {
    let stage = |theirs: &[(u64, u64)], own: &[(u64, u64)]| {
        let mut puller = puller(ResyncMode::Round);
        told(&mut puller, 14, theirs, own).unwrap().unwrap()
    };
    let deleted = |stage: &Stage| stage.delete.iter().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(deleted(&stage(&[(1, 3)], &[(1, 3), (2, 6)])), [2]);
    assert_eq!(deleted(&stage(&[], &[(1, 5)])), [], "up to the common point both have the same history");
    assert_eq!(deleted(&stage(&[(2, 7)], &[(2, 6)])), [2], "one snapshot has one seq");
    // One that both have is where the replica was what the peer was.
    assert_eq!(stage(&[(2, 7)], &[(2, 7)]), Stage { delete: vec![], since: Seq(7) });
    assert_eq!(
        stage(&[(2, 7), (3, 9)], &[(2, 7), (4, 8)]),
        Stage { delete: vec![SnapshotId(4)], since: Seq(7) }
    );
}

#[test]
fn n4_what_lies_below_a_shared_snapshot_was_deleted_and_does_not_come_back() {
    let mut puller = puller(ResyncMode::Round);
    told(&mut puller, 14, &[(2, 7), (3, 9)], &[(3, 9)]).unwrap().unwrap();
    puller.begin_stage([]);
    assert_eq!(listed(&mut puller, 14, &[]), (None, 9));
}

#[test]
fn n6_a_snapshot_that_is_wanted_no_more_is_passed_over() {
    let mut puller = puller(ResyncMode::Round);
    told(&mut puller, 14, &[(99, 7), (100, 9)], &[]).unwrap().unwrap();
    puller.begin_stage([]);
    assert_eq!(listed(&mut puller, 14, &[]), (Some(100), 5));
}

#[test]
fn n5_a_join_makes_snapshots_only_before_its_stream_begins() {
    let theirs = [(1, 7)];
    let mut late = puller(ResyncMode::Join);
    late.wrote_live(0, BLOCK_BYTES).unwrap();
    assert_eq!(told(&mut late, 14, &theirs, &[]), Err(PullError::LacksSnapshot));

    let mut torn = puller(ResyncMode::Join);
    told(&mut torn, 14, &theirs, &[]).unwrap().unwrap();
    torn.begin_stage([]);
    assert_eq!(torn.wrote_live(0, BLOCK_BYTES), Err(PullError::LacksSnapshot));

    // Its record is in the live stream, which does not bring it.
    assert_eq!(told(&mut puller(ResyncMode::Join), 14, &[(1, 12)], &[]), Err(PullError::LacksSnapshot));

    let mut still = puller(ResyncMode::Join);
    told(&mut still, 14, &theirs, &[]).unwrap().unwrap();
    still.begin_stage([]);
    listed(&mut still, 14, &[]);
    assert_eq!(still.snapshot_due(), points(&theirs).pop());
    still.made_snapshot();
    still.next_request(4);
    told(&mut still, 14, &theirs, &theirs).unwrap().unwrap();
    still.begin_stage([]);
    still.wrote_live(0, BLOCK_BYTES).unwrap();
    assert_eq!(listed(&mut still, 14, &[]), (None, 7));
    assert!(still.is_complete(Seq(14)) && !still.is_complete(Seq(13)), "S2");
}

#[test]
fn a_peer_s_snapshots_are_believed_up_to_its_position_and_when_asked() {
    assert_eq!(told(&mut puller(ResyncMode::Round), 14, &[(1, 15)], &[]), Err(PullError::Unexpected));
    assert_eq!(told(&mut puller(ResyncMode::Round), 10, &[], &[]), Err(PullError::Unexpected), "S1");
    let mut puller = puller(ResyncMode::Round);
    told(&mut puller, 14, &[], &[]).unwrap().unwrap();
    assert_eq!(told(&mut puller, 14, &[], &[]), Err(PullError::Unexpected));
    let mut behind = self::puller(ResyncMode::Round);
    let refused = SnapshotList { replica: ReplicaId(1), result: Err(Refusal::Behind) };
    assert_eq!(behind.on_snapshots(refused, &[], |_| true), Ok(None));
    assert!(matches!(behind.next_request(4), Some(Message::ListSnapshots(_))), "asked again");
}
