//! Volumes over real storage nodes, in one thread: every byte is compared with a plain array of bytes, whatever happens
//! to the nodes meanwhile.

mod world;

use bytes::Bytes;
use quoin_gateway::core::{ClientOperation, Reply, StatusExtent, Ticket};
use quoin_replication::writer::Failure;
use quoin_storage_node::node::KeptSnapshots;
use quoin_store::View;
use quoin_types::block::BlockState;
use quoin_types::{Durability, Epoch, NodeId, SnapshotId};
use std::collections::BTreeMap;
use std::time::Duration;
use world::{Random, VOLUME, World};

const SEGMENT_BYTES: u64 = 256 << 10;
const SEGMENTS: u32 = 3;
const SIZE: u64 = SEGMENT_BYTES * SEGMENTS as u64;

/// The dumb twin: an array of bytes, and for each what else it may be while changes of unknown outcome are about.
#[derive(Clone)]
struct Twin {
    bytes: Vec<u8>,
    maybe: BTreeMap<u64, Vec<u8>>,
}

impl Twin {
    fn new() -> Self {
        Self { bytes: vec![0; SIZE as usize], maybe: BTreeMap::new() }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        for at in offset..offset + data.len() as u64 {
            self.maybe.remove(&at);
        }
    }

    fn may_write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            self.maybe.entry(at).or_default().push(*byte);
        }
    }

    /// Checks what was read. What was read once stays: another outcome must not be seen later.
    fn check(&mut self, offset: u64, data: &[u8], seed: u64) {
        for (at, byte) in (offset..).zip(data) {
            let known = &mut self.bytes[at as usize];
            if byte != known {
                let other = self.maybe.remove(&at).unwrap_or_default();
                assert!(
                    other.contains(byte),
                    "seed {seed}: byte {at} is {byte}, expected {known} or one of {other:?}"
                );
                *known = *byte;
            }
        }
    }
}

struct Pending {
    offset: u64,
    change: Option<Vec<u8>>,
    length: u64,
    /// Of a question about blocks.
    about: Vec<Option<SnapshotId>>,
}

impl Pending {
    fn new(offset: u64, change: Option<Vec<u8>>, length: u64) -> Self {
        Self { offset, change, length, about: Vec::new() }
    }
}

struct Run {
    seed: u64,
    world: World,
    random: Random,
    twin: Twin,
    pending: BTreeMap<u64, Pending>,
    rotted: u64,
    snapshots: Snapshots,
}

/// The snapshots of a run, as the cluster manager knows them.
#[derive(Default)]
struct Snapshots {
    last: u64,
    /// Being taken in this attachment; with what the volume was when it was asked for, while nothing else was under way.
    taking: BTreeMap<SnapshotId, Option<Twin>>,
    ready: BTreeMap<SnapshotId, Option<Twin>>,
}

impl Run {
    fn new(seed: u64, nodes: usize, durability: Durability) -> Self {
        Self {
            seed,
            world: World::new(seed, nodes, SEGMENTS, SEGMENT_BYTES, durability),
            random: Random::new(seed ^ 0xABCD),
            twin: Twin::new(),
            pending: BTreeMap::new(),
            rotted: 0,
            snapshots: Snapshots::default(),
        }
    }

    /// A range, of any alignment, that touches nothing under way: what overlapping requests do is for the checker of
    /// histories, not for this one.
    fn free_range(&mut self, aligned: bool) -> Option<(u64, u64)> {
        let grain = if aligned { 4096 } else { 1 };
        let longest = [100, 5000, 70_000, 300_000][self.random.below(4) as usize];
        let length = (self.random.below(longest) + 1).next_multiple_of(grain);
        let offset = self.random.below(SIZE - length) / grain * grain;
        let overlaps =
            |other: &Pending| other.offset < offset + length && offset < other.offset + other.length;
        (!self.pending.values().any(overlaps)).then_some((offset, length))
    }

