//! A disk that is locked and looked at, and as it was: who decides whether it may start is asked now (rule C2). What is written by
//! a start, and when, is in `open.rs`.

use crate::format::Salt;
use crate::format::checkpoint::Checkpoint;
use crate::format::starts::Starts;
use crate::{Engine, Error, Identity, Opened, Options};
use quoin_disk::{Dir, Lock};
use quoin_types::{BootId, StartMark};
use std::sync::Arc;

/// The last start of a disk, as it says itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastStart {
    /// Its number; 0 if there was none.
    pub count: u64,
    /// Of the process that made it; not told if the record of the last start is damaged, and an older one had to do.
    pub mark: StartMark,
}

/// A disk that is locked and looked at. Dropped, it is left as it was found.
pub struct Unopened {
    pub(crate) lock: Lock,
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) identity: Identity,
    pub(crate) salt: Salt,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) starts: Starts,
}

impl Unopened {
    /// Who the disk is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How often it was started, and by whom last.
    pub fn last_start(&self) -> LastStart {
        // Not below the checkpoint's: should the later record of starts be lost, no incarnation comes twice (E4).
        let count = self.starts.count.max(self.checkpoint.incarnation);
        let mark = if count == self.starts.count { self.starts.mark } else { StartMark::default() };
        LastStart { count, mark }
    }

    /// The number of the start that [`Unopened::open`] makes.
    pub fn next_start_count(&self) -> u64 {
        self.last_start().count + 1
    }

    /// Makes it: raises the start counter, replays the journal and checks every map entry. `boot` is that of the running
    /// kernel, `mark` that of this process.
    pub fn open(self, boot: BootId, options: Options, mark: StartMark) -> Result<(Engine, Opened), Error> {
        Engine::start(self, boot, options, mark)
    }
}
