//! The limits that the engine is built for, as tests that print what they measured: the segments of volumes of 64 TiB and
//! 10,000 segments on one disk; a full disk's memory and how long it takes to open. Each is measured in a process of its own,
//! which is this same program, told by a variable what to do.
//!
//! The full disk is of 128 GiB here, and the limits are those of 1 TiB divided by eight; `QUOIN_LIMITS_FULL_GIB=1024` fills
//! a whole one.

mod common;

use bytes::Bytes;
use common::*;
use quoin_disk::{Dir, File, Lock, Map, OpenMode, OsDir, clock};
use quoin_store::{Engine, Identity, Options, Scrub, View};
use quoin_types::{BootId, DiskId, Moment, ReplicaId, Seq};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, IoSlice};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SEGMENT_BYTES: u64 = 16 << 30;
const TIB: u64 = 1 << 40;
/// Of a full disk of 1 TiB, in a release build. The tests' build checks every addition, and is given four times as long.
const FULL_OPEN_SECONDS_MAX: f64 = if cfg!(debug_assertions) { 20.0 } else { 5.0 };
const FULL_ANONYMOUS_BYTES_MAX: u64 = 64 << 20;
/// What a process has before it opens any disk.
const BASE_BYTES: u64 = 8 << 20;
/// Set for a child: where the disk is.
const CHILD_DIR: &str = "QUOIN_LIMITS_DIR";
/// Set for a child: how many segments, or how many GiB.
const CHILD_NUMBER: &str = "QUOIN_LIMITS_NUMBER";

/// A directory whose file `data` keeps its length and reads as zeros: a full disk that takes no space.
struct HollowDir {
    inner: OsDir,
    data: Arc<HollowFile>,
}

#[derive(Default)]
struct HollowFile(AtomicU64);

impl Dir for HollowDir {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if name == "data" { Ok(self.data.clone()) } else { self.inner.open(name, mode) }
    }

    fn open_map(&self, name: &str) -> io::Result<Arc<dyn Map>> {
        self.inner.open_map(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn lock(&self) -> io::Result<Lock> {
        self.inner.lock()
    }
}

impl File for HollowFile {
    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.allocate(offset, data.len() as u64)
    }

    fn write_vectored_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.allocate(offset, slices.iter().map(|slice| slice.len() as u64).sum())
    }

    fn write_direct_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(slices, offset)
    }

    fn write_durably_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_vectored_at(slices, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.fetch_max(offset + length, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::Relaxed))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.store(length, Ordering::Relaxed);
        Ok(())
    }

    fn expect_random_reads(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cached(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }
}

fn hollow(path: &Path) -> Arc<dyn Dir> {
    Arc::new(HollowDir { inner: OsDir::open(path).unwrap(), data: Arc::default() })
}

fn real(path: &Path) -> Arc<dyn Dir> {
    Arc::new(OsDir::open(path).unwrap())
}

fn open_disk(dir: Arc<dyn Dir>) -> Engine {
    let options = Options { reserve_bytes: 0, ..Options::default() };
    Engine::open(dir, Some(CLUSTER), BootId([1; 16]), options).unwrap().0
}

fn format_disk(dir: &dyn Dir, capacity_bytes: u64) {
    Engine::format(dir, &Identity { cluster: CLUSTER, disk: DiskId([9; 16]), capacity_bytes }).unwrap();
}

/// Anonymous memory of this process: what the page cache does not give back. In bytes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn seconds_since(begun: Moment) -> f64 {
    clock::now().since(begun).as_secs_f64()
}

/// One measurement at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one of the children below, and gives the numbers that it prints after `RESULT`.
fn child(name: &str, dir: &Path, number: u64) -> Vec<f64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD_DIR, dir).env(CHILD_NUMBER, number.to_string());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let errors = String::from_utf8_lossy(&output.stderr);
    let result = result.unwrap_or_else(|| panic!("{name} failed: {errors}\n{text}"));
    result.split(' ').map(|number| number.parse().unwrap()).collect()
}

fn child_arguments() -> Option<(std::path::PathBuf, u64)> {
    let dir = std::env::var_os(CHILD_DIR)?;
    Some((dir.into(), std::env::var(CHILD_NUMBER).unwrap().parse().unwrap()))
}

/// A map is a file that stays open: as many as the system lets this process have.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn child_makes_segments() {
    let Some((dir, count)) = child_arguments() else { return };
    allow_open_files();
    let dir = real(&dir);
    format_disk(&*dir, TIB);
    let mut engine = open_disk(dir);
    let begun = clock::now();
    for id in (1..=count).map(ReplicaId) {
        engine.create_replica(id, SEGMENT_BYTES, Bytes::from_static(b"meta")).unwrap();
        write(&mut engine, id, 1, id.0 % 4096 * 1000, &[id.0, id.0 + 1]).unwrap();
    }
    sync(&mut engine);
    let written = seconds_since(begun);
    let begun = clock::now();
    checkpoint(&mut engine);
    let checkpointed = seconds_since(begun);
    let memory = anonymous_bytes();
    engine.shutdown().unwrap();
    println!("\nRESULT {written} {checkpointed} {memory}");
}

#[test]
fn child_opens_segments() {
    let Some((dir, count)) = child_arguments() else { return };
    allow_open_files();
    let begun = clock::now();
    let mut engine = open_disk(real(&dir));
    let opened = seconds_since(begun);
    assert_eq!(engine.replicas().count() as u64, count);
    for id in (1..=count).step_by(97).map(ReplicaId) {
        assert_eq!(read(&mut engine, id, id.0 % 4096 * 1000, 3), [id.0, id.0 + 1, 0]);
    }
    println!("\nRESULT {opened} {}", anonymous_bytes());
}