    fn submit(&mut self) {
        let aligned = self.random.below(2) == 0;
        let Some((offset, length)) = self.free_range(aligned) else { return };
        let durable = self.random.below(8) == 0;
        let fill = self.random.below(255) as u8 + 1;
        let (operation, change) = match self.random.below(12) {
            0..=4 => {
                let data: Vec<u8> = (0..length).map(|at| fill.wrapping_add((at / 512) as u8)).collect();
                let operation = ClientOperation::Write { offset, data: Bytes::from(data.clone()), durable };
                (operation, Some(data))
            }
            5 => {
                let allocate = self.random.below(3) == 0;
                let operation = ClientOperation::Zero { offset, length, durable, allocate };
                (operation, Some(vec![0; length as usize]))
            }
            6 => {
                // Whole blocks read as zeros after a trim; parts of blocks are left as they are.
                let (first, end) = (offset.next_multiple_of(4096), (offset + length) / 4096 * 4096);
                if first >= end {
                    return;
                }
                let ticket = self.world.submit(ClientOperation::Trim { offset, length, durable });
                let change = Some(vec![0; (end - first) as usize]);
                self.pending.insert(ticket.0, Pending::new(first, change, end - first));
                return;
            }
            7 => {
                let ticket = self.world.submit(ClientOperation::Flush);
                self.pending.insert(ticket.0, Pending::new(0, None, 0));
                return;
            }
            8 => {
                let newest = self.snapshots.ready.keys().next_back().copied();
                let about: Vec<_> =
                    [None, newest].into_iter().take(1 + usize::from(newest.is_some())).collect();
                let ticket =
                    self.world.submit(ClientOperation::Status { offset, length, about: about.clone() });
                self.pending.insert(ticket.0, Pending { about, ..Pending::new(offset, None, length) });
                return;
            }
            _ => (ClientOperation::Read { offset, length: length as u32 }, None),
        };
        let ticket = self.world.submit(operation);
        self.pending.insert(ticket.0, Pending::new(offset, change, length));
    }

    fn take_replies(&mut self) {
        for (ticket, reply) in std::mem::take(&mut self.world.replies) {
            self.take_reply(ticket, reply);
        }
    }

    fn take_reply(&mut self, ticket: Ticket, reply: Result<Reply, Failure>) {
        let Some(pending) = self.pending.remove(&ticket.0) else { return };
        match (reply, pending.change) {
            (Ok(Reply::Done), Some(data)) => self.twin.write(pending.offset, &data),
            (Ok(Reply::Done), None) => {
                assert_eq!(pending.length, 0, "seed {}: a read without data", self.seed);
            }
            (Ok(Reply::Read(data)), None) => {
                let data: Vec<u8> = data.into_iter().flatten().collect();
                assert_eq!(data.len() as u64, pending.length, "seed {}", self.seed);
                self.twin.check(pending.offset, &data, self.seed);
            }
            (Ok(Reply::Status(answers)), None) => {
                assert_eq!(answers.len(), pending.about.len(), "seed {}", self.seed);
                for (extents, since) in answers.iter().zip(&pending.about) {
                    self.check_status(pending.offset, pending.length, extents, *since);
                }
            }
            (Err(Failure::NoSnapshot), None) => {
                let wanted = |id: &SnapshotId| self.snapshots.ready.contains_key(id);
                assert!(!pending.about.iter().flatten().all(wanted), "seed {}: it is there", self.seed);
            }
            (reply, _) => panic!("seed {}: request {ticket:?} ended with {reply:?}", self.seed),
        }
    }

