//! One storage node over a disk in memory that rots, with a gateway and a peer that are played by the test: what is found,
//! what is told, and what a repair may store.

#[path = "support/assignments.rs"]
mod assignments;
#[path = "support/messages.rs"]
mod messages;

use assignments::assignment;
use bytes::Bytes;
use messages::{gateway, open, start};
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation};
use quoin_replication::Timing;
use quoin_storage_node::node::{Limits, Node, NodeIdentity, Output, PullId};
use quoin_store::{Engine, Identity, Options};
use quoin_types::*;
use quoin_wire::*;
use std::sync::Arc;
use std::time::Duration;

const ID: ReplicaId = ReplicaId(1);
const PEER: ReplicaId = ReplicaId(2);
const EPOCH: Epoch = Epoch(1);
const GATEWAY: u8 = 5;
const RATE: u64 = 4 << 20;
const OFF: Limits =
    Limits { resync_bytes_per_second: None, scrub_bytes_per_second: None, scrub_interval: Duration::ZERO };
const SCRUBS: Limits = Limits { scrub_bytes_per_second: Some(RATE), scrub_interval: DAY, ..OFF };
const DAY: Duration = Duration::from_secs(86_400);

struct Test {
    dir: MemDir,
    faulty: FaultyDir,
    node: Node,
    now: Moment,
    session: SessionId,
    position: u64,
    sent: Vec<Message>,
    /// What the node says to peers that it pulls from.
    asked: Vec<(PullId, Message)>,
    pull: Option<PullId>,
    scrub_steps: u64,
}

impl Test {
    fn new(limits: Limits) -> Self {
        let dir = MemDir::new();
        let cluster = ClusterId([7; 16]);
        let identity = Identity { cluster, disk: DiskId([9; 16]), capacity_bytes: 256 << 20 };
        Engine::format(&dir, &identity).unwrap();
        let faulty = FaultyDir::new(Arc::new(dir.clone()));
        let options = Options { journal_file_bytes: 256 << 10, journal_files: 8, reserve_bytes: 0 };
        let boot = BootId([1; 16]);
        let opened = Engine::open(Arc::new(faulty.clone()), Some(cluster), boot, options).unwrap();
        let own = NodeIdentity { cluster, node: NodeId(1), disk: identity.disk, boot };
        let now = Moment::from_nanos(1_000_000_000);
        let mut node = Node::new(own, opened.0, &opened.1, limits, Timing::default(), now).unwrap();
        let session = node.on_session(gateway(GATEWAY));
        let (sent, asked) = (Vec::new(), Vec::new());
        let mut test =
            Self { dir, faulty, node, now, session, position: 0, sent, asked, pull: None, scrub_steps: 0 };
        test.node.on_assignments(&[assignment(ID, 1024)], now).unwrap();
        test.pump();
        test.open(session);
        test.say(Message::StartEpoch(start(ID, EPOCH)));
        test
    }

    fn open(&mut self, session: SessionId) {
        self.session = session;
        self.say(Message::Open(open(ID, GATEWAY, EPOCH)));
    }

    fn say(&mut self, message: Message) {
        self.node.on_message(self.session, message, self.now).unwrap();
        self.node.end_batch(self.now).unwrap();
        self.pump();
    }

