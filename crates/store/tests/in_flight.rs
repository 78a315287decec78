//! Data of whole extents is on its way while the owner goes on: what is accepted then, what a crash leaves, what a failure
//! does.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Effect, Fault, FaultyDir, MemDir, Operation, OsDir};
use quoin_store::{Engine, Error, Lsn, PlaceJob};
use std::sync::Arc;

fn disk(extents: u64) -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, extents);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    checkpoint(&mut engine);
    (dir, engine)
}

/// The records that a start after a crash of the process finds, and what they say of the first extents.
fn after_process_crash(dir: &MemDir, extents: u64) -> (Lsn, Vec<u64>) {
    let (mut engine, opened) = try_open(Arc::new(dir.process_crash()), 1).unwrap();
    let first_blocks = (0..extents).map(|extent| read(&mut engine, ONE, extent * 16, 16)[0]).collect();
    (opened.end, first_blocks)
}

fn jobs(engine: &mut Engine) -> Vec<PlaceJob> {
    std::iter::from_fn(|| engine.start_place()).collect()
}

#[test]
fn a_record_is_accepted_with_its_data_and_that_of_all_before() {
    let (dir, mut engine) = disk(64);
    let begin = engine.accepted();
    let lsn = |n: u64| Lsn(begin.0 + n);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    assert_eq!((engine.submit().unwrap(), engine.accepted()), (lsn(1), begin));
    write(&mut engine, ONE, 2, 16, &[2; 16]).unwrap();
    write(&mut engine, ONE, 3, 40, &[3]).unwrap();
    assert_eq!((engine.submit().unwrap(), engine.accepted()), (lsn(3), begin));
    assert!(!engine.has_uncommitted());
    let expected = [[1; 16].as_slice(), &[2; 16], &[0; 8], &[3]].concat();
    assert_eq!(read(&mut engine, ONE, 0, 41), expected);
    // The records are in the journal, their data is nowhere: they do not count.
    assert_eq!(after_process_crash(&dir, 3), (begin, vec![0; 3]));

    let mut jobs = jobs(&mut engine);
    assert!(jobs.len() == 2 && engine.start_place().is_none());
    let second = jobs.pop().unwrap().run();
    assert_eq!(engine.finish_place(second).unwrap(), begin);
    assert_eq!(after_process_crash(&dir, 3).0, begin);
    let first = jobs.pop().unwrap().run();
    assert_eq!(after_process_crash(&dir, 2), (lsn(3), vec![1, 2]));
    assert_eq!(engine.finish_place(first).unwrap(), lsn(3));
    assert_eq!(read(&mut engine, ONE, 0, 41), expected);
    assert!(engine.durable() == begin);
    assert_eq!(sync_only(&mut engine), lsn(3));
}

#[test]
fn a_small_batch_waits_for_the_large_one_before_it() {
    let (dir, mut engine) = disk(64);
    let begin = engine.accepted();
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    engine.submit().unwrap();
    write(&mut engine, ONE, 2, 20, &[2]).unwrap();
    engine.submit().unwrap();
    assert_eq!((engine.accepted(), after_process_crash(&dir, 1).0), (begin, begin));
    assert_eq!(engine.commit().unwrap(), Lsn(begin.0 + 2));
    assert_eq!(after_process_crash(&dir, 1), (Lsn(begin.0 + 2), vec![1]));
}

/// The sync does what nobody did; a job that comes later finds nothing to do.
#[test]
fn a_sync_waits_for_data_on_its_way() {
    let (dir, mut engine) = disk(128);
    for n in 0..3 {
        write(&mut engine, ONE, n + 1, n * 16, &[n + 1; 16]).unwrap();
    }
    let last = engine.submit().unwrap();
    let job = engine.start_place().unwrap();
    let sync = engine.start_sync().unwrap();
    let done = sync.run();
    for seed in 0..20 {
        let (mut engine, opened) = try_open(Arc::new(dir.crash(seed)), 2).unwrap();
        assert_eq!((opened.end, read(&mut engine, ONE, 32, 16)), (last, vec![3; 16]));
    }
    assert_eq!((engine.finish_sync(done).unwrap(), engine.accepted()), (last, last));
    apply(&mut engine);
    assert!(engine.start_place().is_none());
    assert_eq!(engine.finish_place(job.run()).unwrap(), last);
    assert_eq!(read(&mut engine, ONE, 0, 16), [1; 16]);
}

