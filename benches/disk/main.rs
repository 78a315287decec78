//! What is asked of the disk engine, each figure beside the raw file in the same run, and its target. Jobs run on threads
//! as the storage node runs them. `cargo bench -p benches --bench disk`; `BENCH_DIR` names the directory to measure in; words
//! after `--` name the lines: sequential, durable, accepted, reads, layers, restart, scan.
//!
//! What ours and the raw file do in turns, five times: a disk that others use too changes within seconds, and the middle
//! one of five ratios hardly notices. Why a line misses is written in `docs/benchmarks.md`.

mod layers;
mod raw;
mod rig;

use benches::{BLOCK, print_table};
use bytes::Bytes;
use quoin_e2e::clock::now;
use quoin_types::{ExtentIndex, Seq};
use rig::{REPLICA, Rig};
use rustix::time::{ClockId, clock_gettime};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What random offsets are drawn from: it fits the page cache of any machine.
const RANDOM_BYTES: u64 = 256 * MIB;
/// No line writes to more of the segment than this.
const WRITTEN_BYTES_MAX: u64 = 512 * MIB;
/// Of an extent in the map.
const ENTRY_BYTES: u64 = 96;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(500);
/// Writes of one thread of callers that are under way at once.
const OUTSTANDING: usize = 32;
/// The raw file is synced after as many MiB.
const RAW_SYNC_MIB: u64 = 16;

/// Measures some lines of the table.
type Line = fn(&mut Rig, &Path, &mut Table);

struct Table(Vec<Vec<String>>);

enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Only to be looked at.
    None,
}

impl Table {
    /// One line: what ours is, what the raw file is, and the figure that has a target.
    fn add(&mut self, what: &str, ours: String, raw: String, figure: f64, unit: &str, target: &Target) {
        let (wanted, passes) = match target {
            Target::AtLeast(least) => (format!("≥ {least}{unit}"), Some(figure >= *least)),
            Target::AtMost(most) => (format!("≤ {most}{unit}"), Some(figure <= *most)),
            Target::None => ("".to_owned(), None),
        };
        let verdict = passes.map_or("", |passes| if passes { "pass" } else { "MISS" });
        let digits = if figure >= 100.0 { 0 } else { 2 };
        let line =
            [what.to_owned(), ours, raw, format!("{figure:.digits$}{unit}"), wanted, verdict.to_owned()];
        println!("{}", line.join("  "));
        self.0.push(line.to_vec());
    }
}

/// How many of what `each` counts are done per second, in half a second.
fn per_second(mut each: impl FnMut() -> u64) -> f64 {
    let (began, mut count) = (now(), 0);
    while began.elapsed() < ROUND {
        count += each();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// How many are done per second of this thread's own time on a processor: per core, whoever else uses the machine.
fn per_core_second(mut each: impl FnMut() -> u64) -> f64 {
    let (began, cpu, mut count) = (now(), cpu_seconds(), 0);
    while began.elapsed() < ROUND {
        count += each();
    }
    count as f64 / (cpu_seconds() - cpu)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The middle of five rounds each, in turns: ours, the raw file's, and their ratio.
fn in_turns(mut ours: impl FnMut() -> f64, mut raw: impl FnMut() -> f64) -> (f64, f64, f64) {
    let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (ours(), raw())).collect();
    let mut middle = |of: fn(&(f64, f64)) -> f64| {
        rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&rounds[ROUNDS / 2])
    };
    (middle(|r| r.0), middle(|r| r.1), middle(|r| r.0 / r.1))
}

fn random_offsets() -> impl FnMut() -> u64 {
    let mut random = 1u64;
    move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % (RANDOM_BYTES / BLOCK as u64) * BLOCK as u64
    }
}

/// Data to write, with its checksums.
fn data(blocks: usize) -> (Vec<u32>, Bytes) {
    let data = Bytes::from(vec![7; blocks * BLOCK]);
    (quoin_wire::block_checksums(&data), data)
}

