//! The engine against a dumb twin, an array of blocks and versions, over random operations, crashes and reopenings.

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quoin_disk::{Dir, MemDir};
use quoin_store::{
    ApplyJob, CheckpointJob, Engine, ExtentOutcome, Lsn, ReadOutcome, ReadPlan, SyncJob, View,
};
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
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
    SubmitThrough,
    FinishSync,
    StartApply,
    FinishApply,
    StartCheckpoint,
    FinishCheckpoint,
    PlanRead { id: u64, snapshot: Option<u64>, block: u64, count: u64 },
    FinishRead,
    ReadExtent { id: u64, extent: u32 },
    Snapshot { id: u64, snapshot: u64 },
    DeleteSnapshot { id: u64, snapshot: u64 },
    Clone { id: u64, source: u64, snapshot: u64 },
    Fold,
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
        3 => (id.clone(), 0..5u32, 0..60u64, prop_oneof![Just(0u16), any::<u16>()],
              prop_oneof![Just(0xffffu16), Just(0), any::<u16>()], 1..u64::MAX)
            .prop_map(|(id, extent, version, keep, zero_mask, value)|
                Op::PutExtent { id, extent, version, keep, zero_mask, value }),
        2 => (id.clone(), 0..3000usize, proptest::option::of(0..100u64))
            .prop_map(|(id, length, position)| Op::PutMeta { id, length, position }),
        2 => id.clone().prop_map(|id| Op::Create { id }),
        1 => id.clone().prop_map(|id| Op::Drop { id }),
        6 => Just(Op::Commit),
        5 => Just(Op::StartSync),
        5 => Just(Op::SubmitThrough),
        5 => Just(Op::FinishSync),
        5 => Just(Op::StartApply),
        5 => Just(Op::FinishApply),
        2 => Just(Op::StartCheckpoint),
        2 => Just(Op::FinishCheckpoint),
        4 => (id.clone(), proptest::option::of(1..5u64), block, 1..40u64)
            .prop_map(|(id, snapshot, block, count)| Op::PlanRead { id, snapshot, block, count }),
        3 => (id.clone(), 1..5u64).prop_map(|(id, snapshot)| Op::Snapshot { id, snapshot }),
        2 => (id.clone(), 1..5u64).prop_map(|(id, snapshot)| Op::DeleteSnapshot { id, snapshot }),
        2 => (id.clone(), id.clone(), 1..5u64)
            .prop_map(|(id, source, snapshot)| Op::Clone { id, source, snapshot }),
        4 => Just(Op::Fold),
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
    now: TwinState,
    /// By their ids, each whole.
    snapshots: BTreeMap<u64, TwinSnapshot>,
    /// Snapshots that are deleted, of which clones may be left.
    deleted: Vec<TwinSnapshot>,
    /// The snapshot that it is a clone of, by its seq, which no other one has.
    base: Option<u64>,
}

#[derive(Clone, PartialEq, Debug)]
struct TwinSnapshot {
    seq: u64,
    state: TwinState,
    /// The extents that were changed after it was made: what becomes of them now is not its concern.
    parted: BTreeSet<u32>,
}

#[derive(Clone, Default, PartialEq, Debug)]
struct TwinState {
    /// Zero for a block of zeros.
    blocks: BTreeMap<u64, u64>,
    versions: BTreeMap<u32, u64>,
    /// In a clone, the extents that are not as in the base any more.
    own: BTreeSet<u32>,
}

/// What is done to an extent.
type Change<'a> = &'a dyn Fn(&mut TwinState);

/// Changes an extent to a version. Snapshots that are older part with it first; others see the change, as what comes
/// late of the state that they were made of, and so do their clones.
fn change(twin: &mut Twin, id: u64, extent: u32, version: u64, change: Change) {
    let mut late = Vec::new();
    let replica = twin.get_mut(&id).unwrap();
    for snapshot in replica.snapshots.values_mut().chain(&mut replica.deleted) {
        if snapshot.seq < version {
            snapshot.parted.insert(extent);
        } else if !snapshot.parted.contains(&extent) {
            snapshot.state.change(extent, change);
            late.push(snapshot.seq);
        }
    }
    replica.now.change(extent, change);
    late.into_iter().for_each(|base| inherit(twin, base, extent, change));
}

