//! Writes around the page cache (`O_DIRECT`).
//!
//! The device reads them from memory of ours: buffers that are aligned, used again and again, and made of huge pages
//! where the kernel has some. A write to the page cache takes new pages instead, whose first touch may cost more than the
//! device does; and a device takes one long piece of memory faster than hundreds of pages.

use crate::DIRECT_BYTES;
use crate::os::retry;
use memmap2::{Advice, MmapMut};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// One buffer: the most that is written at once, and a huge page.
const BUFFER_BYTES: usize = 2 << 20;

/// A file, opened a second time for direct writes.
pub(crate) struct Direct {
    file: fs::File,
    /// As many as there ever were writes at once.
    buffers: Mutex<Vec<MmapMut>>,
    /// The filesystem took the flag, and then refused such a write.
    refused: AtomicBool,
}

impl Direct {
    /// Opens the file again; `None` if the filesystem does not know direct writes.
    pub(crate) fn reopen(file: &fs::File) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        match retry(|| open(&*path, flags, Mode::empty())) {
            Ok(file) => {
                Some(Self { file: file.into(), buffers: Mutex::default(), refused: AtomicBool::new(false) })
            }
            Err(_) => None,
        }
    }

    /// Writes all of it. `false`, with any part of it written, if it must be written through the page cache. With
    /// [`ReadWriteFlags::DSYNC`] it is durable then.
    pub(crate) fn write(
        &self,
        slices: &[IoSlice<'_>],
        mut offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        assert_direct(slices, offset);
        if self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut buffer = self.take_buffer()?;
        let mut filled = 0;
        let mut all_written = true;
        for mut slice in slices.iter().map(|slice| &**slice) {
            while all_written && !slice.is_empty() {
                let (now, later) = slice.split_at(slice.len().min(BUFFER_BYTES - filled));
                buffer[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                slice = later;
                if filled == BUFFER_BYTES {
                    all_written = self.write_aligned(&buffer, offset, flags)?;
                    offset += filled as u64;
                    filled = 0;
                }
            }
        }
        all_written = all_written && self.write_aligned(&buffer[..filled], offset, flags)?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        Ok(all_written)
    }

    fn take_buffer(&self) -> io::Result<MmapMut> {
        if let Some(buffer) = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(buffer);
        }
        let buffer = MmapMut::map_anon(BUFFER_BYTES)?;
        // Without huge pages it is slower, not wrong.
        let _ = buffer.advise(Advice::HugePage);
        Ok(buffer)
    }

    fn write_aligned(&self, mut data: &[u8], mut offset: u64, flags: ReadWriteFlags) -> io::Result<bool> {
        while !data.is_empty() {
            match retry(|| pwritev2(&self.file, &[IoSlice::new(data)], offset, flags)) {
                // After a short write the next one must be aligned again: some of it is written twice.
                Ok(written) if written as u64 >= DIRECT_BYTES => {
                    let whole = written - written % DIRECT_BYTES as usize;
                    data = &data[whole..];
                    offset += whole as u64;
                }
                Ok(_) => return Ok(false),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Panics unless a direct write may be asked for like this.
pub(crate) fn assert_direct(slices: &[IoSlice<'_>], offset: u64) {
    let length: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    assert!(
        offset.is_multiple_of(DIRECT_BYTES) && length.is_multiple_of(DIRECT_BYTES),
        "a direct write of {length} bytes at {offset} is not aligned"
    );
}
