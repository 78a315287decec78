//! Bit rot in the last thing that a journal has: the node that starts after a crash has lost what it said was durable, and
//! mostly cannot know it. Where it can, it refuses the disk, and an operator replaces that.

use super::{Process, World};
use crate::queue::Nanos;
use quoin_disk::{Dir, File, MemDir, OpenMode};
use quoin_store::{Error, Lsn};
use std::sync::Arc;

/// Batches begin at multiples of this.
const PAGE: u64 = 4096;
/// Of a batch's header.
const HEADER_BYTES: usize = 64;

/// The newest batch of a journal.
struct Batch {
    file: Arc<dyn File>,
    /// Where its records begin, and how long they are.
    body: (u64, u64),
    /// Of its start, and its first record.
    order: (u64, Lsn),
}

impl World {
    /// Flips a bit in the newest batch of a node's journal, and kills the node. Only while all replicas have everything: a
    /// disk that loses what it promised is a copy less, and the others are enough without it.
    pub(crate) fn rot_tail(&mut self, index: usize, away: Nanos) {
        if !crate::run::is_in_order(self) || !self.may_lose_disk(index) {
            return;
        }
        let Some(durable) = self.nodes[index].node.as_ref().map(|node| node.engine().durable()) else {
            return;
        };
        let Some(batch) =
            newest_batch(self.nodes[index].disk.files()).filter(|batch| batch.order.1 <= durable)
        else {
            return;
        };
        let at = batch.body.0 + self.fault_random.below(batch.body.1);
        let mut byte = [0];
        let flipped = batch.file.read_at(&mut byte, at).is_ok()
            && batch.file.write_at(&[byte[0] ^ (1 << self.fault_random.below(8))], at).is_ok();
        if flipped && batch.file.sync().is_ok() {
            self.nodes[index].rotted = true;
            self.trace
                .line(self.now, || format!("the journal of node {index} rots from {} on", batch.order.1));
            self.kill(Process::Node(index), away);
        }
    }
}

impl World {
    /// The node finds that its disk is not what it was. That is right at the first start after rot: if a batch that was being
    /// written when its process ended tells that the rotten one was durable, or if maps know of records that the journal does not
    /// have.
    pub(super) fn refuses_its_disk(&mut self, index: usize, error: &Error) {
        let is_noticed = match error {
            Error::DurableLost { .. } => true,
            Error::Corrupt { detail, .. } => detail.contains("another extent's"),
            _ => false,
        };
        if !is_noticed || !std::mem::take(&mut self.nodes[index].rotted) {
            return self.fail(format!("node {index} cannot open its disk: {error}"));
        }
        self.trace.line(self.now, || format!("node {index} refuses its disk, which is replaced: {error}"));
        self.lose_disk(index);
        self.restart_node_later(index);
    }
}

fn newest_batch(dir: &MemDir) -> Option<Batch> {
    let names = dir.list().ok()?;
    let files = names.iter().filter(|name| name.starts_with("journal."));
    let files = files.filter_map(|name| dir.open(name, OpenMode::Existing).ok());
    files.flat_map(|file| batches(&file)).max_by_key(|batch| batch.order)
}

fn batches(file: &Arc<dyn File>) -> Vec<Batch> {
    let pages = file.len().unwrap_or_default() / PAGE;
    let batch = |page: u64| {
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, page * PAGE).ok()?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let length = u32::from_le_bytes(header[44..48].try_into().unwrap_or_default());
        (header.starts_with(b"QUOINJNL") && length > 0).then(|| Batch {
            file: file.clone(),
            body: (page * PAGE + HEADER_BYTES as u64, u64::from(length)),
            order: (number(16), Lsn(number(24))),
        })
    };
    (0..pages).filter_map(batch).collect()
}
