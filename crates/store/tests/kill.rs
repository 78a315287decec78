//! A real process on real files, killed with SIGKILL at random moments, again and again: while it writes, syncs, applies,
//! makes checkpoints, and while it recovers from the last time. All that it said was accepted is there, and nothing else.
//!
//! The child is this same program, told by a variable where the disk is. `QUOIN_KILLS=500 QUOIN_SEED=17` kills more often,
//! and at other moments.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, OsDir, clock};
use quoin_store::{
    ApplyDone, ApplyJob, CheckpointDone, CheckpointJob, Engine, Identity, Opened, Options, SyncDone, SyncJob,
    check,
};
use quoin_types::{BootId, DiskId, Seq};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const SEGMENT_EXTENTS: u64 = 64;
const SEGMENT_BLOCKS: u64 = SEGMENT_EXTENTS * 16;
/// Where the child finds its disk. Without it, it is no child.
const CHILD_DIR: &str = "QUOIN_KILL_DIR";

/// A mix of a number's bits: what each write does follows from its seq alone, so that parent and child agree.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the write of this seq does.
enum Step {
    Write { first: u64, values: Vec<u64> },
    Zero { first_extent: u64, extents: u64 },
    Meta(Bytes),
}

fn step(seq: u64) -> Step {
    let dice = mix(seq);
    let (place, length) = (dice >> 8, dice >> 40);
    let values = |count: u64| (0..count).map(|i| seq * 100 + i + 1).collect();
    match dice % 16 {
        0..8 => Step::Write { first: place % (SEGMENT_BLOCKS - 8), values: values(length % 8 + 1) },
        8..12 => Step::Write { first: place % SEGMENT_EXTENTS * 16, values: values(16) },
        12 | 13 => Step::Write { first: place % (SEGMENT_BLOCKS - 40), values: values(length % 40 + 1) },
        14 => Step::Zero { first_extent: place % (SEGMENT_EXTENTS - 4), extents: length % 4 + 1 },
        _ => Step::Meta(Bytes::from(vec![seq as u8; (length % 300) as usize])),
    }
}

fn open_disk(dir: &Path) -> (Engine, Opened) {
    let options = Options { journal_file_bytes: 256 << 10, journal_files: 4, reserve_bytes: 0 };
    let dir = Arc::new(OsDir::open(dir).unwrap());
    Engine::open(dir, Some(CLUSTER), BootId([1; 16]), options).unwrap()
}

enum Job {
    Sync(SyncJob),
    Apply(ApplyJob),
    Checkpoint(CheckpointJob),
}

enum Done {
    Sync(SyncDone, u64),
    Apply(ApplyDone),
    Checkpoint(CheckpointDone),
}

/// Runs what waits for the disk, as a storage node's threads do.
fn worker(jobs: &Receiver<(Job, u64)>, done: &Sender<Done>) {
    for (job, seq) in jobs {
        let outcome = match job {
            Job::Sync(job) => Done::Sync(job.run(), seq),
            Job::Apply(job) => Done::Apply(job.run()),
            Job::Checkpoint(job) => Done::Checkpoint(job.run()),
        };
        if done.send(outcome).is_err() {
            return;
        }
    }
}

/// The child: writes until it is killed, and tells what is accepted (`A seq`) and durable (`D seq`).
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    println!("\nO");
    let (mut engine, _) = open_disk(Path::new(&dir));
    let (done_sender, done) = channel();
    let workers = [(); 3].map(|()| {
        let (jobs, received) = channel();
        let done = done_sender.clone();
        std::thread::spawn(move || worker(&received, &done));
        jobs
    });
    let mut seq = engine.replica(ONE).unwrap().position.0;
    let mut accepted = seq;
    loop {
        for _ in 0..=mix(seq) % 6 {
            seq += 1;
            match step(seq) {
                Step::Write { first, values } => {
                    write(&mut engine, ONE, seq, first, &values).unwrap();
                }
                Step::Zero { first_extent, extents } => {
                    engine.zero(ONE, Seq(seq), first_extent * EXTENT, extents * EXTENT).unwrap();
                }
                Step::Meta(meta) => {
                    engine.put_meta(ONE, meta, Some(Seq(seq))).unwrap();
                }
            }
        }
        // Now and then somebody waits for it.
        let through = if mix(seq) >> 60 < 6 { engine.submit_through().unwrap() } else { None };
        if through.is_none() {
            engine.commit().unwrap();
            accepted = seq;
            println!("A {seq}");
        }
        let through = through.map(|(_, job)| job);
        let jobs = [
            through.or_else(|| engine.start_sync()).map(Job::Sync),
            engine.start_apply().map(Job::Apply),
            engine.start_checkpoint(mix(seq).is_multiple_of(32)).map(Job::Checkpoint),
        ];
        for (worker, job) in workers.iter().zip(jobs) {
            job.into_iter().for_each(|job| worker.send((job, seq)).unwrap());
        }
        for outcome in done.try_iter() {
            match outcome {
                Done::Sync(done, seq) => {
                    engine.finish_sync(done).unwrap();
                    if seq > accepted {
                        accepted = seq;
                        println!("A {seq}");
                    }
                    println!("D {seq}");
                }
                Done::Apply(done) => engine.finish_apply(done).unwrap(),
                Done::Checkpoint(done) => engine.finish_checkpoint(done).unwrap(),
            }
        }
    }
}

