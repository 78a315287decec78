//! redb over a directory of the disk layer: the same lines keep a member's log on a real disk and in a simulated one.
//!
//! redb's own file backend makes the same system calls (`pread`, `pwrite`, `fdatasync`); what it adds, a lock against other
//! processes, is the directory's here.

use quoin_disk::{Dir, File, Lock, OpenMode};
use redb::StorageBackend;
use std::fmt;
use std::io;
use std::sync::Arc;

/// One file, with its directory held against others.
pub(super) struct Backend {
    file: Arc<dyn File>,
    _held: Lock,
}

impl Backend {
    /// Takes the directory and opens the file, creating it, durably, if it is not there. `WouldBlock` if another holds the
    /// directory.
    pub(super) fn open(directory: &dyn Dir, name: &str) -> io::Result<Self> {
        let held = directory.lock()?;
        let file = directory.open(name, OpenMode::OpenOrCreate)?;
        directory.sync()?;
        Ok(Self { file, _held: held })
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