fn main() {
    let directory = std::env::var("BENCH_DIR").map_or_else(|_| std::env::temp_dir(), Into::into);
    let directory = tempfile::tempdir_in(directory).expect("a temporary directory");
    let path = directory.path();
    let mut table = Table(vec![["", "ours", "raw file", "figure", "target", ""].map(String::from).to_vec()]);
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let mut rig = Rig::new(&path.join("disk"), 2 * GIB, GIB);
    for (name, line) in [
        ("sequential", sequential as Line),
        ("durable", durable),
        ("accepted", accepted_on_disk),
        ("reads", reads),
    ] {
        if wanted(name) {
            line(&mut rig, path, &mut table);
        }
    }
    drop(rig);
    if wanted("layers") {
        layers::layers(&path.join("layers"), &mut table);
    }
    if wanted("restart") {
        restart(&path.join("restart"), &mut table);
    }
    if wanted("scan") {
        scan(&path.join("scan"), &mut table);
    }
    if wanted("accepted") {
        accepted_in_memory(&mut table);
    }
    println!();
    print_table(&table.0);
}

/// How many bytes go to the device per byte written while this runs: journal and data as the engine counts them, and with
/// each checkpoint no more than the whole map of what is written here.
fn amplification(rig: &mut Rig, run: impl FnOnce(&mut Rig)) -> f64 {
    rig.checkpoint();
    let before = rig.engine.statistics();
    run(rig);
    rig.checkpoint();
    let after = rig.engine.statistics();
    let entries = (after.entries_stored - before.entries_stored).min(WRITTEN_BYTES_MAX >> 16);
    let maps = (after.checkpoints - before.checkpoints) * entries * ENTRY_BYTES;
    let written = after.journal_bytes + after.data_bytes - before.journal_bytes - before.data_bytes + maps;
    written as f64 / (after.payload_bytes - before.payload_bytes) as f64
}

fn sequential(rig: &mut Rig, path: &Path, table: &mut Table) {
    let (checksums, data) = data(256);
    let mut position = 0;
    let mut run = |rig: &mut Rig| {
        let rate = per_second(|| {
            rig.write(position % WRITTEN_BYTES_MAX, &checksums, &data);
            position += MIB;
            rig.submit();
            rig.turn();
            rig.wait_durable(OUTSTANDING - 1)
        });
        rig.settle();
        rate
    };
    run(rig);
    let file = raw::file(&path.join("direct"), true);
    let (buffer, mut place) = (raw::buffer(), 0);
    let mut raw = |writers| {
        per_second(|| {
            raw::write_and_sync(&file, place, RAW_SYNC_MIB, writers, &buffer);
            place += RAW_SYNC_MIB << 20;
            RAW_SYNC_MIB
        })
    };
    raw(1);
    let show = |rate: f64| format!("{rate:.0} MiB/s");
    let (ours, raws, ratio) = in_turns(|| run(rig), || raw(1));
    let target = Target::AtLeast(85.0);
    table.add("sequential 1 MiB, durable", show(ours), show(raws), ratio * 100.0, " %", &target);
    let (ours, raws, ratio) = in_turns(|| run(rig), || raw(4));
    table.add("… beside 4 writers at once", show(ours), show(raws), ratio * 100.0, " %", &Target::None);
    let late = rig.engine.statistics().slots_allocated_late;
    let factor = amplification(rig, |rig| {
        run(rig);
    });
    let what = "bytes to the device per byte, 1 MiB";
    table.add(what, format!("{late} slots late"), String::new(), factor, "", &Target::AtMost(1.05));
    // What a client of mode `flush` waits for, and what it would wait for with the page cache between.
    let (times, mut place) = (33, 0);
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let began = now();
            rig.write(place, &checksums, &data);
            rig.submit();
            let last = rig.engine.submit().expect("a batch");
            rig.wait_accepted(last);
            place += MIB;
            let took = began.elapsed();
            rig.wait_durable(0);
            took
        })
        .collect();
    took.sort_unstable();
    let fresh = std::fs::File::create(path.join("fresh")).expect("a file");
    let mut raw: Vec<Duration> = (0..times)
        .map(|n| {
            let began = now();
            fresh.write_all_at(&data, n * MIB).expect("a write");
            began.elapsed()
        })
        .collect();
    raw.sort_unstable();
    let milliseconds = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e3;
    let (ours, raw) = (milliseconds(&took), milliseconds(&raw));
    let (text, raw) = (format!("{ours:.2} ms"), format!("{raw:.2} ms to fresh pages"));
    table.add("one 1 MiB write accepted, alone", text, raw, ours, " ms", &Target::None);
}

