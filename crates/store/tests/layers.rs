//! Snapshots and clones: what they cost, what they keep, and what becomes of them on bad days.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation};
use quoin_store::{
    Damage, Engine, Error, ExtentContent, ExtentOutcome, Harm, ReadOutcome, Scrub, Snapshot, View, check,
};
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId};
use std::sync::Arc;

const CLONE: ReplicaId = ReplicaId(7);
const SEGMENT: u64 = 64 * EXTENT;
const S1: View = View::Snapshot(SnapshotId(1));
const S2: View = View::Snapshot(SnapshotId(2));

fn disk(extents: u64) -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, extents);
    let mut engine = open(&dir);
    engine.create_replica(ONE, SEGMENT, Bytes::from_static(b"meta")).unwrap();
    (dir, engine)
}

fn snapshot(engine: &mut Engine, id: u64, seq: u64) {
    engine.create_snapshot(ONE, SnapshotId(id), Seq(seq)).unwrap();
}

/// Writes extents one by one: the tests' journal is too small for more in one record.
fn fill(engine: &mut Engine, seq: u64, first_block: u64, count: usize, value: u64) {
    for first in (0..count).step_by(16) {
        let values = vec![value; 16.min(count - first)];
        write(engine, ONE, seq, first_block + first as u64, &values).unwrap();
    }
}

fn fold_all(engine: &mut Engine) -> u32 {
    let mut steps = 0;
    while engine.fold().unwrap() {
        steps += 1;
    }
    checkpoint(engine);
    steps
}

#[test]
fn a_snapshot_is_one_record_whatever_it_holds() {
    let (_, mut engine) = disk(200);
    fill(&mut engine, 1, 0, 256, 5);
    fill(&mut engine, 2, 256, 256, 6);
    checkpoint(&mut engine);
    let (space, before) = (engine.space(), engine.statistics());
    snapshot(&mut engine, 1, 3);
    checkpoint(&mut engine);
    let after = engine.statistics();
    assert_eq!((after.records - before.records, after.batches - before.batches), (1, 1));
    assert_eq!(after.journal_bytes - before.journal_bytes, BLOCK as u64);
    assert_eq!((after.data_bytes, after.entries_stored), (before.data_bytes, before.entries_stored));
    assert_eq!(engine.space(), space);
    assert_eq!(engine.replica(ONE).unwrap().position, Seq(3));
    let made = Snapshot { id: SnapshotId(1), seq: Seq(3), extents_kept: 0, clones: 0 };
    assert_eq!(engine.snapshots(ONE).unwrap(), [made]);
    assert!(matches!(
        engine.create_snapshot(ONE, SnapshotId(1), Seq(4)),
        Err(Error::SnapshotExists { snapshot: SnapshotId(1), .. })
    ));
    assert!(matches!(engine.read(ONE, S2, 0, 4096), Err(Error::UnknownSnapshot { .. })));
    assert!(matches!(engine.delete_snapshot(ONE, SnapshotId(2)), Err(Error::UnknownSnapshot { .. })));
}