    /// What is told to be zeros must be zeros, and what differs from the snapshot must be told to have changed.
    fn check_status(
        &mut self,
        offset: u64,
        length: u64,
        extents: &[StatusExtent],
        since: Option<SnapshotId>,
    ) {
        let told: u64 = extents.iter().map(|extent| extent.length).sum();
        assert!(told > 0 && told <= length, "seed {}: {told} of {length} bytes told", self.seed);
        let snapshot = since.and_then(|id| self.snapshots.ready.get(&id).cloned().flatten());
        let mut at = offset;
        for StatusExtent { length, state } in extents {
            for byte in at..at + length {
                let now = self.twin.bytes[byte as usize];
                let is_sure = !self.twin.maybe.contains_key(&byte);
                match state {
                    BlockState::Hole | BlockState::Zero if is_sure => {
                        assert_eq!(now, 0, "seed {}: byte {byte} is told to be a zero", self.seed);
                    }
                    BlockState::Unchanged if is_sure => {
                        let then = snapshot.as_ref().filter(|twin| !twin.maybe.contains_key(&byte));
                        let same = then.is_none_or(|twin| twin.bytes[byte as usize] == now);
                        assert!(same, "seed {}: byte {byte} has changed since", self.seed);
                    }
                    _ => {}
                }
            }
            at += length;
        }
    }

    /// While no gateway has started its epoch nobody can repair anything, so that an attach gets round damage on one node
    /// and no more. Some writes are under way then, and the replicas differ.
    fn rot_once_before_an_attach(&mut self) {
        self.world.heal();
        self.world.mend();
        self.take_replies();
        let in_map = self.random.below(2) == 0;
        self.rotted += u64::from(self.world.rot(in_map));
        for _ in 0..self.random.below(100) {
            if self.pending.len() < 12 {
                self.submit();
            }
            self.world.step();
            self.take_replies();
        }
    }

    /// Waits for every request that is under way.
    fn finish_changes(&mut self) {
        self.world.heal();
        while let Some((ticket, _)) = self.pending.first_key_value() {
            let ticket = Ticket(*ticket);
            let reply = self.world.answer(ticket);
            self.take_reply(ticket, reply);
        }
    }

    /// The cluster manager wants a snapshot taken. It is placed at once if no attach is under way; then what it must hold is
    /// known, if no change is.
    fn take_snapshot(&mut self) {
        self.snapshots.last += 1;
        let is_known =
            self.world.is_in_sync() && self.pending.values().all(|pending| pending.change.is_none());
        let twin = is_known.then(|| self.twin.clone());
        self.snapshots.taking.insert(SnapshotId(self.snapshots.last), twin);
        let taking: Vec<SnapshotId> = self.snapshots.taking.keys().copied().collect();
        self.world.take_snapshots(&taking);
    }

    fn commit_snapshots(&mut self) {
        for id in self.world.durable_snapshots() {
            if let Some(twin) = self.snapshots.taking.remove(&id) {
                self.snapshots.ready.insert(id, twin);
            }
        }
    }

    /// The cluster manager deletes a snapshot, and those that no attachment takes any more; one node hears of it now.
    fn delete_a_snapshot(&mut self) {
        let count = self.snapshots.ready.len() as u64;
        if count > 0 {
            let at = self.random.below(count) as usize;
            let id = *self.snapshots.ready.keys().nth(at).unwrap();
            self.snapshots.ready.remove(&id);
        }
        let node = self.random.below(self.world.nodes() as u64) as usize;
        self.tell_kept(Some(node));
    }

    fn tell_kept(&mut self, node: Option<usize>) {
        let ids = self.snapshots.ready.keys().chain(self.snapshots.taking.keys()).copied().collect();
        let kept = KeptSnapshots { ids, up_to: SnapshotId(self.snapshots.last) };
        self.world.keep_snapshots(kept, node);
    }

    /// Every snapshot is on all nodes, and the same, bit for bit, as what the volume was.
    fn check_snapshots(&mut self) {
        self.commit_snapshots();
        assert!(self.snapshots.taking.is_empty(), "seed {}: not durable", self.seed);
        self.tell_kept(None);
        let expected: Vec<SnapshotId> = self.snapshots.ready.keys().copied().collect();
        for (index, segments) in self.world.snapshots().into_iter().enumerate() {
            for (segment, found) in segments.into_iter().enumerate() {
                assert_eq!(found, expected, "seed {}: node {index}, segment {segment}", self.seed);
            }
        }
        for (id, twin) in std::mem::take(&mut self.snapshots.ready) {
            let contents = self.world.contents_of(View::Snapshot(id));
            for (index, content) in contents.iter().enumerate() {
                let differs = content.iter().zip(&contents[0]).position(|(a, b)| a != b);
                assert_eq!(differs, None, "seed {}: snapshot {id} on node {index} differs", self.seed);
            }
            if let Some(mut twin) = twin {
                twin.check(0, &contents[0], self.seed);
            }
        }
    }