fn durable(rig: &mut Rig, path: &Path, table: &mut Table) {
    let (checksums, data) = data(1);
    let mut next = random_offsets();
    let file = raw::file(&path.join("buffered"), false);
    let mut next_raw = random_offsets();
    let (ours, raws, ratio) = in_turns(
        || per_second(|| write_durable(rig, &mut next, &checksums, &data)),
        || {
            per_second(|| {
                file.write_all_at(&data, next_raw()).expect("a write");
                file.sync_data().expect("a sync");
                1
            })
        },
    );
    let (ours, raws) = (format!("{ours:.0}/s"), format!("{raws:.0}/s, one at a time"));
    table.add("durable 4 KiB, 32 outstanding", ours, raws, ratio, " ×", &Target::AtLeast(8.0));
    let factor = amplification(rig, |rig| {
        (0..512).for_each(|_| {
            write_durable(rig, &mut next, &checksums, &data);
        });
    });
    table.add(
        "bytes to the device per byte, 4 KiB",
        String::new(),
        String::new(),
        factor,
        "",
        &Target::AtMost(2.2),
    );
}

/// As many as may be outstanding, until all are durable.
fn write_durable(rig: &mut Rig, next: &mut impl FnMut() -> u64, checksums: &[u32], data: &Bytes) -> u64 {
    (0..OUTSTANDING).for_each(|_| rig.write(next(), checksums, data));
    rig.submit();
    rig.turn();
    rig.wait_durable(0)
}

/// A batch of writes, accepted; syncs, applying and checkpoints go on beside.
fn accept(rig: &mut Rig, next: &mut impl FnMut() -> u64, checksums: &[u32], data: &Bytes) -> u64 {
    (0..OUTSTANDING).for_each(|_| rig.write(next(), checksums, data));
    rig.submit();
    rig.turn();
    OUTSTANDING as u64
}

fn accepted_on_disk(rig: &mut Rig, path: &Path, table: &mut Table) {
    let (checksums, data) = data(1);
    let (mut next, mut next_raw) = (random_offsets(), random_offsets());
    let file = raw::file(&path.join("buffered"), false);
    let before = rig.engine.statistics();
    let (ours, raws, ratio) = in_turns(
        || {
            let rate = per_second(|| accept(rig, &mut next, &checksums, &data));
            rig.settle();
            rate
        },
        || per_second(|| write_raw(&file, &mut next_raw, &data)),
    );
    let after = rig.engine.statistics();
    let waits = after.journal_full + after.overlay_full - before.journal_full - before.overlay_full;
    let (ours, raws) = (format!("{ours:.0}/s, {waits} waits for room"), format!("{raws:.0}/s, never synced"));
    table.add("accepted 4 KiB, without an end, on this disk", ours, raws, ratio * 100.0, " %", &Target::None);
}

fn write_raw(file: &std::fs::File, next: &mut impl FnMut() -> u64, data: &Bytes) -> u64 {
    (0..OUTSTANDING).for_each(|_| file.write_all_at(data, next()).expect("a write"));
    OUTSTANDING as u64
}

/// The same where no device is: what is left is the engine's own work.
fn accepted_in_memory(table: &mut Table) {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = directory.path();
    let mut rig = Rig::new(&path.join("disk"), GIB, 512 * MIB);
    let (checksums, data) = data(1);
    let (mut next, mut next_raw) = (random_offsets(), random_offsets());
    let file = raw::file(&path.join("buffered"), false);
    let (ours, raws, _) = in_turns(
        || per_core_second(|| accept(&mut rig, &mut next, &checksums, &data)),
        || per_core_second(|| write_raw(&file, &mut next_raw, &data)),
    );
    let (text, raws) = (format!("{ours:.0}/s"), format!("{raws:.0}/s"));
    let target = Target::AtLeast(150.0);
    table.add("accepted 4 KiB, 32 outstanding, page cache", text, raws, ours / 1e3, " k/s", &target);
}

