//! Whole extents are written once, straight to new slots, and are as safe as what goes through the journal.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation};
use quoin_store::{Engine, Error, ExtentOutcome, Lsn, ReadOutcome, View};
use quoin_types::{ExtentIndex, Seq};
use std::sync::Arc;

fn disk(extents: u64) -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, extents);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::from_static(b"meta")).unwrap();
    sync(&mut engine);
    (dir, engine)
}

fn bytes_of(dir: &MemDir, name: &str) -> Vec<u8> {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    content
}

/// Where in the data file a block with this content is.
fn find(dir: &MemDir, value: u64) -> u64 {
    let content = bytes_of(dir, "data");
    let at = content.chunks(BLOCK).position(|found| found == block(value)).expect("in the data file");
    (at * BLOCK) as u64
}

/// Half of a block reaches the device, and nothing of it is undone by a loss of power.
fn tear(dir: &MemDir, at: u64) {
    let file = dir.open("data", OpenMode::Existing).unwrap();
    file.write_at(&[0xee; 2048], at).unwrap();
    file.sync().unwrap();
}

fn reopened(dir: &MemDir) -> (Engine, Lsn) {
    let (engine, opened) = try_open(Arc::new(dir.process_crash()), 1).unwrap();
    (engine, opened.end)
}

#[test]
fn whole_extents_are_written_once() {
    let (dir, mut engine) = disk(64);
    let before = engine.statistics();
    write(&mut engine, ONE, 1, 8, &[1; 24]).unwrap();
    let expected = [[0; 8].as_slice(), &[1; 24], &[0; 8]].concat();
    assert_eq!(read(&mut engine, ONE, 0, 40), expected);
    sync(&mut engine);
    let after = engine.statistics();
    assert_eq!(after.placed_bytes - before.placed_bytes, EXTENT);
    assert_eq!(after.data_bytes - before.data_bytes, EXTENT + EXTENT / 2);
    assert_eq!(after.payload_bytes - before.payload_bytes, EXTENT + EXTENT / 2);
    assert!(after.journal_bytes - before.journal_bytes < EXTENT / 2 + 2 * BLOCK as u64);
    assert_eq!(read(&mut engine, ONE, 0, 40), expected);
    assert_eq!(reopened(&dir).1, Lsn(2));
}

/// E1: the old slot keeps the old data until the record is durable, and the new one holds the new data by then.
#[test]
fn the_old_slot_stays_as_it_was() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    checkpoint(&mut engine);
    let old = find(&dir, 1);
    write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 16), [2; 16]);
    engine.commit().unwrap();
    assert_eq!((find(&dir, 1), read(&mut engine, ONE, 0, 16)), (old, vec![2; 16]));
    for seed in 0..40 {
        let (mut engine, opened) = try_open(Arc::new(dir.crash(seed)), 2).unwrap();
        let expected = if opened.end == Lsn(3) { 2 } else { 1 };
        assert_eq!(read(&mut engine, ONE, 0, 16), [expected; 16]);
    }
    assert_eq!(sync_only(&mut engine), Lsn(3));
    for seed in 0..40 {
        let (mut engine, _) = try_open(Arc::new(dir.crash(seed)), 2).unwrap();
        assert_eq!(read(&mut engine, ONE, 0, 16), [2; 16]);
    }
}

/// E2: the slot of an extent that was written anew is not reused before a checkpoint past that, nor under a read.
#[test]
fn the_old_slot_waits_for_the_checkpoint_and_for_reads() {
    let (dir, mut engine) = disk(3);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    checkpoint(&mut engine);
    let mut plan = engine.read(ONE, View::Live, 0, EXTENT).unwrap();
    write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 3, 16, &[3; 16]).unwrap();
    // No slot is left for writing it anew: it goes through the journal, in place.
    write(&mut engine, ONE, 4, 0, &[4; 16]).unwrap();
    assert!(matches!(write(&mut engine, ONE, 5, 32, &[5]), Err(Error::NoSpace)));
    sync(&mut engine);
    find(&dir, 1);
    checkpoint(&mut engine);
    assert!(matches!(write(&mut engine, ONE, 5, 32, &[5]), Err(Error::NoSpace)));
    plan.run();
    let ReadOutcome::Data { data, .. } = engine.finish_read(plan).unwrap() else { panic!("no data") };
    assert!(data == block(1).repeat(16));
    write(&mut engine, ONE, 5, 32, &[5]).unwrap();
    sync(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 34)[14..], [[4; 2].as_slice(), &[3; 16], &[5, 0]].concat());
    let (mut engine, _) = reopened(&dir);
    assert_eq!(read(&mut engine, ONE, 0, 34)[14..], [[4; 2].as_slice(), &[3; 16], &[5, 0]].concat());
}

/// E4: a record whose placed data did not reach the device ends the journal.
#[test]
fn torn_data_outside_of_the_journal_ends_it() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
    write(&mut engine, ONE, 3, 20, &[3]).unwrap();
    engine.commit().unwrap();
    tear(&dir, find(&dir, 2));
    let (mut engine, end) = reopened(&dir);
    assert_eq!((end, read(&mut engine, ONE, 0, 32)), (Lsn(2), [[1; 16], [0; 16]].concat()));
    // What comes next takes its place, and its slots.
    write(&mut engine, ONE, 2, 0, &[4; 16]).unwrap();
    sync(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 16), [4; 16]);
}

