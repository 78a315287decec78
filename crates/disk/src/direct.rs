//! Writes around the page cache (`O_DIRECT`).
//!
//! The device reads them from memory of ours that is aligned, used again and again, and made of huge pages where the kernel
//! has some: what arrived in such memory ([`crate::landing`]) from there, anything else from a copy there. A write to
//! the page cache takes new pages instead, whose first touch may cost more than the device does; and a device takes one
//! long piece of memory faster than hundreds of pages.

use crate::DIRECT_BYTES;
use crate::landing::{CHUNK_BYTES_MAX, Landing};
use crate::os::{SLICES_MAX, retry};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file, opened a second time for direct writes.
pub(crate) struct Direct {
    file: fs::File,
    /// Where what is not aligned is copied to.
    landing: Arc<Landing>,
    /// The filesystem took the flag, and then refused such a write.
    refused: AtomicBool,
}

impl Direct {
    /// Opens the file again; `None` if the filesystem does not know direct writes.
    pub(crate) fn reopen(file: &fs::File, landing: Arc<Landing>) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        match retry(|| open(&*path, flags, Mode::empty())) {
            Ok(file) => Some(Self { file: file.into(), landing, refused: AtomicBool::new(false) }),
            Err(_) => None,
        }
    }

    /// Writes all of it. `false`, with any part of it written, if it must be written through the page cache. With
    /// [`ReadWriteFlags::DSYNC`] it is durable then.
    pub(crate) fn write(
        &self,
        slices: &[IoSlice<'_>],
        offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        assert_direct(slices, offset);
        if self.refused.load(Ordering::Relaxed) {
            Ok(false)
        } else if slices.iter().all(|slice| is_aligned(slice)) {
            self.write_in_place(slices, offset, flags)
        } else {
            self.write_copied(slices, offset, flags)
        }
    }

    /// Writes aligned slices from where they are.
    fn write_in_place(
        &self,
        slices: &[IoSlice<'_>],
        mut offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        for group in slices.to_vec().chunks_mut(SLICES_MAX) {
            let length: usize = group.iter().map(|slice| slice.len()).sum();
            if !self.write_aligned(group, offset, flags)? {
                return Ok(false);
            }
            offset += length as u64;
        }
        Ok(true)
    }

    /// Writes slices from copies of them.
    fn write_copied(
        &self,
        slices: &[IoSlice<'_>],
        mut offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        let mut left: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut slices = slices.iter().map(|slice| &**slice);
        let mut slice = slices.next().unwrap_or_default();
        while left > 0 {
            let mut copy = self.landing.take(left.min(CHUNK_BYTES_MAX));
            while !copy.is_full() {
                let room = copy.unfilled();
                let (now, later) = slice.split_at(slice.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                copy.advance(now.len());
                slice = if later.is_empty() { slices.next().unwrap_or_default() } else { later };
            }
            let copy = copy.freeze();
            if !self.write_aligned(&mut [IoSlice::new(&copy)], offset, flags)? {
                return Ok(false);
            }
            offset += copy.len() as u64;
            left -= copy.len();
        }
        Ok(true)
    }

    /// Writes at most [`SLICES_MAX`] aligned slices. `false` as in [`Direct::write`].
    fn write_aligned(
        &self,
        mut slices: &mut [IoSlice<'_>],
        mut offset: u64,
        flags: ReadWriteFlags,
    ) -> io::Result<bool> {
        // None are left when they are empty.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match retry(|| pwritev2(&self.file, slices, offset, flags)) {
                // After a short write the next one must be aligned again: some of it is written twice.
                Ok(written) if written as u64 >= DIRECT_BYTES => {
                    let whole = written - written % DIRECT_BYTES as usize;
                    IoSlice::advance_slices(&mut slices, whole);
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

/// Whether a device can read it where it is.
fn is_aligned(slice: &[u8]) -> bool {
    slice.as_ptr().addr().is_multiple_of(DIRECT_BYTES as usize)
        && slice.len().is_multiple_of(DIRECT_BYTES as usize)
}

/// Panics unless a direct write may be asked for like this.
pub(crate) fn assert_direct(slices: &[IoSlice<'_>], offset: u64) {
    let length: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    assert!(
        offset.is_multiple_of(DIRECT_BYTES) && length.is_multiple_of(DIRECT_BYTES),
        "a direct write of {length} bytes at {offset} is not aligned"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::os::unix::fs::FileExt;

    /// A file and its direct writes, where the filesystem of the build directory knows them.
    fn file() -> Option<(fs::File, Direct)> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let direct = Direct::reopen(&file, Arc::default())?;
        Some((file, direct))
    }

    /// Bytes that differ from page to page, in memory that begins at a page.
    fn landed(landing: &Landing, length: usize, seed: u32) -> Bytes {
        let mut chunk = landing.take(length);
        for (byte, at) in chunk.unfilled().iter_mut().zip(0_u32..) {
            *byte = ((at / 64).wrapping_mul(31) + at + seed) as u8;
        }
        chunk.advance(length);
        chunk.freeze()
    }

    fn expect_written(file: &fs::File, direct: &Direct, slices: &[&[u8]]) {
        let io_slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        for flags in [ReadWriteFlags::empty(), ReadWriteFlags::DSYNC] {
            file.set_len(0).unwrap();
            assert!(direct.write(&io_slices, 8192, flags).unwrap() || direct.refused.load(Ordering::Relaxed));
            if !direct.refused.load(Ordering::Relaxed) {
                let expected = slices.concat();
                let mut back = vec![0; expected.len()];
                file.read_exact_at(&mut back, 8192).unwrap();
                assert!(back == expected);
                assert_eq!(file.metadata().unwrap().len(), 8192 + expected.len() as u64);
            }
        }
    }

    #[test]
    fn aligned_slices_are_written_from_where_they_are() {
        let Some((file, direct)) = file() else { return };
        let landing = Landing::default();
        let one = landed(&landing, 1 << 20, 1);
        let other = landed(&landing, 3 << 16, 2);
        let cut: Vec<&[u8]> = one.chunks(65_536).chain(other.chunks(4096).rev()).collect();
        expect_written(&file, &direct, &cut);
        expect_written(&file, &direct, &[&one[4096..8192], &one[8192..], &other, &one]);
        assert!(direct.landing.blocks() == 0, "nothing was copied");
    }

    #[test]
    fn more_slices_than_one_call_takes() {
        let Some((file, direct)) = file() else { return };
        let landing = Landing::default();
        let memory: Vec<Bytes> = (0..11).map(|seed| landed(&landing, 1 << 20, seed)).collect();
        let cut: Vec<&[u8]> = memory.iter().flat_map(|bytes| bytes.chunks(4096).rev()).collect();
        assert!(cut.len() > 2 * SLICES_MAX);
        expect_written(&file, &direct, &cut);
        assert!(direct.landing.blocks() == 0, "nothing was copied");
    }

    #[test]
    fn anything_else_is_copied() {
        let Some((file, direct)) = file() else { return };
        let landing = Landing::default();
        let memory = landed(&landing, (1 << 20) + 8192, 1);
        // An address between pages, a length of no whole pages, and aligned slices beside.
        expect_written(&file, &direct, &[&memory[1..4097]]);
        expect_written(&file, &direct, &[&[], &memory[..4096]]);
        expect_written(&file, &direct, &[&memory[..1000], &memory[8192..12_288], &memory[1000..4096]]);
        let odd = &memory[3..3 + (1 << 20)];
        expect_written(&file, &direct, &[&memory[..1 << 20], odd, &memory[4096..8192], odd]);
        assert_eq!(direct.landing.blocks(), 1, "one buffer, used again");
    }

    #[test]
    fn nothing_is_written_at_once() {
        let Some((file, direct)) = file() else { return };
        let plain = ReadWriteFlags::empty();
        assert!(direct.write(&[], 0, plain).unwrap());
        assert!(direct.write(&[IoSlice::new(&[])], 0, plain).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