    /// Runs every job until nothing is left to do.
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
                    Output::Place(job) => self.node.on_placed(job.run(), self.now).unwrap(),
                    Output::Sync(job) => self.node.on_synced(job.run(), self.now).unwrap(),
                    Output::Apply(job) => self.node.on_applied(job.run(), self.now).unwrap(),
                    Output::Checkpoint(job) => self.node.on_checkpointed(job.run(), self.now).unwrap(),
                    Output::Read(mut job) => {
                        job.run();
                        self.node.on_read_done(job).unwrap();
                    }
                    Output::Scrub(mut job) => {
                        job.run();
                        self.scrub_steps += 1;
                        self.node.on_scrubbed(job).unwrap();
                    }
                    Output::ConnectPeer(id, _) => {
                        self.pull = Some(id);
                        self.node.on_peer_connected(id, self.now).unwrap();
                    }
                    Output::SendPeer(id, message) => self.asked.push((id, message)),
                    Output::ClosePeer(id) => {
                        assert_eq!(self.pull.take(), Some(id));
                        self.node.on_peer_closed(id);
                    }
                    Output::Created(_) | Output::Dropped(_) => {}
                }
            }
            self.node.end_batch(self.now).unwrap();
        }
    }

    fn tick_after(&mut self, after: Duration) {
        self.now = self.now + after;
        self.node.tick(self.now).unwrap();
        self.pump();
    }

    /// Lets the time go by within which what was written goes to its place; scrub and repair do nothing meanwhile.
    fn until_in_place(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        self.node.end_batch(self.now).unwrap();
        self.pump();
    }

    fn tick(&mut self) {
        self.tick_after(Duration::from_millis(5));
    }

    /// Writes blocks of this byte.
    fn write(&mut self, first_block: u64, count: u64, fill: u8) {
        self.position += 1;
        let data = Bytes::from(vec![fill; (count * BLOCK_BYTES) as usize]);
        let (seq, offset) = (Seq(self.position), first_block * BLOCK_BYTES);
        let checksums = block_checksums(&data);
        self.say(Message::Write(Write { replica: ID, epoch: EPOCH, seq, offset, checksums, data }));
    }

    fn read(&mut self, first_block: u64, count: u64) -> ReadResult {
        self.sent.clear();
        let (offset, length) = (first_block * BLOCK_BYTES, (count * BLOCK_BYTES) as u32);
        self.say(Message::Read(Read { id: 1, replica: ID, epoch: EPOCH, after: Seq(0), offset, length }));
        let reply = self.sent.iter().find_map(|message| match message {
            Message::ReadReply(reply) => Some(reply.result.clone()),
            _ => None,
        });
        reply.expect("an answer")
    }

    /// The blocks read, each as its one byte.
    fn bytes(&mut self, first_block: u64, count: u64) -> Vec<u8> {
        match self.read(first_block, count) {
            ReadResult::Data { data, .. } => {
                data.chunks(BLOCK_BYTES as usize).map(|block| block[9]).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn flip(&self, name: &str, at: u64) {
        let file = self.dir.open(name, OpenMode::Existing).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 4], at).unwrap();
        file.sync().unwrap();
    }

    fn rot_entry(&mut self, extent: u64) {
        self.until_in_place();
        self.flip("map.1", 4096 + extent * 96 + 11);
    }

    /// The slot of an extent, from the map file.
    fn rot_block(&mut self, extent: u64, block: u64) {
        self.until_in_place();
        let mut slot = [0; 8];
        let map = self.dir.open("map.1", OpenMode::Existing).unwrap();
        map.read_at(&mut slot, 4096 + extent * 96).unwrap();
        self.flip("data", (u64::from_le_bytes(slot) << 16) + (block << 12) + 77);
    }

    /// What the node has told its gateway since this was last asked.
    fn told(&mut self) -> Option<Damaged> {
        let told = self.sent.iter().find_map(|message| match message {
            Message::Damaged(damaged) => Some(damaged.clone()),
            _ => None,
        });
        self.sent.clear();
        told
    }

    fn order(&mut self, extent: u32, version: Option<u64>) {
        let source = Source { node: NodeId(2), address: "peer:1".into(), replica: PEER };
        let (extent, version) = (ExtentIndex(extent), version.map(Seq));
        self.say(Message::Repair(Repair { replica: ID, epoch: EPOCH, extent, version, source }));
    }

    fn fetch(&mut self) -> Option<Fetch> {
        self.asked.drain(..).find_map(|(_, message)| match message {
            Message::Fetch(fetch) => Some(fetch),
            _ => None,
        })
    }

    /// The peer's extent, each block of one byte.
    fn give(&mut self, extent: u32, version: u64, blocks: [u8; 16]) {
        let data: Bytes = blocks.iter().flat_map(|byte| vec![*byte; BLOCK_BYTES as usize]).collect();
        let checksums = block_checksums(&data).try_into().unwrap();
        let (position, version, extent) = (Seq(version), Seq(version), ExtentIndex(extent));
        let fetched = FetchedExtent { position, version, zero_mask: 0, checksums, data };
        self.answer(FetchReply { replica: PEER, extent, result: Ok(fetched) });
    }

    fn answer(&mut self, reply: FetchReply) {
        let pull = self.pull.expect("something is pulled");
        self.node.on_peer_message(pull, Message::FetchReply(reply), self.now).unwrap();
        self.node.end_batch(self.now).unwrap();
        self.pump();
    }

    fn damage(&self) -> (usize, u64, u64) {
        let counters = self.node.counters();
        (self.node.damaged_extents(), counters.damage_found, counters.repaired)
    }
}

fn mismatch(extent: u32, version: Option<u64>) -> ReadResult {
    ReadResult::Mismatch { extent: ExtentIndex(extent), version: version.map(Seq) }
}

