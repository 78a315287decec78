//! C2: a disk that is not what it was is never accepted, and one that is refused stays as it is, so that it is refused for ever.

use quoin_store::LastStart;
use quoin_types::DiskId;
use std::collections::BTreeSet;

/// The managers accepted a disk.
pub(crate) fn accepted(disk: DiskId, lost: &BTreeSet<DiskId>) -> Result<(), String> {
    if lost.contains(&disk) {
        return Err(format!("disk {disk} was rolled back, and is accepted"));
    }
    Ok(())
}

/// They refused one that was rolled back. What it said of its last start then, and says now.
pub(crate) fn refused(then: LastStart, now: Option<LastStart>) -> Result<(), String> {
    if now != Some(then) {
        return Err(format!(
            "its disk was refused, and has changed: of its last start it said {then:?}, and says {now:?}"
        ));
    }
    Ok(())
}
