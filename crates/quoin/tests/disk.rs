//! `quoin disk check` and `quoin disk dump`, on directories that the disk engine made.

use quoin_disk::OsDir;
use quoin_store::{Engine, Identity, Options};
use quoin_types::{BLOCK_BYTES, BootId, ClusterId, DiskId, EXTENT_BYTES, ReplicaId, Seq};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const ONE: ReplicaId = ReplicaId(1);

/// One test at a time: a child that another thread starts has every lock of this process, from its fork until its exec.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn quoin(words: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoin"));
    command.args(words).arg(dir).env_remove("QUOIN_MANAGER").env("NO_COLOR", "1");
    command
}

fn check(dir: &Path) -> (Output, serde_json::Value) {
    let output = quoin(&["disk", "check", "--output", "json"], dir).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn engine(dir: &Path) -> Engine {
    let options = Options { journal_file_bytes: 64 << 10, journal_files: 4, reserve_bytes: 0 };
    Engine::open(Arc::new(OsDir::open(dir).unwrap()), None, BootId([1; 16]), options).unwrap().0
}

fn write(engine: &mut Engine, seq: u64, blocks: &[u8]) {
    let data: Vec<u8> = blocks.iter().flat_map(|byte| vec![*byte; BLOCK_BYTES as usize]).collect();
    let checksums: Vec<u32> = data.chunks(BLOCK_BYTES as usize).map(crc32fast::hash).collect();
    engine.write(ONE, Seq(seq), 0, &checksums, data.into()).unwrap();
}

fn settle(engine: &mut Engine) {
    engine.commit().unwrap();
    let job = engine.start_sync().unwrap();
    engine.finish_sync(job.run()).unwrap();
    while let Some(job) = engine.start_apply() {
        engine.finish_apply(job.run()).unwrap();
    }
}

/// A disk with a replica: three blocks and three records that are in data and map, and a last record that was reported
/// as durable and is in the journal alone.
fn disk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let identity =
        Identity { cluster: ClusterId([7; 16]), disk: DiskId([9; 16]), capacity_bytes: 64 * EXTENT_BYTES };
    Engine::format(&OsDir::open(dir.path()).unwrap(), &identity).unwrap();
    let mut engine = engine(dir.path());
    engine.create_replica(ONE, 64 * EXTENT_BYTES, "meta".into()).unwrap();
    write(&mut engine, 1, &[0xa1, 0xa2, 0xa3]);
    settle(&mut engine);
    let job = engine.start_checkpoint(true).unwrap();
    engine.finish_checkpoint(job.run()).unwrap();
    write(&mut engine, 2, &[0xb1]);
    settle(&mut engine);
    // A later batch says that the one before is durable.
    engine.put_meta(ONE, "later".into(), None).unwrap();
    settle(&mut engine);
    drop(engine);
    dir
}

