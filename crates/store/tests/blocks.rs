//! What blocks are, told without their data: against what is read.

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quoin_disk::MemDir;
use quoin_store::{Engine, Error};
use quoin_types::block::{BlockRun, BlockState};
use quoin_types::{Seq, SnapshotId};

/// More than a chunk of a layer, and than one of a map.
const EXTENTS: u64 = 1100;
const SEGMENT: u64 = EXTENTS * EXTENT;
const BLOCKS: u64 = EXTENTS * 16;

fn disk() -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, 400);
    let mut engine = open(&dir);
    engine.create_replica(ONE, SEGMENT, Bytes::new()).unwrap();
    (dir, engine)
}

/// All blocks from `first` on, one by one, from as many answers as it takes.
fn states(engine: &Engine, since: Option<u64>, first: u64, count: u64) -> Vec<BlockState> {
    let mut states = Vec::new();
    while (states.len() as u64) < count {
        let (at, left) = (first + states.len() as u64, count - states.len() as u64);
        let runs = engine.block_runs(ONE, since.map(SnapshotId), at * 4096, left * 4096).unwrap();
        assert!(!runs.is_empty() && runs.len() <= 4096);
        assert!(runs.windows(2).all(|pair| pair[0].state != pair[1].state), "{runs:?}");
        runs.iter().for_each(|run| states.extend(vec![run.state; run.blocks as usize]));
    }
    assert_eq!(states.len() as u64, count);
    states
}

fn runs(list: &[(u32, BlockState)]) -> Vec<BlockRun> {
    list.iter().map(|(blocks, state)| BlockRun { blocks: *blocks, state: *state }).collect()
}

#[test]
fn data_zeros_and_holes_are_told_apart() {
    use BlockState::{Data, Hole, Zero};
    let (dir, mut engine) = disk();
    let whole = |engine: &Engine| engine.block_runs(ONE, None, 0, SEGMENT).unwrap();
    assert_eq!(whole(&engine), runs(&[(BLOCKS as u32, Hole)]));
    write(&mut engine, ONE, 1, 4, &[7; 12]).unwrap();
    checkpoint(&mut engine);
    write(&mut engine, ONE, 2, 16, &[7; 8]).unwrap();
    engine.zero(ONE, Seq(3), 6 * 4096, 4096).unwrap();
    let expected =
        runs(&[(4, Zero), (2, Data), (1, Zero), (17, Data), (8, Zero), (BLOCKS as u32 - 32, Hole)]);
    assert_eq!(whole(&engine), expected, "before it is written to the map");
    checkpoint(&mut engine);
    assert_eq!(whole(&engine), expected, "after");
    let (_, engine) = restart(&dir);
    assert_eq!(whole(&engine), expected, "after a restart");
    assert_eq!(engine.block_runs(ONE, None, 5 * 4096, 2 * 4096).unwrap(), runs(&[(1, Data), (1, Zero)]));
}

#[test]
fn trimmed_extents_are_holes_again() {
    let (_, mut engine) = disk();
    for extent in 0..3 {
        write(&mut engine, ONE, extent + 1, extent * 16, &[7; 16]).unwrap();
    }
    engine.zero(ONE, Seq(4), EXTENT, EXTENT).unwrap();
    let told = engine.block_runs(ONE, None, 0, 3 * EXTENT).unwrap();
    assert_eq!(told, runs(&[(16, BlockState::Data), (16, BlockState::Hole), (16, BlockState::Data)]));
}

