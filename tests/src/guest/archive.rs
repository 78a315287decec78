//! An archive in the format that a kernel takes as its first filesystem: cpio, `newc` (the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written.
pub(super) struct Archive<W> {
    out: W,
    next_inode: u32,
    there: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, next_inode: 1, there: BTreeSet::new() }
    }

    /// A directory, and all above it.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            if self.is_new(&path[..end]) {
                self.entry(&path[..end], DIRECTORY, &[])?;
            }
        }
        Ok(())
    }

    /// A file that can be executed. One that is there already stays.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.below(path, PROGRAM, content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.below(path, LINK, target.as_bytes())
    }

    /// The end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }

    fn below(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        if self.is_new(path) { self.entry(path, mode, content) } else { Ok(()) }
    }

    fn is_new(&mut self, path: &str) -> bool {
        !path.is_empty() && self.there.insert(path.to_owned())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let (name, size) = (path.len() + 1, content.len());
        self.next_inode += 1;
        let fields = [self.next_inode, mode, 0, 0, 1, 0, length(size), 0, 0, 0, 0, length(name), 0];
        write!(self.out, "070701")?;
        fields.iter().try_for_each(|field| write!(self.out, "{field:08x}"))?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0; 4][..1 + padding(110 + name)])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 4][..padding(size)])
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("files of less than 4 GiB")
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(4) - bytes
}