    /// The gateway's process is gone: what was under way may or may not have been done.
    fn forget_pending(&mut self) {
        self.take_replies();
        for (_, pending) in std::mem::take(&mut self.pending) {
            if let Some(data) = pending.change {
                self.twin.may_write(pending.offset, &data);
            }
        }
        // Those that were not durable are given up with the attachment.
        self.commit_snapshots();
        self.snapshots.taking.clear();
    }

    fn finish(mut self) {
        self.finish_changes();
        for offset in (0..SIZE).step_by(1 << 16) {
            let ticket = self.world.submit(ClientOperation::Read { offset, length: 1 << 16 });
            let Ok(Reply::Read(data)) = self.world.answer(ticket) else { panic!("seed {}", self.seed) };
            let data: Vec<u8> = data.into_iter().flatten().collect();
            self.twin.check(offset, &data, self.seed);
        }
        let ticket = self.world.submit(ClientOperation::Flush);
        assert_eq!(self.world.answer(ticket), Ok(Reply::Done));
        self.world.heal();
        if self.rotted > 0 {
            self.world.mend();
        }
        self.check_snapshots();
        for (index, content) in self.world.contents().into_iter().enumerate() {
            let differs = content.iter().zip(&self.twin.bytes).position(|(a, b)| a != b);
            assert_eq!(differs, None, "seed {}: node {index} differs from what was read", self.seed);
        }
    }
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    match std::env::var("QUOIN_TEST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("QUOIN_TEST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => {
            let count =
                std::env::var("QUOIN_TEST_SEEDS").map_or(default, |count| count.parse().expect("a number"));
            let first =
                std::env::var("QUOIN_TEST_SEED_FROM").map_or(0, |first| first.parse().expect("a number"));
            first..first + count
        }
    }
}

#[test]
fn healthy_volumes_hold_every_byte() {
    for seed in seeds(8) {
        let mut run = Run::new(seed, 1 + seed as usize % 3, Durability::Flush);
        for _ in 0..4000 {
            if run.random.below(12) == 0 && run.pending.len() < 8 {
                run.submit();
            }
            run.world.step();
            run.take_replies();
        }
        run.finish();
    }
}

/// What may go wrong, each with its chance in 10,000 steps.
#[derive(Default)]
struct Faults {
    crash: u64,
    power: u64,
    disconnect: u64,
    gateway: u64,
    rot: u64,
    snapshot: u64,
}

fn play(seed: u64, durability: Durability, faults: &Faults) {
    let mut run = Run::new(seed, 3, durability);
    for _ in 0..12_000 {
        if run.pending.len() < 12 && run.random.below(4) == 0 {
            run.submit();
        }
        let dice = run.random.below(10_000);
        let crash = faults.crash;
        let power = crash + faults.power;
        let disconnect = power + faults.disconnect;
        let gateway = disconnect + faults.gateway;
        let rot = gateway + faults.rot;
        let snapshot = rot + faults.snapshot;
        if dice < crash {
            run.world.kill_for_a_while(false);
        } else if dice < power {
            // One at a time: accepted writes survive on the others.
            run.world.heal();
            run.take_replies();
            run.world.kill_for_a_while(true);
        } else if dice < disconnect {
            let node = run.random.below(run.world.nodes() as u64) as usize;
            run.world.disconnect(node);
        } else if dice < gateway {
            if faults.rot > 0 {
                run.rot_once_before_an_attach();
            }
            run.forget_pending();
            run.world.restart_gateway();
        } else if dice < rot && run.world.is_in_sync() {
            let in_map = run.random.below(2) == 0;
            run.rotted += u64::from(run.world.rot(in_map));
        } else if (rot..snapshot).contains(&dice) {
            match run.random.below(4) {
                0 => run.delete_a_snapshot(),
                1 => {
                    run.finish_changes();
                    run.take_snapshot();
                }
                _ => run.take_snapshot(),
            }
        }
        run.commit_snapshots();
        run.world.step();
        run.take_replies();
    }
    run.finish();
}

