//! Locks between processes, tied to an open file description: they end with the process, however it ends.

use rustix::fs::{FlockOperation, flock};
use std::any::Any;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A lock, held until dropped.
pub struct Lock {
    _held: Box<dyn Any + Send + Sync>,
}

impl Lock {
    /// A lock that ends when `held` is dropped.
    pub(crate) fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

/// A file that this process holds locked, and its content. The lock ends when this is dropped or the process ends.
pub struct LockedFile {
    file: File,
}

/// Locks the file at `path` against all other open file descriptions, creating it if needed; `WouldBlock` if another
/// holds it. Taking it proves that the process that held it before is gone (rule R2). The lock is `flock(2)`'s, which
/// like an OFD lock belongs to the open file description, not to the process: no `close` elsewhere loses it.
pub fn lock_file(path: &Path) -> io::Result<LockedFile> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(LockedFile { file })
}

impl LockedFile {
    /// All of the file.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut content)?;
        Ok(content)
    }

    /// Replaces the file's content, durably.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(content)?;
        self.file.set_len(content.len() as u64)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_content_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.lock");
        let mut first = lock_file(&path).unwrap();
        first.write(b"instance 7, epoch 1234").unwrap();
        first.write(b"instance 7").unwrap();
        assert_eq!(lock_file(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert_eq!(lock_file(&path).unwrap().read().unwrap(), b"instance 7");
    }
}
