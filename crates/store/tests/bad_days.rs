//! What must not go wrong when the disk, the machine or the operator does. Faults come from outside, through the
//! directory; the engine has no hooks for tests.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation, OsDir};
use quoin_store::{Engine, Error, LastStart, Lsn, Options, ReadOutcome, Space, View};
use quoin_types::{BootId, ClusterId, DiskId, ExtentIndex, ReplicaId, Seq, StartMark};
use std::sync::Arc;

fn disk(extents: u64) -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, extents);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::from_static(b"meta")).unwrap();
    (dir, engine)
}

fn bytes_of(dir: &MemDir, name: &str) -> Vec<u8> {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    content
}

/// Changes one byte of a file, for good.
fn damage(dir: &MemDir, name: &str, at: u64) {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ 0x40], at).unwrap();
    file.sync().unwrap();
}

/// Where in the journal files these bytes are.
fn find_in_journal(dir: &MemDir, needle: &[u8]) -> (String, u64) {
    for name in dir.list().unwrap().into_iter().filter(|name| name.starts_with("journal.")) {
        let content = bytes_of(dir, &name);
        if let Some(at) = content.windows(needle.len()).position(|window| window == needle) {
            return (name, at as u64);
        }
    }
    panic!("not in the journal");
}

fn reopen(dir: &MemDir) -> (MemDir, Engine, quoin_store::Opened) {
    let image = dir.process_crash();
    let (engine, opened) = try_open(Arc::new(image.clone()), 1).unwrap();
    (image, engine, opened)
}

#[test]
fn a_disk_is_refused_by_name() {
    let dir = MemDir::new();
    assert!(matches!(try_open(Arc::new(dir.clone()), 1), Err(Error::NotFormatted)));
    format(&dir, 8);
    let identity = open(&dir).identity().clone();
    assert!(matches!(Engine::format(&dir, &identity), Err(Error::AlreadyFormatted { .. })));
    let other = Engine::open(Arc::new(dir.clone()), Some(ClusterId([8; 16])), BootId([1; 16]), options());
    let message = other.err().unwrap().to_string();
    assert!(message.contains(&CLUSTER.to_string()) && message.contains(&ClusterId([8; 16]).to_string()));
    assert!(Engine::open(Arc::new(dir.clone()), None, BootId([1; 16]), options()).is_ok());
    let file = dir.open("superblock", OpenMode::Existing).unwrap();
    let mut version = [0];
    file.read_at(&mut version, 8).unwrap();
    for other in [version[0] - 1, version[0] + 1] {
        file.write_at(&[other], 8).unwrap();
        let found = u32::from(other);
        let opened = try_open(Arc::new(dir.clone()), 1);
        assert!(matches!(opened, Err(Error::UnknownVersion { found: it, .. }) if it == found));
    }
    file.write_at(&version, 8).unwrap();
    damage(&dir, "superblock", 40);
    assert!(matches!(try_open(Arc::new(dir), 1), Err(Error::Corrupt { .. })));
}

#[test]
fn a_real_directory_has_one_engine_and_keeps_its_data() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = || OsDir::open(temporary.path()).unwrap();
    format(&dir(), 200);
    let (mut engine, _) = try_open(Arc::new(dir()), 1).unwrap();
    assert!(matches!(try_open(Arc::new(dir()), 1), Err(Error::Locked)));
    assert!(matches!(Engine::format(&dir(), &engine.identity().clone()), Err(Error::Locked)));
    engine.create_replica(ONE, 16 << 30, Bytes::new()).unwrap();
    for seq in 1..=100 {
        write(&mut engine, ONE, seq, seq * 16_000, &[seq, seq + 1]).unwrap();
        if seq % 10 == 0 {
            sync(&mut engine);
        }
    }
    checkpoint(&mut engine);
    write(&mut engine, ONE, 101, 160, &[1; 20]).unwrap();
    engine.commit().unwrap();
    drop(engine);
    let (mut engine, opened) = try_open(Arc::new(dir()), 1).unwrap();
    assert!(opened.crashed && opened.replayed_records == 1);
    for seq in 1..=100 {
        assert_eq!(read(&mut engine, ONE, seq * 16_000, 3), [seq, seq + 1, 0]);
    }
    assert_eq!(read(&mut engine, ONE, 160, 21)[19..], [1, 0]);
    engine.zero(ONE, Seq(102), 0, 16 << 30).unwrap();
    checkpoint(&mut engine);
    assert_eq!(engine.space().used_bytes, 0);
    engine.shutdown().unwrap();
    let (engine, opened) = try_open(Arc::new(dir()), 1).unwrap();
    assert!(!opened.crashed && opened.replayed_records == 0);
    assert_eq!(engine.count_changed_since(ONE, View::Live, Seq(101)).unwrap(), 1 << 18);
}

