//! Bytes flipped on a disk under a running cluster: scrub and reads find them, peers repair them, clients notice nothing.

use crate::PATIENCE;
use quoin_e2e::load::Plan;
use quoin_e2e::nbd::{Nbd, NbdError};
use quoin_e2e::pattern::{self, BLOCK};
use quoin_e2e::{Background, Dev, Load, until};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const EXTENT: u64 = 64 << 10;
/// What nobody writes any more when bytes are flipped: it rots at rest. Clients work in the part before it.
const COLD: std::ops::Range<u64> = (32 << 20)..(48 << 20);
const PLAN: Plan = Plan { clients: 2, blocks: 2048, reads_of_ten: 5, flush_every: 0 };

/// A storage node's files, to be damaged.
struct Disk {
    dir: PathBuf,
    map: File,
    data: File,
}

impl Disk {
    fn of(dev: &Dev, n: u32) -> Self {
        let dir = dev.dir().join(format!("data/storage-node-{n}"));
        let names =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let maps: Vec<String> = names.filter(|name| name.starts_with("map.")).collect();
        assert_eq!(maps.len(), 1, "one volume of one segment: {maps:?}");
        let open = |name: &str| File::options().read(true).write(true).open(dir.join(name)).unwrap();
        Self { map: open(&maps[0]), data: open("data"), dir }
    }

    /// Where an extent is in the data file, as its map entry says.
    fn slot(&self, extent: u64) -> Result<u64, String> {
        let mut entry = [0; 16];
        self.map.read_exact_at(&mut entry, 4096 + extent * 96).unwrap();
        let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        let (slot, version) = (word(0), word(8));
        if version > 0 && slot < 1 << 20 {
            Ok(slot)
        } else {
            Err(format!("{}: {entry:?}", self.dir.display()))
        }
    }

    fn flip(file: &File, at: u64) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    }

    /// Flips a bit of a block of an extent.
    fn rot_block(&self, extent: u64, block: u64) {
        let slot = until("an extent to be in its place", PATIENCE, || self.slot(extent));
        Self::flip(&self.data, slot * EXTENT + block * BLOCK as u64 + 1234);
    }

    /// Flips a bit of an extent's map entry.
    fn rot_entry(&self, extent: u64) {
        Self::flip(&self.map, 4096 + extent * 96 + 20);
    }
}

fn cold_extents() -> std::ops::Range<u64> {
    COLD.start / EXTENT..COLD.end / EXTENT
}

fn check_cold(nbd: &mut Nbd) -> Result<(), String> {
    for offset in COLD.step_by(1 << 20) {
        let content = nbd.read(offset, 1 << 20).map_err(|error| format!("at {offset}: {error}"))?;
        for (number, block) in (offset / BLOCK as u64..).zip(content.chunks(BLOCK)) {
            if pattern::version(number, block)? != 1 {
                return Err(format!("block {number} is not what was written"));
            }
        }
    }
    Ok(())
}

/// Node 1 in a process of the test's own, which scrubs all the time.
fn scrubbing_node(dev: &Dev) -> Background {
    dev.kill_node(1);
    let config = dev.dir().join("config/storage-node-1.toml").display().to_string();
    let log = File::create(dev.beside("node-1.log")).unwrap();
    let mut command = quoin_e2e::quoin(&["storage-node", "--config", &config]);
    command.args(["--scrub-rate", "64MiB", "--scrub-interval", "1s"]);
    let node = Background::start_with_stderr(&mut command, log);
    dev.until_healthy(PATIENCE);
    node
}

fn until_metric(dev: &Dev, n: u32, name: &str, is_enough: impl Fn(f64) -> bool) {
    until(&format!("{name} of node {n}"), PATIENCE, || {
        let value = dev.node_metric(n, name)?;
        if is_enough(value) { Ok(()) } else { Err(format!("{name} is {value}")) }
    });
}

