//! Reads: planned by the owner, waited for on any thread, verified by the owner.

use crate::Error;
use crate::engine::Engine;
use crate::format::BLOCK;
use crate::format::entry::Entry;
use crate::slot_data::Source;
use crate::view::View;
use crate::write::parts;
use bytes::Bytes;
use quoin_disk::File;
use quoin_disk::landing::{Chunk, Landing};
use quoin_types::limits::READ_BYTES_MAX;
use quoin_types::{BLOCK_BYTES, BlockIndex, ExtentIndex, ReplicaId, Version};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What is read to memory that is used again. An allocator gives larger pieces back to the kernel sooner than it would need them
/// anew. A smaller one would keep many times its size from being used again, if a slow client does not fetch it.
const LARGE_BYTES_MIN: usize = 512 * 1024;
/// CRC-32 of a block of zeros.
const ZERO_CHECKSUM: u32 = 0xC71C_0011;

/// A read that was planned: what the overlay has is in it, the rest is to be fetched by [`ReadPlan::try_cached`] or
/// [`ReadPlan::run`], on any thread. Dropping it is fine.
pub struct ReadPlan {
    id: ReplicaId,
    view: View,
    offset: u64,
    length: u64,
    /// Leave out the blocks that are zero.
    compact: bool,
    file: Arc<dyn File>,
    /// E2: while this is held, no slot that the plan uses is used for anything else.
    _epoch: Arc<()>,
    parts: Vec<Part>,
    content: Content,
    fetches: Vec<Fetch>,
    state: Progress,
}

/// The part of the range in one extent, as the extent was when the read was planned.
struct Part {
    extent: ExtentIndex,
    blocks: Range<u32>,
    entry: Entry,
}

/// Neighbouring bytes of the data file, and where they go.
struct Fetch {
    file_offset: u64,
    target: Range<usize>,
}

enum Content {
    /// The overlay has all of it in one piece: no copy.
    Shared(Bytes),
    Small(Vec<u8>),
    /// In memory that is used again: the pages of a fresh buffer cost more than what is read to them.
    Large(Chunk),
}

impl Content {
    /// Room for so many bytes, of any content.
    fn room(bytes: usize, landing: &Landing) -> Self {
        if bytes < LARGE_BYTES_MIN { Self::Small(vec![0; bytes]) } else { Self::Large(landing.take(bytes)) }
    }

    /// What is to be filled.
    fn buffer(&mut self) -> &mut [u8] {
        match self {
            Self::Shared(_) => &mut [],
            Self::Small(buffer) => buffer,
            Self::Large(chunk) => chunk.unfilled(),
        }
    }

    /// All of it, once it is filled.
    fn freeze(self) -> Bytes {
        match self {
            Self::Shared(data) => data,
            Self::Small(buffer) => buffer.into(),
            Self::Large(mut chunk) => {
                let bytes = chunk.unfilled().len();
                chunk.advance(bytes);
                chunk.freeze()
            }
        }
    }
}

enum Progress {
    Planned,
    Fetched,
    Failed(io::Error),
}

/// How a read ended.
#[must_use]
pub enum ReadOutcome {
    /// The blocks, each verified.
    Data {
        /// All of the range.
        data: Bytes,
        /// One per block; [`Engine::zero_checksum`] for blocks of zeros that were never written.
        checksums: Vec<u32>,
    },
    /// What was read changed meanwhile: run this one.
    Retry(ReadPlan),
    /// A block does not match its checksum: the disk has damaged it.
    Mismatch {
        /// The first such block.
        block: BlockIndex,
        /// Of its extent; a repair must name it (rule R3).
        version: Version,
    },
}

/// What verification says.
pub(crate) enum Verdict {
    Good(Bytes, Vec<u32>, Vec<Entry>),
    Retry(ReadPlan),
    Mismatch(BlockIndex, Version),
}

impl ReadPlan {
    /// Completes the read if that needs no wait for the device. `false`: call [`ReadPlan::run`] where waiting is fine.
    pub fn try_cached(&mut self) -> Result<bool, Error> {
        self.fetch(|file, buffer, offset| file.read_cached_at(buffer, offset));
        match &self.state {
            Progress::Planned => Ok(false),
            Progress::Fetched => Ok(true),
            Progress::Failed(error) => Err(Error::io("reading data")(error.kind().into())),
        }
    }

    /// Completes the read, waiting for the device. An error is reported by [`Engine::finish_read`].
    pub fn run(&mut self) {
        self.fetch(|file, buffer, offset| file.read_at(buffer, offset).map(|()| true));
    }

    fn fetch(&mut self, read: impl Fn(&dyn File, &mut [u8], u64) -> io::Result<bool>) {
        if !matches!(self.state, Progress::Planned) {
            return;
        }
        let buffer = self.content.buffer();
        for fetch in &self.fetches {
            match read(&*self.file, &mut buffer[fetch.target.clone()], fetch.file_offset) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.state = Progress::Failed(error);
                    return;
                }
            }
        }
        self.state = Progress::Fetched;
    }

    /// Adds a block that is in the data file.
    fn add_fetch(&mut self, file_offset: u64, start: usize) {
        if let Some(last) = self.fetches.last_mut() {
            let neighbours =
                last.file_offset + last.target.len() as u64 == file_offset && last.target.end == start;
            if neighbours {
                last.target.end += BLOCK;
                return;
            }
        }
        self.fetches.push(Fetch { file_offset, target: start..start + BLOCK });
    }
}

impl Engine {
    /// The checksum reported for blocks that read as zeros.
    pub const fn zero_checksum() -> u32 {
        ZERO_CHECKSUM
    }

