//! The inner loops alone: checksums, frames, the disk engine. `cargo bench -p benches --bench micro`.

use benches::{BLOCK, print_table, time_of};
use bytes::{Bytes, BytesMut};
use quoin_disk::{Dir, OsDir};
use quoin_store::{Engine, Identity, Options, View};
use quoin_types::{BootId, ClusterId, DiskId, Epoch, ReplicaId, Seq};
use quoin_wire::{Decoder, Message, Write};
use std::sync::Arc;
use std::time::Duration;

const REPLICA: ReplicaId = ReplicaId(1);
const REPLICA_BYTES: u64 = 1 << 30;

fn main() {
    let mut lines = vec![["benchmark", "time", "rate"].map(String::from).to_vec()];
    let mut add = |name: &str, time: Duration, bytes: usize| {
        let rate = bytes as f64 / time.as_secs_f64() / f64::from(1 << 20);
        lines.push(vec![name.to_owned(), format!("{time:?}"), format!("{rate:.0} MiB/s")]);
    };
    for blocks in [1, 16] {
        let data = Bytes::from(vec![7u8; blocks * BLOCK]);
        let (kib, length) = (blocks * 4, data.len());
        add(&format!("checksums of {kib} KiB"), time_of(|| quoin_wire::block_checksums(&data)), length);
        let message = write_message(&data);
        add(&format!("encode a write of {kib} KiB"), time_of(|| encode(&message)), length);
        let frame = encode(&message);
        add(&format!("copy and decode a write of {kib} KiB"), time_of(|| decode(&frame)), length);
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut engine = engine(directory.path());
    let checksums = quoin_wire::block_checksums(&[7; BLOCK]);
    let data = Bytes::from_static(&[7; BLOCK]);
    let (mut seq, mut place) = (0u64, 1u64);
    let accepted = time_of(|| {
        seq += 1;
        engine.write(REPLICA, Seq(seq), next(&mut place), &checksums, data.clone()).expect("a write");
        if seq.is_multiple_of(32) {
            engine.commit().expect("a commit");
        }
        if seq.is_multiple_of(1024) {
            settle(&mut engine);
        }
    });
    add("engine: write 4 KiB, 32 to a batch, 1,024 to a sync", accepted, BLOCK);
    settle(&mut engine);
    let durable = time_of(|| {
        seq += 1;
        engine.write(REPLICA, Seq(seq), next(&mut place), &checksums, data.clone()).expect("a write");
        settle(&mut engine);
    });
    add("engine: write 4 KiB, each durable", durable, BLOCK);
    let read = time_of(|| {
        let mut plan = engine.read(REPLICA, View::Live, next(&mut place), BLOCK as u64).expect("a read");
        if !plan.try_cached().expect("a cached read") {
            plan.run();
        }
        engine.finish_read(plan).expect("a read")
    });
    add("engine: read 4 KiB", read, BLOCK);
    print_table(&lines);
}

fn write_message(data: &Bytes) -> Message {
    let checksums = quoin_wire::block_checksums(data);
    Message::Write(Write {
        replica: REPLICA,
        epoch: Epoch(1),
        seq: Seq(1),
        offset: 0,
        checksums,
        data: data.clone(),
    })
}

/// A frame as it goes out: the head, then the payload, which is not copied.
fn encode(message: &Message) -> (BytesMut, Bytes) {
    let mut head = BytesMut::with_capacity(256);
    let payload = quoin_wire::encode(message, &mut head);
    (head, payload)
}

fn decode((head, payload): &(BytesMut, Bytes)) -> Message {
    let mut input = BytesMut::with_capacity(head.len() + payload.len());
    input.extend_from_slice(head);
    input.extend_from_slice(payload);
    Decoder::default().next(&mut input).expect("a good frame").expect("a whole frame")
}

fn engine(path: &std::path::Path) -> Engine {
    let dir = || -> Arc<dyn Dir> { Arc::new(OsDir::open(path).expect("a directory")) };
    let identity =
        Identity { cluster: ClusterId([7; 16]), disk: DiskId([9; 16]), capacity_bytes: 2 * REPLICA_BYTES };
    Engine::format(&*dir(), &identity).expect("a formatted disk");
    let options = Options { journal_file_bytes: 16 << 20, journal_files: 4, ..Options::default() };
    let (mut engine, _) = Engine::open(dir(), None, BootId([1; 16]), options).expect("an engine");
    engine.create_replica(REPLICA, REPLICA_BYTES, Bytes::new()).expect("a replica");
    engine
}

/// Makes all durable, and takes a checkpoint if it is time for one.
fn settle(engine: &mut Engine) {
    engine.commit().expect("a commit");
    if let Some(job) = engine.start_sync() {
        engine.finish_sync(job.run()).expect("a sync");
    }
    if let Some(job) = engine.start_checkpoint(false) {
        engine.finish_checkpoint(job.run()).expect("a checkpoint");
    }
}

fn next(place: &mut u64) -> u64 {
    *place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    (*place >> 33) % (REPLICA_BYTES / BLOCK as u64) * BLOCK as u64
}
