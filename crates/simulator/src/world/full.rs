//! Disks that are full: what the clients want is more than they hold, or others have taken what the filesystem had.

use super::World;
use super::client::{Pending, is_whole_blocks};
use super::nbd_client::Command;
use crate::checker;
use crate::faults::Fault;
use crate::queue::Nanos;
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES};

/// What NBD says when there is no space.
pub(super) const NO_SPACE: u32 = 28;

impl World {
    /// Others take what is left of the filesystem under a disk, for a time.
    pub(crate) fn fill_filesystem(&mut self, node: usize, time: Nanos) {
        self.nodes[node].disk.set_full(true);
        self.mend_later(Fault::FullFilesystem, node, 0, time);
    }

    /// A client is told that there is no space. If its request was one write, it surely has not taken place, and never will; gives
    /// back whether that is so.
    pub(super) fn told_no_space(&mut self, index: usize, pending: &Pending) -> bool {
        self.workload.refused_for_space += 1;
        let is_one = pending.command == Command::Write && self.is_in_one_segment(pending);
        let result = checker::space_is_decided_early::refused(&checker::Refused {
            may_take_space: matches!(pending.command, Command::Write | Command::WriteZeroes | Command::Trim),
            may_lack: self.setup.fills,
            values: if is_one { &pending.values } else { &[] },
            observer: &self.observer,
        });
        self.fail_if(result.map_err(|problem| format!("client {index}: {problem}: {pending:?}")));
        is_one
    }

    /// One segment, and whole blocks of it: the gateway has made one write of it, or none.
    fn is_in_one_segment(&self, pending: &Pending) -> bool {
        let first = pending.offset / self.setup.segment_bytes;
        let last = (pending.offset + pending.length.max(1) - 1) / self.setup.segment_bytes;
        first == last && is_whole_blocks(pending.offset, pending.length)
    }

    /// Gives every second extent back.
    pub(crate) fn trim_half(&mut self) {
        let (index, size_bytes) = self.widest();
        for offset in (0..size_bytes).step_by(2 * EXTENT_BYTES as usize) {
            let length = EXTENT_BYTES.min(size_bytes - offset);
            self.ask_zero(index, Command::Trim, offset, length, true, true);
        }
    }

    /// Writes a block of each segment: everything was given back, so there is room for it.
    pub(crate) fn write_again(&mut self) {
        let (index, size_bytes) = self.widest();
        for offset in (0..size_bytes).step_by(self.setup.segment_bytes as usize) {
            self.ask_write(index, offset, BLOCK_BYTES, true, true);
        }
    }

    /// All clients can ask, and wait for nothing, whatever the storage nodes do.
    pub(crate) fn clients_are_idle(&mut self) -> bool {
        self.clients.iter().all(|client| client.is_connected() && client.is_idle())
    }
}