#[test]
fn starts_are_counted_and_told_apart() {
    let dir = MemDir::new();
    format(&dir, 8);
    let open = |dir: &MemDir, boot| try_open(Arc::new(dir.clone()), boot).unwrap();
    let (engine, opened) = open(&dir, 1);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (1, false, false));
    drop(engine);
    let (engine, opened) = open(&dir, 1);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (2, true, false));
    drop(engine);
    let (engine, opened) = open(&dir, 2);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (3, true, true));
    drop(engine);
    // Nobody has noted it yet: it is said again.
    let (mut engine, opened) = open(&dir, 2);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (4, true, true));
    engine.power_loss_noted().unwrap();
    drop(engine);
    let (engine, opened) = open(&dir, 2);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (5, true, false));
    engine.shutdown().unwrap();
    let (engine, opened) = open(&dir, 3);
    assert_eq!((opened.start_count, opened.crashed, opened.power_was_lost), (6, false, false));
    assert_eq!(engine.start_count(), 6);
}

/// C2: a disk that its managers refuse is as it was, however often it is tried.
#[test]
fn a_disk_that_is_only_looked_at_is_not_changed() {
    let dir = MemDir::new();
    format(&dir, 8);
    let look = |dir: &MemDir| Engine::look_at(Arc::new(dir.clone()), Some(CLUSTER)).unwrap();
    let content = |dir: &MemDir| -> Vec<Vec<u8>> {
        dir.list().unwrap().iter().map(|name| bytes_of(dir, name)).collect()
    };
    assert_eq!(look(&dir).last_start(), LastStart { count: 0, mark: StartMark::default() });
    let mark = StartMark([5; 8]);
    let (mut engine, opened) = look(&dir).open(BootId([1; 16]), options(), mark).unwrap();
    assert_eq!(opened.start_count, 1);
    engine.create_replica(ONE, EXTENT, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    sync(&mut engine);
    assert!(matches!(Engine::look_at(Arc::new(dir.clone()), None), Err(Error::Locked)));
    drop(engine);
    let before = content(&dir);
    for _ in 0..3 {
        let unopened = look(&dir);
        assert_eq!(unopened.last_start(), LastStart { count: 1, mark });
        assert_eq!((unopened.next_start_count(), unopened.identity().disk), (2, DiskId([9; 16])));
    }
    assert!(content(&dir) == before, "looking at a disk has changed it");
    // The later record of starts is damaged: the checkpoint has the count, and nobody knows whose start it was.
    let image = dir.process_crash();
    damage(&image, "starts", 4096 + 30);
    assert_eq!(look(&image).last_start(), LastStart { count: 1, mark: StartMark::default() });
    let (engine, opened) = look(&dir).open(BootId([1; 16]), options(), StartMark([6; 8])).unwrap();
    assert_eq!((opened.start_count, opened.crashed), (2, true));
    engine.shutdown().unwrap();
    assert_eq!(look(&dir).last_start(), LastStart { count: 2, mark: StartMark([6; 8]) });
}

/// After a failed write or sync nothing is accepted, and no later sync makes up for it.
#[test]
fn a_failure_poisons() {
    for (operation, name) in [
        (Operation::Write, "journal."),
        (Operation::Sync, "journal."),
        (Operation::Write, "data"),
        (Operation::Sync, "data"),
        (Operation::Sync, "map."),
        (Operation::Sync, "checkpoint."),
        (Operation::Write, "checkpoint."),
    ] {
        for effect in [Effect::InputOutput, Effect::Half] {
            let memory = MemDir::new();
            format(&memory, 8);
            let dir = FaultyDir::new(Arc::new(memory.clone()));
            let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
            engine.create_replica(ONE, 8 * EXTENT, Bytes::new()).unwrap();
            write(&mut engine, ONE, 1, 0, &[1, 2]).unwrap();
            assert_eq!(sync(&mut engine), Lsn(2));
            write(&mut engine, ONE, 2, 0, &[3]).unwrap();
            dir.inject(Fault { operation, name_prefix: name.into(), after: 0, times: 1, effect });
            let failed = engine.commit().is_err()
                || engine.start_sync().is_some_and(|job| engine.finish_sync(job.run()).is_err())
                || engine.start_apply().is_some_and(|job| engine.finish_apply(job.run()).is_err())
                || engine
                    .start_checkpoint(true)
                    .is_some_and(|job| engine.finish_checkpoint(job.run()).is_err());
            assert!(failed, "{operation:?} of {name}");
            assert!(matches!(write(&mut engine, ONE, 3, 0, &[4]), Err(Error::Poisoned { .. })));
            assert!(matches!(engine.commit(), Err(Error::Poisoned { .. })));
            assert!(engine.start_sync().is_none() && engine.start_checkpoint(true).is_none());
            assert!(engine.start_apply().is_none());
            assert!(matches!(engine.shutdown(), Err(Error::Poisoned { .. })));
            let mut engine = open(&memory.crash(3));
            assert!([1, 3].contains(&read(&mut engine, ONE, 0, 2)[0]));
            assert_eq!(read(&mut engine, ONE, 1, 1), [2]);
        }
    }
}

/// E1: data file and map change only when the record is durable.
#[test]
fn no_byte_changes_in_place_before_its_record_is_durable() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    checkpoint(&mut engine);
    let before = (bytes_of(&dir, "data"), bytes_of(&dir, "map.1"));
    write(&mut engine, ONE, 2, 0, &[2, 3]).unwrap();
    engine.commit().unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 2), [2, 3]);
    let job = engine.start_sync().unwrap();
    let done = job.run();
    assert!(engine.start_apply().is_none());
    assert!(before == (bytes_of(&dir, "data"), bytes_of(&dir, "map.1")));
    engine.finish_sync(done).unwrap();
    apply(&mut engine);
    assert!(before.0 != bytes_of(&dir, "data") && before.1 != bytes_of(&dir, "map.1"));
    assert_eq!(read(&mut engine, ONE, 0, 2), [2, 3]);
}

