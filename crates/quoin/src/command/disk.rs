//! What the commands on a disk's directory share: opening it, and what its refusals mean. They ask no cluster.

use crate::failure::{Failure, Kind};
use quoin_disk::{Dir, OsDir};
use quoin_store::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

const WHERE: &str = "a disk's directory is `data_dir` in the configuration of its storage node; in a dev cluster: \
                     quoin-dev/data/storage-node-1";

pub(crate) fn open(path: &Path) -> Result<Arc<dyn Dir>, Failure> {
    match OsDir::open(path) {
        Ok(dir) => Ok(Arc::new(dir)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::not_found(format!("{} does not exist", path.display())).hint(WHERE))
        }
        Err(error) => Err(Failure::io(format!("open {}", path.display()), &error)),
    }
}

/// Why a disk cannot be looked at.
pub(crate) fn refusal(path: &Path, error: &Error) -> Failure {
    let path = path.display();
    match error {
        Error::NotFormatted => Failure::not_found(format!("{path} is not a Quoin disk")).hint(WHERE),
        Error::Locked => Failure::failed(format!("{path} is in use by another process"))
            .hint("stop its storage node first; a running node verifies its disk itself, by scrubbing"),
        Error::UnknownVersion { .. } => {
            Failure::failed(format!("{path}: {error}")).hint("use the version of Quoin that wrote the disk")
        }
        Error::Corrupt { .. } | Error::DurableLost { .. } => {
            Failure::new(Kind::Damaged, format!("{path}: {error}"))
                .hint(format!("`quoin disk check {path}` names all that is wrong"))
        }
        _ => Failure::failed(format!("{path}: {error}")),
    }
}