fn spawn(dir: &Path) -> (Child, Receiver<String>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(CHILD_DIR, dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (child, lines)
}

/// What parent and child agree that the disk holds.
struct Model {
    seq: u64,
    blocks: Vec<u64>,
    meta: Bytes,
}

impl Model {
    fn advance(&mut self, to: u64) {
        for seq in self.seq + 1..=to {
            match step(seq) {
                Step::Write { first, values } => {
                    self.blocks[first as usize..first as usize + values.len()].copy_from_slice(&values);
                }
                Step::Zero { first_extent, extents } => {
                    let first = first_extent as usize * 16;
                    self.blocks[first..first + extents as usize * 16].fill(0);
                }
                Step::Meta(meta) => self.meta = meta,
            }
        }
        self.seq = to;
    }

    fn check(&self, engine: &mut Engine) {
        assert_eq!(engine.replica(ONE).unwrap().meta, &self.meta);
        for first in (0..SEGMENT_BLOCKS).step_by(64) {
            let expected = &self.blocks[first as usize..first as usize + 64];
            assert_eq!(read(engine, ONE, first, 64), expected, "from block {first} on, at seq {}", self.seq);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn what_was_accepted_survives_every_kill() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let identity =
        Identity { cluster: CLUSTER, disk: DiskId([9; 16]), capacity_bytes: (SEGMENT_EXTENTS + 64) * EXTENT };
    Engine::format(&OsDir::open(dir).unwrap(), &identity).unwrap();
    let (mut engine, _) = open_disk(dir);
    engine.create_replica(ONE, SEGMENT_EXTENTS * EXTENT, Bytes::new()).unwrap();
    engine.shutdown().unwrap();
    let mut model = Model { seq: 0, blocks: vec![0; SEGMENT_BLOCKS as usize], meta: Bytes::new() };
    let (kills, seed) = (number("QUOIN_KILLS", 24), number("QUOIN_SEED", 1));
    let (mut replayed, mut early, mut unaccepted) = (0, 0, 0);
    for round in 0..kills {
        let (mut child, lines) = spawn(dir);
        // A fourth of the kills come early, while it recovers; the others after a random number of commits.
        let dice = mix(seed.wrapping_mul(1_000_003) + round);
        let (wait, commits) = match dice % 4 {
            0 => (Duration::from_micros(dice >> 8 & 0x7fff), u64::MAX),
            _ => (Duration::from_secs(10), dice >> 8 & 0x1ff),
        };
        let deadline = clock::now() + wait;
        let (mut accepted, mut durable, mut count) = (model.seq, model.seq, 0);
        let mut note = |line: &str| match line.split_once(' ') {
            Some(("A", seq)) => (accepted, count) = (seq.parse().unwrap(), count + 1),
            Some(("D", seq)) => durable = seq.parse().unwrap(),
            _ => {}
        };
        let mut left = commits;
        while left > 0
            && let Ok(line) = lines.recv_timeout(deadline.since(clock::now()))
        {
            note(&line);
            left -= u64::from(line.starts_with('A'));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.iter().for_each(|line| note(&line));
        early += u64::from(count == 0);

        let os: Arc<dyn Dir> = Arc::new(OsDir::open(dir).unwrap());
        let report = check(&os, &mut |_| ()).unwrap();
        assert_eq!(report.problems, vec![], "after kill {round}");
        let (mut engine, opened) = open_disk(dir);
        let position = engine.replica(ONE).unwrap().position.0;
        assert!(position >= accepted && accepted >= durable, "{position} found, {accepted} accepted");
        assert!(opened.damaged.is_empty());
        unaccepted += position - accepted;
        replayed += opened.replayed_records;
        model.advance(position);
        model.check(&mut engine);
        if round % 5 == 0 {
            engine.shutdown().unwrap();
        }
    }
    println!(
        "{kills} kills, {early} of them before the first write; {} writes, {unaccepted} of them found without \
         having been told; {replayed} records replayed",
        model.seq
    );
    assert!(model.seq > kills && replayed > 0);
}