/// A write to the extent that comes while its data is on the way is applied after it.
#[test]
fn a_later_write_wins() {
    let (dir, mut engine) = disk(64);
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    engine.submit().unwrap();
    let job = engine.start_place().unwrap();
    write(&mut engine, ONE, 2, 3, &[2, 2]).unwrap();
    engine.submit().unwrap();
    let expected = [[1; 3].as_slice(), &[2; 2], &[1; 11]].concat();
    assert_eq!(read(&mut engine, ONE, 0, 16), expected);
    let done = engine.start_sync().unwrap().run();
    engine.finish_sync(done).unwrap();
    apply(&mut engine);
    engine.finish_place(job.run()).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 16), expected);
    let (mut engine, _) = try_open(Arc::new(dir.process_crash()), 1).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 16), expected);
}

/// What the owner did not wait for is done by those who cannot: a full journal, and the end.
#[test]
fn a_full_journal_and_a_shutdown_wait_for_data_on_its_way() {
    let (dir, mut engine) = disk(400);
    let mut seq = 0;
    while engine.statistics().journal_full == 0 {
        seq += 1;
        write(&mut engine, ONE, seq, seq % 4 * 16, &[seq; 16]).unwrap();
        engine.submit().unwrap();
    }
    let expected = read(&mut engine, ONE, 0, 64);
    engine.shutdown().unwrap();
    assert_eq!(read(&mut open(&dir), ONE, 0, 64), expected);
}

/// E4: nothing is pretended after a direct write failed, whoever hears of it first; nothing of it was accepted.
#[test]
fn a_failed_write_of_data_poisons() {
    for effect in [Effect::InputOutput, Effect::Half, Effect::NoSpace] {
        for sync_hears_first in [false, true] {
            let memory = MemDir::new();
            format(&memory, 64);
            let dir = FaultyDir::new(Arc::new(memory.clone()));
            let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
            engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
            write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
            let before = sync(&mut engine);
            write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
            engine.submit().unwrap();
            write(&mut engine, ONE, 3, 16, &[3; 16]).unwrap();
            engine.submit().unwrap();
            let (first, second) = (engine.start_place().unwrap(), engine.start_place().unwrap());
            dir.inject(Fault {
                operation: Operation::Write,
                name_prefix: "data".into(),
                after: 0,
                times: 1,
                effect,
            });
            let first = first.run();
            assert_eq!(engine.finish_place(second.run()).unwrap(), before);
            let sync = engine.start_sync().unwrap().run();
            let error = if sync_hears_first {
                engine.finish_sync(sync).unwrap_err()
            } else {
                engine.finish_place(first).unwrap_err()
            };
            assert!(
                matches!(error, Error::Io { .. }) && error.to_string().contains("writing data"),
                "{error}"
            );
            assert!(matches!(engine.commit(), Err(Error::Poisoned { .. })));
            assert!(engine.start_place().is_none() && engine.start_sync().is_none());
            assert_eq!((engine.accepted(), engine.durable()), (before, before));
            for seed in 0..10 {
                let (mut engine, opened) = try_open(Arc::new(memory.crash(seed)), 2).unwrap();
                assert_eq!(
                    (opened.end, read(&mut engine, ONE, 0, 32)[15..17].to_vec()),
                    (before, vec![1, 0])
                );
            }
        }
    }
}

/// Rot on the way to the device is found by recovery if nobody was told of the record, and by reads if somebody was.
#[test]
fn a_flipped_bit_is_found() {
    let memory = MemDir::new();
    format(&memory, 64);
    let dir = FaultyDir::new(Arc::new(memory.clone()));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    let before = sync(&mut engine);
    let (operation, effect) = (Operation::Write, Effect::FlipBit(8 * 4096 * 3));
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    engine.submit().unwrap();
    dir.inject(Fault { operation, name_prefix: "data".into(), after: 0, times: 1, effect });
    engine.commit().unwrap();
    assert_eq!(try_read(&mut engine, ONE, 0, 16), Err(3));
    assert_eq!(after_process_crash(&memory, 1), (before, vec![0]));
}