#[test]
fn nodes_that_crash_and_come_back_change_nothing() {
    for seed in seeds(16) {
        let durability = if seed % 3 == 0 { Durability::WriteThrough } else { Durability::Flush };
        play(1_000 + seed, durability, &Faults { crash: 30, disconnect: 10, ..Faults::default() });
    }
}

#[test]
fn a_gateway_that_crashes_loses_nothing_acknowledged() {
    for seed in seeds(16) {
        play(2_000 + seed, Durability::Flush, &Faults { crash: 20, gateway: 10, ..Faults::default() });
    }
}

#[test]
fn one_machine_may_lose_its_power() {
    for seed in seeds(16) {
        play(3_000 + seed, Durability::Flush, &Faults { power: 10, gateway: 4, ..Faults::default() });
    }
}

#[test]
fn snapshots_are_the_same_everywhere_whatever_crashes() {
    for seed in seeds(16) {
        let durability = if seed % 3 == 0 { Durability::WriteThrough } else { Durability::Flush };
        let faults = match seed % 4 {
            0 => Faults { crash: 40, disconnect: 10, ..Faults::default() },
            1 => Faults { crash: 20, gateway: 8, ..Faults::default() },
            2 => Faults { power: 10, gateway: 4, ..Faults::default() },
            _ => Faults { crash: 30, disconnect: 20, gateway: 4, ..Faults::default() },
        };
        play(7_000 + seed, durability, &Faults { snapshot: 30, ..faults });
    }
}

#[test]
fn what_rots_is_found_and_repaired_and_no_client_notices() {
    for seed in seeds(24) {
        let durability = if seed % 3 == 0 { Durability::WriteThrough } else { Durability::Flush };
        play(4_000 + seed, durability, &Faults { rot: 60, ..Faults::default() });
    }
}

#[test]
fn rot_and_broken_sessions_and_gateways_that_crash() {
    for seed in seeds(24) {
        play(
            5_000 + seed,
            Durability::Flush,
            &Faults { rot: 40, disconnect: 10, gateway: 5, ..Faults::default() },
        );
    }
}

#[test]
fn rot_is_repaired_without_any_client_at_work() {
    for seed in seeds(4) {
        let mut run = Run::new(6_000 + seed, 3, Durability::Flush);
        for offset in (0..SIZE).step_by(1 << 16) {
            let data: Vec<u8> = (0..1 << 16).map(|at| (offset >> 16) as u8 ^ (at / 300) as u8).collect();
            run.twin.write(offset, &data);
            let data = Bytes::from(data);
            let ticket = run.world.submit(ClientOperation::Write { offset, data, durable: true });
            assert_eq!(run.world.answer(ticket), Ok(Reply::Done));
        }
        run.world.mend();
        let extents = SEGMENT_BYTES >> 16;
        for (segment, extent) in
            (0..SEGMENTS as usize).flat_map(|segment| (0..extents).map(move |e| (segment, e)))
        {
            run.rotted += u64::from(run.world.rot_at(1, segment, extent, (extent + seed).is_multiple_of(2)));
        }
        assert_eq!(run.rotted, SIZE >> 16);
        run.world.mend();
        assert_eq!(run.world.damage(1), (SIZE >> 16, SIZE >> 16));
        assert_eq!(run.world.damage(0), (0, 0));
        run.finish();
    }
}

