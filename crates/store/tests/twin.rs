//! The engine against a dumb twin, an array of blocks and versions, over random operations, crashes and reopenings.

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quoin_disk::MemDir;
use quoin_store::{ApplyJob, CheckpointJob, Engine, ExtentOutcome, Lsn, ReadOutcome, ReadPlan, SyncJob};
use quoin_types::{ExtentIndex, ReplicaId, Seq};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A segment of five extents and three blocks.
const SEGMENT_BLOCKS: u64 = 5 * 16 + 3;
const CAPACITY_EXTENTS: u64 = 40;

#[derive(Clone, Debug)]
enum Op {
    Write { id: u64, block: u64, count: u64, value: u64 },
    Zero { id: u64, block: u64, count: u64 },
    PutExtent { id: u64, extent: u32, version: u64, keep: u16, zero_mask: u16, value: u64 },
    PutMeta { id: u64, length: usize, position: Option<u64> },
    Create { id: u64 },
    Drop { id: u64 },
    Commit,
    StartSync,
    FinishSync,
    StartApply,
    FinishApply,
    StartCheckpoint,
    FinishCheckpoint,
    PlanRead { id: u64, block: u64, count: u64 },
    FinishRead,
    ReadExtent { id: u64, extent: u32 },
    Shutdown,
    ProcessCrash,
    PowerLoss { seed: u64 },
}

fn ops() -> impl Strategy<Value = Op> {
    let id = 1..4u64;
    let block = 0..SEGMENT_BLOCKS;
    prop_oneof![
        12 => (id.clone(), block.clone(), 1..24u64, 1..u64::MAX)
            .prop_map(|(id, block, count, value)| Op::Write { id, block, count, value }),
        8 => (id.clone(), 0..5u64, 16..24u64, 1..u64::MAX).prop_map(|(id, extent, count, value)|
            Op::Write { id, block: extent * 16, count, value }),
        4 => (id.clone(), block.clone(), 1..60u64).prop_map(|(id, block, count)| Op::Zero { id, block, count }),
        3 => (id.clone(), 0..5u32, 0..30u64, prop_oneof![Just(0u16), any::<u16>()],
              prop_oneof![Just(0xffffu16), Just(0), any::<u16>()], 1..u64::MAX)
            .prop_map(|(id, extent, version, keep, zero_mask, value)|
                Op::PutExtent { id, extent, version, keep, zero_mask, value }),
        2 => (id.clone(), 0..3000usize, proptest::option::of(0..100u64))
            .prop_map(|(id, length, position)| Op::PutMeta { id, length, position }),
        2 => id.clone().prop_map(|id| Op::Create { id }),
        1 => id.clone().prop_map(|id| Op::Drop { id }),
        6 => Just(Op::Commit),
        5 => Just(Op::StartSync),
        5 => Just(Op::FinishSync),
        5 => Just(Op::StartApply),
        5 => Just(Op::FinishApply),
        2 => Just(Op::StartCheckpoint),
        2 => Just(Op::FinishCheckpoint),
        4 => (id.clone(), block, 1..40u64).prop_map(|(id, block, count)| Op::PlanRead { id, block, count }),
        3 => Just(Op::FinishRead),
        2 => (id, 0..6u32).prop_map(|(id, extent)| Op::ReadExtent { id, extent }),
        1 => Just(Op::Shutdown),
        1 => Just(Op::ProcessCrash),
        2 => any::<u64>().prop_map(|seed| Op::PowerLoss { seed }),
    ]
}

#[derive(Clone, Default, PartialEq, Debug)]
struct TwinReplica {
    meta: Bytes,
    position: u64,
    /// Zero for a block of zeros.
    blocks: BTreeMap<u64, u64>,
    versions: BTreeMap<u32, u64>,
}

impl TwinReplica {
    fn block(&self, block: u64) -> u64 {
        self.blocks.get(&block).copied().unwrap_or(0)
    }

    fn set(&mut self, block: u64, value: u64) {
        if value == 0 {
            self.blocks.remove(&block);
        } else {
            self.blocks.insert(block, value);
        }
    }

    fn allocated(&self) -> u64 {
        let mut extents: Vec<u64> = self.blocks.keys().map(|block| block / 16).collect();
        extents.dedup();
        extents.len() as u64
    }
}

type Twin = BTreeMap<u64, TwinReplica>;

