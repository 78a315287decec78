//! What blocks are, without their data.

/// What is known of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BlockState {
    /// It has data.
    Data,
    /// It reads as zeros, and its extent takes space all the same.
    Zero,
    /// It reads as zeros, and its extent takes no space.
    Hole,
    /// Its extent may have changed since the snapshot that was asked about.
    Changed,
    /// Its extent has not.
    Unchanged,
}

/// Neighbouring blocks that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockRun {
    /// How many; never 0.
    pub blocks: u32,
    /// What they are.
    pub state: BlockState,
}

/// Neighbouring blocks in order, as runs: those that are alike become one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlockRuns {
    runs: Vec<BlockRun>,
}

impl BlockRuns {
    /// Adds blocks at the end; none is fine.
    pub fn push(&mut self, blocks: u32, state: BlockState) {
        match self.runs.last_mut() {
            _ if blocks == 0 => {}
            Some(last) if last.state == state => last.blocks += blocks,
            _ => self.runs.push(BlockRun { blocks, state }),
        }
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs.
    pub fn into_vec(self) -> Vec<BlockRun> {
        self.runs
    }
}
