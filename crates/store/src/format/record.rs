//! A record of the journal: one change, with everything that replaying it needs (E3).
//!
//! Layout: a header of 56 bytes, then the kind's own part (changes of 104 bytes each, or opaque meta bytes padded to
//! 8), then block data. The header's checksum covers header and own part, and begins with the journal's incarnation
//! (E4). Block data is covered by the block checksums within the entries.

use super::entry::{ENTRY_BYTES, Entry, EntryBytes};
use super::{BLOCK, Salt, round_up};
use crate::Lsn;
use crate::slots::Slot;
use bytes::Bytes;
use quoin_types::{ExtentIndex, ReplicaId, Seq, Version};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const HEADER_BYTES: usize = 56;
pub(crate) const CHANGE_BYTES: usize = 104;
const HAS_POSITION: u8 = 1;

const CREATE: u8 = 1;
const DROP: u8 = 2;
const META: u8 = 3;
const EXTENTS: u8 = 4;
const ZERO: u8 = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HeaderBytes {
    checksum: U32,
    /// Header and own part, without block data.
    length: U32,
    data_length: U32,
    kind: u8,
    flags: u8,
    changes: U16,
    lsn: U64,
    replica: U64,
    position: U64,
    /// Create: bytes of the segment. Zero: first extent and, in the upper half, the number of extents.
    argument: U64,
    /// Create, meta: bytes of meta. Zero: the version.
    second: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ChangeBytes {
    extent: U32,
    /// Bit set: the record carries this block's data.
    data_mask: U16,
    /// Bit set: this block's data is in the entry's slot, written there outside of the journal.
    placed_mask: U16,
    entry: EntryBytes,
}

const _: () = assert!(size_of::<HeaderBytes>() == HEADER_BYTES);
const _: () = assert!(size_of::<ChangeBytes>() == CHANGE_BYTES && CHANGE_BYTES == ENTRY_BYTES + 8);

/// One record, whole.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) lsn: Lsn,
    pub(crate) replica: ReplicaId,
    /// The replica's last seq after this record, where the record changes it.
    pub(crate) position: Option<Seq>,
    pub(crate) body: Body,
}

/// What a record does.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Body {
    Create { segment_bytes: u64, meta: Bytes },
    Drop,
    Meta(Bytes),
    Extents { changes: Vec<ExtentChange>, runs: Vec<Run> },
    Zero { first: ExtentIndex, count: u32, version: Version },
}

/// The whole resulting entry of one extent (E3).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ExtentChange {
    pub(crate) extent: ExtentIndex,
    pub(crate) data_mask: u16,
    /// E4: data that was written straight to the slot; the record counts only with it.
    pub(crate) placed_mask: u16,
    pub(crate) entry: Entry,
    pub(crate) encoded: EntryBytes,
}

/// Data of neighbouring blocks of one extent. A record's runs are in the order of its changes, then of the blocks.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Run {
    pub(crate) extent: ExtentIndex,
    pub(crate) slot: Slot,
    pub(crate) first_block: u32,
    pub(crate) data: Bytes,
}

impl Body {
    /// Bytes of the record without its block data.
    pub(crate) fn own_bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Body::Create { meta, .. } | Body::Meta(meta) => round_up(meta.len(), 8),
                Body::Extents { changes, .. } => changes.len() * CHANGE_BYTES,
                Body::Drop | Body::Zero { .. } => 0,
            }
    }

    /// Bytes of block data.
    pub(crate) fn data_bytes(&self) -> usize {
        match self {
            Body::Extents { runs, .. } => runs.iter().map(|run| run.data.len()).sum(),
            _ => 0,
        }
    }
}

impl Record {
    /// Appends the record, without its block data, to `buffer`.
    pub(crate) fn encode(&self, salt: Salt, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let mut header = self.header();
        buffer.extend_from_slice(header.as_bytes());
        match &self.body {
            Body::Create { meta, .. } | Body::Meta(meta) => {
                buffer.extend_from_slice(meta);
                buffer.resize(start + self.body.own_bytes(), 0);
            }
            Body::Extents { changes, .. } => {
                for change in changes {
                    let bytes = ChangeBytes {
                        extent: U32::new(change.extent.0),
                        data_mask: U16::new(change.data_mask),
                        placed_mask: U16::new(change.placed_mask),
                        entry: change.encoded,
                    };
                    buffer.extend_from_slice(bytes.as_bytes());
                }
            }
            Body::Drop | Body::Zero { .. } => {}
        }
        header.checksum = U32::new(salt.checksum(&[&buffer[start + 4..]]));
        buffer[start..start + 4].copy_from_slice(header.checksum.as_bytes());
    }

