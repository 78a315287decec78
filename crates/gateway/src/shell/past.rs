//! Proof that former processes of this gateway are gone (rule R2).
//!
//! The file `gateway.lock` in the gateway's directory, which is on the machine's own disk, is locked by the running process
//! and lists the instances that held it before. Whoever holds the lock knows that all of them have exited: their leases
//! can be voided by name.

use super::RunError;
use quoin_disk::LockedFile;
use quoin_types::InstanceId;
use std::path::Path;

/// How many former instances are remembered.
const REMEMBERED: usize = 64;

/// The instances of this gateway that are proven gone. The lock is held as long as this lives.
pub(super) struct Past {
    gone: Vec<InstanceId>,
    _lock: LockedFile,
}

impl Past {
    /// Takes the lock and adds this instance to the list.
    pub(super) fn take(dir: &Path, instance: InstanceId) -> Result<Self, RunError> {
        std::fs::create_dir_all(dir).map_err(RunError::io(format!("cannot create {}", dir.display())))?;
        let path = dir.join("gateway.lock");
        let mut lock = quoin_disk::lock_file(&path)
            .map_err(RunError::io(format!("{} is held by another gateway process", path.display())))?;
        let text = lock.read().map_err(RunError::io(format!("cannot read {}", path.display())))?;
        let gone: Vec<InstanceId> =
            String::from_utf8_lossy(&text).lines().filter_map(|line| line.trim().parse().ok()).collect();
        let skip = gone.len().saturating_sub(REMEMBERED - 1);
        let lines: Vec<String> =
            gone.iter().skip(skip).chain([&instance]).map(|instance| format!("{instance}\n")).collect();
        lock.write(lines.concat().as_bytes())
            .map_err(RunError::io(format!("cannot write {}", path.display())))?;
        Ok(Self { gone, _lock: lock })
    }

    /// Whether an instance has surely exited.
    pub(super) fn is_gone(&self, instance: InstanceId) -> bool {
        self.gone.contains(&instance)
    }
}