#[test]
fn r3_a_damaged_block_is_told_and_fetched_anew() {
    let mut test = Test::new(OFF);
    test.write(0, 48, 7);
    test.rot_block(1, 5);
    assert_eq!(test.read(0, 32), mismatch(1, Some(1)));
    test.tick();
    let told = test.told().expect("the gateway is told");
    assert_eq!((told.extent, told.version, told.tried), (ExtentIndex(1), Some(Seq(1)), vec![]));
    test.order(1, Some(1));
    assert_eq!(test.fetch().map(|fetch| (fetch.replica, fetch.after)), Some((PEER, Seq(1))));
    test.give(1, 1, [7; 16]);
    assert_eq!(test.bytes(0, 48), [7; 48]);
    assert_eq!(test.damage(), (0, 1, 1));
    test.tick_after(Duration::from_secs(60));
    assert_eq!(test.told(), None);
}

#[test]
fn r3_a_damaged_entry_is_an_answer_and_is_replaced() {
    let mut test = Test::new(OFF);
    test.write(0, 48, 7);
    test.rot_entry(2);
    assert_eq!(test.read(0, 48), mismatch(2, None), "not a refusal: the gateway reads elsewhere");
    test.tick();
    assert_eq!(test.told().map(|told| (told.extent, told.version)), Some((ExtentIndex(2), None)));
    test.order(2, None);
    // Another extent is written meanwhile; the peer answers from its own, later, position.
    test.write(0, 1, 8);
    test.give(2, 1, [7; 16]);
    assert_eq!(test.bytes(32, 16), [7; 16]);
    assert_eq!(test.damage(), (0, 1, 1));
}

#[test]
fn r3_what_the_stream_has_not_brought_yet_is_not_taken_from_a_peer() {
    let mut test = Test::new(OFF);
    test.write(0, 16, 7);
    test.rot_block(0, 3);
    assert_eq!(test.read(0, 16), mismatch(0, Some(1)));
    test.tick();
    test.order(0, Some(1));
    // The peer has write 2 already. Until it comes here it may yet be undone.
    let mut newer = [7; 16];
    newer[9] = 8;
    test.give(0, 2, newer);
    assert_eq!(test.read(0, 16), mismatch(0, Some(1)));
    test.write(9, 1, 8);
    assert_eq!(test.bytes(0, 16), newer);
    assert_eq!(test.damage(), (0, 1, 1));
}

#[test]
fn r3_a_live_write_is_not_undone_by_a_repair() {
    let mut test = Test::new(OFF);
    test.write(0, 16, 7);
    test.rot_block(0, 3);
    assert_eq!(test.read(0, 16), mismatch(0, Some(1)));
    test.tick();
    test.order(0, Some(1));
    test.write(4, 2, 8);
    test.give(0, 1, [7; 16]);
    let mut expected = [7; 16];
    expected[4..6].fill(8);
    assert_eq!(test.bytes(0, 16), expected);
}

#[test]
fn r3_an_order_for_another_version_is_not_carried_out() {
    let mut test = Test::new(OFF);
    test.write(0, 16, 7);
    test.rot_block(0, 3);
    assert_eq!(test.read(0, 16), mismatch(0, Some(1)));
    test.tick();
    test.write(8, 1, 8);
    test.order(0, Some(1));
    assert_eq!(test.fetch(), None);
    // It is looked at and told anew.
    test.sent.clear();
    test.tick();
    test.tick();
    assert_eq!(test.told().map(|told| told.version), Some(Some(Seq(2))));
    // All of it is overwritten: when it is looked at, nothing is left of the damage.
    test.write(0, 16, 9);
    test.order(0, Some(2));
    test.tick();
    test.tick();
    assert_eq!((test.damage(), test.told()), ((0, 1, 0), None));
}

#[test]
fn a_source_without_a_good_copy_is_named_when_it_is_asked_again() {
    let mut test = Test::new(OFF);
    test.write(0, 16, 7);
    test.rot_block(0, 3);
    assert_eq!(test.read(0, 16), mismatch(0, Some(1)));
    test.tick();
    test.order(0, Some(1));
    test.answer(FetchReply { replica: PEER, extent: ExtentIndex(0), result: Err(Refusal::Disk) });
    test.sent.clear();
    test.tick();
    assert_eq!(test.told().map(|told| told.tried), Some(vec![PEER]));
    // Nobody else has it: after a rest all are tried again.
    test.tick_after(Duration::from_secs(2));
    test.tick();
    assert_eq!((test.told(), test.damage()), (None, (1, 1, 0)));
    test.tick_after(Duration::from_secs(10));
    test.tick();
    assert_eq!(test.told().map(|told| told.tried), Some(vec![]));
    // A peer that is behind is asked again.
    test.order(0, Some(1));
    assert!(test.fetch().is_some());
    test.answer(FetchReply { replica: PEER, extent: ExtentIndex(0), result: Err(Refusal::Behind) });
    test.tick();
    assert!(test.fetch().is_some());
}

