//! One storage node with a gateway that is played by the test: snapshots in the stream, what is kept, what a start deletes.

#[path = "support/assignments.rs"]
mod assignments;
#[path = "support/messages.rs"]
mod messages;

use assignments::assignment;
use messages::{gateway, open, start};
use quoin_disk::MemDir;
use quoin_replication::Timing;
use quoin_storage_node::node::{
    Assignment, KeptSnapshots, Limits, Node, NodeIdentity, Output, PullId, Wanted,
};
use quoin_store::{Engine, Identity, Options};
use quoin_types::*;
use quoin_wire::*;
use std::sync::Arc;
use std::time::Duration;

const ID: ReplicaId = ReplicaId(1);
const PEER: ReplicaId = ReplicaId(2);
const GATEWAY: u8 = 5;
const NOW: Moment = Moment::from_nanos(1_000_000_000);

struct Test {
    node: Node,
    session: SessionId,
    sent: Vec<Message>,
    asked: Vec<Message>,
    pull: Option<PullId>,
}

impl Test {
    /// A replica under epoch 1.
    fn new() -> Self {
        let dir = MemDir::new();
        let cluster = ClusterId([7; 16]);
        let identity = Identity { cluster, disk: DiskId([9; 16]), capacity_bytes: 256 << 20 };
        Engine::format(&dir, &identity).unwrap();
        let options = Options { journal_file_bytes: 256 << 10, journal_files: 8, reserve_bytes: 0 };
        let boot = BootId([1; 16]);
        let opened = Engine::open(Arc::new(dir), Some(cluster), boot, options).unwrap();
        let own = NodeIdentity { cluster, node: NodeId(1), disk: identity.disk, boot };
        let limits = Limits {
            resync_bytes_per_second: None,
            scrub_bytes_per_second: None,
            scrub_interval: Duration::ZERO,
        };
        let mut node = Node::new(own, opened.0, &opened.1, limits, Timing::default(), NOW).unwrap();
        let session = node.on_session(gateway(GATEWAY));
        let mut test = Self { node, session, sent: Vec::new(), asked: Vec::new(), pull: None };
        test.assign(Wanted::Created, &[], 0);
        test.open(1);
        test.say(Message::StartEpoch(start(ID, Epoch(1))));
        test
    }

    fn assign(&mut self, wanted: Wanted, kept: &[u64], up_to: u64) {
        let snapshots =
            KeptSnapshots { ids: kept.iter().copied().map(SnapshotId).collect(), up_to: SnapshotId(up_to) };
        let assignment = Assignment { wanted, snapshots, ..assignment(ID, 1024) };
        self.node.on_assignments(&[assignment], NOW).unwrap();
        self.pump();
    }

    fn open(&mut self, epoch: u64) {
        self.say(Message::Open(open(ID, GATEWAY, Epoch(epoch))));
    }

    fn say(&mut self, message: Message) {
        self.node.on_message(self.session, message, NOW).unwrap();
        self.node.end_batch(NOW).unwrap();
        self.pump();
    }

    fn answer(&mut self, message: Message) {
        let pull = self.pull.expect("a pull is under way");
        self.node.on_peer_message(pull, message, NOW).unwrap();
        self.node.end_batch(NOW).unwrap();
        self.pump();
    }

    fn pump(&mut self) {
        loop {
            let outputs = self.node.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send(_, message) => self.sent.push(message),
                    Output::Close(_, reason) => panic!("{reason}"),
                    Output::Place(job) => self.node.on_placed(job.run(), NOW).unwrap(),
                    Output::Sync(job) => self.node.on_synced(job.run(), NOW).unwrap(),
                    Output::Apply(job) => self.node.on_applied(job.run(), NOW).unwrap(),
                    Output::Checkpoint(job) => self.node.on_checkpointed(job.run(), NOW).unwrap(),
                    Output::Read(mut job) => {
                        job.run();
                        self.node.on_read_done(job).unwrap();
                    }
                    Output::ConnectPeer(id, _) => {
                        self.pull = Some(id);
                        self.node.on_peer_connected(id, NOW).unwrap();
                    }
                    Output::SendPeer(_, message) => self.asked.push(message),
                    Output::ClosePeer(_) => self.pull = None,
                    Output::Scrub(_) | Output::Created(_) | Output::Dropped(_) => {}
                }
            }
            self.node.end_batch(NOW).unwrap();
        }
    }

    fn snapshot(&mut self, seq: u64, id: u64) {
        let (epoch, seq, snapshot) = (Epoch(1), Seq(seq), SnapshotId(id));
        self.say(Message::Snapshot(Snapshot { replica: ID, epoch, seq, snapshot }));
    }

    fn write(&mut self, seq: u64, fill: u8) {
        let data = bytes::Bytes::from(vec![fill; BLOCK_BYTES as usize]);
        let (epoch, seq, checksums) = (Epoch(1), Seq(seq), block_checksums(&data));
        self.say(Message::Write(Write { replica: ID, epoch, seq, offset: 0, checksums, data }));
    }

    fn snapshots(&self) -> Vec<(u64, u64)> {
        let snapshots = self.node.engine().snapshots(ID).unwrap();
        snapshots.iter().map(|snapshot| (snapshot.id.0, snapshot.seq.0)).collect()
    }

    /// Asks as a peer, and gives the answer.
    fn ask(&mut self, message: Message) -> Message {
        let peer = self.node.on_session(Speaker::Peer(NodeId(2)));
        self.pump();
        self.sent.clear();
        self.node.on_message(peer, message, NOW).unwrap();
        self.pump();
        self.sent.pop().expect("an answer")
    }
}

