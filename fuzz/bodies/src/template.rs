//! Valid disks for the fuzzer to damage, and all that was ever written to them.

use bytes::Bytes;
use quoin_disk::{Dir, MemDir};
use quoin_store::{Engine, Error, Identity, Options};
use quoin_types::{BLOCK_BYTES, BootId, ClusterId, DiskId, EXTENT_BYTES, ReplicaId, Seq, SnapshotId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

pub(crate) const DISK: DiskId = DiskId([9; 16]);
const BOOT: BootId = BootId([1; 16]);
const CLUSTER: ClusterId = ClusterId([7; 16]);
const BLOCK: usize = BLOCK_BYTES as usize;

/// Every value that a block ever had, by replica and block; it may also be zero.
#[derive(Clone, Default)]
pub(crate) struct History(BTreeMap<(ReplicaId, u64), BTreeSet<u64>>);

impl History {
    pub(crate) fn add(&mut self, replica: ReplicaId, first_block: u64, values: &[u64]) {
        for (block, value) in (first_block..).zip(values) {
            self.0.entry((replica, block)).or_default().insert(*value);
        }
    }

    /// A replica becomes a clone of another one.
    fn copy(&mut self, from: ReplicaId, to: ReplicaId) {
        let known = self.0.iter().filter(|((replica, _), _)| *replica == from);
        let copies: Vec<_> = known.map(|((_, block), values)| ((to, *block), values.clone())).collect();
        for (place, values) in copies {
            self.0.entry(place).or_default().extend(values);
        }
    }

    /// Whether these bytes were once in this block.
    pub(crate) fn knows(&self, replica: ReplicaId, block: u64, data: &[u8]) -> bool {
        let mut first = [0; 8];
        first.copy_from_slice(&data[..8]);
        let value = u64::from_le_bytes(first);
        let is_known =
            value == 0 || self.0.get(&(replica, block)).is_some_and(|known| known.contains(&value));
        is_known && data.chunks(8).all(|word| word == first)
    }
}

/// A disk, how it looked at some moments before, and what was written to it.
pub(crate) struct Template {
    pub(crate) image: MemDir,
    pub(crate) earlier: Vec<MemDir>,
    pub(crate) history: History,
}

/// One that crashed with records in its journal, applied, unapplied and placed; and one that was shut down.
pub(crate) fn template(which: usize) -> &'static Template {
    static TEMPLATES: OnceLock<[Template; 2]> = OnceLock::new();
    &TEMPLATES.get_or_init(|| [make(false), make(true)])[which % 2]
}

pub(crate) fn open(image: &MemDir) -> Result<Engine, Error> {
    let options = Options { journal_file_bytes: 32 << 10, journal_files: 5, reserve_bytes: 0 };
    Engine::open(Arc::new(image.clone()), Some(CLUSTER), BOOT, options).map(|(engine, _)| engine)
}

/// The content of a block, told by a number.
fn blocks(values: &[u64]) -> (Vec<u32>, Bytes) {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().repeat(BLOCK / 8)).collect();
    (data.chunks(BLOCK).map(crc32fast::hash).collect(), data.into())
}

pub(crate) fn write(
    engine: &mut Engine,
    history: &mut History,
    replica: ReplicaId,
    seq: u64,
    first_block: u64,
    values: &[u64],
) -> Result<(), Error> {
    let (checksums, data) = blocks(values);
    engine.write(replica, Seq(seq), first_block * BLOCK_BYTES, &checksums, data)?;
    history.add(replica, first_block, values);
    Ok(())
}

/// Makes all that was written durable, and applies it.
pub(crate) fn settle(engine: &mut Engine) -> Result<(), Error> {
    engine.commit()?;
    if let Some(job) = engine.start_sync() {
        engine.finish_sync(job.run())?;
    }
    while let Some(job) = engine.start_apply() {
        engine.finish_apply(job.run())?;
    }
    Ok(())
}

pub(crate) fn checkpoint(engine: &mut Engine) -> Result<(), Error> {
    settle(engine)?;
    if let Some(job) = engine.start_checkpoint(true) {
        engine.finish_checkpoint(job.run())?;
    }
    Ok(())
}

fn make(is_clean: bool) -> Template {
    let image = MemDir::new();
    let mut history = History::default();
    let earlier = fill(&image, &mut history, is_clean).expect("a disk in memory takes all this");
    Template { image: image.process_crash(), earlier, history }
}

fn fill(image: &MemDir, history: &mut History, is_clean: bool) -> Result<Vec<MemDir>, Error> {
    let [one, two, three, four] = [1, 2, 3, 4].map(ReplicaId);
    let [early, late, gone] = [1, 2, 3].map(SnapshotId);
    let identity = Identity { cluster: CLUSTER, disk: DISK, capacity_bytes: 20 * EXTENT_BYTES };
    Engine::format(image, &identity)?;
    let mut earlier = vec![image.process_crash()];
    let mut engine = open(image)?;
    engine.create_replica(one, 6 * EXTENT_BYTES + 3 * BLOCK_BYTES, Bytes::from_static(b"some meta"))?;
    engine.create_replica(three, EXTENT_BYTES, Bytes::new())?;
    for seq in 1..=10u64 {
        let values: Vec<u64> = (0..seq % 4 + 1).map(|i| seq * 100 + i).collect();
        write(&mut engine, history, one, seq, seq * 7 % 90, &values)?;
        settle(&mut engine)?;
    }
    write(&mut engine, history, three, 1, 0, &[7])?;
    engine.create_snapshot(one, early, Seq(10))?;
    write(&mut engine, history, one, 10, 9, &[1050])?;
    engine.create_snapshot(one, gone, Seq(10))?;
    write(&mut engine, history, one, 10, 32, &[1060; 16])?;
    engine.zero(one, Seq(10), 0, EXTENT_BYTES)?;
    checkpoint(&mut engine)?;
    engine.clone_replica(four, 6 * EXTENT_BYTES + 3 * BLOCK_BYTES, Bytes::new(), one, early)?;
    history.copy(one, four);
    engine.delete_snapshot(one, gone)?;
    earlier.push(image.process_crash());
    engine.create_replica(two, 4 * EXTENT_BYTES, Bytes::new())?;
    let whole: Vec<u64> = (1000..1016).collect();
    write(&mut engine, history, two, 1, 16, &whole)?;
    engine.drop_replica(three)?;
    settle(&mut engine)?;
    earlier.push(image.process_crash());
    write(&mut engine, history, one, 11, 3, &[1100, 1101])?;
    engine.create_snapshot(one, late, Seq(11))?;
    write(&mut engine, history, four, 11, 20, &[1110, 1111])?;
    engine.zero(one, Seq(12), 16 * BLOCK_BYTES, EXTENT_BYTES + BLOCK_BYTES)?;
    engine.commit()?;
    engine.put_meta(two, Bytes::from_static(b"other meta of some length"), Some(Seq(1)))?;
    write(&mut engine, history, two, 2, 20, &[1200; 3])?;
    engine.commit()?;
    engine.fold()?;
    let other: Vec<u64> = (1300..1317).collect();
    write(&mut engine, history, one, 13, 48, &other)?;
    engine.commit()?;
    if let Some(job) = engine.start_sync() {
        engine.finish_sync(job.run())?;
    }
    write(&mut engine, history, two, 3, 21, &[1400])?;
    engine.commit()?;
    if is_clean {
        engine.shutdown()?;
    }
    // A page of a layer as it once was says that the extent is as in a newer one: all that was ever written there.
    history.copy(one, four);
    earlier.iter().for_each(|image| drop(image.sync()));
    Ok(earlier)
}