    /// Plans a read of whole blocks, at most 1 MiB, of the replica as the last record left it, or as it was at a snapshot.
    pub fn read(
        &mut self,
        id: ReplicaId,
        view: View,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<ReadPlan, Error> {
        self.check_range(id, offset_bytes, length_bytes, READ_BYTES_MAX)?;
        self.statistics.reads += 1;
        self.plan(id, view, offset_bytes, length_bytes, false)
    }

    pub(crate) fn plan(
        &self,
        id: ReplicaId,
        view: View,
        offset: u64,
        length: u64,
        compact: bool,
    ) -> Result<ReadPlan, Error> {
        let map = self.map_of(id, view)?;
        let mut plan = ReadPlan {
            id,
            view,
            offset,
            length,
            compact,
            file: self.data.clone(),
            _epoch: self.read_epoch.clone(),
            parts: Vec::new(),
            content: Content::Shared(Bytes::new()),
            fetches: Vec::new(),
            state: Progress::Planned,
        };
        let mut bytes = 0;
        for (extent, blocks) in parts(offset, length) {
            let entry = self.seen(map, extent)?;
            bytes += blocks.clone().filter(|block| !compact || !entry.is_zero(*block)).count() * BLOCK;
            plan.parts.push(Part { extent, blocks, entry });
        }
        if let Some(shared) = self.shared_content(&plan) {
            plan.content = Content::Shared(shared);
            return Ok(plan);
        }
        let mut content = Content::room(bytes, &self.landing);
        self.fill_from_overlay(&mut plan, content.buffer());
        plan.content = content;
        Ok(plan)
    }

    /// The whole range, if it lies in one extent and in one run of the overlay.
    fn shared_content(&self, plan: &ReadPlan) -> Option<Bytes> {
        let [part] = plan.parts.as_slice() else { return None };
        if part.blocks.clone().any(|block| part.entry.is_zero(block)) {
            return None;
        }
        let Source::Memory(data) = self.slot_data.source(part.entry.slot?, part.blocks.start) else {
            return None;
        };
        (data.len() as u64 >= plan.length).then(|| data.slice(..plan.length as usize))
    }

    /// Puts zeros and what the overlay has where they belong, and lists what is to be fetched.
    fn fill_from_overlay(&self, plan: &mut ReadPlan, buffer: &mut [u8]) {
        let mut start = 0;
        for index in 0..plan.parts.len() {
            let Part { blocks, entry, .. } = &plan.parts[index];
            let (entry, blocks) = (*entry, blocks.clone());
            for block in blocks {
                if entry.is_zero(block) && plan.compact {
                    continue;
                }
                let slot = entry.slot.filter(|_| !entry.is_zero(block));
                match slot.map(|slot| self.slot_data.source(slot, block)) {
                    Some(Source::Memory(data)) => {
                        buffer[start..start + BLOCK].copy_from_slice(&data[..BLOCK]);
                    }
                    Some(Source::File(slot)) => {
                        plan.add_fetch(slot.byte_offset() + u64::from(block) * BLOCK_BYTES, start);
                    }
                    None => buffer[start..start + BLOCK].fill(0),
                }
                start += BLOCK;
            }
        }
    }

    /// Ends a read: every block is verified against the checksum it was written with.
    pub fn finish_read(&mut self, plan: ReadPlan) -> Result<ReadOutcome, Error> {
        Ok(match self.verify(plan)? {
            Verdict::Good(data, checksums, _) => ReadOutcome::Data { data, checksums },
            Verdict::Retry(plan) => ReadOutcome::Retry(plan),
            Verdict::Mismatch(block, version) => ReadOutcome::Mismatch { block, version },
        })
    }

    pub(crate) fn verify(&mut self, mut plan: ReadPlan) -> Result<Verdict, Error> {
        match std::mem::replace(&mut plan.state, Progress::Planned) {
            Progress::Planned => {
                plan.run();
                if matches!(plan.state, Progress::Planned) {
                    return Ok(Verdict::Retry(plan));
                }
                return self.verify(plan);
            }
            Progress::Failed(error) => return Err(Error::io("reading data")(error)),
            Progress::Fetched => {}
        }
        let data = plan.content.freeze();
        let mut checksums = Vec::with_capacity((plan.length / BLOCK_BYTES) as usize);
        let mut start = 0;
        for part in &plan.parts {
            for block in part.blocks.clone() {
                if part.entry.is_zero(block) {
                    start += if plan.compact { 0 } else { BLOCK };
                    checksums.push(ZERO_CHECKSUM);
                    continue;
                }
                let expected = part.entry.checksums[block as usize];
                if crc32fast::hash(&data[start..start + BLOCK]) != expected {
                    let Part { extent, entry, .. } = *part;
                    if self.seen(self.map_of(plan.id, plan.view)?, extent)? != entry {
                        // R3: a block read while it was being overwritten is no damage.
                        self.statistics.read_retries += 1;
                        let again = self.plan(plan.id, plan.view, plan.offset, plan.length, plan.compact)?;
                        return Ok(Verdict::Retry(again));
                    }
                    self.statistics.mismatches += 1;
                    let block = BlockIndex(extent.first_block().0 + block);
                    return Ok(Verdict::Mismatch(block, entry.version));
                }
                checksums.push(expected);
                start += BLOCK;
            }
        }
        Ok(Verdict::Good(data, checksums, plan.parts.iter().map(|part| part.entry).collect()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_of_zeros() {
        assert_eq!(super::ZERO_CHECKSUM, crc32fast::hash(&[0; 4096]));
    }
}
