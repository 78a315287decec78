//! An entry of an extent map: what one extent of one replica is.

use super::Salt;
use crate::slots::Slot;
use quoin_types::{ExtentIndex, ReplicaId, Seq, Version};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an entry on the disk.
pub(crate) const ENTRY_BYTES: usize = 96;
/// The mask of an extent whose blocks all read as zeros.
pub(crate) const ALL_ZERO: u16 = 0xffff;
const NO_SLOT: u64 = u64::MAX;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    slot: U64,
    version: U64,
    checksums: [U32; 16],
    zero_mask: U16,
    reserved: [u8; 10],
    checksum: U32,
}

const _: () = assert!(size_of::<Bytes>() == ENTRY_BYTES);

/// An entry as written.
pub(crate) type EntryBytes = [u8; ENTRY_BYTES];

/// What one extent is. An entry of all-zero bytes is [`Entry::UNTOUCHED`].
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

    pub(crate) fn encode(&self, salt: Salt, replica: ReplicaId, extent: ExtentIndex) -> EntryBytes {
        if *self == Entry::UNTOUCHED {
            return [0; ENTRY_BYTES];
        }
        let mut bytes = Bytes {
            slot: U64::new(self.slot.map_or(NO_SLOT, |slot| slot.0)),
            version: U64::new(self.version.0),
            checksums: self.checksums.map(U32::new),
            zero_mask: U16::new(self.zero_mask),
            reserved: [0; 10],
            checksum: U32::new(0),
        };
        bytes.checksum = U32::new(checksum(&bytes, salt, replica, extent));
        zerocopy::transmute!(bytes)
    }

    /// Reads an entry; `None` if it is damaged, or belongs to another extent.
    pub(crate) fn decode(bytes: &[u8], salt: Salt, replica: ReplicaId, extent: ExtentIndex) -> Option<Entry> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Some(Entry::UNTOUCHED);
        }
        let bytes = Bytes::ref_from_bytes(bytes).ok()?;
        if bytes.checksum.get() != checksum(bytes, salt, replica, extent) {
            return None;
        }
        let slot = Some(bytes.slot.get()).filter(|slot| *slot != NO_SLOT).map(Slot);
        let entry = Entry {
            slot,
            version: Seq(bytes.version.get()),
            zero_mask: bytes.zero_mask.get(),
            checksums: bytes.checksums.map(U32::get),
        };
        ((entry.zero_mask == ALL_ZERO) == entry.slot.is_none()).then_some(entry)
    }
}

fn checksum(bytes: &Bytes, salt: Salt, replica: ReplicaId, extent: ExtentIndex) -> u32 {
    let covered = &bytes.as_bytes()[..ENTRY_BYTES - 4];
    salt.checksum(&[&replica.0.to_le_bytes(), &extent.0.to_le_bytes(), covered])
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::DiskId;

    #[test]
    fn an_entry_comes_back_only_where_it_was_written() {
        let salt = Salt::of_disk(DiskId([3; 16]));
        let (replica, extent) = (ReplicaId(4), ExtentIndex(5));
        let mut entry = Entry { slot: Some(Slot(9)), ..Entry::zeroed(Seq(77)) };
        entry.set_data(3, 0xabcd);
        let bytes = entry.encode(salt, replica, extent);
        assert_eq!(Entry::decode(&bytes, salt, replica, extent), Some(entry));
        assert_eq!(Entry::decode(&bytes, salt, replica, ExtentIndex(6)), None);
        assert_eq!(Entry::decode(&bytes, salt, ReplicaId(5), extent), None);
        assert_eq!(Entry::decode(&[0; ENTRY_BYTES], salt, replica, extent), Some(Entry::UNTOUCHED));
        for bit in 0..ENTRY_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::decode(&damaged, salt, replica, extent), None);
        }
    }
}
