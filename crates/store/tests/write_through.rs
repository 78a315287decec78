//! A batch that somebody waits for is written and durable at once: what is accepted meanwhile, what a crash leaves, what a failure
//! does.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Effect, Fault, FaultyDir, MemDir, Operation};
use quoin_store::{Engine, Error, Lsn, SyncJob};
use std::sync::Arc;

/// A disk with a replica of 4 MiB, and nothing to sync.
fn disk() -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, 70);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    checkpoint(&mut engine);
    (dir, engine)
}

fn through(engine: &mut Engine) -> (Lsn, SyncJob) {
    engine.submit_through().unwrap().expect("nothing else is on its way")
}

/// The records that a start finds, and the first blocks.
fn found(dir: MemDir, blocks: u64) -> (Lsn, Vec<u64>) {
    let (mut engine, opened) = try_open(Arc::new(dir), 2).unwrap();
    (opened.end, read(&mut engine, ONE, 0, blocks))
}

#[test]
fn a_batch_is_accepted_and_durable_when_it_is_written() {
    let (dir, mut engine) = disk();
    let begin = engine.durable();
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    write(&mut engine, ONE, 2, 1, &[2]).unwrap();
    let (last, job) = through(&mut engine);
    assert_eq!((last, engine.accepted(), engine.durable()), (Lsn(begin.0 + 2), begin, begin));
    assert!(engine.is_writing_through() && !engine.has_uncommitted());
    assert_eq!(read(&mut engine, ONE, 0, 2), [1, 2]);
    assert_eq!(found(dir.process_crash(), 2), (begin, vec![0, 0]), "nobody has written it");
    let done = job.run();
    for seed in 0..20 {
        assert_eq!(found(dir.crash(seed), 2), (last, vec![1, 2]));
    }
    assert_eq!((engine.finish_sync(done).unwrap(), engine.accepted()), (last, last));
    assert!(!engine.is_writing_through());
    assert!(engine.submit_through().unwrap().is_none(), "there is nothing to write");
    apply(&mut engine);
    assert_eq!((engine.applied(), read(&mut engine, ONE, 0, 2)), (last, vec![1, 2]));
}

/// A gap would take what is behind it.
#[test]
fn what_is_written_behind_it_is_not_accepted_before_it() {
    let (dir, mut engine) = disk();
    let begin = engine.durable();
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    let (through, job) = through(&mut engine);
    write(&mut engine, ONE, 2, 1, &[2]).unwrap();
    engine.submit().unwrap();
    write(&mut engine, ONE, 3, 16, &[3; 16]).unwrap();
    let last = engine.submit().unwrap();
    let place = engine.start_place().unwrap().run();
    assert_eq!((engine.finish_place(place).unwrap(), engine.accepted()), (begin, begin));
    assert_eq!(found(dir.process_crash(), 2), (begin, vec![0, 0]));
    assert!(engine.start_sync().is_none(), "one at a time");
    assert_eq!(engine.finish_sync(job.run()).unwrap(), through);
    assert_eq!(engine.accepted(), last);
    assert_eq!(found(dir.process_crash(), 2), (last, vec![1, 2]));
    assert_eq!(sync(&mut engine), last);
    assert_eq!(found(dir.crash(1), 2), (last, vec![1, 2]));
}

#[test]
fn it_is_refused_where_one_write_is_not_enough() {
    let (_, mut engine) = disk();
    assert!(engine.submit_through().unwrap().is_none(), "an empty batch");
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    engine.submit().unwrap();
    write(&mut engine, ONE, 2, 1, &[2]).unwrap();
    assert!(engine.submit_through().unwrap().is_none(), "what was written before it is not durable");
    let job = engine.start_sync().unwrap();
    assert!(engine.submit_through().unwrap().is_none(), "a sync is under way");
    engine.finish_sync(job.run()).unwrap();
    write(&mut engine, ONE, 3, 16, &[3; 16]).unwrap();
    assert!(engine.submit_through().unwrap().is_none(), "data goes elsewhere");
    assert!(engine.has_uncommitted(), "nothing was done");
    sync(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 17), [[1, 2].as_slice(), &[0; 14], &[3]].concat());
}

/// Whoever can wait no longer does what nobody did: a commit, a full journal, the end.
#[test]
fn nobody_waits_for_a_job_that_is_not_run() {
    let (dir, mut engine) = disk();
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    let (last, job) = through(&mut engine);
    assert_eq!((engine.commit().unwrap(), engine.durable() < last), (last, true));
    assert_eq!(engine.finish_sync(job.run()).unwrap(), last);

    write(&mut engine, ONE, 2, 0, &[2]).unwrap();
    let (last, job) = through(&mut engine);
    let full = engine.statistics().journal_full;
    let mut seq = 2;
    while engine.statistics().journal_full == full {
        seq += 1;
        write(&mut engine, ONE, seq, 1, &[seq]).unwrap();
        engine.submit().unwrap();
    }
    assert!(engine.durable() >= last && engine.accepted() >= last);
    assert!(engine.finish_sync(job.run()).unwrap() >= last);
    sync(&mut engine);

    write(&mut engine, ONE, seq + 1, 0, &[5]).unwrap();
    drop(through(&mut engine));
    engine.shutdown().unwrap();
    assert_eq!(read(&mut open(&dir), ONE, 0, 2), [5, seq]);
}

#[test]
fn a_failed_write_poisons() {
    for (operation, effect) in [
        (Operation::Write, Effect::InputOutput),
        (Operation::Write, Effect::Half),
        (Operation::Sync, Effect::InputOutput),
    ] {
        let memory = MemDir::new();
        format(&memory, 70);
        let dir = FaultyDir::new(Arc::new(memory.clone()));
        let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
        engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
        let before = sync(&mut engine);
        write(&mut engine, ONE, 1, 0, &[1]).unwrap();
        let (_, job) = through(&mut engine);
        dir.inject(Fault { operation, name_prefix: "journal".into(), after: 0, times: 1, effect });
        let error = engine.finish_sync(job.run()).unwrap_err();
        assert!(
            matches!(error, Error::Io { .. }) && error.to_string().contains("writing the journal"),
            "{error}"
        );
        assert_eq!((engine.accepted(), engine.durable()), (before, before));
        assert!(matches!(engine.submit_through(), Err(Error::Poisoned { .. })));
        for seed in 0..10 {
            let (end, blocks) = found(memory.crash(seed), 1);
            assert_eq!(blocks, [u64::from(end > before)]);
        }
    }
}