/// What earlier attachments wrote may be in any segment: until all of them began, no flush is answered, whatever flushes wait
/// already. (Simulator: scenario power, seed 18.)
#[test]
fn a_flush_behind_one_that_waits_for_the_attachment_waits_too() {
    let mut world = World::new(1, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    let tickets = [world.submit(ClientOperation::Flush), world.submit(ClientOperation::Flush)];
    assert!(world.replies.is_empty(), "nothing is attached yet: {:?}", world.replies);
    for ticket in tickets {
        assert_eq!(world.answer(ticket), Ok(Reply::Done));
    }
}

/// Ticks as often as there is reason to, and no less often while a copy lags or a client asks.
#[test]
fn leases_that_nobody_uses_are_renewed_half_as_often() {
    const BUSY: Option<Duration> = Some(Duration::from_millis(2));
    const USUAL: Option<Duration> = Some(Duration::from_millis(6));
    const CALM: Option<Duration> = Some(Duration::from_millis(12));
    fn run_until(world: &mut World, every: Option<Duration>) {
        let mut steps = 0..400_000;
        assert!(
            steps.any(|_| world.core.tick_every() == every || {
                world.step();
                false
            }),
            "never {every:?}"
        );
    }
    let mut world = World::new(3, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    world.heal();
    run_until(&mut world, CALM);
    // What comes then is answered, and some heartbeats later it is calm again.
    let ticket = world.submit(ClientOperation::Read { offset: 0, length: 1 << 12 });
    assert_eq!(world.core.tick_every(), BUSY);
    assert!(matches!(world.answer(ticket), Ok(Reply::Read(_))));
    run_until(&mut world, USUAL);
    run_until(&mut world, CALM);
    world.kill(0, false);
    run_until(&mut world, USUAL);
    for _ in 0..4000 {
        world.step();
        assert_ne!(world.core.tick_every(), CALM, "a copy is missing");
    }
    world.start(0);
    run_until(&mut world, CALM);
    // Without volumes there is nothing to do until there is one, once the sessions have ended.
    world.core.detach(VOLUME, world.now);
    (1..=3).for_each(|node| world.core.on_session_down(NodeId(node), world.now));
    world.core.tick(world.now);
    assert_eq!(world.core.tick_every(), None);
}

fn done(world: &mut World, operation: ClientOperation) {
    let ticket = world.submit(operation);
    assert_eq!(world.answer(ticket), Ok(Reply::Done));
}

fn told(world: &mut World, offset: u64, length: u64) -> Vec<(u64, BlockState)> {
    let ticket = world.submit(ClientOperation::Status { offset, length, about: vec![None] });
    let Ok(Reply::Status(answers)) = world.answer(ticket) else { panic!("what the blocks are") };
    answers[0].iter().map(|extent| (extent.length, extent.state)).collect()
}

/// `NBD_FLAG_CAN_MULTI_CONN`: the core knows no connections, so that a flush covers what was answered on any of them. All
/// machines lose their power at once.
#[test]
fn a_flush_covers_what_was_answered_to_others() {
    let mut world = World::new(2, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    for segment in 0..u64::from(SEGMENTS) {
        let (offset, data) = (segment * SEGMENT_BYTES + 300, Bytes::from(vec![7; 9000]));
        done(&mut world, ClientOperation::Write { offset, data, durable: false });
    }
    done(&mut world, ClientOperation::Flush);
    (0..3).for_each(|node| world.kill(node, true));
    (0..3).for_each(|node| world.start(node));
    world.restart_gateway_after_outage();
    world.heal();
    assert!(world.core.reports()[0].lossy, "accepted writes may have been lost, flushed ones may not");
    for segment in 0..u64::from(SEGMENTS) {
        let ticket =
            world.submit(ClientOperation::Read { offset: segment * SEGMENT_BYTES + 300, length: 9000 });
        let Ok(Reply::Read(data)) = world.answer(ticket) else { panic!("data") };
        assert!(data.into_iter().flatten().all(|byte| byte == 7));
    }
}

/// A2: a client that asks again after a restart, and relies on what it was told before, is to hear nothing of an attachment
/// that lacks some of it.
#[test]
fn a_lossy_attachment_breaks_the_run_before_it_answers_anything() {
    let mut world = World::new(2, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    done(&mut world, ClientOperation::Write { offset: 0, data: Bytes::from(vec![7; 4096]), durable: false });
    let unbroken_since = |world: &World| world.core.attachment(VOLUME).unwrap().unbroken_since;
    world.restart_gateway();
    done(&mut world, ClientOperation::Flush);
    assert_eq!((unbroken_since(&world), world.lossy_after), (Epoch(1), None));
    (0..3).for_each(|node| world.kill(node, true));
    (0..3).for_each(|node| world.start(node));
    world.restart_gateway_after_outage();
    assert_eq!(unbroken_since(&world), Epoch(1), "what there is is not known yet");
    let requests = [ClientOperation::Read { offset: 0, length: 512 }, ClientOperation::Flush];
    let tickets = requests.map(|request| world.submit(request));
    world.heal();
    for ticket in tickets {
        assert!(world.answer(ticket).is_ok());
    }
    assert_eq!(world.lossy_after, Some(0), "how many answers came before");
    assert_eq!(unbroken_since(&world), Epoch(3));
}

/// A2: the replicas of an attachment that has begun do not tell what they lacked. So it does not begin before it is on record,
/// and a gateway that dies until then leaves the next one as it was.
#[test]
fn a_lossy_attachment_begins_when_it_is_on_record() {
    let mut world = World::new(4, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    done(&mut world, ClientOperation::Write { offset: 0, data: Bytes::from(vec![7; 4096]), durable: false });
    (0..3).for_each(|node| world.kill(node, true));
    (0..3).for_each(|node| world.start(node));
    world.records_loss = false;
    for _ in 0..2 {
        world.restart_gateway_after_outage();
        world.submit(ClientOperation::Flush);
        let lossy = (0..400_000).any(|_| {
            world.step();
            world.lossy_after.is_some()
        });
        assert!(lossy);
        // Enough to begin many times over.
        (0..2_000).for_each(|_| world.step());
        let report = &world.core.reports()[0];
        assert!(report.lossy && !report.available && world.replies.is_empty(), "{report:?}");
    }
    let ticket = world.submit(ClientOperation::Flush);
    world.record_loss();
    assert_eq!(world.answer(ticket), Ok(Reply::Done));
    // From now on nothing tells of it any more.
    world.records_loss = true;
    world.restart_gateway_after_outage();
    world.heal();
    assert_eq!(world.lossy_after, None);
}

#[test]
fn zeros_without_holes_take_space_and_holes_give_it_back() {
    let mut world = World::new(3, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    let zero = |allocate| ClientOperation::Zero { offset: 1000, length: 200_000, durable: false, allocate };
    done(&mut world, zero(true));
    let (first, last) = (told(&mut world, 0, 1 << 16), told(&mut world, 131_072, 1 << 16));
    assert!([first, last].iter().flatten().all(|(_, state)| *state != BlockState::Hole));
    done(&mut world, zero(false));
    assert_eq!(told(&mut world, 1 << 16, 1 << 16), [(1 << 16, BlockState::Hole)]);
}

/// The answer ends where the segment does; the client asks on.
#[test]
fn what_bytes_are_is_told_within_a_segment() {
    let mut world = World::new(4, 3, SEGMENTS, SEGMENT_BYTES, Durability::Flush);
    let data = Bytes::from(vec![9; 4096]);
    done(&mut world, ClientOperation::Write { offset: SEGMENT_BYTES - 4096, data, durable: false });
    let around = told(&mut world, SEGMENT_BYTES - 5000, 10_000);
    let (zeros, data) = (around[0], around[1]);
    assert_eq!((zeros.0, data), (904, (4096, BlockState::Data)));
    assert_ne!(zeros.1, BlockState::Data);
    assert_eq!(around.len(), 2);
    assert_eq!(told(&mut world, SEGMENT_BYTES, 5904), [(5904, BlockState::Hole)]);
}