fn resync(epoch: u64, common: u64) -> Message {
    Message::Resync(Resync {
        replica: ID,
        epoch: Epoch(epoch),
        mode: ResyncMode::Join,
        common: Point { epoch: Epoch(1), seq: Seq(common) },
        history: vec![EpochStart { epoch: Epoch(1), first: Seq(1) }],
        join_at: Seq(9),
        source_mixed: false,
        source: Source { node: NodeId(2), address: String::new(), replica: PEER },
    })
}

fn told(snapshots: &[(u64, u64)]) -> Message {
    let point = |(id, seq): &(u64, u64)| SnapshotPoint { id: SnapshotId(*id), seq: Seq(*seq) };
    let result = Ok((Seq(8), snapshots.iter().map(point).collect()));
    Message::SnapshotList(SnapshotList { replica: PEER, result })
}

#[test]
fn n1_a_snapshot_is_taken_in_its_place_once() {
    let mut test = Test::new();
    test.write(1, 7);
    test.snapshot(2, 10);
    test.snapshot(2, 10);
    test.write(3, 8);
    test.snapshot(5, 11);
    assert_eq!(test.snapshots(), [(10, 2)]);
    let refused = |message: &Message| matches!(message, Message::Refused(refused) if refused.reason == Refusal::Gap(Seq(3)));
    assert!(test.sent.iter().any(refused), "{:?}", test.sent);
    let durable = test.sent.iter().rev().find_map(|message| match message {
        Message::Positions(positions) => positions.replicas.first().map(|position| position.durable),
        _ => None,
    });
    assert_eq!(durable, Some(Seq(3)));
}

#[test]
fn n6_what_is_not_wanted_goes_now_and_when_it_comes() {
    let mut test = Test::new();
    (1..=3).for_each(|id| test.snapshot(id, id));
    test.assign(Wanted::Kept, &[2], 2);
    assert_eq!(test.snapshots(), [(2, 2), (3, 3)], "the third is newer than the list");
    test.assign(Wanted::Kept, &[2, 3], 4);
    test.snapshot(4, 4);
    test.snapshot(5, 5);
    assert_eq!(test.snapshots(), [(2, 2), (3, 3), (5, 5)]);
}

