//! Disks that come back as they were at an earlier time: an image of it was restored, or the machine below was rolled back (rule
//! C2). What a copy that was made since the last start would do is not played: nothing on it tells it from the disk itself.

use super::{Event, LOOK_AGAIN, Process, World};
use crate::checker;
use crate::disk::SimDisk;
use crate::queue::Nanos;
use quoin_store::{Engine, LastStart};
use quoin_types::DiskId;
use std::sync::Arc;

/// What was kept of a disk.
struct Image {
    of: DiskId,
    content: SimDisk,
    /// The start during which it was made.
    start_count: u64,
}

/// The past of a node's disk.
#[derive(Default)]
pub(super) struct Past {
    image: Option<Image>,
    /// It is an image that was restored; what that says of its last start.
    restored: Option<LastStart>,
}

impl World {
    /// An image of the disk is kept, if there is none; if there is one from before the last start, the node's process ends and
    /// comes back with it: unless a segment could not be recovered from what others have, or has nowhere to go.
    pub(crate) fn roll_back(&mut self, index: usize, away: Nanos) {
        let process = &self.nodes[index];
        let Some(node) = &process.node else { return };
        let (of, start_count) = (node.identity().disk, node.engine().start_count());
        match &process.past.image {
            Some(image) if image.of == of && image.start_count < start_count => self.restore(index, away),
            Some(image) if image.of == of => {}
            _ => {
                // What was not synced is on an image of a running machine, or it is not.
                let with_volatile = self.fault_random.permille(500);
                let seed = self.fault_random.next();
                let process = &mut self.nodes[index];
                let disk = &process.disk;
                let content = if with_volatile { disk.process_crash() } else { disk.power_loss(seed) };
                process.past.image = Some(Image { of, content, start_count });
            }
        }
    }

    fn restore(&mut self, index: usize, away: Nanos) {
        if !self.may_lose_disk(index) {
            return;
        }
        let Some(image) = self.nodes[index].past.image.take() else { return };
        self.trace.line(self.now, || {
            format!("the disk of node {index} is rolled back to its start {}", image.start_count)
        });
        self.kill(Process::Node(index), away);
        let process = &mut self.nodes[index];
        process.disk = image.content;
        process.past.restored = last_start(&process.disk);
        self.lost_disks.extend(process.disk_id.take());
        self.queue.push(self.now + LOOK_AGAIN, Event::Replace { node: index });
    }

    /// The operator wipes a disk that was rolled back, when nothing is wanted any more of what it had.
    pub(super) fn wipe_restored(&mut self, index: usize) {
        if self.nodes[index].past.restored.take().is_some() {
            self.trace.line(self.now, || format!("the disk of node {index} is wiped"));
            self.kill(Process::Node(index), LOOK_AGAIN);
            let process = &mut self.nodes[index];
            process.disk = process.disk.wiped();
        }
    }

    /// The managers have accepted a start of this disk.
    pub(super) fn judge_accepted(&mut self, disk: DiskId) {
        let result = checker::rolled_back_disks_stay_out::accepted(disk, &self.lost_disks);
        self.fail_if(result);
    }

    /// The managers have refused the node's disk.
    pub(super) fn judge_refused(&mut self, index: usize) {
        let process = &self.nodes[index];
        if let Some(then) = process.past.restored {
            let now = last_start(&process.disk);
            let result = checker::rolled_back_disks_stay_out::refused(then, now);
            self.fail_if(result.map_err(|problem| format!("node {index}: {problem}")));
        }
    }
}

/// What a disk says of its last start, whatever is wrong with the device just now.
fn last_start(disk: &SimDisk) -> Option<LastStart> {
    let files = disk.files().process_crash();
    Engine::look_at(Arc::new(files), None).ok().map(|unopened| unopened.last_start())
}
