//! Rates, printed. On the machine's own disk, or in the directory `SPEED_DIR` (say `/dev/shm`, where syncs cost nothing
//! and what is left is the engine's own work): `cargo test --release -p quoin-store --test speed -- --ignored --nocapture`.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, OsDir, clock};
use quoin_store::{Engine, Identity, Options, View};
use quoin_types::{BootId, DiskId, Seq};
use std::sync::Arc;

fn seconds(since: quoin_types::Moment) -> f64 {
    clock::now().since(since).as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn rates() {
    let temporary = tempfile::tempdir_in(std::env::var("SPEED_DIR").unwrap_or(".".into())).unwrap();
    let dir = || -> Arc<dyn Dir> { Arc::new(OsDir::open(temporary.path()).unwrap()) };
    let identity = Identity { cluster: CLUSTER, disk: DiskId([9; 16]), capacity_bytes: 8 << 30 };
    Engine::format(&*dir(), &identity).unwrap();
    let start = |name: &str| {
        let began = clock::now();
        let (engine, opened) = Engine::open(dir(), None, BootId([1; 16]), Options::default()).unwrap();
        println!(
            "{name}: {:.3} s, {} records, {} MiB",
            seconds(began),
            opened.replayed_records,
            opened.replayed_bytes >> 20
        );
        engine
    };
    let mut engine = start("first open");
    engine.create_replica(ONE, 4 << 30, Bytes::new()).unwrap();
    let (checksums, data) = blocks(&[7]);
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % (std::env::var("SPEED_BLOCKS").map_or(1 << 20, |blocks| blocks.parse().unwrap()))
            * 4096
    };
    for round in 0..3 {
        let (began, before) = (clock::now(), engine.statistics());
        let count = 100_000u64;
        let (mut spent_commit, mut spent_sync, mut spent_apply, mut spent_checkpoint) = (0.0, 0.0, 0.0, 0.0);
        for seq in 1..=count {
            engine.write(ONE, Seq(seq), next(), &checksums, data.clone()).unwrap();
            if seq % 32 == 0 {
                let t = clock::now();
                engine.commit().unwrap();
                spent_commit += seconds(t);
                if seq % 1024 == 0 {
                    let job = engine.start_sync().unwrap();
                    let t = clock::now();
                    let done = job.run();
                    spent_sync += seconds(t);
                    let t = clock::now();
                    engine.finish_sync(done).unwrap();
                    apply(&mut engine);
                    spent_apply += seconds(t);
                    if let Some(job) = engine.start_checkpoint(false) {
                        let t = clock::now();
                        let done = job.run();
                        spent_checkpoint += seconds(t);
                        engine.finish_checkpoint(done).unwrap();
                    }
                }
            }
        }
        let after = engine.statistics();
        let journal = after.journal_bytes - before.journal_bytes;
        println!(
            "random 4 KiB round {round}: {:.0}/s ({:.2} s: commits {spent_commit:.2}, journal syncs {spent_sync:.2}, applying {spent_apply:.2}, checkpoints {spent_checkpoint:.2}); journal {:.2} + data {:.2} bytes per byte",
            count as f64 / seconds(began),
            seconds(began),
            journal as f64 / (count * 4096) as f64,
            (after.data_bytes - before.data_bytes) as f64 / (count * 4096) as f64,
        );
    }
    // Writing alone: no sync, no checkpoint, all in the page cache.
    checkpoint(&mut engine);
    let began = clock::now();
    for seq in 1..=14_000u64 {
        engine.write(ONE, Seq(seq), next(), &checksums, data.clone()).unwrap();
        if seq % 32 == 0 {
            engine.commit().unwrap();
        }
    }
    println!("accepted only, 4 KiB: {:.0}/s", 14_000.0 / seconds(began));
    checkpoint(&mut engine);
    let began = clock::now();
    for _ in 0..200_000 {
        let mut plan = engine.read(ONE, View::Live, next(), 4096).unwrap();
        if !plan.try_cached().unwrap() {
            plan.run();
        }
        let _ = engine.finish_read(plan).unwrap();
    }
    println!("random 4 KiB read: {:.0}/s", 200_000.0 / seconds(began));
    let began = clock::now();
    println!(
        "{} changed, scanned in {:.4} s",
        engine.count_changed_since(ONE, View::Live, Seq(5)).unwrap(),
        seconds(began)
    );
    let (checksums, data) = blocks(&[9; 256]);
    let began = clock::now();
    for seq in 0..512u64 {
        engine.write(ONE, Seq(200_000 + seq), seq << 20, &checksums, data.clone()).unwrap();
        engine.commit().unwrap();
        if seq % 16 == 15 {
            sync(&mut engine);
            if let Some(job) = engine.start_checkpoint(false) {
                engine.finish_checkpoint(job.run()).unwrap();
            }
        }
    }
    println!("sequential 1 MiB, durable: {:.0} MiB/s", 512.0 / seconds(began));
    // As much journal as there can be, then a crash.
    checkpoint(&mut engine);
    for seq in 1..=29_000u64 {
        let (checksums, data) = blocks(&[seq]);
        engine.write(ONE, Seq(300_000 + seq), next(), &checksums, data).unwrap();
        if seq % 32 == 0 {
            engine.commit().unwrap();
        }
    }
    engine.commit().unwrap();
    drop(engine);
    let engine = start("restart with a full journal");
    drop(engine);
    drop(start("restart with an empty journal"));
}

