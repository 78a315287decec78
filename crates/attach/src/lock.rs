//! One process attends to an attached volume: it holds a lock while it lives, and its pid stands in the lock's file.

use crate::Error;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Where the locks are: gone after a reboot, as the devices are.
pub(crate) const DIRECTORY: &str = "/run/quoin/attach";

/// Held by the process that attends to a volume.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Takes the lock of a volume. `None`: another process has it.
pub(crate) fn take(directory: &Path, volume: &str) -> Result<Option<Lock>, Error> {
    fs::create_dir_all(directory)
        .map_err(Error::io(format!("make the directory {}", directory.display())))?;
    let path = path(directory, volume);
    let open = || -> io::Result<Option<File>> {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Some(file))
    };
    Ok(open().map_err(Error::io(format!("lock {}", path.display())))?.map(Lock))
}

/// The process that holds the lock of a volume.
pub(crate) fn holder(directory: &Path, volume: &str) -> Option<u32> {
    let mut file = File::open(path(directory, volume)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        _ => return None,
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Names may hold what file names must not.
fn path(directory: &Path, volume: &str) -> PathBuf {
    let mut name = String::new();
    for byte in volume.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02x}").expect("writing to a String cannot fail");
        }
    }
    directory.join(name + ".lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_attends_to_a_volume_and_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("attach");
        assert_eq!(holder(&at, "vol1"), None);
        let lock = take(&at, "vol1").unwrap();
        assert!(lock.is_some());
        assert_eq!(holder(&at, "vol1"), Some(std::process::id()));
        assert!(take(&at, "vol1").unwrap().is_none());
        assert!(take(&at, "../vol1").unwrap().is_some(), "another volume, and a file in the same directory");
        assert!(at.join("%2e%2e%2fvol1.lock").exists());
        drop(lock);
        assert_eq!(holder(&at, "vol1"), None);
        assert!(take(&at, "vol1").unwrap().is_some());
    }
}
