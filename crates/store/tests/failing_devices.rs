//! More bad days: reads that fail, writes that stop half-way, rot in each of the small files, structures of another version,
//! and clocks that jump.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, OpenMode, Operation, OsDir, clock};
use quoin_store::{Engine, Error, ReadOutcome, Scrub, View, check};
use std::io::IoSlice;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn fault(operation: Operation, name: &str, effect: Effect) -> Fault {
    Fault { operation, name_prefix: name.into(), after: 0, times: 1, effect }
}

/// A disk in memory behind faults, with something written, applied and still in the journal.
fn faulty() -> (MemDir, FaultyDir, Engine) {
    let memory = MemDir::new();
    format(&memory, 16);
    let dir = FaultyDir::new(Arc::new(memory.clone()));
    let (mut engine, _) = try_open(Arc::new(dir.clone()), 1).unwrap();
    engine.create_replica(ONE, 16 * EXTENT, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 0, &[1, 2, 3]).unwrap();
    checkpoint(&mut engine);
    write(&mut engine, ONE, 2, 20, &[4]).unwrap();
    sync_only(&mut engine);
    (memory, dir, engine)
}

fn rot(dir: &dyn Dir, name: &str, at: u64, mask: u8) {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ mask], at).unwrap();
    file.sync().unwrap();
}

/// A block that the device does not give is that read's failure: nothing else suffers, and nothing is poisoned.
#[test]
fn a_failed_read_fails_alone() {
    let (_, dir, mut engine) = faulty();
    for effect in [Effect::InputOutput, Effect::FlipBit(77)] {
        dir.inject(fault(Operation::Read, "data", effect));
        let mut plan = engine.read(ONE, View::Live, 0, BLOCK as u64).unwrap();
        plan.run();
        let outcome = engine.finish_read(plan);
        assert!(!matches!(outcome, Ok(ReadOutcome::Data { .. })), "{effect:?}");
        assert_eq!(read(&mut engine, ONE, 0, 3), [1, 2, 3]);
        write(&mut engine, ONE, 3, 40, &[5]).unwrap();
        checkpoint(&mut engine);
    }
    dir.inject(fault(Operation::Read, "data", Effect::InputOutput));
    let mut scrub = Scrub::default();
    let mut job = engine.start_scrub(&mut scrub, 1 << 20).unwrap();
    job.run();
    let found = engine.finish_scrub(job).damaged;
    assert!(found.len() == 1 && found[0].to_string().contains("cannot be read"), "{found:?}");
    assert_eq!(read(&mut engine, ONE, 0, 3), [1, 2, 3]);
    engine.shutdown().unwrap();
}

/// Opening reads every small file and the journal. What cannot be read is an error by name, and no reason to write: once
/// the device gives it again, all is there.
#[test]
fn what_cannot_be_read_at_the_start_is_named_and_not_given_up() {
    let (memory, dir, engine) = faulty();
    drop(engine);
    for (name, words) in [
        ("superblock", "superblock"),
        ("starts", "starts"),
        ("checkpoint.0", "checkpoint.0"),
        ("checkpoint.1", "checkpoint.1"),
        ("journal.", "journal"),
    ] {
        dir.inject(fault(Operation::Read, name, Effect::InputOutput));
        let error = try_open(Arc::new(dir.clone()), 1).err().unwrap();
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains(words), "{name}: {error}");
        dir.inject(fault(Operation::Read, name, Effect::InputOutput));
        let as_dir: Arc<dyn Dir> = Arc::new(dir.clone());
        let report = check(&as_dir, &mut |_| ()).unwrap();
        assert!(report.problems.iter().any(|problem| problem.message.contains(words)), "{name}: {report:?}");
        dir.heal();
    }
    let mut engine = open(&memory);
    assert_eq!((read(&mut engine, ONE, 0, 3), read(&mut engine, ONE, 20, 1)), (vec![1, 2, 3], vec![4]));
}