/// Random offsets of blocks in the first `blocks` of a segment.
fn random_offsets(blocks: u64) -> impl FnMut() -> u64 {
    let mut random = 1u64;
    move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % blocks * 4096
    }
}

/// Calls `each` until two seconds are over, and says how many of what it counts were done per second.
fn per_second(mut each: impl FnMut() -> u64) -> f64 {
    let (began, mut count) = (clock::now(), 0);
    while seconds(began) < 2.0 {
        count += each();
    }
    count as f64 / seconds(began)
}

/// The file that a disk would be without us: written once, so that every block has its place.
fn raw_file(path: &std::path::Path, direct: bool) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    const O_DIRECT: i32 = 0o40000;
    std::fs::write(path, vec![1; 256 << 20]).unwrap();
    let flags = if direct { O_DIRECT } else { 0 };
    let file = std::fs::File::options().read(true).write(true).custom_flags(flags).open(path).unwrap();
    file.sync_all().unwrap();
    file
}

/// Jobs on a thread of their own each, as the storage node runs them.
struct Jobs {
    applies: std::sync::mpsc::Sender<quoin_store::ApplyJob>,
    applied: std::sync::mpsc::Receiver<quoin_store::ApplyDone>,
    checkpoints: std::sync::mpsc::Sender<quoin_store::CheckpointJob>,
    checkpointed: std::sync::mpsc::Receiver<quoin_store::CheckpointDone>,
}

fn worker<J: Send + 'static, D: Send + 'static>(
    run: impl Fn(J) -> D + Send + 'static,
) -> (std::sync::mpsc::Sender<J>, std::sync::mpsc::Receiver<D>) {
    let (jobs, queue) = std::sync::mpsc::channel();
    let (done, results) = std::sync::mpsc::channel();
    std::thread::spawn(move || queue.into_iter().map(run).for_each(|result| drop(done.send(result))));
    (jobs, results)
}

impl Jobs {
    fn new() -> Self {
        let (applies, applied) = worker(quoin_store::ApplyJob::run);
        let (checkpoints, checkpointed) = worker(quoin_store::CheckpointJob::run);
        Self { applies, applied, checkpoints, checkpointed }
    }

    fn turn(&self, engine: &mut Engine) {
        self.applied.try_iter().for_each(|done| engine.finish_apply(done).unwrap());
        self.checkpointed.try_iter().for_each(|done| engine.finish_checkpoint(done).unwrap());
        engine.start_apply().into_iter().for_each(|job| self.applies.send(job).unwrap());
        engine.start_checkpoint(false).into_iter().for_each(|job| self.checkpoints.send(job).unwrap());
    }
}

fn durable(engine: &mut Engine) {
    engine.commit().unwrap();
    let job = engine.start_sync().unwrap();
    engine.finish_sync(job.run()).unwrap();
}