#[test]
fn a_write_onto_a_damaged_entry_is_refused_and_ends_nothing() {
    let mut test = Test::new(OFF);
    test.write(0, 16, 7);
    test.rot_entry(0);
    test.sent.clear();
    test.write(3, 1, 8);
    let refused = test.sent.iter().any(
        |message| matches!(message, Message::Refused(refused) if refused.reason == Refusal::Disk && refused.seq == Seq(2)),
    );
    assert!(refused, "{:?}", test.sent);
    assert_eq!(test.damage(), (1, 1, 0));
    // The gateway orders a resync; what is known to be damaged is pulled though the peer does not list it.
    let source = Source { node: NodeId(2), address: "peer:1".into(), replica: PEER };
    let session = test.session;
    test.open(session);
    test.say(Message::Resync(Resync {
        replica: ID,
        epoch: EPOCH,
        mode: ResyncMode::Round,
        common: Point { epoch: EPOCH, seq: Seq(1) },
        history: start(ID, EPOCH).history,
        join_at: Seq(3),
        source_mixed: false,
        source,
    }));
    let pull = test.pull.unwrap();
    let snapshots = SnapshotList { replica: PEER, result: Ok((Seq(2), vec![])) };
    test.node.on_peer_message(pull, Message::SnapshotList(snapshots), test.now).unwrap();
    test.pump();
    let list = ListReply { replica: PEER, result: Ok((Seq(2), vec![])) };
    test.node.on_peer_message(pull, Message::ListReply(list), test.now).unwrap();
    test.pump();
    test.give(0, 2, [8; 16]);
    assert_eq!(test.damage(), (0, 1, 1));
}

#[test]
fn a_device_that_does_not_give_data_is_damage_and_not_the_end() {
    let mut test = Test::new(OFF);
    test.write(0, 32, 7);
    let unreadable = Fault {
        operation: Operation::Read,
        name_prefix: "data".into(),
        after: 0,
        times: 2,
        effect: Effect::InputOutput,
    };
    test.faulty.inject(unreadable);
    assert!(matches!(test.read(16, 16), ReadResult::Mismatch { extent: ExtentIndex(1), .. }));
    assert_eq!(test.damage(), (0, 0, 0), "only a look makes it certain");
    test.tick();
    test.tick();
    assert_eq!(test.damage(), (1, 1, 0));
    assert_eq!(test.told().map(|told| (told.extent, told.version)), Some((ExtentIndex(1), Some(Seq(1)))));
}

#[test]
fn damage_without_a_gateway_stays_listed() {
    let mut test = Test::new(SCRUBS);
    test.write(0, 16, 7);
    test.node.on_session_closed(test.session);
    test.rot_block(0, 3);
    test.tick_after(Duration::from_secs(1));
    test.tick_after(Duration::from_secs(60));
    assert_eq!((test.damage(), test.told()), ((1, 1, 0), None));
    // As soon as one is there, it is told.
    let session = test.node.on_session(gateway(GATEWAY));
    test.open(session);
    test.tick();
    assert!(test.told().is_some());
}

#[test]
fn scrub_keeps_its_pace_gives_way_and_rests_between_laps() {
    let mut test = Test::new(SCRUBS);
    (0..128).for_each(|extent| test.write(extent * 16, 16, 1));
    let scrubbed = |test: &Test| test.node.engine().statistics().scrubbed_bytes;
    let run = |test: &mut Test, client: bool, ticks: u64| {
        let before = scrubbed(test);
        for _ in 0..ticks {
            if client {
                test.read(0, 1);
            }
            test.tick();
        }
        scrubbed(test) - before
    };
    let quiet = run(&mut test, false, 200);
    assert!((RATE * 8 / 10..=RATE * 11 / 10).contains(&quiet), "{quiet} in a second");
    let busy = run(&mut test, true, 200);
    assert!((RATE / 5..=RATE * 2 / 5).contains(&busy), "{busy} in a second with clients");
    // A pause of the whole process is not made up for.
    test.tick_after(Duration::from_secs(3600));
    let steps = test.scrub_steps;
    test.tick();
    assert!(test.scrub_steps <= steps + 1);
    run(&mut test, false, 1000);
    assert_eq!(test.node.scrub_laps().0, 1);
    let after_a_lap = scrubbed(&test);
    assert_eq!(run(&mut test, false, 200), 0, "the next lap begins a day after the first began");
    assert!(test.node.scrub_laps().1 >= Duration::from_secs(1));
    test.tick_after(DAY);
    assert!(scrubbed(&test) > after_a_lap);
}