/// E3: a checkpoint is of what is applied; what is only durable stays in the journal.
#[test]
fn a_checkpoint_does_not_cover_what_is_not_applied() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 2, 0, &[2]).unwrap();
    engine.commit().unwrap();
    let done = engine.start_sync().unwrap().run();
    assert_eq!(engine.finish_sync(done).unwrap(), Lsn(3));
    let late = engine.start_apply().unwrap();
    let job = engine.start_checkpoint(true).unwrap();
    engine.finish_checkpoint(job.run()).unwrap();
    assert_eq!((engine.applied(), engine.durable()), (Lsn(2), Lsn(3)));
    assert!(engine.start_apply().is_none() && engine.start_checkpoint(true).is_none());
    assert_eq!(read(&mut engine, ONE, 0, 1), [2]);
    for seed in 0..8 {
        let (mut engine, opened) = try_open(Arc::new(dir.crash(seed)), 2).unwrap();
        assert_eq!((opened.end, opened.replayed_records), (Lsn(3), 1));
        assert_eq!(read(&mut engine, ONE, 0, 1), [2]);
    }
    engine.finish_apply(late.run()).unwrap();
    assert_eq!((engine.applied(), read(&mut engine, ONE, 0, 1)), (Lsn(3), vec![2]));
}

/// Where nobody runs the jobs, commits do their work: memory stays bounded and nothing is lost.
#[test]
fn a_commit_applies_by_itself_what_would_fill_the_memory() {
    let dir = MemDir::new();
    format(&dir, 64);
    let options = Options { journal_file_bytes: 32 << 20, journal_files: 4, reserve_bytes: 0 };
    let (mut engine, _) = Engine::open(Arc::new(dir.clone()), None, BootId([1; 16]), options).unwrap();
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    for seq in 1..=1200 {
        write(&mut engine, ONE, seq, seq % 60 * 16 + 1, &[seq; 15]).unwrap();
        engine.commit().unwrap();
    }
    assert_eq!((engine.statistics().overlay_full, engine.statistics().journal_full), (1, 0));
    assert!(engine.applied() > Lsn(1000));
    let (_, mut engine, _) = reopen(&dir);
    for seq in 1141..=1200 {
        assert_eq!(read(&mut engine, ONE, seq % 60 * 16, 3), [0, seq, seq]);
    }
}

/// E2: a freed slot waits for the checkpoint past the record that freed it.
#[test]
fn a_slot_is_not_reused_before_the_checkpoint() {
    let (dir, mut engine) = disk(2);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    checkpoint(&mut engine);
    engine.zero(ONE, Seq(2), 0, EXTENT).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 3, 16, &[3]).unwrap();
    assert!(matches!(write(&mut engine, ONE, 4, 32, &[4]), Err(Error::NoSpace)));
    assert_eq!(&bytes_of(&dir, "data")[..BLOCK], block(1));
    checkpoint(&mut engine);
    write(&mut engine, ONE, 4, 32, &[4]).unwrap();
    sync(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 33)[..17], [[0; 16].as_slice(), &[3]].concat());
    assert_eq!(read(&mut engine, ONE, 32, 1), [4]);
}

/// E2: a checkpoint begun before that record is not past it, whenever it ends.
#[test]
fn a_slot_is_not_reused_after_an_earlier_checkpoint() {
    let (_, mut engine) = disk(1);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    sync(&mut engine);
    let job = engine.start_checkpoint(true).unwrap();
    engine.zero(ONE, Seq(2), 0, EXTENT).unwrap();
    sync(&mut engine);
    engine.finish_checkpoint(job.run()).unwrap();
    assert!(matches!(write(&mut engine, ONE, 3, 16, &[3]), Err(Error::NoSpace)));
    checkpoint(&mut engine);
    write(&mut engine, ONE, 3, 16, &[3]).unwrap();
}

/// E2: nor before the reads that may use it are over, however they end.
#[test]
fn a_slot_is_not_reused_under_a_read() {
    for finish in [true, false] {
        let (_, mut engine) = disk(1);
        write(&mut engine, ONE, 1, 0, &[1]).unwrap();
        checkpoint(&mut engine);
        let mut plan = engine.read(ONE, View::Live, 0, BLOCK as u64).unwrap();
        engine.zero(ONE, Seq(2), 0, EXTENT).unwrap();
        checkpoint(&mut engine);
        assert!(matches!(write(&mut engine, ONE, 3, 16, &[3]), Err(Error::NoSpace)));
        if finish {
            plan.run();
            let ReadOutcome::Data { data, .. } = engine.finish_read(plan).unwrap() else { panic!("no data") };
            assert!(data == block(1));
        } else {
            drop(plan);
        }
        write(&mut engine, ONE, 3, 16, &[3]).unwrap();
    }
}

