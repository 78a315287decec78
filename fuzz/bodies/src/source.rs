//! A fuzzer's bytes as numbers. At their end there are none.

/// What is left of the input.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Source<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// One of so many things, by one byte.
    pub(crate) fn pick(&mut self, count: usize) -> Option<usize> {
        Some(usize::from(self.u8()?) % count.max(1))
    }

    /// A number as damage and attackers write them: small, around a power of two, or anything.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let kind = self.u8()?;
        Some(match kind {
            0..64 => u64::from(kind),
            64..128 => 1 << (kind - 64),
            128..192 => (1 << (kind - 128)) - 1,
            192 => u64::MAX,
            193..200 => u64::MAX - u64::from(kind - 192),
            200..224 => u64::from(self.u16()?),
            224..240 => u64::from(self.u32()?),
            _ => self.u64()?,
        })
    }
}