/// Of starts and checkpoints there are two: one may rot, and both together are refused by name.
#[test]
fn rot_in_one_of_two_is_survived_and_in_both_is_named() {
    let (memory, _, engine) = faulty();
    let starts = engine.start_count();
    drop(engine);
    let starts_of =
        |image: &MemDir| try_open(Arc::new(image.clone()), 1).map(|(_, opened)| opened.start_count);
    for at in [30, 4096 + 30] {
        let image = memory.process_crash();
        rot(&image, "starts", at, 1);
        // Never a number that was given out before (C2, E4).
        assert!(starts_of(&image).unwrap() > starts);
    }
    let image = memory.process_crash();
    rot(&image, "starts", 30, 1);
    rot(&image, "starts", 4096 + 30, 1);
    assert!(starts_of(&image).unwrap_err().to_string().starts_with("starts is damaged"));
    let image = memory.process_crash();
    for name in ["checkpoint.0", "checkpoint.1"] {
        rot(&image, name, 50, 1);
    }
    assert!(starts_of(&image).unwrap_err().to_string().starts_with("the checkpoint is damaged"));
}

#[test]
fn a_structure_of_another_version_is_refused_by_name() {
    let (memory, _, engine) = faulty();
    drop(engine);
    for (name, at) in [("superblock", 8), ("map.1", 8)] {
        rot(&memory, name, at, 0x40);
        let error = try_open(Arc::new(memory.process_crash()), 1).err().unwrap();
        assert!(matches!(error, Error::UnknownVersion { .. }) && error.to_string().contains(name), "{error}");
        rot(&memory, name, at, 0x40);
    }
    open(&memory);
}

/// A write that stops half-way, with or without an error of the system, is never taken for a whole one.
#[test]
fn half_a_write_is_not_a_write() {
    for name in ["journal.", "data"] {
        let (memory, dir, mut engine) = faulty();
        dir.inject(fault(Operation::Write, name, Effect::Half));
        write(&mut engine, ONE, 3, 48, &[9; 16]).unwrap();
        assert!(engine.commit().is_err());
        assert!(matches!(engine.commit(), Err(Error::Poisoned { .. })));
        for seed in 0..8 {
            let mut engine = open(&memory.crash(seed));
            assert!([[0; 16], [9; 16]].contains(&read(&mut engine, ONE, 48, 16).try_into().unwrap()));
            assert_eq!(read(&mut engine, ONE, 0, 3), [1, 2, 3]);
        }
    }
}

const SHORT_DIR: &str = "QUOIN_SHORT_WRITE_DIR";

/// The child of the next test: its files may have no more than 64 KiB.
#[test]
fn child_writes_too_much() {
    let Some(path) = std::env::var_os(SHORT_DIR) else { return };
    let file = OsDir::open(path).unwrap().open("file", OpenMode::CreateNew).unwrap();
    let parts: Vec<Vec<u8>> = (1..=5).map(|byte| vec![byte; 20_000]).collect();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let error = file.write_vectored_at(&slices, 0).unwrap_err();
    println!("\nRESULT {:?} {}", error.kind(), file.len().unwrap());
}

/// `write(2)` that takes fewer bytes than it was given is gone on with, and then fails by name: the kernel cuts a write at
/// the limit of a file's size before it refuses one.
#[test]
fn a_short_write_of_the_system_is_no_success() {
    let temporary = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    // In units of 512 bytes. Without the trap, the signal would end the child.
    let script = "trap '' XFSZ; ulimit -f 128 && exec \"$0\" --exact child_writes_too_much --nocapture";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program).env(SHORT_DIR, temporary.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let length = std::fs::metadata(temporary.path().join("file")).unwrap().len();
    assert!(text.contains(&format!("RESULT FileTooLarge {length}")), "{text}");
    assert!((1 << 16..100_000).contains(&length), "{length}");
    let content = std::fs::read(temporary.path().join("file")).unwrap();
    let expected: Vec<u8> = (1..=5).flat_map(|byte| vec![byte; 20_000]).take(length as usize).collect();
    assert!(content == expected);
}

/// Clock jumps cannot reach the engine: it has no clock. What does, the leases, go by one that no one can set.
#[test]
fn there_is_no_clock_to_jump() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files =
        |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let all = [files(&source), files(&source.join("format"))].concat();
    assert!(all.len() > 20);
    for file in all.iter().filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        for clock in ["Instant", "SystemTime", "quoin_disk::clock", "clock_gettime", "clock::now"] {
            assert!(!text.contains(clock), "{} names {clock}", file.display());
        }
    }
    // Seconds since the boot, suspend included: not the time of day.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let now = clock::now().as_nanos() as f64 / 1e9;
    assert!((now - uptime).abs() < 60.0, "{now} is not {uptime}");
}