#[test]
fn a_read_overtaken_by_a_write_is_tried_again() {
    let (_, mut engine) = disk(2);
    write(&mut engine, ONE, 1, 0, &[1, 2]).unwrap();
    sync(&mut engine);
    let mut plan = engine.read(ONE, View::Live, 0, 2 * BLOCK as u64).unwrap();
    write(&mut engine, ONE, 2, 1, &[9]).unwrap();
    sync(&mut engine);
    plan.run();
    let ReadOutcome::Retry(mut plan) = engine.finish_read(plan).unwrap() else { panic!("no retry") };
    plan.run();
    let ReadOutcome::Data { data, .. } = engine.finish_read(plan).unwrap() else { panic!("no data") };
    assert!(data == [block(1), block(9)].concat());
    assert_eq!(engine.statistics().read_retries, 1);
}

#[test]
fn a_torn_tail_ends_the_journal_and_writing_goes_on() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[11]).unwrap();
    sync(&mut engine);
    for (seq, value) in [(2, 22), (3, 33)] {
        write(&mut engine, ONE, seq, 0, &[value]).unwrap();
        engine.commit().unwrap();
    }
    let (name, at) = find_in_journal(&dir, &block(22)[..64]);
    damage(&dir, &name, at + 5);
    let (image, mut engine, opened) = reopen(&dir);
    assert_eq!((opened.end, opened.replayed_records), (Lsn(2), 2));
    assert_eq!(read(&mut engine, ONE, 0, 1), [11]);
    write(&mut engine, ONE, 2, 0, &[44]).unwrap();
    engine.commit().unwrap();
    let (_, mut engine, _) = reopen(&image);
    assert_eq!(read(&mut engine, ONE, 0, 1), [44]);
}

/// E4: the records of an earlier start, left behind a torn one, would continue the next start's but for the incarnation.
#[test]
fn a_stale_pass_of_the_journal_is_not_continued() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[11]).unwrap();
    sync(&mut engine);
    for (seq, value) in [(2, 22), (3, 33)] {
        write(&mut engine, ONE, seq, 0, &[value]).unwrap();
        engine.commit().unwrap();
    }
    let (name, at) = find_in_journal(&dir, &block(22)[..64]);
    damage(&dir, &name, at + 5);
    let (image, mut engine, opened) = reopen(&dir);
    assert_eq!(opened.end, Lsn(2));
    // Of the same size, at the same place, with the same lsn: right behind it lies the stale record 4.
    assert_eq!(write(&mut engine, ONE, 2, 0, &[44]).unwrap(), Lsn(3));
    engine.commit().unwrap();
    assert!(find_in_journal(&image, &block(33)[..64]).1 > find_in_journal(&image, &block(44)[..64]).1);
    let (_, mut engine, opened) = reopen(&image);
    assert_eq!(opened.end, Lsn(3));
    assert_eq!(read(&mut engine, ONE, 0, 1), [44]);
}

/// E4: nor is a stale record that a torn batch left under its own header: record checksums begin with the incarnation.
#[test]
fn a_stale_body_under_a_new_header_is_not_taken() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[11]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 2, 0, &[22]).unwrap();
    engine.commit().unwrap();
    let (name, at) = find_in_journal(&dir, &block(22)[..64]);
    let body = at as usize - 176;
    let stale = bytes_of(&dir, &name)[body..at as usize + BLOCK].to_vec();
    damage(&dir, &name, at + 5);
    let (image, mut engine, _) = reopen(&dir);
    assert_eq!(write(&mut engine, ONE, 2, 0, &[44]).unwrap(), Lsn(3));
    engine.commit().unwrap();
    assert_eq!(find_in_journal(&image, &block(44)[..64]), (name.clone(), at));
    image.open(&name, OpenMode::Existing).unwrap().write_at(&stale, body as u64).unwrap();
    let (_, mut engine, opened) = reopen(&image);
    assert_eq!((opened.end, read(&mut engine, ONE, 0, 1)), (Lsn(2), vec![11]));
}

#[test]
fn lost_durable_records_fail_the_disk() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[11]).unwrap();
    sync(&mut engine);
    write(&mut engine, ONE, 2, 0, &[22]).unwrap();
    engine.commit().unwrap();
    let (name, at) = find_in_journal(&dir, &block(11)[..64]);
    damage(&dir, &name, at + 5);
    let failed = try_open(Arc::new(dir.process_crash()), 1).err().unwrap();
    assert!(matches!(failed, Error::DurableLost { end: Lsn(1), durable: Lsn(2) }), "{failed}");
}