#[test]
fn what_changed_since_a_snapshot_is_told_by_extents() {
    let (_, mut engine) = disk();
    for extent in 0..2 {
        write(&mut engine, ONE, extent + 1, extent * 16, &[7; 16]).unwrap();
    }
    engine.create_snapshot(ONE, SnapshotId(5), Seq(3)).unwrap();
    assert_eq!(
        engine.block_runs(ONE, Some(SnapshotId(5)), 0, SEGMENT).unwrap(),
        runs(&[(BLOCKS as u32, BlockState::Unchanged)])
    );
    write(&mut engine, ONE, 4, 17, &[8]).unwrap();
    engine.zero(ONE, Seq(5), 1050 * EXTENT, EXTENT).unwrap();
    let changed = |engine: &Engine| -> Vec<u64> {
        let states = states(engine, Some(5), 0, BLOCKS);
        (0..EXTENTS).filter(|extent| states[*extent as usize * 16] == BlockState::Changed).collect()
    };
    assert_eq!(changed(&engine), [1, 1050]);
    checkpoint(&mut engine);
    assert_eq!(changed(&engine), [1, 1050]);
    let lacks = engine.block_runs(ONE, Some(SnapshotId(6)), 0, EXTENT);
    assert!(matches!(lacks, Err(Error::UnknownSnapshot { .. })));
    engine.delete_snapshot(ONE, SnapshotId(5)).unwrap();
    let deleted = engine.block_runs(ONE, Some(SnapshotId(5)), 0, EXTENT);
    assert!(matches!(deleted, Err(Error::UnknownSnapshot { .. })));
}

#[test]
fn an_answer_is_bounded_and_always_tells_something() {
    let dir = MemDir::new();
    format(&dir, 1200);
    let mut engine = open(&dir);
    engine.create_replica(ONE, SEGMENT, Bytes::new()).unwrap();
    // Every other block: no two neighbours are alike.
    for extent in 0..300 {
        write(&mut engine, ONE, extent + 1, extent * 16, &[7; 16]).unwrap();
        checkpoint(&mut engine);
    }
    for block in (0..300 * 16).step_by(2) {
        engine.zero(ONE, Seq(301 + block / 2), block * 4096, 4096).unwrap();
        if block % 64 == 0 {
            checkpoint(&mut engine);
        }
    }
    let told = engine.block_runs(ONE, None, 0, SEGMENT).unwrap();
    assert_eq!(told.len(), 4096);
    assert_eq!(
        states(&engine, None, 0, BLOCKS).iter().filter(|state| **state == BlockState::Data).count(),
        2400
    );
    for (offset, length) in [(0, 0), (0, 100), (4096, SEGMENT), (SEGMENT, 4096)] {
        assert!(engine.block_runs(ONE, None, offset, length).is_err(), "{offset} {length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is told agrees with what is read: holes and zeros are zeros, and what changed is told to have changed.
    #[test]
    fn what_is_told_agrees_with_what_is_read(
        steps in proptest::collection::vec((0u64..8, 0u64..256, 1u64..40), 1..40),
    ) {
        let (_, mut engine) = disk();
        let mut before: Option<Vec<u64>> = None;
        for (seq, (what, first, count)) in (1..).zip(steps) {
            match what {
                0..=3 => {
                    write(&mut engine, ONE, seq, first, &vec![seq; count.min(8) as usize]).unwrap();
                }
                4 | 5 => {
                    engine.zero(ONE, Seq(seq), first * 4096, count * 4096).unwrap();
                }
                6 if before.is_none() => {
                    engine.create_snapshot(ONE, SnapshotId(1), Seq(seq)).unwrap();
                    before = Some(read(&mut engine, ONE, 0, 256));
                }
                _ => {}
            }
            if seq % 2 == 0 {
                checkpoint(&mut engine);
            }
        }
        let now = read(&mut engine, ONE, 0, 256);
        for (value, state) in now.iter().zip(states(&engine, None, 0, 256)) {
            prop_assert_eq!(*value != 0, state == BlockState::Data);
        }
        if let Some(before) = before {
            let told = states(&engine, Some(1), 0, 256);
            for (index, state) in told.into_iter().enumerate() {
                prop_assert!(before[index] == now[index] || state == BlockState::Changed, "block {}", index);
            }
        }
    }
}