/// Changes one byte.
fn rot(dir: &Path, name: &str, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(dir.join(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// Where the journal has a block of these bytes.
fn in_journal(dir: &Path, byte: u8) -> (String, u64) {
    for number in 0..8 {
        let name = format!("journal.{number}");
        let content = std::fs::read(dir.join(&name)).unwrap_or_default();
        if let Some(at) = content.windows(64).position(|window| window == [byte; 64]) {
            return (name, at as u64);
        }
    }
    panic!("not in the journal");
}

#[test]
fn a_clean_disk_is_code_0_and_left_as_it_was() {
    let _alone = alone();
    let dir = disk();
    let modified = || std::fs::metadata(dir.path().join("map.1")).unwrap().modified().unwrap();
    let before = modified();
    let (output, json) = check(dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty());
    assert_eq!(json["damaged"], false);
    assert_eq!(json["disk"], "09".repeat(16));
    assert_eq!(json["cluster_id"], "07".repeat(16));
    assert_eq!((&json["replicas"], &json["extents"], &json["blocks"]), (&1.into(), &1.into(), &3.into()));
    assert_eq!(json["snapshots"], 0);
    assert_eq!((&json["records"], &json["clean_shutdown"]), (&2.into(), &false.into()));
    assert!(json["verified_bytes"].as_u64().unwrap() >= 4 * BLOCK_BYTES);
    assert!(json["seconds"].is_f64() && json["problems"].as_array().unwrap().is_empty());
    assert_eq!(json["problem_counts"]["data"], 0);
    assert_eq!(before, modified());
    engine(dir.path()).shutdown().unwrap();
    let output = quoin(&["disk", "check"], dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("all is well") && text.contains("the last shutdown was clean"), "{text}");
}

#[test]
fn what_is_damaged_is_code_5_and_named() {
    let _alone = alone();
    let (journal, at) = in_journal(disk().path(), 0xb1);
    for (name, at, part, words) in [
        ("superblock", 20, "superblock", "superblock is damaged"),
        ("starts", 20, "", ""),
        ("data", BLOCK_BYTES + 5, "data", "block 1 (extent 0) of replica 1 is damaged"),
        ("map.1", 20, "map", "map.1 is damaged"),
        (&journal, at + 5, "journal", "durable records were lost"),
    ] {
        let dir = disk();
        rot(dir.path(), name, at);
        let (output, json) = check(dir.path());
        if part.is_empty() {
            // One of the two records of starts may be torn by a crash: the other counts.
            assert_eq!(output.status.code(), Some(0), "{name}: {json}");
            continue;
        }
        assert_eq!(output.status.code(), Some(5), "{name}: {json}");
        assert_eq!(json["damaged"], true);
        assert_eq!(json["problem_counts"][part], 1, "{name}: {json}");
        let problem = &json["problems"][0];
        assert_eq!(problem["part"], part);
        assert!(problem["message"].as_str().unwrap().contains(words), "{name}: {json}");
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((&error["error"]["kind"], &error["error"]["exit_code"]), (&"damaged".into(), &5.into()));
        assert!(error["error"]["hint"].is_string());
    }
}

#[test]
fn all_damage_is_found_in_one_go() {
    let _alone = alone();
    let dir = disk();
    engine(dir.path()).shutdown().unwrap();
    rot(dir.path(), "starts", 20);
    rot(dir.path(), "starts", 4096 + 20);
    rot(dir.path(), "data", 2 * BLOCK_BYTES);
    std::fs::remove_file(dir.path().join("checkpoint.0")).unwrap_or_default();
    let output = quoin(&["disk", "check"], dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(5), "{text}");
    for words in ["starts: starts is damaged", "data: block 2 (extent 0)", "checkpoint: checkpoint.0"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    assert!(stderr(&output).starts_with("error: damaged: "), "{}", stderr(&output));
    // An entry that is damaged is found when the journal has no newer one.
    let dir = disk();
    engine(dir.path()).shutdown().unwrap();
    rot(dir.path(), "map.1", 4096 + 10);
    let (output, json) = check(dir.path());
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(json["problems"][0]["message"], "the map entry of extent 0 of replica 1 is damaged");
}

#[test]
fn what_cannot_be_looked_at_is_told_by_name_with_a_hint() {
    let _alone = alone();
    let dir = disk();
    let path = dir.path().display().to_string();
    for command in ["check", "dump"] {
        let refused = |code: i32, words: &str, dir: &Path| {
            let output = quoin(&["disk", command], dir).output().unwrap();
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{command}: {text}");
            assert!(text.contains(words) && text.contains("\n  hint: "), "{command}: {text}");
            assert!(output.stdout.is_empty(), "{command}");
        };
        let in_use = engine(dir.path());
        refused(1, &format!("{path} is in use by another process"), dir.path());
        drop(in_use);
        let empty = tempfile::tempdir().unwrap();
        refused(3, &format!("{} is not a Quoin disk", empty.path().display()), empty.path());
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
        refused(3, "does not exist", &dir.path().join("nowhere"));
        let other = disk();
        let superblock = std::fs::File::options().write(true).open(other.path().join("superblock")).unwrap();
        superblock.write_all_at(&[77], 8).unwrap();
        refused(1, "format version 77", other.path());
    }
    assert_eq!(check(dir.path()).0.status.code(), Some(0));
}

#[test]
fn a_dump_shows_everything_and_a_reader_may_leave() {
    let _alone = alone();
    let dir = disk();
    let output = quoin(&["disk", "dump"], dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for words in [
        "superblock: ",
        "starts: ",
        "checkpoint.0: ",
        "checkpoint.1: ",
        "record ",
        "journal: ends at",
        "replica 1: ",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let mut child = quoin(&["disk", "dump"], dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("superblock: "));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let closed = quoin(&["disk", "dump"], dir.path()).stdout(Stdio::piped()).spawn().map(|mut child| {
        drop(child.stdout.take());
        child.wait().unwrap()
    });
    assert_eq!(closed.unwrap().code(), Some(0));
    rot(dir.path(), "superblock", 40);
    let output = quoin(&["disk", "dump"], dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: `quoin disk check"), "{}", stderr(&output));
}
