//! Reads of so much that the memory is used again: nobody sees what was read there before.

mod common;

use bytes::Bytes;
use common::*;
use quoin_store::{Engine, ReadOutcome, View};
use quoin_types::{ReplicaId, Seq};

const OTHER: ReplicaId = ReplicaId(2);
/// As much as one read takes.
const BLOCKS: u64 = 256;

fn all(engine: &mut Engine, id: ReplicaId) -> Bytes {
    let plan = engine.read(id, View::Live, 0, BLOCKS * BLOCK as u64).unwrap();
    match engine.finish_read(plan).unwrap() {
        ReadOutcome::Data { data, .. } => data,
        ReadOutcome::Retry(_) | ReadOutcome::Mismatch { .. } => panic!("nothing is wrong with the disk"),
    }
}

#[test]
fn what_was_read_before_is_never_seen() {
    let dir = quoin_disk::MemDir::new();
    format(&dir, 64);
    let mut engine = open(&dir);
    for id in [ONE, OTHER] {
        engine.create_replica(id, BLOCKS * BLOCK as u64, Bytes::new()).unwrap();
    }
    for first in (0..BLOCKS).step_by(16) {
        write(&mut engine, ONE, 1, first, &[7; 16]).unwrap();
    }
    // Of the other one: a block, an extent with zeros in it, and one that was trimmed.
    write(&mut engine, OTHER, 1, 3, &[5]).unwrap();
    write(&mut engine, OTHER, 2, 32, &[6; 16]).unwrap();
    write(&mut engine, OTHER, 3, 64, &[6; 16]).unwrap();
    engine.zero(OTHER, Seq(4), 34 * BLOCK as u64, 4 * BLOCK as u64).unwrap();
    engine.zero(OTHER, Seq(5), 64 * BLOCK as u64, 16 * BLOCK as u64).unwrap();
    checkpoint(&mut engine);
    let has = |at: u64| match at {
        3 => 5,
        32..34 | 38..48 => 6,
        _ => 0,
    };
    for _ in 0..3 {
        let secret = all(&mut engine, ONE);
        assert!(secret.chunks(BLOCK).all(|data| data == block(7)));
        let memory = secret.as_ptr();
        drop(secret);
        let seen = all(&mut engine, OTHER);
        assert_eq!(seen.as_ptr(), memory, "it is the same memory");
        for (at, data) in (0..).zip(seen.chunks(BLOCK)) {
            assert!(data == block(has(at)), "block {at}");
        }
    }
}
