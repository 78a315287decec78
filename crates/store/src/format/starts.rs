//! The record of starts: two blocks, written alternately. The valid one with the higher sequence counts.

use super::{BLOCK, COUNT_MAX, FORMAT_VERSION, Salt, check_version};
use crate::Error;
use quoin_types::{BootId, StartMark};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const NAME: &str = "starts";
const MAGIC: [u8; 8] = *b"QUOINSTA";

/// What is known of the last start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Starts {
    /// Counts writes of this record; its parity says which block holds it.
    pub(crate) sequence: u64,
    /// How often the disk was opened (rule C2).
    pub(crate) count: u64,
    /// The kernel's boot at the last start (rule A2).
    pub(crate) boot: BootId,
    /// Set by a shutdown that finished, cleared by the next start.
    pub(crate) clean: bool,
    /// Of the process that made the last start (rule C2).
    pub(crate) mark: StartMark,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Bytes {
    magic: [u8; 8],
    version: U32,
    checksum: U32,
    sequence: U64,
    count: U64,
    boot: [u8; 16],
    clean: U32,
    reserved: [u8; 4],
    mark: [u8; 8],
}

const _: () = assert!(size_of::<Bytes>() == 64);

impl Starts {
    /// Where this record goes in the file.
    pub(crate) fn offset(&self) -> u64 {
        (self.sequence % 2) * BLOCK as u64
    }

    pub(crate) fn encode(&self, salt: Salt) -> Vec<u8> {
        let mut bytes = Bytes {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            checksum: U32::new(0),
            sequence: U64::new(self.sequence),
            count: U64::new(self.count),
            boot: self.boot.0,
            clean: U32::new(u32::from(self.clean)),
            reserved: [0; 4],
            mark: self.mark.0,
        };
        bytes.checksum = U32::new(checksum(&bytes, salt));
        let mut block = bytes.as_bytes().to_vec();
        block.resize(BLOCK, 0);
        block
    }

    /// The later of the records in the file's two blocks. One of them may be torn, or not be there yet.
    pub(crate) fn latest(content: &[u8], salt: Salt) -> Result<Starts, Error> {
        let mut latest: Option<Starts> = None;
        for block in content.chunks(BLOCK) {
            if let Some(found) = Self::decode(block, salt)?
                && latest.is_none_or(|known| known.sequence < found.sequence)
            {
                latest = Some(found);
            }
        }
        latest.ok_or_else(|| Error::corrupt(NAME, "neither of its two records is valid"))
    }

    fn decode(block: &[u8], salt: Salt) -> Result<Option<Starts>, Error> {
        let Ok((bytes, _)) = Bytes::ref_from_prefix(block) else { return Ok(None) };
        if bytes.magic != MAGIC || bytes.checksum.get() != checksum(bytes, salt) {
            return Ok(None);
        }
        check_version(NAME, bytes.version.get())?;
        if bytes.sequence.get() >= COUNT_MAX || bytes.count.get() >= COUNT_MAX {
            return Ok(None);
        }
        Ok(Some(Starts {
            sequence: bytes.sequence.get(),
            count: bytes.count.get(),
            boot: BootId(bytes.boot),
            clean: bytes.clean.get() != 0,
            mark: StartMark(bytes.mark),
        }))
    }
}

fn checksum(bytes: &Bytes, salt: Salt) -> u32 {
    let all = bytes.as_bytes();
    salt.checksum(&[&all[..12], &all[16..]])
}