fn reads(rig: &mut Rig, path: &Path, table: &mut Table) {
    let (checksums, data) = data(256);
    let each_mib = || (0..RANDOM_BYTES).step_by(MIB as usize);
    each_mib().for_each(|offset| {
        rig.write(offset, &checksums, &data);
        rig.submit();
    });
    rig.checkpoint();
    each_mib().for_each(|offset| rig.read(offset, 256));
    let (mut next, mut next_raw) = (random_offsets(), random_offsets());
    let file = raw::file(&path.join("buffered"), false);
    let mut block = [0; BLOCK];
    let (ours, raws, _) = in_turns(
        || {
            per_core_second(|| {
                (0..OUTSTANDING).for_each(|_| rig.read(next(), 1));
                OUTSTANDING as u64
            })
        },
        || {
            per_core_second(|| {
                (0..OUTSTANDING).for_each(|_| file.read_exact_at(&mut block, next_raw()).expect("a read"));
                OUTSTANDING as u64
            })
        },
    );
    let (text, raws) = (format!("{ours:.0}/s"), format!("{raws:.0}/s, not verified"));
    table.add("random 4 KiB read, cached, verified", text, raws, ours / 1e3, " k/s", &Target::AtLeast(400.0));
}

/// A journal as full as it gets, then a crash.
fn restart(path: &Path, table: &mut Table) {
    let mut rig = Rig::new(path, GIB, 512 * MIB);
    let (checksums, data) = data(1);
    let mut next = random_offsets();
    rig.checkpoint();
    for _ in 0..29_000 / OUTSTANDING {
        (0..OUTSTANDING).for_each(|_| rig.write(next(), &checksums, &data));
        rig.engine.submit().expect("a batch");
    }
    assert_eq!(rig.engine.statistics().journal_full, 0, "the journal must not have made room for itself");
    drop(rig);
    let began = now();
    let (_, opened) = rig::open(path);
    let took = began.elapsed().as_secs_f64();
    let began = now();
    let mut bytes = 0;
    for number in 0..4 {
        bytes += std::fs::read(path.join(format!("journal.{number}"))).map_or(0, |content| content.len());
    }
    let ours = format!("{} records, {} MiB", opened.replayed_records, opened.replayed_bytes >> 20);
    let raw = format!("{:.2} s to read {} MiB", began.elapsed().as_secs_f64(), bytes >> 20);
    table.add("restart with a full journal", ours, raw, took, " s", &Target::AtMost(2.0));
}

/// A segment of 16 GiB, every extent of it touched: by zeroes, which leave entries like all others but take no space.
fn scan(path: &Path, table: &mut Table) {
    let bytes = 16 * GIB;
    let mut rig = Rig::new(path, GIB, bytes);
    let seq = rig.next_seq();
    rig.engine.zero(REPLICA, seq, 0, bytes).expect("zeroes");
    rig.settle();
    let before = seq;
    for n in 0..100u64 {
        let seq = rig.next_seq();
        let extent = n * 104_729 % (bytes >> 16);
        rig.engine.zero(REPLICA, seq, extent << 16, 1 << 16).expect("zeroes");
    }
    rig.checkpoint();
    let name = std::fs::read_dir(path)
        .expect("a directory")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let map = name.into_iter().find(|name| name.starts_with("map.")).expect("a map");
    for (what, since, expected) in [
        ("scan of 16 GiB, 100 extents changed", before, 100),
        ("scan of 16 GiB, all changed", Seq(0), bytes >> 16),
    ] {
        let scan = || {
            let found = rig
                .engine
                .changed_since(REPLICA, quoin_store::View::Live, since, ExtentIndex(0), usize::MAX)
                .expect("a scan");
            assert_eq!(found.len() as u64, expected);
            1
        };
        let file = std::fs::File::open(path.join(&map)).expect("the map");
        let mut content = vec![0; file.metadata().expect("a length").len() as usize];
        let (ours, raws, _) = in_turns(
            || per_core_second(&scan),
            || {
                per_core_second(|| {
                    file.read_exact_at(&mut content, 0).expect("the map");
                    1
                })
            },
        );
        let tib = bytes as f64 / (1u64 << 40) as f64;
        let (text, raw) = (format!("{:.2} ms", 1e3 / ours), format!("{:.2} ms to copy the map", 1e3 / raws));
        table.add(what, text, raw, ours * tib, " TiB/s", &Target::AtLeast(1.0));
    }
}
