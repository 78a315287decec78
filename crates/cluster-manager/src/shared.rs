//! What raft's task publishes and everyone else reads.

use crate::live::Live;
use crate::metrics::Metrics;
use quoin_cluster::State;
use quoin_types::Moment;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::watch;

/// Who leads, as this member knows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Leadership {
    /// Raft's term.
    pub(crate) term: u64,
    /// The leader; `None` while there is none.
    pub(crate) leader: Option<u64>,
    /// Whether this member leads and has applied everything that earlier leaders committed.
    pub(crate) leading: bool,
}

/// How far the state machine is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Applied {
    /// The last entry applied.
    pub(crate) index: u64,
    /// The state's revision after it.
    pub(crate) revision: u64,
}

/// How the other members do, as the leader knows.
#[derive(Clone, Default, Debug)]
pub(crate) struct Progress {
    /// The last entry that each member has.
    pub(crate) matched: BTreeMap<u64, u64>,
    /// When each last said anything.
    pub(crate) heard: BTreeMap<u64, Moment>,
}

/// Everything that is published.
pub(crate) struct Shared {
    state: RwLock<State>,
    progress: Mutex<Progress>,
    live: Mutex<Live>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) applied: watch::Sender<Applied>,
    pub(crate) metrics: Metrics,
}

impl Shared {
    pub(crate) fn new(heartbeat_interval: Duration, metrics: Metrics) -> Self {
        Self {
            state: RwLock::default(),
            progress: Mutex::default(),
            live: Mutex::new(Live::new(heartbeat_interval)),
            leadership: watch::Sender::default(),
            applied: watch::Sender::default(),
            metrics,
        }
    }

    /// The state machine, to read. Held for short: raft's task waits for it.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state machine, to change. For raft's task alone.
    pub(crate) fn change_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the other members do.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nodes and gateways said lately. A new term of leadership begins with nothing known. Whoever needs the state,
    /// too, asks for that second.
    pub(crate) fn live(&self, now: Moment) -> MutexGuard<'_, Live> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let leadership = *self.leadership.borrow();
        live.enter(leadership.leading.then_some(leadership.term), now, || self.state().time());
        live
    }
}
