//! What blocks are, between a client's range of bytes and a segment's blocks.

use super::reply::StatusExtent;
use quoin_types::BLOCK_BYTES;
use quoin_types::block::BlockRun;

/// What is asked of one segment for a client's range, which may begin and end within blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Question {
    /// Which segment: the one where the range begins. The answer to the client ends where the segment does, and the client
    /// asks on from there.
    pub(super) segment: usize,
    /// Where the first block is in the segment, in bytes.
    pub(super) offset: u64,
    /// The whole blocks, in bytes.
    pub(super) blocks_bytes: u64,
    /// Bytes of the first block before the range.
    pub(super) skip: u64,
    /// The bytes of the range that are in the segment.
    pub(super) length: u64,
}

impl Question {
    pub(super) fn new(offset: u64, length: u64, segment_bytes: u64) -> Self {
        let (segment, within) = ((offset / segment_bytes) as usize, offset % segment_bytes);
        let length = length.min(segment_bytes - within);
        let skip = within % BLOCK_BYTES;
        let blocks_bytes = (skip + length).next_multiple_of(BLOCK_BYTES);
        Self { segment, offset: within - skip, blocks_bytes, skip, length }
    }

    /// The runs that the segment answered, cut to the range.
    pub(super) fn extents(&self, runs: &[BlockRun]) -> Vec<StatusExtent> {
        let (mut skip, mut left) = (self.skip, self.length);
        let mut extents = Vec::with_capacity(runs.len());
        for run in runs {
            let length = (u64::from(run.blocks) * BLOCK_BYTES - skip).min(left);
            if length == 0 {
                break;
            }
            extents.push(StatusExtent { length, state: run.state });
            (skip, left) = (0, left - length);
        }
        extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::EXTENT_BYTES;
    use quoin_types::block::BlockState::{Data, Hole};

    fn run(blocks: u32, state: quoin_types::block::BlockState) -> BlockRun {
        BlockRun { blocks, state }
    }

    #[test]
    fn a_range_within_blocks_is_told_of_to_the_byte() {
        let question = Question::new(EXTENT_BYTES + 4096 + 100, 8192, EXTENT_BYTES);
        assert_eq!((question.segment, question.offset, question.blocks_bytes), (1, 4096, 3 * 4096));
        let told = question.extents(&[run(1, Data), run(2, Hole)]);
        let told: Vec<_> = told.into_iter().map(|extent| (extent.length, extent.state)).collect();
        assert_eq!(told, [(3996, Data), (4196, Hole)]);
    }

    #[test]
    fn the_answer_ends_with_the_segment_or_before() {
        let question = Question::new(EXTENT_BYTES - 1, 1 << 40, EXTENT_BYTES);
        assert_eq!((question.segment, question.offset, question.length), (0, EXTENT_BYTES - 4096, 1));
        assert_eq!(question.extents(&[run(1, Data)]), [StatusExtent { length: 1, state: Data }]);
        let question = Question::new(0, EXTENT_BYTES, EXTENT_BYTES);
        assert_eq!(question.extents(&[run(1, Hole)]), [StatusExtent { length: 4096, state: Hole }]);
    }
}
