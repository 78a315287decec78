//! The offline check finds what is wrong, by name, and neither it nor the dump changes a byte.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, MemDir, OpenMode};
use quoin_store::{Engine, Error, Lsn, check, dump};
use quoin_types::{ReplicaId, Seq};
use std::sync::Arc;

const TWO: ReplicaId = ReplicaId(2);

/// A disk with applied and unapplied records of every kind.
fn disk() -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, 32);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::from_static(b"meta")).unwrap();
    engine.create_replica(ReplicaId(3), EXTENT, Bytes::new()).unwrap();
    write(&mut engine, ONE, 1, 0, &[1; 20]).unwrap();
    write(&mut engine, ONE, 2, 40, &[2; 3]).unwrap();
    checkpoint(&mut engine);
    engine.create_replica(TWO, 64 * EXTENT, Bytes::new()).unwrap();
    write(&mut engine, TWO, 1, 16, &[3; 16]).unwrap();
    write(&mut engine, ONE, 3, 0, &[4; 16]).unwrap();
    write(&mut engine, ONE, 4, 3, &[5]).unwrap();
    engine.zero(ONE, Seq(5), 32 * BLOCK as u64, EXTENT).unwrap();
    engine.drop_replica(ReplicaId(3)).unwrap();
    sync_only(&mut engine);
    (dir, engine)
}

fn contents(dir: &MemDir) -> Vec<(String, Vec<u8>)> {
    let content = |name: String| {
        let file = dir.open(&name, OpenMode::Existing).unwrap();
        let mut content = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut content, 0).unwrap();
        (name, content)
    };
    dir.list().unwrap().into_iter().map(content).collect()
}

fn checked(dir: &MemDir) -> quoin_store::Report {
    check(&(Arc::new(dir.clone()) as Arc<dyn Dir>), &mut |_| ()).unwrap()
}

#[test]
fn a_healthy_disk_is_found_so_and_left_alone() {
    let (dir, engine) = disk();
    let in_use: Arc<dyn Dir> = Arc::new(dir.clone());
    assert!(matches!(check(&in_use, &mut |_| ()), Err(Error::Locked)));
    drop(engine);
    let before = contents(&dir);
    let report = checked(&dir);
    assert_eq!(report.problems, vec![]);
    assert_eq!((report.replicas, report.extents, report.blocks), (2, 4, 16 + 4 + 16));
    assert_eq!((report.checkpoint, report.end, report.records), (Lsn(4), Lsn(10), 6));
    assert_eq!((report.starts, report.clean), (1, false));
    let mut text = String::new();
    dump(&in_use, &mut text).unwrap();
    for part in
        ["record 5: replica 2, create", "record 10: replica 3, drop", "replica 2: ", "journal: ends at 10"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(contents(&dir) == before);
    open(&dir).shutdown().unwrap();
    let report = checked(&dir);
    assert_eq!((report.records, report.clean, report.blocks, report.problems), (0, true, 36, vec![]));
}

#[test]
fn an_empty_directory_is_no_disk() {
    let dir = MemDir::new();
    assert!(matches!(check(&(Arc::new(dir.clone()) as Arc<dyn Dir>), &mut |_| ()), Err(Error::NotFormatted)));
    assert!(dir.list().unwrap().is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let (dir, engine) = disk();
    drop(engine);
    open(&dir).shutdown().unwrap();
    let (_, data) = contents(&dir).into_iter().find(|(name, _)| name == "data").unwrap();
    let at = |value| (data.chunks(BLOCK).rposition(|found| found == block(value)).unwrap() * BLOCK) as u64;
    for (name, at, expected) in [
        ("superblock", 20, "superblock"),
        ("data", at(5) + 9, "block 3 (extent 0) of replica 1 is damaged"),
        ("map.1", 4096 + 96 + 5, "the map entry of extent 1 of replica 1 is damaged"),
        ("map.2", 20, "map.2 is damaged: its header is wrong"),
    ] {
        let image = dir.process_crash();
        let file = image.open(name, OpenMode::Existing).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 1], at).unwrap();
        let problems = checked(&image).problems;
        assert!(problems.len() == 1 && problems[0].message.contains(expected), "{name}: {problems:?}");
    }
}
