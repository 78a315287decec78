//! The file that a disk would be without us.

use memmap2::{Advice, MmapMut};
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How large these files are.
pub(crate) const BYTES: u64 = 256 << 20;
const MIB: usize = 1 << 20;

/// Opens, written once so that every block has its place, a file: through the page cache, or around it.
pub(crate) fn file(path: &Path, direct: bool) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(path).expect("a file");
    if file.metadata().expect("a length").len() < BYTES {
        let content = vec![1; MIB];
        (0..BYTES / MIB as u64).for_each(|n| file.write_all_at(&content, n << 20).expect("a write"));
        file.sync_all().expect("a sync");
    }
    if direct {
        options.custom_flags(OFlags::DIRECT.bits() as i32);
    }
    options.open(path).expect("a file")
}

/// Memory as good as it gets for direct writes: one huge page, where the kernel has some.
pub(crate) fn buffer() -> MmapMut {
    let mut buffer = MmapMut::map_anon(2 * MIB).expect("memory");
    let _ = buffer.advise(Advice::HugePage);
    buffer.fill(3);
    buffer
}

/// Writes this many MiB from `position` on, `writers` pieces of 1 MiB at a time, then syncs.
pub(crate) fn write_and_sync(file: &File, position: u64, mib: u64, writers: u64, buffer: &[u8]) {
    let write = |first: u64| {
        (first..mib).step_by(writers as usize).for_each(|n| {
            file.write_all_at(&buffer[..MIB], (position + (n << 20)) % BYTES).expect("a write");
        });
    };
    if writers == 1 {
        write(0);
    } else {
        std::thread::scope(|scope| (0..writers).for_each(|first| drop(scope.spawn(move || write(first)))));
    }
    file.sync_data().expect("a sync");
}