#[test]
fn an_old_checkpoint_does_not_take_the_place_of_a_lost_one() {
    for laps in [0, 1] {
        let (dir, mut engine) = disk(8);
        let mut seq = 0;
        let mut fill = |engine: &mut Engine| {
            for _ in 0..20 {
                seq += 1;
                write(engine, ONE, seq, 0, &[seq]).unwrap();
                sync(engine);
            }
            seq
        };
        fill(&mut engine);
        checkpoint(&mut engine);
        let last = fill(&mut engine);
        checkpoint(&mut engine);
        let newest =
            if bytes_of(&dir, "checkpoint.0")[24] > bytes_of(&dir, "checkpoint.1")[24] { 0 } else { 1 };
        for _ in 0..laps {
            fill(&mut engine);
        }
        damage(&dir, &format!("checkpoint.{newest}"), 50);
        match try_open(Arc::new(dir.process_crash()), 1) {
            // The journal from the older one on is still whole: nothing is lost.
            Ok((mut engine, _)) => assert!(laps == 0 && read(&mut engine, ONE, 0, 1) == [last]),
            Err(error) => assert!(laps == 1 && is_lost_checkpoint(&error), "{error}"),
        }
    }
}

fn is_lost_checkpoint(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. }) && error.to_string().contains("can be read")
}

/// E2: once slots that the lost checkpoint freed were used again, replaying from the one before would write old data over
/// new. Found by the fuzzer.
#[test]
fn a_lost_checkpoint_is_missed_as_soon_as_its_slots_are_used_again() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    checkpoint(&mut engine);
    write(&mut engine, ONE, 2, 5, &[2, 2]).unwrap();
    write(&mut engine, ONE, 3, 0, &[3; 16]).unwrap();
    checkpoint(&mut engine);
    write(&mut engine, ONE, 4, 16, &[4; 16]).unwrap();
    sync(&mut engine);
    let newest = (0..2).max_by_key(|n| bytes_of(&dir, &format!("checkpoint.{n}"))[24]).unwrap();
    damage(&dir, &format!("checkpoint.{newest}"), 50);
    let failed = try_open(Arc::new(dir.process_crash()), 1).err().unwrap();
    assert!(is_lost_checkpoint(&failed), "{failed}");
}

/// A record of some bytes may zero 256 MiB: what a restart does again is bounded by that, not by the journal's size.
#[test]
fn much_to_do_again_makes_its_own_checkpoint() {
    let dir = MemDir::new();
    format(&dir, 8);
    let options = Options { journal_file_bytes: 16 << 20, journal_files: 4, reserve_bytes: 0 };
    let open = |dir: &MemDir| Engine::open(Arc::new(dir.clone()), None, BootId([1; 16]), options).unwrap();
    let mut engine = open(&dir).0;
    engine.create_replica(ONE, 1 << 30, Bytes::new()).unwrap();
    let zeroes = 256 << 20;
    let entry_bytes = 96 * (zeroes >> 16);
    let last = 3000;
    for seq in 1..=last {
        engine.zero(ONE, Seq(seq), seq % 4 * zeroes, zeroes).unwrap();
        engine.commit().unwrap();
    }
    assert!(engine.statistics().checkpoints >= 2);
    let (engine, opened) = open(&dir.process_crash());
    assert_eq!(engine.replica(ONE).unwrap().position, Seq(last));
    assert!(opened.replayed_records * entry_bytes <= 513 << 20, "{} records", opened.replayed_records);
}

#[test]
fn a_full_journal_makes_its_own_checkpoint() {
    let (dir, mut engine) = disk(64);
    let (mut job, mut late_apply) = (None, None);
    for seq in 1..=300 {
        write(&mut engine, ONE, seq, seq * 3 % 900, &[seq, seq, seq]).unwrap();
        engine.commit().unwrap();
        if seq == 40 {
            // Jobs that nobody runs in time: the engine does not wait for them.
            sync(&mut engine);
            job = engine.start_checkpoint(true);
        }
        if seq == 41 {
            let done = engine.start_sync().unwrap().run();
            engine.finish_sync(done).unwrap();
            late_apply = engine.start_apply();
        }
    }
    assert!(engine.statistics().journal_full > 5);
    engine.finish_checkpoint(job.unwrap().run()).unwrap();
    engine.finish_apply(late_apply.unwrap().run()).unwrap();
    let (_, mut engine, opened) = reopen(&dir);
    assert!(opened.replayed_bytes <= 256 << 10);
    assert_eq!(read(&mut engine, ONE, 0, 3), [300; 3]);
    assert_eq!(read(&mut engine, ONE, 897, 3), [299; 3]);
}

