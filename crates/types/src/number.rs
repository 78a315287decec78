//! The numbers of the replication protocol, each its own type so that neighbours cannot be exchanged.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The lowest value, which stands for "none yet".
            pub const ZERO: Self = Self(0);

            /// The value after this one. Panics at the end of the range, which no cluster reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a protocol number cannot reach the end of its range"))
            }

            /// The value before this one, or zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The number of one attachment of a volume to one gateway; given by the cluster manager, only ever rising.
    Epoch(u64)
);
number!(
    /// The number of a segment's configuration; given by the cluster manager.
    Generation(u64)
);
number!(
    /// The sequence number of a write within a segment, given by the attached gateway; the first write is 1.
    Seq(u64)
);
number!(
    /// An extent within a segment, from 0, in units of 64 KiB.
    ExtentIndex(u32)
);
number!(
    /// A block within a segment, from 0, in units of 4 KiB.
    BlockIndex(u32)
);

/// The version of an extent: the [`Seq`] of the last write to it.
pub type Version = Seq;

impl BlockIndex {
    /// The extent that holds the block.
    pub const fn extent(self) -> ExtentIndex {
        ExtentIndex(self.0 / crate::BLOCKS_PER_EXTENT)
    }

    /// The block's place within its extent, 0 to 15.
    pub const fn within_extent(self) -> u32 {
        self.0 % crate::BLOCKS_PER_EXTENT
    }

    /// The block's first byte within the segment.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * crate::BLOCK_BYTES
    }
}

impl ExtentIndex {
    /// The extent's first block.
    pub const fn first_block(self) -> BlockIndex {
        BlockIndex(self.0 * crate::BLOCKS_PER_EXTENT)
    }

    /// The extent's first byte within the segment.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * crate::EXTENT_BYTES
    }
}