/// The clones of a snapshot have changed where they are as it is, and so have theirs.
fn inherit(twin: &mut Twin, base: u64, extent: u32, change: Change) {
    let mut changed = Vec::new();
    for clone in twin.values_mut().filter(|replica| replica.base == Some(base)) {
        for snapshot in clone.snapshots.values_mut().chain(&mut clone.deleted) {
            if !snapshot.state.own.contains(&extent) {
                change(&mut snapshot.state);
                changed.push(snapshot.seq);
            }
        }
        if !clone.now.own.contains(&extent) {
            change(&mut clone.now);
        }
    }
    changed.into_iter().for_each(|base| inherit(twin, base, extent, change));
}

impl TwinReplica {
    fn view(&self, snapshot: Option<u64>) -> Option<&TwinState> {
        match snapshot {
            None => Some(&self.now),
            Some(id) => self.snapshots.get(&id).map(|snapshot| &snapshot.state),
        }
    }
}

impl TwinState {
    fn change(&mut self, extent: u32, change: Change) {
        change(self);
        self.own.insert(extent);
    }

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
    /// The twin after each record that may still be the last one found after a crash: one of these.
    history: BTreeMap<Lsn, Vec<Twin>>,
    /// Replicas that ever were.
    known_ids: BTreeSet<u64>,
    /// Clones that are there.
    clones: BTreeSet<u64>,
    /// Those of them that have, or had, to do with snapshots.
    layered: BTreeSet<u64>,
    accepted: Lsn,
    seq: u64,
    boot: u8,
    sync: Option<SyncJob>,
    apply: Option<ApplyJob>,
    checkpoint: Option<CheckpointJob>,
    reads: Vec<(u64, Option<u64>, u64, u64, ReadPlan)>,
}