#[test]
fn a_full_disk_stays_healthy_and_comes_back() {
    let dir = MemDir::new();
    format(&dir, 32);
    let options = Options { reserve_bytes: 4 * EXTENT, ..options() };
    let (mut engine, _) = Engine::open(Arc::new(dir), None, BootId([1; 16]), options).unwrap();
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    assert_eq!(engine.touched(ONE, 0, 3 * EXTENT), 3);
    for extent in 0..28 {
        write(&mut engine, ONE, extent + 1, extent * 16, &[extent + 1]).unwrap();
    }
    let space = engine.space();
    assert_eq!(
        space.free_bytes, space.reserve_bytes,
        "no more is promised; what was promised is taken from the reserve"
    );
    write(&mut engine, ONE, 29, 28 * 16, &[29, 29]).unwrap();
    write(&mut engine, ONE, 30, 29 * 16, &[30]).unwrap();
    let (sums, data) = blocks(&[8]);
    let mut checksums = [0; 16];
    checksums[0] = sums[0];
    let pulled = engine.put_extent(ONE, ExtentIndex(40), Seq(30), 0, &checksums, !1, data);
    assert!(matches!(pulled, Err(Error::NoSpace)), "half of the reserve is not for pulls");
    write(&mut engine, ONE, 31, 30 * 16, &[31]).unwrap();
    write(&mut engine, ONE, 32, 31 * 16, &[32]).unwrap();
    let before = engine.space();
    assert!(matches!(write(&mut engine, ONE, 33, 31 * 16 + 15, &[7, 7]), Err(Error::NoSpace)));
    assert_eq!(engine.space(), before);
    assert_eq!(engine.replica(ONE).unwrap().position, Seq(32));
    // What needs no slot goes on.
    write(&mut engine, ONE, 33, 5, &[5]).unwrap();
    engine.put_meta(ONE, Bytes::from_static(b"full"), None).unwrap();
    engine.zero(ONE, Seq(34), 0, 10 * EXTENT).unwrap();
    assert!(matches!(write(&mut engine, ONE, 35, 50 * 16, &[7]), Err(Error::NoSpace)));
    sync(&mut engine);
    // Space is short and a checkpoint would help: it is worth it without being forced.
    let job = engine.start_checkpoint(false).unwrap();
    engine.finish_checkpoint(job.run()).unwrap();
    assert_eq!(engine.space().used_bytes, 22 * EXTENT);
    write(&mut engine, ONE, 35, 50 * 16, &[7]).unwrap();
    engine.drop_replica(ONE).unwrap();
    assert!(engine.replica(ONE).is_none());
    assert!(matches!(engine.create_replica(ONE, EXTENT, Bytes::new()), Err(Error::ReplicaExists(ONE))));
    checkpoint(&mut engine);
    assert_eq!(engine.space().used_bytes, 0);
}

#[test]
fn a_full_filesystem_is_noticed_before_anything_changes() {
    let memory = MemDir::new();
    format(&memory, 32);
    let dir = FaultyDir::new(Arc::new(memory));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    let full = |name: &str| Fault {
        operation: Operation::Allocate,
        name_prefix: name.into(),
        after: 0,
        times: u64::MAX,
        effect: Effect::NoSpace,
    };
    dir.inject(full(""));
    assert!(matches!(engine.create_replica(ONE, 64 * EXTENT, Bytes::new()), Err(Error::NoSpace)));
    dir.heal();
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    for name in ["map.", "data"] {
        dir.inject(full(name));
        let space = engine.space();
        assert!(matches!(write(&mut engine, ONE, 1, 0, &[1]), Err(Error::NoSpace)));
        let filesystem_full = name == "data";
        let free_bytes = if filesystem_full { 0 } else { space.free_bytes };
        assert_eq!(engine.space(), Space { filesystem_full, free_bytes, ..space });
        dir.heal();
    }
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    assert!(engine.space().filesystem_full, "it gave one slot: that is not much");
    engine.ask_filesystem();
    checkpoint(&mut engine);
    assert!(!engine.space().filesystem_full);
    assert_eq!(read(&mut engine, ONE, 0, 2), [1, 0]);
}

/// Others use the filesystem, too: what it has not given is not told to be free, until it gives it.
#[test]
fn what_a_full_filesystem_does_not_give_is_not_free() {
    const SLOTS: u64 = 4096;
    let memory = MemDir::new();
    format(&memory, SLOTS);
    let dir = FaultyDir::new(Arc::new(memory));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    let apply = |engine: &mut Engine| {
        let job = engine.start_apply();
        let is_some = job.is_some();
        job.into_iter().for_each(|job| engine.finish_apply(job.run()).unwrap());
        is_some
    };
    assert!(apply(&mut engine), "slots are given blocks ahead of the need");
    let nothing_free = Fault {
        operation: Operation::Allocate,
        name_prefix: "data".into(),
        after: 0,
        times: u64::MAX,
        effect: Effect::NoSpace,
    };
    dir.inject(nothing_free);
    assert!(apply(&mut engine));
    let full = engine.space();
    assert!(full.filesystem_full && full.used_bytes == 0, "{full:?}");
    assert!(full.free_bytes > 0 && full.free_bytes < SLOTS * EXTENT / 2, "{full:?}");
    assert!(!apply(&mut engine), "it is not asked again and again");
    engine.ask_filesystem();
    assert!(apply(&mut engine));
    assert_eq!(engine.space(), full);
    dir.heal();
    assert!(!apply(&mut engine));
    engine.ask_filesystem();
    while apply(&mut engine) {}
    assert_eq!(engine.space(), Space { filesystem_full: false, free_bytes: SLOTS * EXTENT, ..full });
}