#[test]
fn n4_a_peer_is_shown_a_snapshot_as_it_was() {
    let mut test = Test::new();
    test.write(1, 7);
    test.snapshot(2, 10);
    test.write(3, 8);
    let fetch = |view: Option<u64>| {
        let (epoch, extent, view) = (Epoch(1), ExtentIndex(0), view.map(SnapshotId));
        let fetch =
            Fetch { replica: ID, epoch, last_epoch: epoch, allow_mixed: false, after: Seq(3), extent, view };
        Message::Fetch(fetch)
    };
    let byte = |message: Message| match message {
        Message::FetchReply(reply) => reply.result.map(|fetched| (fetched.version.0, fetched.data[9])),
        other => panic!("{other:?}"),
    };
    assert_eq!(byte(test.ask(fetch(None))), Ok((3, 8)));
    assert_eq!(byte(test.ask(fetch(Some(10)))), Ok((1, 7)));
    assert_eq!(byte(test.ask(fetch(Some(11)))), Err(Refusal::LacksSnapshot));
    let list = |since: u64, view: Option<u64>| {
        Message::List(List {
            replica: ID,
            epoch: Epoch(1),
            last_epoch: Epoch(1),
            allow_mixed: false,
            after: Seq(3),
            since: Seq(since),
            from: ExtentIndex(0),
            max: 9,
            view: view.map(SnapshotId),
        })
    };
    let extents = |message: Message| match message {
        Message::ListReply(reply) => reply.result.map(|(_, extents)| extents.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(extents(test.ask(list(1, None))), Ok(1));
    assert_eq!(extents(test.ask(list(1, Some(10)))), Ok(0));
    assert_eq!(extents(test.ask(list(0, Some(10)))), Ok(1));
    assert_eq!(extents(test.ask(list(0, Some(11)))), Err(Refusal::LacksSnapshot));
}

/// A resync makes a snapshot and breaks. The replica, mixed, is the authority of the next attach: its state ends at the
/// common point, and what it has beyond that belongs to no history.
#[test]
fn n4_an_epoch_that_starts_from_a_mixed_state_keeps_nothing_beyond_it() {
    let mut test = Test::new();
    test.write(1, 7);
    test.snapshot(2, 10);
    test.snapshot(3, 11);
    test.open(2);
    test.say(resync(2, 2));
    test.answer(told(&[(10, 2), (12, 6)]));
    assert_eq!(test.snapshots(), [(10, 2)], "one that the peer lacks, of a tail that has to go");
    test.answer(Message::ListReply(ListReply { replica: PEER, result: Ok((Seq(8), vec![])) }));
    assert_eq!(test.snapshots(), [(10, 2), (12, 6)]);
    assert!(matches!(test.asked.last(), Some(Message::ListSnapshots(_))), "{:?}", test.asked);
    test.open(3);
    let list = ListSnapshots {
        replica: ID,
        epoch: Epoch(3),
        last_epoch: Epoch(1),
        allow_mixed: true,
        after: Seq(2),
    };
    let Message::SnapshotList(list) = test.ask(Message::ListSnapshots(list)) else { panic!() };
    let ids = list.result.map(|(_, points)| points.iter().map(|point| point.id.0).collect::<Vec<_>>());
    assert_eq!(ids, Ok(vec![10]));
    let first = EpochStart { epoch: Epoch(1), first: Seq(1) };
    let start = EpochStart { epoch: Epoch(3), first: Seq(3) };
    test.say(Message::StartEpoch(StartEpoch {
        replica: ID,
        epoch: Epoch(3),
        history: vec![first, start],
        expect: Point { epoch: Epoch(1), seq: Seq(2) },
        allow_mixed: true,
    }));
    assert_eq!(test.snapshots(), [(10, 2)]);
}

/// A snapshot is deleted while a resync brings the replica to it, and the peer has not heard of that: it is not made again
/// by the next list either, and nothing else would ever delete it.
#[test]
fn n6_what_a_resync_brings_late_goes_when_it_comes() {
    let mut test = Test::new();
    test.open(1);
    test.say(resync(1, 0));
    test.answer(told(&[(12, 6), (13, 7)]));
    test.assign(Wanted::Kept, &[13], 13);
    let nothing = Message::ListReply(ListReply { replica: PEER, result: Ok((Seq(8), vec![])) });
    test.answer(nothing.clone());
    assert_eq!(test.snapshots(), []);
    test.answer(told(&[(12, 6), (13, 7)]));
    test.answer(nothing.clone());
    assert_eq!(test.snapshots(), [(13, 7)]);
    test.answer(told(&[(12, 6), (13, 7)]));
    test.answer(nothing);
    let complete = |message: &Message| matches!(message, Message::ResyncReport(report) if report.state == ResyncState::Complete);
    assert!(test.sent.iter().any(complete), "{:?}", test.sent);
    assert_eq!(test.snapshots(), [(13, 7)]);
}

/// The live stream goes on while a snapshot of before it is still to be made: the join breaks, and the replica takes no more.
#[test]
fn n5_a_join_whose_stream_overtakes_a_snapshot_breaks() {
    let mut test = Test::new();
    test.open(1);
    test.say(resync(1, 0));
    test.answer(told(&[(12, 6)]));
    test.write(9, 7);
    let broke = |message: &Message| {
        let state = ResyncState::Failed(Refusal::LacksSnapshot);
        matches!(message, Message::ResyncReport(report) if report.state == state)
    };
    assert!(test.sent.iter().any(broke), "{:?}", test.sent);
    assert!(test.pull.is_none());
    assert_eq!(test.snapshots(), []);
}
