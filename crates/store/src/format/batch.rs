//! The header of a batch: what one vectored write puts into the journal. Batches begin at multiples of 4 KiB, so that
//! writing one never rewrites a page of the one before it.

use super::{FORMAT_VERSION, Salt};
use crate::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header on the disk.
pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"QUOINJNL";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    incarnation: U64,
    first_lsn: U64,
    durable_lsn: U64,
    records: U32,
    body_bytes: U32,
    checkpoint: U64,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<Bytes>() == HEADER_BYTES);

/// What a batch says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    /// E4: the start that wrote it.
    pub(crate) incarnation: u64,
    /// The first record's position; the others follow without gaps.
    pub(crate) first_lsn: Lsn,
    /// E4: everything up to here was durable when the batch was written. A journal that ends before it has lost data.
    pub(crate) durable_lsn: Lsn,
    /// The checkpoint that was durable when the batch was written, by its number: slots that it freed may have been used
    /// again since, so no earlier one may be replayed from (E2).
    pub(crate) checkpoint: u64,
    /// How many records it holds.
    pub(crate) records: u32,
    /// Bytes of records after the header, without the padding.
    pub(crate) body_bytes: u32,
}

impl BatchHeader {
    pub(crate) fn encode(&self, disk: Salt) -> [u8; HEADER_BYTES] {
        let mut bytes = Bytes {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            checksum: U32::new(0),
            incarnation: U64::new(self.incarnation),
            first_lsn: U64::new(self.first_lsn.0),
            durable_lsn: U64::new(self.durable_lsn.0),
            records: U32::new(self.records),
            body_bytes: U32::new(self.body_bytes),
            checkpoint: U64::new(self.checkpoint),
            reserved: [0; 8],
        };
        bytes.checksum = U32::new(checksum(&bytes, disk));
        zerocopy::transmute!(bytes)
    }

    /// Reads a header; `None` if there is none. A version that is not ours cannot be here: the superblock and the
    /// checkpoint were of ours.
    pub(crate) fn decode(bytes: &[u8], disk: Salt) -> Option<BatchHeader> {
        let (bytes, _) = Bytes::ref_from_prefix(bytes).ok()?;
        let valid = bytes.magic == MAGIC
            && bytes.version.get() == FORMAT_VERSION
            && bytes.checksum.get() == checksum(bytes, disk);
        valid.then(|| BatchHeader {
            incarnation: bytes.incarnation.get(),
            first_lsn: Lsn(bytes.first_lsn.get()),
            durable_lsn: Lsn(bytes.durable_lsn.get()),
            checkpoint: bytes.checkpoint.get(),
            records: bytes.records.get(),
            body_bytes: bytes.body_bytes.get(),
        })
    }
}

fn checksum(bytes: &Bytes, disk: Salt) -> u32 {
    let all = bytes.as_bytes();
    disk.checksum(&[&all[..12], &all[16..]])
}