/// The table of the specification, each line beside the raw file in the same run and the same directory.
#[test]
#[ignore = "a measurement"]
fn table() {
    use std::os::unix::fs::FileExt;
    let temporary = tempfile::tempdir_in(std::env::var("SPEED_DIR").unwrap_or(".".into())).unwrap();
    std::fs::create_dir(temporary.path().join("disk")).unwrap();
    let dir: Arc<dyn Dir> = Arc::new(OsDir::open(temporary.path().join("disk")).unwrap());
    let identity = Identity { cluster: CLUSTER, disk: DiskId([9; 16]), capacity_bytes: 8 << 30 };
    Engine::format(&*dir, &identity).unwrap();
    let (mut engine, _) = Engine::open(dir, None, BootId([1; 16]), Options::default()).unwrap();
    engine.create_replica(ONE, 4 << 30, Bytes::new()).unwrap();
    let (jobs, mut seq) = (Jobs::new(), 0);
    let (checksums, data) = blocks(&[7]);
    let (many_checksums, many) = blocks(&[9; 256]);
    let mut next = random_offsets(1 << 16);
    let amplification = |before: quoin_store::Statistics, after: quoin_store::Statistics| {
        let written = after.journal_bytes + after.data_bytes - before.journal_bytes - before.data_bytes;
        written as f64 / (after.payload_bytes - before.payload_bytes) as f64
    };

    let before = engine.statistics();
    let mut position = 0;
    let (mut writing, mut syncing) = (0.0, 0.0);
    let ours = per_second(|| {
        let began = clock::now();
        for _ in 0..16 {
            seq += 1;
            engine.write(ONE, Seq(seq), position % (256 << 20), &many_checksums, many.clone()).unwrap();
            if seq % 16 != 0 {
                engine.commit().unwrap();
            }
            position += 1 << 20;
        }
        writing += seconds(began);
        let began = clock::now();
        durable(&mut engine);
        syncing += seconds(began);
        jobs.turn(&mut engine);
        16
    });
    let late = engine.statistics().slots_allocated_late;
    println!("sequential: {writing:.2} s writing, {syncing:.2} s syncing, {late} slots allocated late");
    let amplified = amplification(before, engine.statistics());
    let raw = raw_file(&temporary.path().join("direct"), true);
    let buffer = vec![3u8; (1 << 20) + 4096];
    let aligned = &buffer[buffer.as_ptr().align_offset(4096)..][..1 << 20];
    let mut position = 0;
    let raws = per_second(|| {
        for _ in 0..16 {
            raw.write_all_at(aligned, position % (256 << 20)).unwrap();
            position += 1 << 20;
        }
        raw.sync_data().unwrap();
        16
    });
    // Through the page cache, to pages that it does not have yet: what our writes to new slots are at best.
    let fresh = std::fs::File::create(temporary.path().join("fresh")).unwrap();
    let mut position = 0;
    let cached = per_second(|| {
        for _ in 0..16 {
            fresh.write_all_at(aligned, position).unwrap();
            position += 1 << 20;
        }
        fresh.sync_data().unwrap();
        16
    });
    let share = ours / raws * 100.0;
    println!("sequential 1 MiB, durable every 16 MiB: {ours:.0} MiB/s");
    println!("  raw, direct: {raws:.0} MiB/s ({share:.0} %); raw, to fresh pages: {cached:.0} MiB/s");
    println!("bytes to the device per byte written (maps apart): {amplified:.3}");

    let before = engine.statistics();
    let ours = per_second(|| {
        for _ in 0..32 {
            seq += 1;
            engine.write(ONE, Seq(seq), next(), &checksums, data.clone()).unwrap();
        }
        durable(&mut engine);
        jobs.turn(&mut engine);
        32
    });
    let raw = raw_file(&temporary.path().join("buffered"), false);
    let raws = per_second(|| {
        raw.write_all_at(&data, next()).unwrap();
        raw.sync_data().unwrap();
        1
    });
    println!("durable 4 KiB, 32 at once: {ours:.0}/s; raw, one at a time: {raws:.0}/s; × {:.1}", ours / raws);

    let mut spent = 0.0;
    let ours = per_second(|| {
        let began = clock::now();
        for _ in 0..32 {
            seq += 1;
            engine.write(ONE, Seq(seq), next(), &checksums, data.clone()).unwrap();
        }
        engine.commit().unwrap();
        spent += seconds(began);
        if seq % 1024 < 32 {
            durable(&mut engine);
            jobs.turn(&mut engine);
        }
        32
    });
    println!(
        "accepted 4 KiB, 32 at once: {ours:.0}/s with syncs between; {:.0}/s of the time in write and commit",
        ours * 2.0 / spent
    );
    let after = engine.statistics();
    println!(
        "bytes to the device per byte written (maps apart): {:.3}; full journals {}, full overlays {}",
        amplification(before, after),
        after.journal_full - before.journal_full,
        after.overlay_full - before.overlay_full
    );

    durable_and_applied(&mut engine, &jobs);
    let ours = per_second(|| {
        for _ in 0..32 {
            let mut plan = engine.read(ONE, View::Live, next(), 4096).unwrap();
            if !plan.try_cached().unwrap() {
                plan.run();
            }
            let _ = engine.finish_read(plan).unwrap();
        }
        32
    });
    println!("random 4 KiB read, cached, verified: {ours:.0}/s");
}

fn durable_and_applied(engine: &mut Engine, jobs: &Jobs) {
    seq_of(engine);
    durable(engine);
    while engine.applied() < engine.durable() {
        jobs.turn(engine);
        std::thread::yield_now();
    }
}

/// One more record, so that there is something to sync.
fn seq_of(engine: &mut Engine) {
    engine.put_meta(ONE, Bytes::new(), None).unwrap();
}