#[test]
fn bit_rot_in_data_is_found_and_repaired() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1, 2, 3]).unwrap();
    sync(&mut engine);
    damage(&dir, "data", 4096 + 100);
    assert_eq!(try_read(&mut engine, ONE, 0, 3), Err(1));
    assert_eq!(read(&mut engine, ONE, 2, 1), [3]);
    let (sums, data) = blocks(&[2]);
    let mut checksums = [0; 16];
    checksums[1] = sums[0];
    engine.put_extent(ONE, ExtentIndex(0), Seq(1), !2, &checksums, !2, data).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 3), [1, 2, 3]);
    sync(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 3), [1, 2, 3]);
}

#[test]
fn bit_rot_in_a_map_is_named_never_served_and_repaired() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1; 24]).unwrap();
    write(&mut engine, ONE, 1, 24, &[1; 24]).unwrap();
    checkpoint(&mut engine);
    damage(&dir, "map.1", 4096 + 96 + 20);
    let (_, mut engine, opened) = reopen(&dir);
    assert_eq!(opened.damaged, [(ONE, ExtentIndex(1))]);
    let refused = engine.read(ONE, View::Live, 20 * BLOCK as u64, BLOCK as u64).err().unwrap();
    assert!(refused.to_string().contains("extent 1 of replica 1"), "{refused}");
    for since in [0, 1] {
        let changed = engine.changed_since(ONE, View::Live, Seq(since), ExtentIndex(0), 10).unwrap();
        assert!(changed.contains(&(ExtentIndex(1), Seq(u64::MAX))));
    }
    assert!(matches!(write(&mut engine, ONE, 2, 16, &[7]), Err(Error::Corrupt { .. })));
    assert_eq!(read(&mut engine, ONE, 0, 16), [1; 16]);
    assert_eq!(read(&mut engine, ONE, 32, 16), [1; 16]);
    let (sums, data) = blocks(&[1; 16]);
    engine.put_extent(ONE, ExtentIndex(1), Seq(1), 0, &sums.try_into().unwrap(), 0, data).unwrap();
    assert_eq!(read(&mut engine, ONE, 0, 48), [1; 48]);
    checkpoint(&mut engine);
    assert_eq!(engine.changed_since(ONE, View::Live, Seq(0), ExtentIndex(0), 10).unwrap().len(), 3);
}

#[test]
fn a_long_zero_is_cut_and_sets_the_position_last() {
    let dir = MemDir::new();
    format(&dir, 8);
    let mut engine = open(&dir);
    let segment_bytes = 10_000 * EXTENT + 3 * BLOCK as u64;
    engine.create_replica(ONE, segment_bytes, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 5, &[1; 20]).unwrap();
    let offset = 6 * BLOCK as u64;
    assert_eq!(engine.zero(ONE, Seq(2), offset, segment_bytes - offset).unwrap(), Lsn(2 + 3 + 1));
    assert_eq!(engine.count_changed_since(ONE, View::Live, Seq(1)).unwrap(), 10_001);
    checkpoint(&mut engine);
    assert_eq!(read(&mut engine, ONE, 0, 32)[4..8], [0, 1, 0, 0]);
    let (_, engine, _) = reopen(&dir);
    assert_eq!(engine.replica(ONE).unwrap().position, Seq(2));
    assert_eq!(engine.replica(ONE).unwrap().extents_allocated, 1);
    assert_eq!(engine.count_changed_since(ONE, View::Live, Seq(1)).unwrap(), 10_001);
    assert_eq!(engine.changed_since(ONE, View::Live, Seq(0), ExtentIndex(9_999), 9).unwrap().len(), 2);
}

#[test]
fn a_journal_of_another_size_is_taken_over() {
    let (dir, mut engine) = disk(8);
    write(&mut engine, ONE, 1, 0, &[1]).unwrap();
    engine.commit().unwrap();
    let mut image = dir;
    for (files, file_bytes) in [(1, 256 << 10), (3, 32 << 10), (4, 64 << 10)] {
        image = image.process_crash();
        let options = Options { journal_file_bytes: file_bytes, journal_files: files, reserve_bytes: 0 };
        let (mut engine, _) = Engine::open(Arc::new(image.clone()), None, BootId([1; 16]), options).unwrap();
        assert_eq!(read(&mut engine, ONE, 0, 1), [1]);
        write(&mut engine, ONE, 1, 0, &[1]).unwrap();
        engine.commit().unwrap();
        let names = image.list().unwrap();
        assert_eq!(names.iter().filter(|name| name.starts_with("journal.")).count(), files as usize);
    }
}

