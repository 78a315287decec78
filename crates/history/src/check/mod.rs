//! Is what the clients saw explained by one disk? Each block is a register, so each is judged by itself (linearizability
//! is local), by Gibbons and Korach's test (`zones.rs`): exact where every value is written once, and near-linear.
//!
//! Zeroes may be written again and again; with several such writes to a block the test is still never wrong about a history that it
//! refuses, but may accept some that no order explains: finding the order would be a search.
//!
//! A lossy attachment (rule A2) begins a *part*: what was not durable before may be gone, and what was read of it, too.
//! Each part is judged by itself: its own reads, and all writes up to its end, of which those that may be lost may be nowhere.

mod violation;
mod zones;

pub use violation::{Before, Reason, Violation};

use crate::{History, Operation, What};
use zones::Register;

/// The epochs of one part: from a lossy attachment, or the beginning, to the next one.
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    /// Not its own any more.
    until: Option<u64>,
}

impl Part {
    fn has(self, epoch: u64) -> bool {
        epoch >= self.from && self.is_before_end(epoch)
    }

    fn is_before_end(self, epoch: u64) -> bool {
        self.until.is_none_or(|until| epoch < until)
    }
}

/// A write or a read of some block.
#[derive(Clone, Copy)]
struct Access<'a> {
    block: u64,
    /// A write that is promised to survive a loss of power.
    durable: bool,
    operation: &'a Operation,
}

/// Judges a history: is there, for each block, an order of all its operations, each between its start and its end, in
/// which every read gives what the last write before it wrote? Takes n log n for n operations, once for each lossy attachment.
///
/// # Errors
/// With operations that have no such order, and why.
pub fn check(history: &History) -> Result<(), Box<Violation>> {
    let mut accesses: Vec<Access> = Vec::with_capacity(history.operations().len());
    for (operation, durable) in history.operations().iter().zip(history.durable()) {
        if let What::Write { block, .. } | What::Read { block, .. } = operation.what {
            accesses.push(Access { block, durable, operation });
        }
    }
    accesses.sort_by_key(|access| (access.block, access.operation.start_ns));
    for of_block in accesses.chunk_by(|a, b| a.block == b.block) {
        for part in parts(history) {
            let since = (part.from > 0).then_some(part.from);
            let block = of_block[0].block;
            let judged = register(of_block, part).check();
            judged.map_err(|reason| Violation { block, since, reason: *reason })?;
        }
    }
    Ok(())
}

fn parts(history: &History) -> impl Iterator<Item = Part> {
    let begins = std::iter::once(0).chain(history.lossy().iter().copied().filter(|epoch| *epoch > 0));
    let ends = history.lossy().iter().copied().filter(|epoch| *epoch > 0).map(Some).chain([None]);
    begins.zip(ends).map(|(from, until)| Part { from, until })
}

/// A block's operations, as they look from one part.
fn register<'a>(accesses: &[Access<'a>], part: Part) -> Register<'a> {
    let is_write = |access: &&Access| matches!(access.operation.what, What::Write { .. });
    let kept = |access: &&Access| is_write(access) && access.durable && access.operation.epoch < part.from;
    // What was answered before a write that is kept began, was replaced by it, and cannot come back.
    let replaced_before = accesses.iter().filter(kept).map(|access| access.operation.start_ns).max();
    let mut register = Register::default();
    for Access { durable, operation, .. } in accesses {
        match (operation.what, operation.end_ns) {
            (What::Write { .. }, end) if part.is_before_end(operation.epoch) => {
                let replaced = end.zip(replaced_before).is_some_and(|(end, before)| end < before);
                register.push_write(operation, operation.epoch >= part.from || *durable || replaced);
            }
            (What::Read { .. }, Some(end)) if part.has(operation.epoch) => register.push_read(operation, end),
            _ => {}
        }
    }
    register
}