/// Where the disk is made: in memory where the system has a place for that, for these limits are the engine's. With
/// `QUOIN_LIMITS_ON_DISK=1` it is on the machine's own disk, in `TMPDIR`.
fn place() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() && std::env::var_os("QUOIN_LIMITS_ON_DISK").is_none() {
        return tempfile::tempdir_in(shared).unwrap();
    }
    tempfile::tempdir().unwrap()
}

fn segments(count: u64) {
    let _alone = alone();
    let temporary = place();
    let [written, checkpointed, memory] = child("child_makes_segments", temporary.path(), count)[..] else {
        panic!("three numbers")
    };
    let [opened, reopened_memory] = child("child_opens_segments", temporary.path(), count)[..] else {
        panic!("two numbers")
    };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "{count} segments of 16 GiB ({} TiB of volumes): created and written in {written:.2} s, checkpoint in \
         {checkpointed:.2} s, {:.0} MiB anonymous; opened in {opened:.2} s, {:.0} MiB anonymous",
        count * SEGMENT_BYTES / TIB,
        mib(memory),
        mib(reopened_memory)
    );
    assert!(opened < FULL_OPEN_SECONDS_MAX, "opening took {opened} s");
    assert!(reopened_memory < (64 << 20) as f64 + (count * 8192) as f64, "{reopened_memory} bytes");
}

#[test]
fn a_volume_of_64_tib_has_4096_segments() {
    segments(4096);
}

#[test]
fn a_disk_holds_10_000_segments() {
    segments(10_000);
}

#[test]
fn child_fills_a_disk() {
    let Some((dir, gib)) = child_arguments() else { return };
    let dir = hollow(&dir);
    format_disk(&*dir, gib << 30);
    let mut engine = open_disk(dir);
    let begun = clock::now();
    let data = Bytes::from(vec![0; 1 << 20]);
    let checksums = [crc32fast::hash(&[0; BLOCK]); 256];
    let mut left = gib << 30;
    for id in (1..).map(ReplicaId) {
        engine.create_replica(id, SEGMENT_BYTES, Bytes::from_static(b"meta")).unwrap();
        for seq in 1..=left.min(SEGMENT_BYTES) >> 20 {
            engine.write(id, Seq(seq), (seq - 1) << 20, &checksums, data.clone()).unwrap();
            if seq % 64 == 0 {
                sync(&mut engine);
                let job = engine.start_checkpoint(false);
                job.into_iter().for_each(|job| engine.finish_checkpoint(job.run()).unwrap());
            }
        }
        left = left.saturating_sub(SEGMENT_BYTES);
        if left == 0 {
            break;
        }
    }
    let memory = anonymous_bytes();
    engine.shutdown().unwrap();
    println!("\nRESULT {} {memory}", seconds_since(begun));
}

#[test]
fn child_opens_a_full_disk() {
    let Some((path, gib)) = child_arguments() else { return };
    let dir = hollow(&path);
    for name in dir.list().unwrap().iter().filter(|name| name.starts_with("map.")) {
        let file = dir.open(name, OpenMode::Existing).unwrap();
        file.drop_cached(0, file.len().unwrap()).unwrap();
    }
    let open = || {
        let begun = clock::now();
        (open_disk(dir.clone()), seconds_since(begun))
    };
    let (engine, cold) = open();
    drop(engine);
    let (mut engine, warm) = open();
    assert_eq!(engine.space().used_bytes, gib << 30);
    let opened_memory = anonymous_bytes();
    let mut scrub = Scrub::default();
    for _ in 0..8 {
        if let Some(mut job) = engine.start_scrub(&mut scrub, 1 << 20) {
            job.run();
            assert!(engine.finish_scrub(job).damaged.is_empty());
        }
    }
    for id in (1..=gib.div_ceil(16)).map(ReplicaId) {
        assert!(engine.count_changed_since(id, View::Live, Seq(1)).unwrap() > 0);
    }
    println!("\nRESULT {cold} {warm} {opened_memory} {}", anonymous_bytes());
}

#[test]
fn a_full_disk_opens_in_time_and_takes_little_memory() {
    let _alone = alone();
    let gib = std::env::var("QUOIN_LIMITS_FULL_GIB").map_or(128, |text| text.parse().expect("a number"));
    let temporary = place();
    let [filled, filling_memory] = child("child_fills_a_disk", temporary.path(), gib)[..] else {
        panic!("two numbers")
    };
    let [cold, warm, opened_memory, used_memory] =
        child("child_opens_a_full_disk", temporary.path(), gib)[..]
    else {
        panic!("four numbers")
    };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "a full disk of {gib} GiB: filled in {filled:.1} s, {:.0} MiB anonymous; opened in {cold:.2} s with a cold \
         cache, {warm:.2} s with a warm one, {:.0} MiB anonymous, {:.0} MiB in use",
        mib(filling_memory),
        mib(opened_memory),
        mib(used_memory)
    );
    let share = gib as f64 / 1024.0;
    assert!(warm < FULL_OPEN_SECONDS_MAX * share, "opening took {warm} s");
    let bytes_max = BASE_BYTES as f64 + FULL_ANONYMOUS_BYTES_MAX as f64 * share;
    assert!(used_memory < bytes_max, "{used_memory} bytes, and {bytes_max} are the most");
}
