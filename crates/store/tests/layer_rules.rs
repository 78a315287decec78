//! One test for each rule of layers that the larger tests do not hold (README.md): what is kept for whom, and what may be
//! changed while others look at it.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::MemDir;
use quoin_store::{Engine, Error, Scrub, View};
use quoin_types::{ExtentIndex, ReplicaId, Seq, SnapshotId};

const CLONE: ReplicaId = ReplicaId(7);
const SEGMENT: u64 = 64 * EXTENT;
const S1: View = View::Snapshot(SnapshotId(1));

fn disk(extents: u64) -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, extents);
    let mut engine = open(&dir);
    engine.create_replica(ONE, SEGMENT, Bytes::new()).unwrap();
    (dir, engine)
}

/// A disk whose replica has one extent of ones, a snapshot of that at seq 10, and a clone of the snapshot.
fn disk_with_clone(extents: u64) -> (MemDir, Engine) {
    let (dir, mut engine) = disk(extents);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    engine.create_snapshot(ONE, SnapshotId(1), Seq(10)).unwrap();
    engine.clone_replica(CLONE, SEGMENT, Bytes::new(), ONE, SnapshotId(1)).unwrap();
    checkpoint(&mut engine);
    (dir, engine)
}

fn put(engine: &mut Engine, version: u64, keep: u16, value: u64) -> Result<(), Error> {
    let (sums, data) = blocks(&[value; 16]);
    engine.put_extent(ONE, ExtentIndex(0), Seq(version), keep, &sums.try_into().unwrap(), 0, data).map(drop)
}

/// Late data of the state that a snapshot was made of changes what the snapshot's clones see, but not the slot that a clone's
/// record copies from: neither before the copy is made, nor when it is made again after a crash.
#[test]
fn what_comes_late_leaves_the_source_of_a_clones_copy_alone() {
    for copied_before in [false, true] {
        let (dir, mut engine) = disk_with_clone(64);
        write(&mut engine, CLONE, 11, 0, &[5]).unwrap();
        if copied_before {
            sync(&mut engine);
        }
        put(&mut engine, 9, 0b10, 7).unwrap();
        let look = |engine: &mut Engine| {
            assert_eq!(read(engine, CLONE, 0, 16), [vec![5], vec![1; 15]].concat());
            for view in [View::Live, S1] {
                assert_eq!(read_view(engine, view, 0, 16), [vec![7, 1], vec![7; 14]].concat());
            }
        };
        look(&mut engine);
        sync_only(&mut engine);
        look(&mut restart(&dir).1);
        apply(&mut engine);
        look(&mut engine);
        look(&mut restart(&dir).1);
        checkpoint(&mut engine);
        look(&mut restart(&dir).1);
        assert_eq!((used_extents(&engine), engine.replica(ONE).unwrap().extents_allocated), (2, 1));
        assert_sound(&dir);
    }
}

/// Nor where no other slot is free for it.
#[test]
fn what_comes_late_is_refused_where_it_could_only_change_the_source_of_a_copy() {
    let (_, mut engine) = disk_with_clone(2);
    write(&mut engine, CLONE, 11, 0, &[5]).unwrap();
    assert!(matches!(put(&mut engine, 9, 0, 7), Err(Error::NoSpace)));
    checkpoint(&mut engine);
    assert_eq!(read(&mut engine, CLONE, 0, 16), [vec![5], vec![1; 15]].concat());
}

/// A deleted snapshot is kept for its clones, and nothing is kept for one that has none.
#[test]
fn a_deleted_snapshot_keeps_for_its_clones_alone() {
    let (dir, mut engine) = disk_with_clone(64);
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    write(&mut engine, ONE, 11, 0, &[2; 16]).unwrap();
    assert!(!engine.has_folding());
    checkpoint(&mut engine);
    for engine in [&mut engine, &mut restart(&dir).1] {
        assert_eq!((read(engine, CLONE, 0, 16), read(engine, ONE, 0, 16)), (vec![1; 16], vec![2; 16]));
        assert!(!engine.fold().unwrap());
    }
    engine.drop_replica(CLONE).unwrap();
    checkpoint(&mut engine);
    while engine.fold().unwrap() {}
    checkpoint(&mut engine);
    assert_eq!((used_extents(&engine), read(&mut engine, ONE, 0, 16)), (1, vec![2; 16]));
    engine.create_snapshot(ONE, SnapshotId(2), Seq(12)).unwrap();
    engine.delete_snapshot(ONE, SnapshotId(2)).unwrap();
    sync(&mut engine);
    assert!(restart(&dir).1.has_folding());
    write(&mut engine, ONE, 13, 0, &[3]).unwrap();
    assert_eq!(engine.replica(ONE).unwrap().extents_allocated, 1);
}

/// A snapshot is not older than what has its own seq.
#[test]
fn what_has_the_seq_of_a_snapshot_belongs_to_it() {
    let (_, mut engine) = disk_with_clone(64);
    put(&mut engine, 10, 0, 7).unwrap();
    assert_eq!(
        (read_view(&mut engine, S1, 0, 16), engine.snapshots(ONE).unwrap()[0].extents_kept),
        (vec![7; 16], 0)
    );
}

/// Entries without data use up a scrub's budget too.
#[test]
fn a_scrub_of_a_layer_of_never_written_extents_goes_in_steps() {
    let (_, mut engine) = disk(64);
    engine.create_snapshot(ONE, SnapshotId(1), Seq(1)).unwrap();
    engine.zero(ONE, Seq(2), 0, SEGMENT).unwrap();
    checkpoint(&mut engine);
    let (mut scrub, mut steps) = (Scrub::default(), Vec::new());
    while let Some(job) = engine.start_scrub(&mut scrub, 32 * 96) {
        steps.push(engine.finish_scrub(job).extents);
    }
    assert_eq!(steps, [32; 4]);
}

/// E2: the source of a copy is freed by a later fold, and used again only when a checkpoint past that is durable: until then
/// the copy may be made again.
#[test]
fn the_source_of_a_copy_is_not_used_again_before_a_checkpoint() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    sync(&mut engine);
    let before_the_copy = engine.start_checkpoint(true).unwrap();
    engine.create_snapshot(ONE, SnapshotId(1), Seq(2)).unwrap();
    write(&mut engine, ONE, 3, 4, &[4]).unwrap();
    engine.delete_snapshot(ONE, SnapshotId(1)).unwrap();
    while engine.fold().unwrap() {}
    sync(&mut engine);
    engine.finish_checkpoint(before_the_copy.run()).unwrap();
    write(&mut engine, ONE, 5, 16, &[5; 16]).unwrap();
    engine.commit().unwrap();
    let (_, mut engine) = restart(&dir);
    assert_eq!(read(&mut engine, ONE, 0, 32), [vec![1; 4], vec![4], vec![1; 11], vec![5; 16]].concat());
}