/// Crash images of a run with jobs that end in any order, between any two steps: the process's crash leaves at least what
/// was accepted, a loss of power what was durable, and of the rest a prefix.
#[test]
fn a_crash_between_any_two_jobs_leaves_a_prefix() {
    for run in 0..5u64 {
        let (dir, mut engine) = disk(70);
        let created = engine.accepted().0;
        let mut states: Vec<Vec<u64>> = vec![vec![0; 96]];
        let (mut random, mut under_way, mut syncing) = (run, Vec::new(), None);
        let mut below = |count: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % count
        };
        for step in 1..=70u64 {
            let mut state = states[states.len() - 1].clone();
            let (first, count) =
                [(below(6) * 16, 16), (below(4) * 16 + 8, 24), (below(5) * 16 + 3, 20), (below(90), 5)]
                    [below(4)];
            write(&mut engine, ONE, step, first as u64, &vec![step; count]).unwrap();
            state[first..first + count].fill(step);
            states.push(state);
            for _ in 0..3 {
                match below(9) {
                    0 => drop(engine.submit().unwrap()),
                    8 if syncing.is_none() => {
                        syncing = engine.submit_through().unwrap().map(|(_, job)| (Some(job), None));
                    }
                    1 | 2 => under_way.extend(engine.start_place().map(|job| (Some(job), None))),
                    3 if !under_way.is_empty() => {
                        let place = below(under_way.len());
                        let (job, done) = &mut under_way[place];
                        *done = job.take().map(PlaceJob::run).or_else(|| done.take());
                    }
                    4 if !under_way.is_empty() => {
                        let (job, done) = under_way.swap_remove(below(under_way.len()));
                        let done = done.or_else(|| job.map(PlaceJob::run)).unwrap();
                        engine.finish_place(done).unwrap();
                    }
                    5 if syncing.is_none() => syncing = engine.start_sync().map(|job| (Some(job), None)),
                    6 => match syncing.take() {
                        Some((Some(job), _)) => syncing = Some((None, Some(job.run()))),
                        Some((None, Some(done))) => drop(engine.finish_sync(done).unwrap()),
                        _ => {}
                    },
                    7 => {
                        apply(&mut engine);
                        if let Some(job) = engine.start_checkpoint(true) {
                            engine.finish_checkpoint(job.run()).unwrap();
                        }
                    }
                    _ => {}
                }
                assert!(engine.durable() <= engine.accepted());
                assert_eq!(read(&mut engine, ONE, 0, 96), states[states.len() - 1]);
                let images = [
                    (dir.process_crash(), engine.accepted()),
                    (dir.crash(step * 10 + run), engine.durable()),
                    (dir.process_crash().crash(step), engine.durable()),
                ];
                for (image, at_least) in images {
                    let (mut engine, opened) = try_open(Arc::new(image), 2).unwrap();
                    assert!(opened.end >= at_least && opened.damaged.is_empty());
                    let state = &states[(opened.end.0 - created) as usize];
                    assert_eq!(&read(&mut engine, ONE, 0, 96), state);
                }
            }
        }
    }
}

/// A sync makes the journal durable first: until the data is, too, its records do not count.
#[test]
fn a_journal_that_is_durable_before_its_data_ends_before_it() {
    let memory = MemDir::new();
    format(&memory, 64);
    let dir = FaultyDir::new(Arc::new(memory.clone()));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 0, &[1; 16]).unwrap();
    let before = sync(&mut engine);
    write(&mut engine, ONE, 2, 0, &[2; 16]).unwrap();
    engine.commit().unwrap();
    let (operation, effect) = (Operation::Sync, Effect::InputOutput);
    dir.inject(Fault { operation, name_prefix: "data".into(), after: 0, times: 1, effect });
    let done = engine.start_sync().unwrap().run();
    assert!(matches!(engine.finish_sync(done), Err(Error::Io { .. })));
    let (mut old, mut new) = (0, 0);
    for seed in 0..60 {
        let (mut engine, opened) = try_open(Arc::new(memory.crash(seed)), 2).unwrap();
        let is_new = opened.end > before;
        (old, new) = (old + u32::from(!is_new), new + u32::from(is_new));
        assert_eq!(read(&mut engine, ONE, 0, 16), [if is_new { 2 } else { 1 }; 16]);
    }
    assert!(old > 5 && new > 5, "{old} {new}");
}

/// A real filesystem, few slots: they are used again and again, written around the cache and through it, and read through
/// it. No read is served what the cache had of an earlier use.
#[test]
fn slots_that_are_used_again_are_read_as_last_written() {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = || Arc::new(OsDir::open(temporary.path()).unwrap());
    format(&*dir(), 10);
    let mut state = vec![0u64; 64];
    for start in 0..3 {
        let (mut engine, _) = try_open(dir(), 1).unwrap();
        if start == 0 {
            engine.create_replica(ONE, 4 * EXTENT, Bytes::new()).unwrap();
        }
        for step in 1..=120u64 {
            let seq = start * 1000 + step;
            let (first, count) =
                [(step % 4 * 16, 16), (step * 7 % 60, 4), (step % 3 * 16, 24)][step as usize % 3];
            write(&mut engine, ONE, seq, first, &vec![seq; count as usize]).unwrap();
            state[first as usize..(first + count) as usize].fill(seq);
            match step % 5 {
                0 => checkpoint(&mut engine),
                1 => drop(sync(&mut engine)),
                2 => drop(engine.submit().unwrap()),
                _ => drop(engine.commit().unwrap()),
            }
            assert_eq!(read(&mut engine, ONE, 0, 64), state);
        }
        engine.commit().unwrap();
    }
    let (mut engine, _) = try_open(dir(), 1).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 64), state);
}