#[test]
fn rot_is_found_and_repaired_under_clients_that_notice_nothing() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut nbd = dev.nbd();
    for number in COLD.start / BLOCK as u64..COLD.end / BLOCK as u64 {
        nbd.write(number * BLOCK as u64, &pattern::block(number, 1)).unwrap();
    }
    nbd.flush().unwrap();
    let node = scrubbing_node(&dev);
    let load = Load::start(dev.nbd_address(), "vol1", PLAN);
    load.until_more(5000, PATIENCE);
    until_metric(&dev, 1, "scrub_laps_total", |laps| laps >= 2.0);
    until_metric(&dev, 1, "scrub_lap_age_seconds", |age| age < 30.0);
    assert!(dev.node_metric(1, "scrubbed_bytes_total").unwrap() > 16e6);
    assert_eq!(dev.node_metric(1, "damage_found_total"), Ok(0.0));

    // At rest: each is found, and fetched anew.
    let disk = Disk::of(&dev, 1);
    let cold: Vec<u64> = cold_extents().step_by(16).collect();
    for (index, extent) in (0..).zip(&cold) {
        if index % 3 == 0 { disk.rot_entry(*extent) } else { disk.rot_block(*extent, index % 16) }
    }
    let found = cold.len() as f64;
    until_metric(&dev, 1, "damage_found_total", |damage| damage >= found);
    until_metric(&dev, 1, "repaired_extents_total", |repaired| repaired >= found);
    until_metric(&dev, 1, "damaged_extents", |damaged| damaged == 0.0);
    // Where clients work what rots may mend itself: it is overwritten, or a write that meets it makes the node catch up,
    // which mends whatever else has rotted. Hence not together with the rest, which would be mended before it is found.
    for extent in 0..6 {
        if extent % 2 == 0 { disk.rot_entry(extent * 40) } else { disk.rot_block(extent * 40, 3) }
    }
    let laps = dev.node_metric(1, "scrub_laps_total").unwrap();
    until_metric(&dev, 1, "scrub_laps_total", |now| now >= laps + 2.0);
    until_metric(&dev, 1, "damaged_extents", |damaged| damaged == 0.0);
    load.until_more(2000, PATIENCE);
    let work = load.stop();
    assert_eq!(work.errors, [""; 0], "no client may see an error");
    work.verify(&mut nbd).unwrap();
    check_cold(&mut nbd).unwrap();
    dev.until_healthy(PATIENCE);
    let log = fs::read_to_string(dev.beside("node-1.log")).unwrap();
    for words in ["the map entry of extent", "is damaged", "a damaged extent was repaired"] {
        assert!(log.contains(words), "the log does not say \"{words}\":\n{log}");
    }

    // The same extents rot on node 3, and node 2 is gone: what is read now is what node 1 was given.
    dev.kill_node(2);
    let other = Disk::of(&dev, 3);
    cold.iter().for_each(|extent| other.rot_block(*extent, 7));
    check_cold(&mut nbd).unwrap();
    drop(node);
}

#[test]
fn damage_on_every_copy_in_reach_is_told_and_repaired_when_a_good_one_is_back() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut nbd = dev.nbd();
    let extent = COLD.start / EXTENT;
    let content: Vec<u8> =
        (COLD.start / BLOCK as u64..).take(16).flat_map(|n| pattern::block(n, 1)).collect();
    nbd.write_fua(COLD.start, &content).unwrap();
    let node = scrubbing_node(&dev);
    until_metric(&dev, 1, "scrub_laps_total", |laps| laps >= 2.0);
    dev.kill_node(2);
    Disk::of(&dev, 3).rot_block(extent, 1);
    Disk::of(&dev, 1).rot_block(extent, 2);
    until_metric(&dev, 1, "damaged_extents", |damaged| damaged == 1.0);
    let error = nbd.read(COLD.start, EXTENT as u32).map(drop).unwrap_err();
    assert!(matches!(error, NbdError::Answer(5)), "{error}");
    let problems = until("the status to tell", PATIENCE, || {
        let problems = dev.status()["problems"].to_string();
        if problems.contains("damaged") { Ok(problems) } else { Err(problems) }
    });
    assert!(problems.contains("storage node node-1: 1 extent of its disk is damaged"), "{problems}");
    assert_eq!(dev.json(&["node", "show", "node-1"])["damaged_extents"], 1);
    let shown = dev.quoin(&["node", "show", "node-1"]).ok().stdout;
    assert!(shown.contains("1 extent, not repaired yet"), "{shown}");

    dev.control("start", "storage-node-2").ok();
    until_metric(&dev, 1, "damaged_extents", |damaged| damaged == 0.0);
    assert_eq!(nbd.read(COLD.start, EXTENT as u32).unwrap(), content);
    dev.until_healthy(PATIENCE);
    drop(node);
}
