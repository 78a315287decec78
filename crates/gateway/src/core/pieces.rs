//! Cutting a client's range into what segments take: whole blocks, within one segment, of bounded size.

use quoin_types::BLOCK_BYTES;

/// A part of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// Whole blocks within one segment.
    Whole {
        /// Which segment.
        segment: usize,
        /// Where in the segment, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// A part of one block.
    Partial {
        /// Which segment.
        segment: usize,
        /// Where the block is in the segment, in bytes.
        block: u64,
        /// The first byte within the block.
        from: u64,
        /// How many bytes.
        length: u64,
    },
}

impl Piece {
    pub(super) fn length(&self) -> u64 {
        match self {
            Piece::Whole { length, .. } | Piece::Partial { length, .. } => *length,
        }
    }
}

/// Cuts `offset..offset + length` of a volume. Whole pieces are at most `piece_bytes_max` long.
pub(super) fn cut(
    offset: u64,
    length: u64,
    segment_bytes: u64,
    piece_bytes_max: u64,
) -> impl Iterator<Item = Piece> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let segment = (at / segment_bytes) as usize;
        let within = at % segment_bytes;
        let from = within % BLOCK_BYTES;
        let left = end - at;
        let piece = if from > 0 || left < BLOCK_BYTES {
            Piece::Partial { segment, block: within - from, from, length: left.min(BLOCK_BYTES - from) }
        } else {
            let length = left.min(segment_bytes - within).min(piece_bytes_max);
            Piece::Whole { segment, offset: within, length: length - length % BLOCK_BYTES }
        };
        at += piece.length();
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::EXTENT_BYTES;

    #[test]
    fn every_byte_is_in_exactly_one_piece() {
        let segment_bytes = 4 * EXTENT_BYTES;
        for (offset, length) in [
            (0, 1),
            (0, 4096),
            (1, 4096),
            (4095, 2),
            (4095, 8193),
            (segment_bytes - 100, 9000),
            (5, 3 * segment_bytes),
        ] {
            let mut at = offset;
            for piece in cut(offset, length, segment_bytes, EXTENT_BYTES) {
                let (segment, start) = match piece {
                    Piece::Whole { segment, offset, length } => {
                        assert!(offset.is_multiple_of(BLOCK_BYTES) && length.is_multiple_of(BLOCK_BYTES));
                        assert!((1..=EXTENT_BYTES).contains(&length) && offset + length <= segment_bytes);
                        (segment, offset)
                    }
                    Piece::Partial { segment, block, from, length } => {
                        assert!(
                            block.is_multiple_of(BLOCK_BYTES) && from + length <= BLOCK_BYTES && length > 0
                        );
                        assert!(length < BLOCK_BYTES);
                        (segment, block + from)
                    }
                };
                assert_eq!(segment as u64 * segment_bytes + start, at);
                at += piece.length();
            }
            assert_eq!(at, offset + length);
        }
    }
}