    fn header(&self) -> HeaderBytes {
        let (kind, changes, argument, second) = match &self.body {
            Body::Create { segment_bytes, meta } => (CREATE, 0, *segment_bytes, meta.len() as u64),
            Body::Drop => (DROP, 0, 0, 0),
            Body::Meta(meta) => (META, 0, 0, meta.len() as u64),
            Body::Extents { changes, .. } => (EXTENTS, changes.len() as u16, 0, 0),
            Body::Zero { first, count, version } => {
                (ZERO, 0, u64::from(*count) << 32 | u64::from(first.0), version.0)
            }
        };
        HeaderBytes {
            checksum: U32::new(0),
            length: U32::new(self.body.own_bytes() as u32),
            data_length: U32::new(self.body.data_bytes() as u32),
            kind,
            flags: if self.position.is_some() { HAS_POSITION } else { 0 },
            changes: U16::new(changes),
            lsn: U64::new(self.lsn.0),
            replica: U64::new(self.replica.0),
            position: U64::new(self.position.unwrap_or(Seq::ZERO).0),
            argument: U64::new(argument),
            second: U64::new(second),
        }
    }

    /// Reads the record at the beginning of `bytes`, which must be `lsn`, and says how long it is. `None` if there is
    /// no such record whole: wrong checksum, wrong incarnation, block data that is not what its entry says (E4).
    pub(crate) fn decode(bytes: &Bytes, lsn: Lsn, salt: Salt, disk: Salt) -> Option<(Record, usize)> {
        let (header, _) = HeaderBytes::ref_from_prefix(bytes).ok()?;
        let own_end = header.length.get() as usize;
        let end = own_end + header.data_length.get() as usize;
        if own_end < HEADER_BYTES || end > bytes.len() || header.lsn.get() != lsn.0 {
            return None;
        }
        if salt.checksum(&[&bytes[4..own_end]]) != header.checksum.get() {
            return None;
        }
        let own = bytes.slice(HEADER_BYTES..own_end);
        let data = bytes.slice(own_end..end);
        let replica = ReplicaId(header.replica.get());
        let meta =
            || (header.second.get() <= own.len() as u64).then(|| own.slice(..header.second.get() as usize));
        let body = match header.kind {
            CREATE => Body::Create { segment_bytes: header.argument.get(), meta: meta()? },
            DROP => Body::Drop,
            META => Body::Meta(meta()?),
            EXTENTS => decode_extents(&own, data, replica, disk)?,
            ZERO => Body::Zero {
                first: ExtentIndex(header.argument.get() as u32),
                count: (header.argument.get() >> 32) as u32,
                version: Seq(header.second.get()),
            },
            _ => return None,
        };
        let position = (header.flags & HAS_POSITION != 0).then(|| Seq(header.position.get()));
        Some((Record { lsn, replica, position, body }, end))
    }
}

fn decode_extents(own: &[u8], mut data: Bytes, replica: ReplicaId, disk: Salt) -> Option<Body> {
    let mut changes = Vec::with_capacity(own.len() / CHANGE_BYTES);
    let mut runs = Vec::new();
    for bytes in own.chunks(CHANGE_BYTES) {
        let bytes = ChangeBytes::ref_from_bytes(bytes).ok()?;
        let extent = ExtentIndex(bytes.extent.get());
        let entry = Entry::decode(&bytes.entry, disk, replica, extent)?;
        let (data_mask, placed_mask) = (bytes.data_mask.get(), bytes.placed_mask.get());
        if placed_mask & (data_mask | entry.zero_mask) != 0 || (placed_mask != 0 && entry.slot.is_none()) {
            return None;
        }
        for block in (0..16).filter(|block| data_mask >> block & 1 == 1) {
            if data.len() < BLOCK || crc32fast::hash(&data[..BLOCK]) != entry.checksums[block as usize] {
                return None;
            }
            runs.push(Run { extent, slot: entry.slot?, first_block: block, data: data.split_to(BLOCK) });
        }
        changes.push(ExtentChange { extent, data_mask, placed_mask, entry, encoded: bytes.entry });
    }
    data.is_empty().then_some(Body::Extents { changes, runs })
}
