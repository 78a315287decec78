//! Sizes that are part of the formats and the protocol.

/// The unit of checksums and of atomic writes, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// The unit of allocation, versioning and sharing, in bytes.
pub const EXTENT_BYTES: u64 = 64 * 1024;
/// Blocks in an extent.
pub const BLOCKS_PER_EXTENT: u32 = (EXTENT_BYTES / BLOCK_BYTES) as u32;
/// The default (and greatest) size of a segment, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 << 30;
/// The greatest size of a volume, in bytes.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// The most data that one replicated write carries, in bytes. A larger client request becomes several writes.
pub const WRITE_BYTES_MAX: u64 = 1 << 20;
/// The most bytes that one replicated trim or write-zeroes covers: it bounds what a storage node does in one go.
pub const ZERO_BYTES_MAX: u64 = 256 << 20;
/// The most data that one read between gateway and storage node asks for, in bytes.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// The most runs of like blocks that a storage node tells of at once.
pub const BLOCK_RUNS_MAX: usize = 4096;
/// The longest name of a volume, in bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 128;
/// The most snapshots that a volume keeps.
pub const SNAPSHOTS_MAX: usize = 1024;
/// The most copies of a segment.
pub const REPLICAS_MAX: usize = 7;
/// The most members of a segment's configuration: of a joint one, the voters of both halves.
pub const MEMBERS_MAX: usize = 2 * REPLICAS_MAX;

const _: () = assert!(EXTENT_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(SEGMENT_BYTES_DEFAULT.is_multiple_of(EXTENT_BYTES));
const _: () = assert!(BLOCKS_PER_EXTENT == 16);
