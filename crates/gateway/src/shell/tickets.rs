//! The requests of clients that are under way.

use super::ClientId;
use crate::answer::Asked;
use crate::core::Ticket;
use quoin_nbd::{Cookie, ReplyEncoder};
use quoin_service::busy_poll::Load;
use quoin_types::Moment;
use quoin_types::collections::HashMap;

/// Where the answer to a request goes.
pub(super) struct Waiting {
    pub(super) client: ClientId,
    pub(super) cookie: Cookie,
    pub(super) encoder: ReplyEncoder,
    pub(super) asked: Asked,
    /// What its answer may hold in memory until the client has fetched it.
    pub(super) promised_bytes: usize,
    pub(super) begun: Moment,
    pub(super) is_read: bool,
}

/// Who waits for which answer.
#[derive(Default)]
pub(super) struct Tickets {
    waiting: HashMap<Ticket, Waiting>,
    reads: usize,
}

impl Tickets {
    pub(super) fn insert(&mut self, ticket: Ticket, waiting: Waiting) {
        self.reads += usize::from(waiting.is_read);
        self.waiting.insert(ticket, waiting);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.reads -= usize::from(waiting.is_read);
        Some(waiting)
    }

    /// How much is under way.
    pub(super) fn load(&self) -> Load {
        let requests = self.waiting.len();
        Load { requests, changes: requests - self.reads }
    }
}