/// A part of an extent that a snapshot sees is written: 64 KiB are copied, later and elsewhere, and until then both are
/// read right, before and after a crash.
#[test]
fn the_first_partial_write_copies_and_later_ones_do_not() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1, 2, 3, 4]).unwrap();
    write(&mut engine, ONE, 2, 10, &[5]).unwrap();
    snapshot(&mut engine, 1, 3);
    write(&mut engine, ONE, 4, 1, &[22]).unwrap();
    let (old, new) = ([1, 2, 3, 4, 0, 0], [1, 22, 3, 4, 0, 0]);
    let both = |engine: &mut Engine| (read_view(engine, S1, 0, 6), read_view(engine, View::Live, 0, 6));
    let expected = (old.to_vec(), new.to_vec());
    assert_eq!(both(&mut engine), expected);
    sync_only(&mut engine);
    assert_eq!(both(&mut engine), expected);
    assert_eq!(both(&mut restart(&dir).1), expected);
    assert_sound(&dir);
    let before = engine.statistics().data_bytes;
    apply(&mut engine);
    // Five blocks in place, of which one is copied from memory's slot to the new one, with the others.
    assert_eq!(engine.statistics().data_bytes - before, (5 + 1 + 4) * BLOCK as u64);
    assert_eq!((both(&mut engine), used_extents(&engine)), (expected, 2));
    let before = engine.statistics().data_bytes;
    write(&mut engine, ONE, 5, 2, &[33]).unwrap();
    checkpoint(&mut engine);
    assert_eq!((engine.statistics().data_bytes - before, used_extents(&engine)), (BLOCK as u64, 2));
    assert_eq!(read_view(&mut engine, View::Live, 0, 4), [1, 22, 33, 4]);
    assert_eq!(read_view(&mut restart(&dir).1, S1, 0, 6), old);
    assert_sound(&dir);
}

#[test]
fn a_whole_write_copies_nothing() {
    let (_, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    snapshot(&mut engine, 1, 2);
    checkpoint(&mut engine);
    let before = engine.statistics();
    write(&mut engine, ONE, 3, 0, &[2; 16]).unwrap();
    checkpoint(&mut engine);
    let after = engine.statistics();
    assert_eq!(after.data_bytes - before.data_bytes, EXTENT);
    assert_eq!(after.journal_bytes - before.journal_bytes, BLOCK as u64);
    assert_eq!((read_view(&mut engine, S1, 0, 16), used_extents(&engine)), (vec![1; 16], 2));
}

/// A chain of copies that were not made yet is read through, and made in order.
#[test]
fn copies_of_copies_in_one_go() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1, 1, 1, 1]).unwrap();
    for turn in 1..=5u64 {
        snapshot(&mut engine, turn, 2 * turn);
        write(&mut engine, ONE, 2 * turn + 1, turn % 3, &[10 + turn]).unwrap();
    }
    let expected =
        [[1, 1, 1, 1], [1, 11, 1, 1], [1, 11, 12, 1], [13, 11, 12, 1], [13, 14, 12, 1], [13, 14, 15, 1]];
    let look = |engine: &mut Engine| {
        for (index, expected) in expected[..5].iter().enumerate() {
            let view = View::Snapshot(SnapshotId(index as u64 + 1));
            assert_eq!(read_view(engine, view, 0, 4), expected);
        }
        assert_eq!(read_view(engine, View::Live, 0, 4), expected[5]);
    };
    look(&mut engine);
    sync_only(&mut engine);
    look(&mut engine);
    look(&mut restart(&dir).1);
    apply(&mut engine);
    look(&mut engine);
    assert_eq!(used_extents(&engine), 6);
    assert_sound(&dir);
}

#[test]
fn trims_under_a_snapshot_leave_it_as_it_was() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    write(&mut engine, ONE, 2, 16, &[2; 16]).unwrap();
    snapshot(&mut engine, 1, 3);
    // Whole extents, written and not, and a part of one.
    engine.zero(ONE, Seq(4), 0, 40 * BLOCK as u64).unwrap();
    write(&mut engine, ONE, 5, 32, &[9; 3]).unwrap();
    engine.zero(ONE, Seq(6), 20 * EXTENT, SEGMENT - 20 * EXTENT).unwrap();
    write(&mut engine, ONE, 7, 30 * 16, &[8]).unwrap();
    let before: Vec<u64> = [vec![1; 16], vec![2; 16], vec![0; 16]].concat();
    let now: Vec<u64> = [vec![0; 32], vec![9; 3], vec![0; 13]].concat();
    let look = |engine: &mut Engine| {
        assert_eq!(
            (read_view(engine, S1, 0, 48), read_view(engine, View::Live, 0, 48)),
            (before.clone(), now.clone())
        );
        assert_eq!(
            (read_view(engine, S1, 480, 1), read_view(engine, View::Live, 480, 1)),
            (vec![0], vec![8])
        );
        let changed = engine.changed_since(ONE, S1, Seq(0), ExtentIndex(0), 9).unwrap();
        assert_eq!(changed, [(ExtentIndex(0), Seq(1)), (ExtentIndex(1), Seq(2))]);
    };
    look(&mut engine);
    checkpoint(&mut engine);
    look(&mut engine);
    look(&mut restart(&dir).1);
    assert_eq!(used_extents(&engine), 4);
    assert_sound(&dir);
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    fold_all(&mut engine);
    assert_eq!(used_extents(&engine), 2);
}