/// E4: a block may be a later record's, whole or torn, for that one is applied again.
#[test]
fn a_block_of_a_later_record_is_no_damage() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    engine.commit().unwrap();
    write(&mut engine, ONE, 2, 3, &[2, 2]).unwrap();
    sync_only(&mut engine);
    apply(&mut engine);
    let at = find(&dir, 2);
    // No later batch says that all of this is durable, so recovery must find that out.
    let expected = [[1; 3].as_slice(), &[2; 2], &[1; 11]].concat();
    let (mut engine, end) = reopened(&dir);
    assert_eq!((end, read(&mut engine, ONE, 0, 16)), (Lsn(3), expected.clone()));
    tear(&dir, at);
    let (mut engine, end) = reopened(&dir);
    assert_eq!((end, read(&mut engine, ONE, 0, 16)), (Lsn(3), expected));
    tear(&dir, at - BLOCK as u64);
    assert_eq!(reopened(&dir).1, Lsn(1));
}

/// Data that a batch reports as durable is not read again by recovery; damage to it is found by reads.
#[test]
fn damage_to_durable_placed_data_is_named_by_reads() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 2, 16, &[2]).unwrap();
    engine.commit().unwrap();
    tear(&dir, find(&dir, 1) + 5 * BLOCK as u64);
    let (mut engine, end) = reopened(&dir);
    assert_eq!(end, Lsn(3));
    assert_eq!(try_read(&mut engine, ONE, 0, 16), Err(5));
    assert_eq!(read(&mut engine, ONE, 16, 1), [2]);
}

#[test]
fn a_put_extent_goes_to_a_new_slot() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1, 1]).unwrap();
    checkpoint(&mut engine);
    let (sums, data) = blocks(&[7, 8]);
    let mut checksums = [0; 16];
    (checksums[3], checksums[9]) = (sums[0], sums[1]);
    let zero_mask = !(1 << 3 | 1 << 9);
    let before = engine.statistics();
    engine.put_extent(ONE, ExtentIndex(0), Seq(9), 0, &checksums, zero_mask, data).unwrap();
    let check = |engine: &mut Engine| {
        let mut plan = engine.read_extent(ONE, View::Live, ExtentIndex(0)).unwrap();
        plan.run();
        let ExtentOutcome::Data(content) = engine.finish_extent(plan).unwrap() else { panic!("no data") };
        assert!(content.data == [block(7), block(8)].concat() && content.zero_mask == zero_mask);
        assert_eq!((content.version, engine.replica(ONE).unwrap().extents_allocated), (Seq(9), 1));
    };
    check(&mut engine);
    sync_only(&mut engine);
    assert_eq!(engine.statistics().placed_bytes - before.placed_bytes, 2 * BLOCK as u64);
    find(&dir, 1);
    check(&mut engine);
    check(&mut reopened(&dir).0);
    apply(&mut engine);
    check(&mut engine);
    assert_eq!(engine.space().used_bytes, 2 * EXTENT);
    checkpoint(&mut engine);
    assert_eq!(engine.space().used_bytes, EXTENT);
}

#[test]
fn a_failure_to_place_or_to_sync_it_poisons() {
    for (operation, effect) in [
        (Operation::Write, Effect::InputOutput),
        (Operation::Write, Effect::Half),
        (Operation::Sync, Effect::InputOutput),
    ] {
        let memory = MemDir::new();
        format(&memory, 8);
        let dir = FaultyDir::new(Arc::new(memory.clone()));
        let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
        engine.create_replica(ONE, 8 * EXTENT, Bytes::new()).unwrap();
        write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
        sync(&mut engine);
        write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
        dir.inject(Fault { operation, name_prefix: "data".into(), after: 0, times: 1, effect });
        let failed = engine.commit().is_err()
            || engine.start_sync().is_some_and(|job| engine.finish_sync(job.run()).is_err());
        assert!(failed && matches!(engine.commit(), Err(Error::Poisoned { .. })));
        let mut engine = open(&memory.crash(1));
        assert!([[1; 16], [2; 16]].contains(&read(&mut engine, ONE, 0, 16).try_into().unwrap()));
    }
}

/// Crash images at every sync of a recorded run, and between them, with what was not synced torn: what was durable is
/// there, and of the rest a prefix.
#[test]
fn every_sync_of_a_run_may_be_the_last() {
    for run in 0..6u64 {
        let (dir, mut engine) = disk(40);
        let mut states: Vec<Vec<u64>> = vec![vec![0; 96], vec![0; 96]];
        let mut images = Vec::new();
        let mut seed = run * 1000;
        for step in 1..=60u64 {
            let mut state = states[states.len() - 1].clone();
            let (first, count) = match (step * 7 + run) % 5 {
                0 | 1 => ((step * 5 + run) % 6 * 16, 16),
                2 => ((step + run) % 5 * 16, 24),
                3 => (step * 11 % 90, 5),
                _ => ((step * 3 + run) % 4 * 16 + 9, 30),
            };
            write(&mut engine, ONE, step, first, &vec![step; count as usize]).unwrap();
            state[first as usize..(first + count) as usize].fill(step);
            states.push(state);
            match (step + run) % 7 {
                0 | 3 => drop(engine.commit().unwrap()),
                1 => drop(sync_only(&mut engine)),
                2 => drop(sync(&mut engine)),
                4 => checkpoint(&mut engine),
                5 => {
                    engine.commit().unwrap();
                    if let Some(job) = engine.start_sync() {
                        // The device has it; nobody was told yet.
                        let done = job.run();
                        images.push((dir.crash(seed), engine.durable()));
                        engine.finish_sync(done).unwrap();
                    }
                }
                _ => {}
            }
            for _ in 0..3 {
                seed += 1;
                images.push((dir.crash(seed), engine.durable()));
            }
        }
        for (image, durable) in images {
            let (mut engine, opened) = try_open(Arc::new(image), 2).unwrap();
            assert!(opened.end >= durable && opened.damaged.is_empty());
            assert_eq!(read(&mut engine, ONE, 0, 96), states[opened.end.0 as usize]);
        }
    }
}
