//! Scrub finds what rots, names it, and leaves alone what is being written.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, MemDir, OpenMode};
use quoin_store::{Damage, Engine, Harm, Scrub, ScrubReport, View};
use quoin_types::{BlockIndex, ExtentIndex, ReplicaId, Seq};

const TWO: ReplicaId = ReplicaId(2);

fn disk() -> (MemDir, Engine) {
    let dir = MemDir::new();
    format(&dir, 32);
    let mut engine = open(&dir);
    engine.create_replica(ONE, 64 * EXTENT, Bytes::new()).unwrap();
    engine.create_replica(TWO, 64 * EXTENT, Bytes::new()).unwrap();
    for seq in 1..=6 {
        write(&mut engine, ONE, seq, seq * 8, &[seq; 8]).unwrap();
        write(&mut engine, TWO, seq, seq * 16, &[seq + 10; 16]).unwrap();
        sync(&mut engine);
    }
    checkpoint(&mut engine);
    (dir, engine)
}

fn damage(dir: &MemDir, name: &str, at: u64) {
    let file = dir.open(name, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ 0x40], at).unwrap();
    file.sync().unwrap();
}

fn find(dir: &MemDir, value: u64) -> u64 {
    let file = dir.open("data", OpenMode::Existing).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut content, 0).unwrap();
    let at = content.chunks(BLOCK).position(|found| found == block(value)).expect("in the data file");
    (at * BLOCK) as u64
}

/// One lap; a small budget makes many steps.
fn lap(engine: &mut Engine, scrub: &mut Scrub, budget: u64) -> (ScrubReport, u64) {
    let (mut all, mut steps) = (ScrubReport::default(), 0);
    while let Some(mut job) = engine.start_scrub(scrub, budget) {
        job.run();
        let step = engine.finish_scrub(job);
        assert!(step.bytes < budget + EXTENT + 96);
        all.extents += step.extents;
        all.bytes += step.bytes;
        all.skipped += step.skipped;
        all.damaged.extend(step.damaged);
        steps += 1;
    }
    (all, steps)
}

#[test]
fn everything_is_looked_at_at_the_given_rate() {
    let (_, mut engine) = disk();
    let mut scrub = Scrub::default();
    let (report, steps) = lap(&mut engine, &mut scrub, 1 << 40);
    assert_eq!((report.extents, report.skipped, steps, report.damaged), (10, 0, 1, vec![]));
    assert_eq!(report.bytes, (6 * 8 + 6 * 16) * BLOCK as u64 + 10 * 96);
    let (report, steps) = lap(&mut engine, &mut scrub, 1);
    assert_eq!((report.extents, steps, scrub.laps()), (10, 10, 2));
    // A replica that goes in the middle of a lap is passed over.
    engine.start_scrub(&mut scrub, 1).unwrap();
    engine.drop_replica(ONE).unwrap();
    assert_eq!(lap(&mut engine, &mut scrub, 1).0.extents, 6);
}

#[test]
fn damage_is_named_and_can_be_mended() {
    let (dir, mut engine) = disk();
    damage(&dir, "data", find(&dir, 13) + 2 * BLOCK as u64 + 7);
    damage(&dir, "map.1", 4096 + 2 * 96 + 20);
    let mut scrub = Scrub::default();
    let (report, _) = lap(&mut engine, &mut scrub, 1 << 20);
    let entry =
        Damage { replica: ONE, snapshot: None, extent: ExtentIndex(2), version: None, harm: Harm::Entry };
    let data = Damage {
        replica: TWO,
        snapshot: None,
        extent: ExtentIndex(3),
        version: Some(Seq(3)),
        harm: Harm::Block(BlockIndex(50)),
    };
    assert_eq!(report.damaged, [entry, data]);
    assert_eq!(entry.to_string(), "the map entry of extent 2 of replica 1 is damaged");
    assert_eq!(data.to_string(), "block 50 (extent 3) of replica 2 is damaged");
    // However late the list begins, the extent that nobody knows is on it.
    assert_eq!(
        engine.changed_since(ONE, View::Live, Seq(99), ExtentIndex(0), 9).unwrap(),
        [(ExtentIndex(2), Seq(u64::MAX))]
    );
    assert_eq!(engine.count_changed_since(ONE, View::Live, Seq(99)).unwrap(), 1);
    for (id, extent, version, value) in [(ONE, 2, 5, 4), (TWO, 3, 3, 13)] {
        let (sums, data) = blocks(&[value; 16]);
        engine
            .put_extent(id, ExtentIndex(extent), Seq(version), 0, &sums.try_into().unwrap(), 0, data)
            .unwrap();
    }
    checkpoint(&mut engine);
    assert_eq!(lap(&mut engine, &mut scrub, 1 << 20).0.damaged, []);
    assert_eq!(read(&mut engine, TWO, 48, 16), [13; 16]);
    assert_eq!(engine.changed_since(ONE, View::Live, Seq(99), ExtentIndex(0), 9).unwrap(), []);
}

#[test]
fn what_is_written_meanwhile_is_no_damage() {
    let (_, mut engine) = disk();
    let mut scrub = Scrub::default();
    let mut job = engine.start_scrub(&mut scrub, 1 << 40).unwrap();
    write(&mut engine, TWO, 7, 17, &[99]).unwrap();
    write(&mut engine, TWO, 8, 32, &[98; 16]).unwrap();
    sync(&mut engine);
    job.run();
    let report = engine.finish_scrub(job);
    assert_eq!((report.damaged, report.skipped), (vec![], 1));
    write(&mut engine, TWO, 9, 17, &[97]).unwrap();
    sync_only(&mut engine);
    while engine.start_scrub(&mut scrub, 1).is_some() {}
    let (report, _) = lap(&mut engine, &mut scrub, 1 << 40);
    assert_eq!((report.damaged, report.skipped, report.extents), (vec![], 1, 9));
}
