//! An entry of an extent map: what one extent of one replica is, now or in a layer.

use super::Salt;
use super::superblock::CAPACITY_BYTES_MAX;
use crate::slots::Slot;
use quoin_types::{EXTENT_BYTES, ExtentIndex, ReplicaId, Seq, Version};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an entry on the disk.
pub(crate) const ENTRY_BYTES: usize = 96;
/// The mask of an extent whose blocks all read as zeros.
pub(crate) const ALL_ZERO: u16 = 0xffff;
const NO_SLOT: u64 = u64::MAX;

const KIND_EMPTY: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_AS_BASE: u8 = 3;
const KIND_LOST: u8 = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    slot: U64,
    version: U64,
    checksums: [U32; 16],
    zero_mask: U16,
    kind: u8,
    reserved: [u8; 9],
    checksum: U32,
}

const _: () = assert!(size_of::<Bytes>() == ENTRY_BYTES);

/// An entry as written.
pub(crate) type EntryBytes = [u8; ENTRY_BYTES];

/// A layer of a replica, by its number: rises with each snapshot, never reused within the replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Layer(pub(crate) u32);

impl Layer {
    /// What the replica is now, as opposed to what a snapshot keeps.
    pub(crate) const LIVE: Layer = Layer(0);
}

/// Whose entries: those of one layer of one replica. An entry is valid only there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct MapId {
    pub(crate) replica: ReplicaId,
    pub(crate) layer: Layer,
}

impl MapId {
    pub(crate) const fn live(replica: ReplicaId) -> Self {
        Self { replica, layer: Layer::LIVE }
    }
}

/// What one extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Where its data is; `None` when every block is zero.
    pub(crate) slot: Option<Slot>,
    /// The seq of the last write.
    pub(crate) version: Version,
    /// Bit set: the block reads as zeros, whatever the slot holds.
    pub(crate) zero_mask: u16,
    /// Of each block that is not zero; 0 for those that are.
    pub(crate) checksums: [u32; 16],
}

/// What a map says of an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cell {
    /// Nothing. The live map: it was never written in this replica, and is as in the base. A layer: it did not change
    /// while this was the newest one, and is as in the next newer one.
    Empty,
    /// This.
    Entry(Entry),
    /// A layer: it had not been written in this replica yet, and was as in the base.
    AsBase,
    /// A layer: what it was is not known any more, for the entry that said so is damaged.
    Lost,
}

impl Entry {
    /// An extent that no write ever touched.
    pub(crate) const UNTOUCHED: Entry =
        Entry { slot: None, version: Seq::ZERO, zero_mask: ALL_ZERO, checksums: [0; 16] };

    /// An extent zeroed by `version`: it keeps an entry (rule S3).
    pub(crate) const fn zeroed(version: Version) -> Entry {
        Entry { version, ..Entry::UNTOUCHED }
    }

    pub(crate) const fn is_zero(&self, block: u32) -> bool {
        self.zero_mask >> block & 1 == 1
    }

    pub(crate) fn set_data(&mut self, block: u32, checksum: u32) {
        self.zero_mask &= !(1 << block);
        self.checksums[block as usize] = checksum;
    }

    pub(crate) fn set_zero(&mut self, block: u32) {
        self.zero_mask |= 1 << block;
        self.checksums[block as usize] = 0;
    }
}

impl Cell {
    /// What the live map holds for an extent that is this.
    pub(crate) fn live(entry: Entry) -> Cell {
        if entry == Entry::UNTOUCHED { Cell::Empty } else { Cell::Entry(entry) }
    }

    /// The slot that it owns.
    pub(crate) fn slot(&self) -> Option<Slot> {
        match self {
            Cell::Entry(entry) => entry.slot,
            Cell::Empty | Cell::AsBase | Cell::Lost => None,
        }
    }