#[test]
fn bad_arguments_change_nothing() {
    let (_, mut engine) = disk(8);
    let end = engine.commit().unwrap();
    let (checksums, data) = blocks(&[1, 2]);
    let two = ReplicaId(2);
    assert!(matches!(engine.write(two, Seq(1), 0, &checksums, data.clone()), Err(Error::UnknownReplica(_))));
    assert!(matches!(
        engine.write(ONE, Seq(1), 100, &checksums, data.clone()),
        Err(Error::Misaligned { .. })
    ));
    assert!(matches!(
        engine.write(ONE, Seq(1), 0, &checksums[1..], data.clone()),
        Err(Error::Misaligned { .. })
    ));
    let past = 64 * EXTENT - BLOCK as u64;
    assert!(matches!(engine.write(ONE, Seq(1), past, &checksums, data), Err(Error::OutOfRange { .. })));
    assert!(matches!(engine.zero(ONE, Seq(1), u64::MAX - 4095, 4096), Err(Error::OutOfRange { .. })));
    assert!(matches!(engine.read(ONE, View::Live, 0, 2 << 20), Err(Error::OutOfRange { .. })));
    assert!(matches!(engine.read_extent(ONE, View::Live, ExtentIndex(64)), Err(Error::OutOfRange { .. })));
    assert!(matches!(engine.create_replica(two, 17 << 30, Bytes::new()), Err(Error::OutOfRange { .. })));
    assert!(!engine.has_uncommitted());
    assert_eq!(engine.commit().unwrap(), end);
}

/// One damaged byte anywhere: the disk is refused, or the block, or nothing changes. Wrong data is never served.
#[test]
fn one_damaged_byte_is_never_served() {
    let (dir, mut engine) = disk(8);
    for seq in 1..=30 {
        write(&mut engine, ONE, seq, seq * 5 % 60, &[seq, seq + 100]).unwrap();
        sync(&mut engine);
        if seq == 20 {
            checkpoint(&mut engine);
        }
    }
    // The last batch is not durable for sure until a later one says so: it may be lost as if it had been torn.
    engine.put_meta(ONE, Bytes::from_static(b"later"), None).unwrap();
    engine.commit().unwrap();
    let expected = read(&mut engine, ONE, 0, 64);
    let mut names = dir.list().unwrap();
    names.retain(|name| !bytes_of(&dir, name).is_empty());
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    let mut random = 1u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    for round in 0..600 {
        let image = dir.process_crash();
        let name = &names[round % names.len()];
        // Half of them where something is written.
        let content = bytes_of(&image, name);
        let mut at = below(content.len());
        if round / names.len() % 2 == 0 {
            at = (at..content.len()).find(|at| content[*at] != 0).unwrap_or(at);
        }
        damage(&image, name, at as u64);
        let Ok((mut engine, _)) = try_open(Arc::new(image), 1) else {
            refused += 1;
            continue;
        };
        let mut damaged = 0;
        for block in 0..64 {
            let readable = engine.read(ONE, View::Live, block * BLOCK as u64, BLOCK as u64).is_ok();
            match readable.then(|| try_read(&mut engine, ONE, block, 1)) {
                Some(Ok(values)) => assert_eq!(values[0], expected[block as usize], "byte {at} of {name}"),
                _ => damaged += 1,
            }
        }
        if damaged > 0 { found += 1 } else { harmless += 1 }
    }
    assert!(
        refused > 20 && found > 0 && harmless > 20,
        "{refused} refused, {found} found, {harmless} harmless"
    );
}

#[test]
fn the_engine_and_its_jobs_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Engine>();
    is_send::<quoin_store::SyncJob>();
    is_send::<quoin_store::SyncDone>();
    is_send::<quoin_store::ApplyJob>();
    is_send::<quoin_store::ApplyDone>();
    is_send::<quoin_store::CheckpointJob>();
    is_send::<quoin_store::CheckpointDone>();
    is_send::<quoin_store::ReadPlan>();
    is_send::<quoin_store::ExtentPlan>();
}

/// Recovery that fails or crashes at any of its writes and syncs has done no harm: the next one finds the same.
#[test]
fn recovery_may_crash_anywhere() {
    let (dir, mut engine) = disk(16);
    let two = ReplicaId(2);
    for seq in 1..=20 {
        write(&mut engine, ONE, seq, seq * 7 % 100, &[seq, seq]).unwrap();
        sync(&mut engine);
        if seq == 10 {
            checkpoint(&mut engine);
            engine.create_replica(two, 4 * EXTENT, Bytes::new()).unwrap();
            write(&mut engine, two, 1, 0, &[77]).unwrap();
            engine.zero(ONE, Seq(seq), 0, 2 * EXTENT).unwrap();
        }
    }
    let expected = read(&mut engine, ONE, 0, 120);
    let mut failures = 0;
    for operation in [Operation::Write, Operation::Sync, Operation::Allocate] {
        for after in 0..25 {
            let image = dir.crash(after);
            let faulty = FaultyDir::new(Arc::new(image.clone()));
            let effect = if after % 2 == 0 { Effect::Half } else { Effect::InputOutput };
            faulty.inject(Fault { operation, name_prefix: String::new(), after, times: u64::MAX, effect });
            failures += usize::from(try_open(Arc::new(faulty), 1).is_err());
            let (mut engine, opened) = try_open(Arc::new(image.crash(after + 100)), 2).unwrap();
            assert!(opened.start_count >= 2 && opened.damaged.is_empty());
            assert_eq!(read(&mut engine, ONE, 0, 120), expected);
            assert_eq!(read(&mut engine, two, 0, 2), [77, 0]);
        }
    }
    assert!(failures > 15, "{failures}");
}