struct World {
    dir: MemDir,
    engine: Engine,
    twin: Twin,
    /// The twin after each record that may still be the last one found after a crash.
    history: BTreeMap<Lsn, Twin>,
    accepted: Lsn,
    seq: u64,
    boot: u8,
    sync: Option<SyncJob>,
    apply: Option<ApplyJob>,
    checkpoint: Option<CheckpointJob>,
    reads: Vec<(u64, u64, u64, ReadPlan)>,
}

impl World {
    fn new() -> Self {
        let dir = MemDir::new();
        format(&dir, CAPACITY_EXTENTS);
        let engine = open(&dir);
        let history = BTreeMap::from([(Lsn(0), Twin::new())]);
        Self {
            dir,
            engine,
            twin: Twin::new(),
            history,
            accepted: Lsn(0),
            seq: 0,
            boot: 1,
            sync: None,
            apply: None,
            checkpoint: None,
            reads: Vec::new(),
        }
    }

    fn record(&mut self, lsn: Lsn) {
        self.history.insert(lsn, self.twin.clone());
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Write { id, block, count, value } => self.write(id, block, count, value),
            Op::Zero { id, block, count } => self.zero(id, block, count),
            Op::PutExtent { id, extent, version, keep, zero_mask, value } => {
                self.put_extent(id, extent, version, keep, zero_mask, value);
            }
            Op::PutMeta { id, length, position } => {
                let meta = Bytes::from(vec![length as u8; length]);
                let Some(replica) = self.twin.get_mut(&id) else { return };
                replica.meta = meta.clone();
                replica.position = position.unwrap_or(replica.position);
                let lsn = self.engine.put_meta(ReplicaId(id), meta, position.map(Seq)).unwrap();
                self.record(lsn);
            }
            Op::Create { id } => {
                let meta = Bytes::from_static(b"new");
                if let Ok(lsn) =
                    self.engine.create_replica(ReplicaId(id), SEGMENT_BLOCKS * BLOCK as u64, meta.clone())
                {
                    let new = TwinReplica { meta, ..TwinReplica::default() };
                    assert!(self.twin.insert(id, new).is_none());
                    self.record(lsn);
                }
            }
            Op::Drop { id } => {
                let dropped = self.engine.drop_replica(ReplicaId(id));
                assert_eq!(dropped.is_ok(), self.twin.remove(&id).is_some());
                if let Ok(lsn) = dropped {
                    self.record(lsn);
                }
            }
            Op::Commit => self.accepted = self.engine.commit().unwrap(),
            Op::StartSync => self.sync = self.sync.take().or_else(|| self.engine.start_sync()),
            Op::FinishSync => {
                if let Some(job) = self.sync.take() {
                    let durable = self.engine.finish_sync(job.run()).unwrap();
                    assert!(durable <= self.last());
                }
            }
            Op::StartApply => self.apply = self.apply.take().or_else(|| self.engine.start_apply()),
            Op::FinishApply => {
                if let Some(job) = self.apply.take() {
                    self.engine.finish_apply(job.run()).unwrap();
                    assert!(self.engine.applied() <= self.engine.durable());
                }
            }
            Op::StartCheckpoint => {
                self.checkpoint = self.checkpoint.take().or_else(|| self.engine.start_checkpoint(true));
            }
            Op::FinishCheckpoint => {
                if let Some(job) = self.checkpoint.take() {
                    self.engine.finish_checkpoint(job.run()).unwrap();
                }
            }
            Op::PlanRead { id, block, count } => self.plan_read(id, block, count),
            Op::FinishRead => self.finish_read(),
            Op::ReadExtent { id, extent } => self.read_extent(id, extent),
            Op::Shutdown => self.shutdown(),
            Op::ProcessCrash => {
                let image = self.dir.process_crash();
                self.reopen(image, None);
            }
            Op::PowerLoss { seed } => {
                let image = self.dir.crash(seed);
                self.boot = self.boot.wrapping_add(1);
                self.reopen(image, Some(self.engine.durable()));
            }
        }
    }

    fn last(&self) -> Lsn {
        *self.history.last_key_value().unwrap().0
    }

    fn write(&mut self, id: u64, block: u64, count: u64, value: u64) {
        let count = count.min(SEGMENT_BLOCKS - block);
        let values: Vec<u64> = (0..count).map(|i| (value ^ i).max(1)).collect();
        self.seq += 1;
        let needed = self.engine.touched(ReplicaId(id), block * BLOCK as u64, count * BLOCK as u64);
        let free = self.engine.space().free_bytes / EXTENT;
        let written = write(&mut self.engine, ReplicaId(id), self.seq, block, &values);
        let Some(replica) = self.twin.get_mut(&id) else {
            assert!(written.is_err());
            return;
        };
        assert!(written.is_ok() || free < u64::from(needed));
        let Ok(lsn) = written else { return };
        for (block, value) in (block..).zip(values) {
            replica.set(block, value);
            replica.versions.insert((block / 16) as u32, self.seq);
        }
        replica.position = self.seq;
        self.record(lsn);
    }

    fn zero(&mut self, id: u64, block: u64, count: u64) {
        let count = count.min(SEGMENT_BLOCKS - block);
        let before = self.last();
        self.seq += 1;
        let zeroed =
            self.engine.zero(ReplicaId(id), Seq(self.seq), block * BLOCK as u64, count * BLOCK as u64);
        let Some(replica) = self.twin.get_mut(&id) else {
            assert!(zeroed.is_err());
            return;
        };
        let (lsn, end, seq) = (zeroed.unwrap(), block + count, self.seq);
        let is_whole = |b: &u64| b / 16 * 16 >= block && (b / 16 * 16 + 16).min(SEGMENT_BLOCKS) <= end;
        let zero = |replica: &mut TwinReplica, whole: bool| {
            for block in (block..end).filter(|b| is_whole(b) == whole) {
                replica.set(block, 0);
                replica.versions.insert((block / 16) as u32, seq);
            }
        };
        zero(replica, true);
        if lsn.0 > before.0 + 1 {
            let between = self.twin.clone();
            self.history.insert(Lsn(lsn.0 - 1), between);
        }
        let Some(replica) = self.twin.get_mut(&id) else { return };
        zero(replica, false);
        replica.position = seq;
        self.record(lsn);
    }

    fn put_extent(&mut self, id: u64, extent: u32, version: u64, keep: u16, mut zero_mask: u16, value: u64) {
        let version = if version == 0 { 0 } else { self.seq + version };
        if version == 0 {
            zero_mask = 0xffff;
        }
        let first = u64::from(extent) * 16;
        let value_of = |i: u64| if zero_mask >> i & 1 == 1 { 0 } else { (value ^ i).max(1) };
        let sent: Vec<u64> = (0..16).map(value_of).filter(|value| *value != 0).collect();
        let (sums, data) = blocks(&sent);
        let mut checksums = [0; 16];
        let present = (0..16).filter(|i| zero_mask >> i & 1 == 0);
        present.zip(sums).for_each(|(i, sum): (usize, u32)| checksums[i] = sum);
        let free = self.engine.space().free_bytes;
        let put = self.engine.put_extent(
            ReplicaId(id),
            ExtentIndex(extent),
            Seq(version),
            keep,
            &checksums,
            zero_mask,
            data,
        );
        let Some(replica) = self.twin.get_mut(&id) else {
            assert!(put.is_err());
            return;
        };
        assert!(put.is_ok() || free == 0);
        let Ok(lsn) = put else { return };
        for i in (0..16).filter(|i| keep >> i & 1 == 0) {
            replica.set(first + i, value_of(i));
        }
        let own = replica.versions.get(&extent).copied().unwrap_or(0);
        replica.versions.insert(extent, if keep == 0 { version } else { own.max(version) });
        self.record(lsn);
    }

    fn plan_read(&mut self, id: u64, block: u64, count: u64) {
        let count = count.min(SEGMENT_BLOCKS - block);
        let plan = self.engine.read(ReplicaId(id), block * BLOCK as u64, count * BLOCK as u64);
        assert_eq!(plan.is_ok(), self.twin.contains_key(&id));
        self.reads.extend(plan.ok().map(|plan| (id, block, count, plan)));
    }

    /// A read that was planned before other things happened is never told of damage, and a retry sees what is now.
    fn finish_read(&mut self) {
        let Some((id, block, count, mut plan)) = self.reads.pop() else { return };
        plan.run();
        match self.engine.finish_read(plan) {
            Err(_) => assert!(!self.twin.contains_key(&id)),
            Ok(ReadOutcome::Mismatch { block, .. }) => {
                panic!("block {block} of replica {id} reads as damaged")
            }
            Ok(ReadOutcome::Data { .. }) => {}
            Ok(ReadOutcome::Retry(_)) => self.check_read(id, block, count),
        }
    }

    fn check_read(&mut self, id: u64, first: u64, count: u64) {
        let expected: Vec<u64> = (first..first + count).map(|block| self.twin[&id].block(block)).collect();
        assert_eq!(read(&mut self.engine, ReplicaId(id), first, count), expected);
    }

    fn read_extent(&mut self, id: u64, extent: u32) {
        let Some(replica) = self.twin.get(&id) else { return };
        let mut plan = self.engine.read_extent(ReplicaId(id), ExtentIndex(extent)).unwrap();
        plan.run();
        let ExtentOutcome::Data(content) = self.engine.finish_extent(plan).unwrap() else {
            panic!("extent {extent} of replica {id} cannot be read");
        };
        assert_eq!(content.version.0, replica.versions.get(&extent).copied().unwrap_or(0));
        let mut data = content.data.chunks(BLOCK);
        for i in 0..16 {
            let expected = replica.block(u64::from(extent) * 16 + i);
            assert_eq!(content.zero_mask >> i & 1 == 1, expected == 0);
            if expected != 0 {
                assert!(data.next().unwrap() == block(expected));
            }
        }
        assert!(data.next().is_none());
    }

    fn shutdown(&mut self) {
        let image = self.dir.clone();
        let fresh = MemDir::new();
        format(&fresh, 1);
        std::mem::replace(&mut self.engine, open(&fresh)).shutdown().unwrap();
        self.accepted = self.last();
        let image = image.crash(1);
        self.boot = self.boot.wrapping_add(1);
        let opened = self.reopen(image, None);
        assert!(!opened.crashed && !opened.power_was_lost && opened.replayed_records == 0);
    }

    /// Opens what a crash left. What is found must be a prefix of the records: all accepted ones, or with `durable`
    /// all up to there.
    fn reopen(&mut self, image: MemDir, durable: Option<Lsn>) -> quoin_store::Opened {
        (self.sync, self.apply, self.checkpoint) = (None, None, None);
        self.reads.clear();
        let (mut engine, opened) = try_open(Arc::new(image.clone()), self.boot).unwrap();
        if opened.power_was_lost {
            engine.power_loss_noted().unwrap();
        }
        (self.dir, self.engine) = (image, engine);
        // A batch that grew too large, or a full journal, commits by itself.
        let least = durable.unwrap_or(self.accepted);
        assert!(opened.end >= least, "{} records found, of {least} at least", opened.end);
        assert!(opened.damaged.is_empty());
        self.twin = self.history.get(&opened.end).expect("the end of some record").clone();
        self.history = BTreeMap::from([(opened.end, self.twin.clone())]);
        self.accepted = opened.end;
        self.check();
        opened
    }

    fn check(&mut self) {
        let ids: Vec<u64> = self.engine.replicas().map(|(id, _)| id.0).collect();
        assert_eq!(ids, self.twin.keys().copied().collect::<Vec<_>>());
        for id in ids {
            let replica = self.twin[&id].clone();
            let view = self.engine.replica(ReplicaId(id)).unwrap();
            assert_eq!((view.meta, view.position.0), (&replica.meta, replica.position));
            assert_eq!(view.extents_allocated, replica.allocated());
            self.check_read(id, 0, SEGMENT_BLOCKS);
            for since in [0, self.seq / 2] {
                let expected = replica.versions.iter().filter(|(_, version)| **version > since);
                let expected: Vec<_> =
                    expected.map(|(extent, version)| (ExtentIndex(*extent), Seq(*version))).collect();
                let mut found = Vec::new();
                loop {
                    let from = found.last().map_or(0, |(extent, _): &(ExtentIndex, Seq)| extent.0 + 1);
                    let page =
                        self.engine.changed_since(ReplicaId(id), Seq(since), ExtentIndex(from), 2).unwrap();
                    if page.is_empty() {
                        break;
                    }
                    found.extend(page);
                }
                assert_eq!(found, expected);
                assert_eq!(
                    self.engine.count_changed_since(ReplicaId(id), Seq(since)).unwrap(),
                    found.len() as u64
                );
            }
        }
    }

    /// With nothing in flight and a checkpoint made, exactly the slots of the twin's extents are used.
    fn check_space(&mut self) {
        (self.sync, self.apply, self.checkpoint) = (None, None, None);
        self.reads.clear();
        let image = self.dir.process_crash();
        self.reopen(image, None);
        let used: u64 = self.twin.values().map(TwinReplica::allocated).sum();
        assert_eq!(self.engine.space().used_bytes, used * EXTENT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_is_its_twin(ops in proptest::collection::vec(ops(), 1..120)) {
        let mut world = World::new();
        world.run(&Op::Create { id: 1 });
        for op in ops {
            world.run(&op);
        }
        world.check();
        world.check_space();
    }
}
