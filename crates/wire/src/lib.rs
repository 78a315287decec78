//! The data plane's frames: bytes in, messages out, and back. No sockets.
//!
//! A frame is a 32-byte header, then *meta* (the message's own fields, little-endian), then *data* (blocks of volumes).
//! Header and meta are covered by the header's checksum; data is covered by the block checksums that travel in meta, the
//! same that are stored on disk and verified by the reader. Data is never copied on the way: it is sent from, and
//! received into, shared buffers. `docs/wire-format.md` gives the byte tables.
//!
//! Between processes that share memory, data may stay where it is: the header then says where, the receiver uses it there, and gives
//! it back.
//!
//! Meta may grow at its end: a reader ignores bytes that it does not know. Anything else needs a new version.

mod decoder;
mod fields;
pub mod frame;
pub mod message;

pub use decoder::{Decoder, Frame, Head};
pub use frame::{DATA_BYTES_MAX, FrameError, HEADER_BYTES, encode, encode_lending, encode_returned};
pub use message::*;

use quoin_types::BLOCK_BYTES;

/// The checksum of one block: CRC-32 (IEEE) of its 4,096 bytes.
pub fn block_checksum(block: &[u8]) -> u32 {
    debug_assert_eq!(block.len() as u64, BLOCK_BYTES);
    crc32fast::hash(block)
}

/// The checksums of whole blocks, in order.
pub fn block_checksums(data: &[u8]) -> Vec<u32> {
    data.chunks_exact(BLOCK_BYTES as usize).map(block_checksum).collect()
}

/// The first block (from 0) whose checksum is not the stated one; `None` when all are right.
/// A wrong number of checksums counts as a mismatch at the first block without one.
pub fn first_mismatch(data: &[u8], checksums: &[u32]) -> Option<usize> {
    let blocks = data.len() / BLOCK_BYTES as usize;
    if blocks != checksums.len() || !(data.len() as u64).is_multiple_of(BLOCK_BYTES) {
        return Some(blocks.min(checksums.len()));
    }
    data.chunks_exact(BLOCK_BYTES as usize)
        .zip(checksums)
        .position(|(block, sum)| crc32fast::hash(block) != *sum)
}
