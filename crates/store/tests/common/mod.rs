//! What the tests of the engine share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use bytes::Bytes;
use quoin_disk::{Dir, MemDir};
use quoin_store::{Engine, Error, Identity, Lsn, Opened, Options, ReadOutcome, View};
use quoin_types::{BootId, ClusterId, DiskId, ReplicaId, Seq};
use std::sync::Arc;

pub const BLOCK: usize = 4096;
pub const EXTENT: u64 = 65536;
pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const ONE: ReplicaId = ReplicaId(1);

pub fn options() -> Options {
    Options { journal_file_bytes: 64 << 10, journal_files: 4, reserve_bytes: 0 }
}

pub fn format(dir: &dyn Dir, extents: u64) {
    let identity = Identity { cluster: CLUSTER, disk: DiskId([9; 16]), capacity_bytes: extents * EXTENT };
    Engine::format(dir, &identity).unwrap();
}

pub fn try_open(dir: Arc<dyn Dir>, boot: u8) -> Result<(Engine, Opened), Error> {
    Engine::open(dir, Some(CLUSTER), BootId([boot; 16]), options())
}

pub fn open(dir: &(impl Dir + Clone + 'static)) -> Engine {
    try_open(Arc::new(dir.clone()), 1).unwrap().0
}

/// A block whose content is told by a number.
pub fn block(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(BLOCK / 8)
}

pub fn blocks(values: &[u64]) -> (Vec<u32>, Bytes) {
    let data = values.iter().map(|value| block(*value)).collect::<Vec<_>>().concat();
    (data.chunks(BLOCK).map(crc32fast::hash).collect(), data.into())
}

pub fn write(
    engine: &mut Engine,
    id: ReplicaId,
    seq: u64,
    first_block: u64,
    values: &[u64],
) -> Result<Lsn, Error> {
    let (checksums, data) = blocks(values);
    engine.write(id, Seq(seq), first_block * BLOCK as u64, &checksums, data)
}

pub fn sync(engine: &mut Engine) -> Lsn {
    engine.commit().unwrap();
    if let Some(job) = engine.start_sync() {
        engine.finish_sync(job.run()).unwrap();
    }
    apply(engine);
    engine.durable()
}

/// Makes all that was appended durable, and leaves it unapplied.
pub fn sync_only(engine: &mut Engine) -> Lsn {
    engine.commit().unwrap();
    let job = engine.start_sync().unwrap();
    engine.finish_sync(job.run()).unwrap()
}

pub fn apply(engine: &mut Engine) {
    while let Some(job) = engine.start_apply() {
        engine.finish_apply(job.run()).unwrap();
    }
}

pub fn checkpoint(engine: &mut Engine) {
    sync(engine);
    if let Some(job) = engine.start_checkpoint(true) {
        engine.finish_checkpoint(job.run()).unwrap();
    }
    apply(engine);
}

/// Reads blocks as the numbers they were made from; `Err` with the first damaged block.
pub fn try_read(engine: &mut Engine, id: ReplicaId, first_block: u64, count: u64) -> Result<Vec<u64>, u32> {
    try_read_view(engine, id, View::Live, first_block, count)
}

/// As [`try_read`], of any view.
pub fn try_read_view(
    engine: &mut Engine,
    id: ReplicaId,
    view: View,
    first_block: u64,
    count: u64,
) -> Result<Vec<u64>, u32> {
    let mut plan = engine.read(id, view, first_block * BLOCK as u64, count * BLOCK as u64).unwrap();
    loop {
        if !plan.try_cached().unwrap() {
            plan.run();
        }
        match engine.finish_read(plan).unwrap() {
            ReadOutcome::Data { data, checksums } => {
                assert_eq!(checksums.len() as u64, count);
                let value = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
                let values: Vec<u64> = data.chunks(BLOCK).map(value).collect();
                for (data, value) in data.chunks(BLOCK).zip(&values) {
                    assert!(data == block(*value));
                }
                return Ok(values);
            }
            ReadOutcome::Retry(again) => plan = again,
            ReadOutcome::Mismatch { block, .. } => return Err(block.0),
        }
    }
}

pub fn read(engine: &mut Engine, id: ReplicaId, first_block: u64, count: u64) -> Vec<u64> {
    try_read(engine, id, first_block, count).unwrap()
}

/// As [`try_read_view`], of the first replica, undamaged.
pub fn read_view(engine: &mut Engine, view: View, first_block: u64, count: u64) -> Vec<u64> {
    try_read_view(engine, ONE, view, first_block, count).unwrap()
}

pub fn used_extents(engine: &Engine) -> u64 {
    engine.space().used_bytes / EXTENT
}

/// What a crash of the process leaves, open.
pub fn restart(dir: &MemDir) -> (MemDir, Engine) {
    let image = dir.process_crash();
    let engine = open(&image);
    (image, engine)
}

/// The offline check finds nothing.
pub fn assert_sound(dir: &MemDir) {
    let image: Arc<dyn Dir> = Arc::new(dir.process_crash());
    assert_eq!(quoin_store::check(&image, &mut |_| ()).unwrap().problems, vec![]);
}
