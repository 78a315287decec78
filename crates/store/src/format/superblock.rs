//! The superblock: who the disk is. Written once.

use super::{BLOCK, FORMAT_VERSION, Salt, check_version};
use crate::{Error, Identity};
use quoin_types::{ClusterId, DiskId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const NAME: &str = "superblock";
const MAGIC: [u8; 8] = *b"QUOINDSK";
/// The largest disk: 256 TiB, for which the table of slots takes 1 GiB of memory.
pub(crate) const CAPACITY_BYTES_MAX: u64 = 1 << 48;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    cluster: [u8; 16],
    disk: [u8; 16],
    capacity_bytes: U64,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<Bytes>() == 64);

pub(crate) fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Bytes {
        magic: MAGIC,
        version: U32::new(FORMAT_VERSION),
        checksum: U32::new(0),
        cluster: identity.cluster.0,
        disk: identity.disk.0,
        capacity_bytes: U64::new(identity.capacity_bytes),
        reserved: [0; 8],
    };
    bytes.checksum = U32::new(checksum(&bytes));
    let mut block = bytes.as_bytes().to_vec();
    block.resize(BLOCK, 0);
    block
}

pub(crate) fn decode(block: &[u8]) -> Result<Identity, Error> {
    let Ok((bytes, _)) = Bytes::ref_from_prefix(block) else {
        return Err(Error::corrupt(NAME, "it is too short"));
    };
    if bytes.magic != MAGIC {
        return Err(Error::corrupt(NAME, "it does not begin as a superblock of Quoin does"));
    }
    check_version(NAME, bytes.version.get())?;
    if bytes.checksum.get() != checksum(bytes) {
        return Err(Error::corrupt(NAME, "its checksum is wrong"));
    }
    if bytes.capacity_bytes.get() > CAPACITY_BYTES_MAX {
        return Err(Error::corrupt(NAME, "its capacity is beyond all disks"));
    }
    Ok(Identity {
        cluster: ClusterId(bytes.cluster),
        disk: DiskId(bytes.disk),
        capacity_bytes: bytes.capacity_bytes.get(),
    })
}

fn checksum(bytes: &Bytes) -> u32 {
    let all = bytes.as_bytes();
    Salt::of_disk(DiskId(bytes.disk)).checksum(&[&all[..12], &all[16..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_damage_is_named() {
        let identity =
            Identity { cluster: ClusterId([1; 16]), disk: DiskId([2; 16]), capacity_bytes: 1 << 40 };
        let mut block = encode(&identity);
        assert_eq!(decode(&block).unwrap(), identity);
        block[50] ^= 1;
        assert!(matches!(decode(&block), Err(Error::Corrupt { .. })));
        block[8] = 9;
        assert!(matches!(decode(&block), Err(Error::UnknownVersion { found: 9, .. })));
    }
}