impl World {
    fn new() -> Self {
        let dir = MemDir::new();
        format(&dir, CAPACITY_EXTENTS);
        let engine = open(&dir);
        let history = BTreeMap::from([(Lsn(0), vec![Twin::new()])]);
        Self {
            dir,
            engine,
            twin: Twin::new(),
            history,
            known_ids: BTreeSet::new(),
            clones: BTreeSet::new(),
            layered: BTreeSet::new(),
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
        self.history.insert(lsn, vec![self.twin.clone()]);
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
                    self.known_ids.insert(id);
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
            Op::SubmitThrough => {
                let through = self.engine.submit_through().unwrap().map(|(_, job)| job);
                self.sync = self.sync.take().or(through);
            }
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
            Op::PlanRead { id, snapshot, block, count } => self.plan_read(id, snapshot, block, count),
            Op::FinishRead => self.finish_read(),
            Op::ReadExtent { id, extent } => self.read_extent(id, extent),
            Op::Snapshot { id, snapshot } => self.snapshot(id, snapshot),
            Op::DeleteSnapshot { id, snapshot } => {
                let deleted = self.engine.delete_snapshot(ReplicaId(id), SnapshotId(snapshot));
                let known = self.twin.get_mut(&id).is_some_and(|replica| {
                    let known = replica.snapshots.remove(&snapshot);
                    let is_known = known.is_some();
                    replica.deleted.extend(known);
                    is_known
                });
                assert_eq!(deleted.is_ok(), known);
                if let Ok(lsn) = deleted {
                    self.record(lsn);
                }
            }
            Op::Clone { id, source, snapshot } => self.clone_replica(id, source, snapshot),
            Op::Fold => {
                if self.engine.fold().unwrap() {
                    self.record(Lsn(self.last().0 + 1));
                }
            }
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
        if !self.twin.contains_key(&id) {
            assert!(written.is_err());
            return;
        }
        assert!(written.is_ok() || free < u64::from(needed));
        let Ok(lsn) = written else { return };
        let seq = self.seq;
        for (block, value) in (block..).zip(values) {
            let extent = (block / 16) as u32;
            change(&mut self.twin, id, extent, seq, &|state| {
                state.set(block, value);
                state.versions.insert(extent, seq);
            });
        }
        self.twin.get_mut(&id).unwrap().position = seq;
        self.record(lsn);
    }

    fn snapshot(&mut self, id: u64, snapshot: u64) {
        self.seq += 1;
        let made = self.engine.create_snapshot(ReplicaId(id), SnapshotId(snapshot), Seq(self.seq));
        let Some(replica) = self.twin.get_mut(&id) else {
            assert!(made.is_err());
            return;
        };
        assert_eq!(made.is_ok(), !replica.snapshots.contains_key(&snapshot));
        let Ok(lsn) = made else { return };
        let state = replica.now.clone();
        self.layered.insert(id);
        replica.snapshots.insert(snapshot, TwinSnapshot { seq: self.seq, state, parted: BTreeSet::new() });
        replica.position = self.seq;
        self.record(lsn);
    }

    fn clone_replica(&mut self, id: u64, source: u64, snapshot: u64) {
        let meta = Bytes::from_static(b"clone");
        let made = self.engine.clone_replica(
            ReplicaId(id),
            SEGMENT_BLOCKS * BLOCK as u64,
            meta.clone(),
            ReplicaId(source),
            SnapshotId(snapshot),
        );
        let parent = self.twin.get(&source).and_then(|replica| replica.snapshots.get(&snapshot));
        assert!(made.is_err() || (parent.is_some() && !self.twin.contains_key(&id)));
        // An id that was dropped may still be known.
        assert!(made.is_ok() || parent.is_none() || self.known_ids.contains(&id));
        let (Ok(lsn), Some(parent)) = (made, parent) else { return };
        let now = TwinState { own: BTreeSet::new(), ..parent.state.clone() };
        let new =
            TwinReplica { meta, position: parent.seq, now, base: Some(parent.seq), ..TwinReplica::default() };
        self.twin.insert(id, new);
        self.known_ids.insert(id);
        self.clones.insert(id);
        self.layered.extend([id, source]);
        self.record(lsn);
    }

    fn zero(&mut self, id: u64, block: u64, count: u64) {
        let count = count.min(SEGMENT_BLOCKS - block);
        let before = self.last();
        self.seq += 1;
        let zeroed =
            self.engine.zero(ReplicaId(id), Seq(self.seq), block * BLOCK as u64, count * BLOCK as u64);
        if !self.twin.contains_key(&id) {
            assert!(zeroed.is_err());
            return;
        }
        let (lsn, end, seq) = (zeroed.unwrap(), block + count, self.seq);
        let is_whole = |b: &u64| b / 16 * 16 >= block && (b / 16 * 16 + 16).min(SEGMENT_BLOCKS) <= end;
        let zero = |twin: &mut Twin, whole: Option<u32>| {
            for block in (block..end).filter(|b| is_whole(b).then_some((b / 16) as u32) == whole) {
                let extent = (block / 16) as u32;
                change(twin, id, extent, seq, &|state| {
                    state.set(block, 0);
                    state.versions.insert(extent, seq);
                });
            }
        };
        // Whole extents first, with each record some of them: how many is the engine's business.
        let mut wholes: Vec<u32> = (block..end).filter(is_whole).map(|block| (block / 16) as u32).collect();
        wholes.dedup();
        let mut between = Vec::new();
        for extent in wholes {
            zero(&mut self.twin, Some(extent));
            between.push(self.twin.clone());
        }
        self.history.extend((before.0 + 1..lsn.0).map(|lsn| (Lsn(lsn), between.clone())));
        zero(&mut self.twin, None);
        self.twin.get_mut(&id).unwrap().position = seq;
        self.record(lsn);
    }

    fn put_extent(&mut self, id: u64, extent: u32, version: u64, keep: u16, mut zero_mask: u16, value: u64) {
        // Resync brings late what is older than the stream.
        let version = match version {
            0 => 0,
            ahead @ 1..30 => self.seq + ahead,
            behind => self.seq.saturating_sub(behind - 30).max(1),
        };
        if version == 0 {
            zero_mask = 0xffff;
            // In a clone, never touched means as in the base: no peer says that of what the base does not have.
            if self.clones.contains(&id) {
                return;
            }
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
        let Some(replica) = self.twin.get(&id) else {
            assert!(put.is_err());
            return;
        };
        assert!(put.is_ok() || free == 0);
        let Ok(lsn) = put else { return };
        let own = replica.now.versions.get(&extent).copied().unwrap_or(0);
        let kept = replica.now.clone();
        change(&mut self.twin, id, extent, version, &|state| {
            for i in 0..16 {
                let value = if keep >> i & 1 == 0 { value_of(i) } else { kept.block(first + i) };
                state.set(first + i, value);
            }
            state.versions.insert(extent, if keep == 0 { version } else { own.max(version) });
        });
        self.record(lsn);
    }

    fn plan_read(&mut self, id: u64, snapshot: Option<u64>, block: u64, count: u64) {
        let count = count.min(SEGMENT_BLOCKS - block);
        let (offset, length) = (block * BLOCK as u64, count * BLOCK as u64);
        let plan = self.engine.read(ReplicaId(id), view(snapshot), offset, length);
        assert_eq!(plan.is_ok(), self.twin_state(id, snapshot).is_some());
        self.reads.extend(plan.ok().map(|plan| (id, snapshot, block, count, plan)));
    }

    fn twin_state(&self, id: u64, snapshot: Option<u64>) -> Option<&TwinState> {
        self.twin.get(&id)?.view(snapshot)
    }

    /// A read that was planned before other things happened is never told of damage, and a retry sees what is now.
    fn finish_read(&mut self) {
        let Some((id, snapshot, block, count, mut plan)) = self.reads.pop() else { return };
        plan.run();
        match self.engine.finish_read(plan) {
            Err(_) => assert!(self.twin_state(id, snapshot).is_none()),
            Ok(ReadOutcome::Mismatch { block, .. }) => {
                panic!("block {block} of replica {id} reads as damaged")
            }
            Ok(ReadOutcome::Data { .. }) => {}
            Ok(ReadOutcome::Retry(_)) => {
                let expected = self.twin_state(id, snapshot).unwrap();
                let expected: Vec<u64> = (block..block + count).map(|block| expected.block(block)).collect();
                let found = try_read_view(&mut self.engine, ReplicaId(id), view(snapshot), block, count);
                assert_eq!(found.unwrap(), expected);
            }
        }
    }

    fn read_extent(&mut self, id: u64, extent: u32) {
        let Some(TwinReplica { now, .. }) = self.twin.get(&id) else { return };
        let mut plan = self.engine.read_extent(ReplicaId(id), View::Live, ExtentIndex(extent)).unwrap();
        plan.run();
        let ExtentOutcome::Data(content) = self.engine.finish_extent(plan).unwrap() else {
            panic!("extent {extent} of replica {id} cannot be read");
        };
        assert_eq!(content.version.0, now.versions.get(&extent).copied().unwrap_or(0));
        let mut data = content.data.chunks(BLOCK);
        for i in 0..16 {
            let expected = now.block(u64::from(extent) * 16 + i);
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
        let candidates = self.history.remove(&opened.end).expect("the end of some record");
        let looks_like = |engine: &mut Engine, twin: &Twin| observe(engine) == seen(twin);
        let twin = candidates.iter().find(|twin| looks_like(&mut self.engine, twin));
        self.twin = twin.unwrap_or(&candidates[0]).clone();
        self.history = BTreeMap::from([(opened.end, vec![self.twin.clone()])]);
        self.accepted = opened.end;
        self.check();
        opened
    }

    fn check(&mut self) {
        assert_eq!(observe(&mut self.engine), seen(&self.twin));
        for (id, replica) in &self.twin {
            let allocated = self.engine.replica(ReplicaId(*id)).unwrap().extents_allocated;
            assert!(self.layered.contains(id) || allocated == replica.now.allocated());
        }
    }

    /// With no snapshots or clones left, nothing in flight and a checkpoint made, exactly the slots of the twin's extents
    /// are used.
    fn check_space(&mut self) {
        let image: Arc<dyn Dir> = Arc::new(self.dir.process_crash());
        assert_eq!(quoin_store::check(&image, &mut |_| ()).unwrap().problems, vec![]);
        while let Some(id) = self.clones.pop_last() {
            self.run(&Op::Drop { id });
        }
        for id in self.twin.keys().copied().collect::<Vec<_>>() {
            for snapshot in 1..5 {
                self.run(&Op::DeleteSnapshot { id, snapshot });
            }
        }
        // The first round lets dropped replicas go, the second what they were clones of, and so on.
        for _ in 0..6 {
            while self.engine.fold().unwrap() {
                self.record(Lsn(self.last().0 + 1));
            }
            (self.sync, self.apply, self.checkpoint) = (None, None, None);
            self.reads.clear();
            self.accepted = self.engine.commit().unwrap();
            let image = self.dir.process_crash();
            self.reopen(image, None);
        }
        let used: u64 = self.twin.values().map(|replica| replica.now.allocated()).sum();
        assert_eq!(self.engine.space().used_bytes, used * EXTENT);
    }
}

fn view(snapshot: Option<u64>) -> View {
    snapshot.map_or(View::Live, |snapshot| View::Snapshot(SnapshotId(snapshot)))
}

/// All that can be seen of a replica: meta, position, and the blocks and changed extents of each of its states.
type Seen = BTreeMap<u64, (Bytes, u64, BTreeMap<Option<u64>, (Vec<u64>, Vec<(u32, u64)>)>)>;

fn seen(twin: &Twin) -> Seen {
    let state = |state: &TwinState| {
        let blocks = (0..SEGMENT_BLOCKS).map(|block| state.block(block)).collect();
        let versions = state.versions.iter().filter(|(_, version)| **version > 0);
        (blocks, versions.map(|(extent, version)| (*extent, *version)).collect())
    };
    let replica = |replica: &TwinReplica| {
        let snapshots = replica.snapshots.iter().map(|(id, snapshot)| (Some(*id), state(&snapshot.state)));
        let states = snapshots.chain([(None, state(&replica.now))]).collect();
        (replica.meta.clone(), replica.position, states)
    };
    twin.iter().map(|(id, it)| (*id, replica(it))).collect()
}

fn observe(engine: &mut Engine) -> Seen {
    let ids: Vec<ReplicaId> = engine.replicas().map(|(id, _)| id).collect();
    let mut seen = Seen::new();
    for id in ids {
        let snapshots = engine.snapshots(id).unwrap();
        let views: Vec<Option<u64>> =
            snapshots.iter().map(|snapshot| Some(snapshot.id.0)).chain([None]).collect();
        let states = views.iter().map(|snapshot| (*snapshot, observe_view(engine, id, view(*snapshot))));
        let states = states.collect();
        let replica = engine.replica(id).unwrap();
        seen.insert(id.0, (replica.meta.clone(), replica.position.0, states));
    }
    seen
}

fn observe_view(engine: &mut Engine, id: ReplicaId, view: View) -> (Vec<u64>, Vec<(u32, u64)>) {
    let blocks = try_read_view(engine, id, view, 0, SEGMENT_BLOCKS).unwrap();
    let mut versions: Vec<(u32, u64)> = Vec::new();
    loop {
        let from = ExtentIndex(versions.last().map_or(0, |(extent, _)| extent + 1));
        let page = engine.changed_since(id, view, Seq(0), from, 2).unwrap();
        if page.is_empty() {
            break;
        }
        versions.extend(page.iter().map(|(extent, version)| (extent.0, version.0)));
    }
    for since in versions.iter().map(|(_, version)| *version) {
        let count = versions.iter().filter(|(_, version)| *version > since).count() as u64;
        assert_eq!(engine.count_changed_since(id, view, Seq(since)).unwrap(), count);
    }
    (blocks, versions)
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