    pub(crate) fn encode(&self, salt: Salt, map: MapId, extent: ExtentIndex) -> EntryBytes {
        let (kind, entry) = match self {
            Cell::Empty => (KIND_EMPTY, &Entry::UNTOUCHED),
            Cell::Entry(entry) => (KIND_ENTRY, entry),
            Cell::AsBase => (KIND_AS_BASE, &Entry::UNTOUCHED),
            Cell::Lost => (KIND_LOST, &Entry::UNTOUCHED),
        };
        let mut bytes = Bytes {
            slot: U64::new(entry.slot.map_or(NO_SLOT, |slot| slot.0)),
            version: U64::new(entry.version.0),
            checksums: entry.checksums.map(U32::new),
            zero_mask: U16::new(entry.zero_mask),
            kind,
            reserved: [0; 9],
            checksum: U32::new(0),
        };
        bytes.checksum = U32::new(checksum(&bytes, salt, map, extent));
        zerocopy::transmute!(bytes)
    }

    /// Reads an entry; `None` if it is damaged, or belongs to another extent, layer or replica.
    pub(crate) fn decode(bytes: &[u8], salt: Salt, map: MapId, extent: ExtentIndex) -> Option<Cell> {
        let bytes = Bytes::ref_from_bytes(bytes).ok()?;
        if bytes.checksum.get() != checksum(bytes, salt, map, extent) {
            return None;
        }
        match bytes.kind {
            KIND_EMPTY => Some(Cell::Empty),
            KIND_ENTRY => {
                let slot = Some(bytes.slot.get()).filter(|slot| *slot != NO_SLOT).map(Slot);
                let entry = Entry {
                    slot,
                    version: Seq(bytes.version.get()),
                    zero_mask: bytes.zero_mask.get(),
                    checksums: bytes.checksums.map(U32::get),
                };
                let exists = slot.is_none_or(|slot| slot.0 < CAPACITY_BYTES_MAX / EXTENT_BYTES);
                let is_sound = exists && (entry.zero_mask == ALL_ZERO) == entry.slot.is_none();
                is_sound.then_some(Cell::Entry(entry))
            }
            KIND_AS_BASE => Some(Cell::AsBase),
            KIND_LOST => Some(Cell::Lost),
            _ => None,
        }
    }
}

fn checksum(bytes: &Bytes, salt: Salt, map: MapId, extent: ExtentIndex) -> u32 {
    let covered = &bytes.as_bytes()[..ENTRY_BYTES - 4];
    let (replica, layer) = (map.replica.0.to_le_bytes(), map.layer.0.to_le_bytes());
    salt.checksum(&[&replica, &layer, &extent.0.to_le_bytes(), covered])
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::DiskId;

    #[test]
    fn an_entry_comes_back_only_where_it_was_written() {
        let salt = Salt::of_disk(DiskId([3; 16]));
        let (map, extent) = (MapId { replica: ReplicaId(4), layer: Layer(2) }, ExtentIndex(5));
        let mut entry = Entry { slot: Some(Slot(9)), ..Entry::zeroed(Seq(77)) };
        entry.set_data(3, 0xabcd);
        for cell in [Cell::Entry(entry), Cell::Empty, Cell::AsBase, Cell::Lost] {
            let bytes = cell.encode(salt, map, extent);
            let decode = |map, extent| Cell::decode(&bytes, salt, map, extent);
            assert_eq!(decode(map, extent), Some(cell));
            assert_eq!(decode(map, ExtentIndex(6)), None);
            assert_eq!(decode(MapId { layer: Layer(3), ..map }, extent), None);
            assert_eq!(decode(MapId { replica: ReplicaId(5), ..map }, extent), None);
            for bit in 0..ENTRY_BYTES * 8 {
                let mut damaged = bytes;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Cell::decode(&damaged, salt, map, extent), None);
            }
        }
        assert_eq!(Cell::decode(&[0; ENTRY_BYTES], salt, map, extent), None);
    }
}