/// Late data of the state that a snapshot was made of (resync) is the snapshot's as well; later data is not.
#[test]
fn what_resync_brings_belongs_to_the_snapshots_that_are_not_older() {
    let (_, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    write(&mut engine, ONE, 2, 16, &[1; 16]).unwrap();
    snapshot(&mut engine, 1, 10);
    let (sums, data) = blocks(&[7; 16]);
    let sums = sums.try_into().unwrap();
    engine.put_extent(ONE, ExtentIndex(0), Seq(9), 0, &sums, 0, data.clone()).unwrap();
    engine.put_extent(ONE, ExtentIndex(1), Seq(11), 0, &sums, 0, data).unwrap();
    assert_eq!(read_view(&mut engine, S1, 0, 32), [vec![7; 16], vec![1; 16]].concat());
    assert_eq!(read_view(&mut engine, View::Live, 0, 32), [7; 32]);
    checkpoint(&mut engine);
    assert_eq!(used_extents(&engine), 3);
}

/// A clone is as its base where it was not written: what comes late of that is the clone's as well, and so is that the base was
/// never written. A clone that was written keeps its own.
#[test]
fn what_resync_brings_reaches_the_clones_of_such_snapshots() {
    let (_, mut engine) = disk(64);
    fill(&mut engine, 1, 0, 48, 1);
    snapshot(&mut engine, 1, 10);
    engine.clone_replica(CLONE, SEGMENT, Bytes::from_static(b"clone"), ONE, SnapshotId(1)).unwrap();
    engine.create_snapshot(CLONE, SnapshotId(9), Seq(11)).unwrap();
    write(&mut engine, CLONE, 12, 16, &[5; 16]).unwrap();
    checkpoint(&mut engine);
    let (sums, data) = blocks(&[7; 16]);
    let sums: [u32; 16] = sums.try_into().unwrap();
    for extent in [0, 1] {
        engine.put_extent(ONE, ExtentIndex(extent), Seq(9), 0, &sums, 0, data.clone()).unwrap();
    }
    engine.put_extent(ONE, ExtentIndex(2), Seq(0), 0, &[0; 16], !0, Bytes::new()).unwrap();
    checkpoint(&mut engine);
    assert_eq!(read_view(&mut engine, S1, 0, 48), [[7; 16], [7; 16], [0; 16]].concat());
    assert_eq!(read(&mut engine, CLONE, 0, 48), [[7; 16], [5; 16], [0; 16]].concat());
    let nine = View::Snapshot(SnapshotId(9));
    let seen = try_read_view(&mut engine, CLONE, nine, 0, 48).unwrap();
    assert_eq!(seen, [[7; 16], [7; 16], [0; 16]].concat());
}

#[test]
fn a_clone_shares_until_it_writes_and_outlives_what_it_came_from() {
    let (dir, mut engine) = disk(64);
    fill(&mut engine, 1, 0, 40, 1);
    snapshot(&mut engine, 1, 2);
    write(&mut engine, ONE, 3, 0, &[2; 16]).unwrap();
    engine.clone_replica(CLONE, 2 * SEGMENT, Bytes::from_static(b"clone"), ONE, SnapshotId(1)).unwrap();
    checkpoint(&mut engine);
    assert_eq!((used_extents(&engine), engine.replica(CLONE).unwrap().position), (4, Seq(2)));
    assert_eq!(read(&mut engine, CLONE, 0, 48), [vec![1; 40], vec![0; 8]].concat());
    assert_eq!(read(&mut engine, CLONE, 64 * 16, 2), [0; 2]);
    let all = engine.changed_since(CLONE, View::Live, Seq(0), ExtentIndex(0), 9).unwrap();
    assert_eq!(all, [0, 1, 2].map(|extent| (ExtentIndex(extent), Seq(1))));
    write(&mut engine, CLONE, 3, 17, &[5]).unwrap();
    engine.create_snapshot(CLONE, SnapshotId(9), Seq(4)).unwrap();
    write(&mut engine, CLONE, 5, 0, &[6; 16]).unwrap();
    let changed = engine.changed_since(CLONE, View::Live, Seq(2), ExtentIndex(0), 9).unwrap();
    assert_eq!(changed, [(ExtentIndex(0), Seq(5)), (ExtentIndex(1), Seq(3))]);
    let expected = [vec![6; 16], vec![1], vec![5], vec![1; 14]].concat();
    let kept = [vec![1; 16], vec![1], vec![5], vec![1; 14]].concat();
    assert_eq!(engine.snapshots(ONE).unwrap()[0].clones, 1);
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    assert_eq!(fold_all(&mut engine), 0);
    engine.drop_replica(ONE).unwrap();
    checkpoint(&mut engine);
    checkpoint(&mut engine);
    let (dir, mut engine) = restart(&dir);
    assert!(engine.replica(ONE).is_none());
    assert!(matches!(engine.create_replica(ONE, SEGMENT, Bytes::new()), Err(Error::ReplicaExists(_))));
    assert_eq!(read(&mut engine, CLONE, 0, 32), expected);
    let nine = View::Snapshot(SnapshotId(9));
    assert_eq!(try_read_view(&mut engine, CLONE, nine, 0, 32).unwrap(), kept);
    assert_sound(&dir);
    engine.drop_replica(CLONE).unwrap();
    for _ in 0..3 {
        write_anything(&mut engine);
        checkpoint(&mut engine);
    }
    assert_eq!(used_extents(&engine), 1);
    assert_eq!(restart(&dir).1.replicas().count(), 1);
}

/// A checkpoint is made only where something is to be gained.
fn write_anything(engine: &mut Engine) {
    let other = ReplicaId(99);
    if engine.replica(other).is_none() {
        engine.create_replica(other, EXTENT, Bytes::new()).unwrap();
    }
    write(engine, other, 1, 0, &[1]).unwrap();
}

#[test]
fn folding_moves_what_an_older_snapshot_needs_and_frees_the_rest() {
    let (dir, mut engine) = disk(64);
    fill(&mut engine, 1, 0, 64, 1);
    snapshot(&mut engine, 1, 2);
    write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
    snapshot(&mut engine, 2, 4);
    fill(&mut engine, 5, 0, 32, 5);
    snapshot(&mut engine, 3, 6);
    write(&mut engine, ONE, 7, 32, &[7; 16]).unwrap();
    checkpoint(&mut engine);
    // The extents at first; those of 3 and of 5 over the first ones; that of 7.
    assert_eq!(used_extents(&engine), 4 + 1 + 2 + 1);
    let first = read_view(&mut engine, S1, 0, 64);
    let third = View::Snapshot(SnapshotId(3));
    let (now, at_third) = (read_view(&mut engine, View::Live, 0, 64), read_view(&mut engine, third, 0, 64));
    engine.delete_snapshot(ONE, SnapshotId(2)).unwrap();
    assert!(engine.has_folding());
    // One chunk, and the end.
    assert_eq!(fold_all(&mut engine), 2);
    assert!(!engine.has_folding());
    assert_eq!(used_extents(&engine), 4 + 2 + 1);
    for engine in [&mut engine, &mut restart(&dir).1] {
        assert_eq!(read_view(engine, S1, 0, 64), first);
        assert_eq!(read_view(engine, third, 0, 64), at_third);
        assert_eq!(read_view(engine, View::Live, 0, 64), now);
    }
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    engine.delete_snapshot(ONE, SnapshotId(3)).unwrap();
    fold_all(&mut engine);
    assert_eq!((used_extents(&engine), engine.replica(ONE).unwrap().extents_allocated), (4, 4));
    assert_eq!(read_view(&mut engine, View::Live, 0, 64), now);
    assert_sound(&dir);
}

/// Crash images at every sync of a recorded run of writes, snapshots, deletions and folds, and between them, with what was
/// not synced torn: the states at all snapshots are those of the record at which the image ends.
#[test]
fn every_sync_of_a_run_with_snapshots_may_be_the_last() {
    type State = (Vec<u64>, Vec<(u64, Vec<u64>)>);
    for run in 0..6u64 {
        let (dir, mut engine) = disk(90);
        sync(&mut engine);
        let mut states: Vec<State> = vec![(vec![0; 96], Vec::new()); 2];
        let mut images = Vec::new();
        let mut seed = run * 1000;
        for step in 1..=80u64 {
            let (mut now, mut snapshots) = states[states.len() - 1].clone();
            let records = engine.statistics().records;
            match (step * 7 + run * 3) % 11 {
                0 | 5 if snapshots.len() < 6 => {
                    engine.create_snapshot(ONE, SnapshotId(step), Seq(step)).unwrap();
                    snapshots.push((step, now.clone()));
                }
                3 if snapshots.len() > 1 => {
                    let (gone, _) = snapshots.remove((step % snapshots.len() as u64) as usize);
                    engine.delete_snapshot(ONE, SnapshotId(gone)).unwrap();
                }
                4 | 9 => drop(engine.fold().unwrap()),
                turn => {
                    let (first, count) =
                        if turn % 2 == 0 { (step * 5 % 6 * 16, 16) } else { (step * 11 % 90, 5) };
                    write(&mut engine, ONE, step, first, &vec![step; count]).unwrap();
                    now[first as usize..first as usize + count].fill(step);
                }
            }
            if engine.statistics().records > records {
                states.push((now, snapshots));
            }
            match (step + run) % 6 {
                0 | 3 => drop(engine.commit().unwrap()),
                1 => drop(sync(&mut engine)),
                4 => checkpoint(&mut engine),
                5 => {
                    engine.commit().unwrap();
                    if let Some(job) = engine.start_sync() {
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
            let (mut engine, opened) = try_open(Arc::new(image.clone()), 2).unwrap();
            assert!(opened.end >= durable && opened.damaged.is_empty());
            let (now, snapshots) = &states[opened.end.0 as usize];
            assert_eq!(read_view(&mut engine, View::Live, 0, 96), *now);
            let ids: Vec<u64> = engine.snapshots(ONE).unwrap().iter().map(|snapshot| snapshot.id.0).collect();
            assert_eq!(ids, snapshots.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            for (id, state) in snapshots {
                assert_eq!(read_view(&mut engine, View::Snapshot(SnapshotId(*id)), 0, 96), *state);
            }
            drop(engine);
            assert_sound(&image);
        }
    }
}

/// More snapshots than are told of together, written between, some deleted and folded, over restarts: each view is right.
#[test]
fn a_hundred_snapshots_each_see_their_own() {
    let (mut dir, mut engine) = disk(700);
    let mut now = vec![0u64; 256];
    let mut views: Vec<(u64, Vec<u64>)> = Vec::new();
    let mut random = 7u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    for turn in 1..=100u64 {
        snapshot(&mut engine, turn, 10 * turn);
        views.push((turn, now.clone()));
        for write_of_turn in 1..=3 {
            let (seq, block, value) = (10 * turn + write_of_turn, next(256), 1000 * turn + write_of_turn);
            write(&mut engine, ONE, seq, block, &[value]).unwrap();
            now[block as usize] = value;
        }
        if turn.is_multiple_of(3) {
            let gone = next(views.len() as u64) as usize;
            engine.delete_snapshot(ONE, SnapshotId(views.remove(gone).0)).unwrap();
            fold_all(&mut engine);
        }
        if turn.is_multiple_of(25) {
            checkpoint(&mut engine);
            (dir, engine) = restart(&dir);
        }
        if turn.is_multiple_of(10) {
            for (id, expected) in &views {
                assert_eq!(
                    read_view(&mut engine, View::Snapshot(SnapshotId(*id)), 0, 256),
                    *expected,
                    "{id}"
                );
            }
            assert_eq!(read_view(&mut engine, View::Live, 0, 256), now);
        }
    }
    assert_sound(&dir);
    for (id, _) in views {
        engine.delete_snapshot(ONE, SnapshotId(id)).unwrap();
    }
    fold_all(&mut engine);
    assert_eq!(used_extents(&engine), 16);
}

fn bytes_of(dir: &MemDir, name: &str) -> Vec<u8> {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    content
}

/// Changes bytes of a file, for good.
fn overwrite(dir: &MemDir, name: &str, at: u64, bytes: &[u8]) {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    file.write_at(bytes, at).unwrap();
    file.sync().unwrap();
}

fn lap(engine: &mut Engine) -> Vec<Damage> {
    let (mut scrub, mut damaged) = (Scrub::default(), Vec::new());
    while let Some(mut job) = engine.start_scrub(&mut scrub, 1 << 16) {
        job.run();
        damaged.extend(engine.finish_scrub(job).damaged);
    }
    damaged
}

fn content(extent: u32, version: u64, value: u64) -> ExtentContent {
    let (sums, data) = blocks(&[value; 16]);
    let checksums = sums.try_into().unwrap();
    ExtentContent { extent: ExtentIndex(extent), version: Seq(version), zero_mask: 0, checksums, data }
}

/// A damaged entry of a layer is found by start and scrub, named, and never served as anything else, folds included; and a
/// peer's content mends it.
#[test]
fn a_damaged_entry_of_a_layer_is_found_kept_and_mended() {
    let (dir, mut engine) = disk(64);
    fill(&mut engine, 1, 0, 32, 1);
    snapshot(&mut engine, 1, 2);
    snapshot(&mut engine, 2, 3);
    fill(&mut engine, 4, 0, 32, 4);
    checkpoint(&mut engine);
    let dir = dir.process_crash();
    // The first entry of the first chunk.
    overwrite(&dir, "layers", 4096 + 8, &[0xee]);
    let mut engine = open(&dir);
    let harm = Damage {
        replica: ONE,
        snapshot: Some(SnapshotId(2)),
        extent: ExtentIndex(0),
        version: None,
        harm: Harm::Entry,
    };
    assert_eq!(lap(&mut engine), [harm]);
    assert_eq!(harm.to_string(), "the map entry of extent 0 of replica 1 is damaged (kept for snapshot 2)");
    let image: Arc<dyn Dir> = Arc::new(dir.process_crash());
    let problems = check(&image, &mut |_| ()).unwrap().problems;
    assert_eq!(problems.iter().map(|problem| &problem.message).collect::<Vec<_>>(), [&harm.to_string()]);
    for view in [S1, S2] {
        assert!(matches!(engine.read(ONE, view, 0, 4096), Err(Error::Corrupt { .. })));
        assert_eq!(read_view(&mut engine, view, 16, 16), [1; 16]);
    }
    assert_eq!(read_view(&mut engine, View::Live, 0, 32), [4; 32]);
    // The older snapshot must not see what the replica is now when the layer that kept it for both goes.
    engine.delete_snapshot(ONE, SnapshotId(2)).unwrap();
    fold_all(&mut engine);
    for engine in [&mut engine, &mut restart(&dir).1] {
        assert!(matches!(engine.read(ONE, S1, 0, 4096), Err(Error::Corrupt { .. })));
        assert_eq!(read_view(engine, S1, 16, 16), [1; 16]);
    }
    assert_eq!(lap(&mut engine), [Damage { snapshot: Some(SnapshotId(1)), ..harm }]);
    engine.repair_snapshot(ONE, SnapshotId(1), &content(0, 1, 1)).unwrap();
    checkpoint(&mut engine);
    assert_eq!((lap(&mut engine), read_view(&mut engine, S1, 0, 32)), (vec![], vec![1; 32]));
    // What is right is not repaired by another version, nor what no layer keeps.
    let other = engine.repair_snapshot(ONE, SnapshotId(1), &content(0, 3, 9));
    assert!(matches!(other, Err(Error::Superseded { .. })));
    let shared = engine.repair_snapshot(ONE, SnapshotId(1), &content(9, 1, 9));
    assert!(matches!(shared, Err(Error::Superseded { .. })));
    assert_eq!(read_view(&mut restart(&dir).1, S1, 0, 32), [1; 32]);
}

#[test]
fn rotten_data_of_a_snapshot_is_named_and_mended() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    snapshot(&mut engine, 1, 2);
    write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
    checkpoint(&mut engine);
    let dir = dir.process_crash();
    let at = bytes_of(&dir, "data").chunks(BLOCK).position(|found| found == block(1)).unwrap();
    overwrite(&dir, "data", (at * BLOCK) as u64 + 9, &[0xee]);
    let mut engine = open(&dir);
    assert_eq!(try_read_view(&mut engine, ONE, S1, 0, 4), Err(0));
    assert_eq!(read_view(&mut engine, View::Live, 0, 16), [3; 16]);
    let found = lap(&mut engine);
    assert_eq!((found.len(), found[0].snapshot, found[0].version), (1, Some(SnapshotId(1)), Some(Seq(1))));
    engine.repair_snapshot(ONE, SnapshotId(1), &content(0, 1, 1)).unwrap();
    checkpoint(&mut engine);
    assert_eq!((read_view(&mut engine, S1, 0, 16), lap(&mut engine)), (vec![1; 16], vec![]));
    assert_eq!(used_extents(&engine), 2);
}

/// Never-written extents have entries that say so: a page of a map that was lost is not taken for them.
#[test]
fn a_lost_page_of_a_map_is_found() {
    for (name, view) in [("map.1", View::Live), ("layers", S1)] {
        let (dir, mut engine) = disk(64);
        write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
        snapshot(&mut engine, 1, 2);
        write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
        checkpoint(&mut engine);
        let dir = dir.process_crash();
        overwrite(&dir, name, 4096, &[0; 4096]);
        let mut engine = open(&dir);
        assert!(matches!(engine.read(ONE, view, 0, 4096), Err(Error::Corrupt { .. })));
        assert!(matches!(engine.read(ONE, view, 5 * EXTENT, 4096), Err(Error::Corrupt { .. })));
        assert!(!lap(&mut engine).is_empty());
    }
}

/// A whole overwrite mends a damaged entry, and what snapshots saw there is lost, not wrong.
#[test]
fn a_damaged_entry_that_is_overwritten_is_lost_for_snapshots() {
    let (dir, mut engine) = disk(64);
    fill(&mut engine, 1, 0, 48, 1);
    snapshot(&mut engine, 1, 2);
    checkpoint(&mut engine);
    let dir = dir.process_crash();
    for extent in 0..3 {
        overwrite(&dir, "map.1", 4096 + extent * 96 + 7, &[0xee]);
    }
    let mut engine = open(&dir);
    write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
    engine.zero(ONE, Seq(4), EXTENT, EXTENT).unwrap();
    assert!(matches!(write(&mut engine, ONE, 5, 32, &[5]), Err(Error::Corrupt { .. })));
    checkpoint(&mut engine);
    for engine in [&mut engine, &mut restart(&dir).1] {
        assert_eq!(read_view(engine, View::Live, 0, 32), [vec![3; 16], vec![0; 16]].concat());
        for extent in 0..3 {
            assert!(matches!(engine.read(ONE, S1, extent * EXTENT, 4096), Err(Error::Corrupt { .. })));
        }
    }
}

/// What a snapshot shares cannot be read when it is to be copied: the blocks are as damaged as they were, by name, and the
/// disk goes on.
#[test]
fn an_unreadable_source_of_a_copy_is_damage_and_no_end() {
    let memory = MemDir::new();
    format(&memory, 64);
    let dir = FaultyDir::new(Arc::new(memory));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    engine.create_replica(ONE, SEGMENT, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    snapshot(&mut engine, 1, 2);
    checkpoint(&mut engine);
    write(&mut engine, ONE, 3, 4, &[4]).unwrap();
    sync_only(&mut engine);
    let (operation, effect) = (Operation::Read, Effect::InputOutput);
    // The blocks before the written one together, then the first alone.
    dir.inject(Fault { operation, name_prefix: "data".into(), after: 0, times: 2, effect });
    apply(&mut engine);
    assert_eq!(try_read_view(&mut engine, ONE, View::Live, 0, 4), Err(0));
    assert_eq!(read_view(&mut engine, View::Live, 1, 5), [1, 1, 1, 4, 1]);
    assert_eq!(read_view(&mut engine, S1, 0, 16), [1; 16]);
}

#[test]
fn a_full_disk_refuses_what_needs_a_copy_and_still_makes_snapshots() {
    let (_, mut engine) = disk(4);
    fill(&mut engine, 1, 0, 64, 1);
    checkpoint(&mut engine);
    snapshot(&mut engine, 1, 2);
    assert_eq!(engine.touched(ONE, 0, BLOCK as u64), 1);
    assert!(matches!(write(&mut engine, ONE, 3, 0, &[3]), Err(Error::NoSpace)));
    assert!(matches!(write(&mut engine, ONE, 3, 0, &[3; 16]), Err(Error::NoSpace)));
    engine.zero(ONE, Seq(3), 0, EXTENT).unwrap();
    assert_eq!(
        (read_view(&mut engine, S1, 0, 16), read_view(&mut engine, View::Live, 0, 16)),
        (vec![1; 16], vec![0; 16])
    );
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    fold_all(&mut engine);
    write(&mut engine, ONE, 4, 0, &[4]).unwrap();
    assert_eq!(read_view(&mut engine, View::Live, 0, 2), [4, 0]);
}

#[test]
fn reads_of_a_snapshot_survive_its_deletion_or_say_so() {
    let (_, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    snapshot(&mut engine, 1, 2);
    write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
    checkpoint(&mut engine);
    let mut plan = engine.read(ONE, S1, 0, EXTENT).unwrap();
    let extent = engine.read_extent(ONE, S1, ExtentIndex(0)).unwrap();
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    fold_all(&mut engine);
    // E2: the slot is not used again while the reads hold it.
    write(&mut engine, ONE, 4, 16, &[4; 16]).unwrap();
    checkpoint(&mut engine);
    plan.run();
    let ReadOutcome::Data { data, .. } = engine.finish_read(plan).unwrap() else { panic!("no data") };
    assert!(data.chunks(BLOCK).all(|found| found == block(1)));
    let ExtentOutcome::Data(content) = engine.finish_extent(extent).unwrap() else { panic!("no data") };
    assert_eq!(content.version, Seq(1));
}
