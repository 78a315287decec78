//! Space credits and positions: what each gateway session is told (rules W1, W5).

use super::Node;
use quoin_types::{EXTENT_BYTES, SessionId};
use quoin_wire::{Message, Position, Positions, Speaker};

/// Credit that a session may hold without having used it, in extents.
const WINDOW_EXTENTS: u64 = 2048;
/// With less than this part of the disk left to grant, a checkpoint is worth it that gives some back.
const SCARCE: u64 = 16;
/// Credit is told anew when it has fallen by this much, so that not every answer carries some.
const STEP_EXTENTS: u64 = WINDOW_EXTENTS / 4;

/// A connection from a gateway or a peer.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) speaker: Speaker,
    /// Credit granted since the session began.
    granted: u64,
    /// Credit used since the session began.
    touched: u64,
    /// How much of that was told.
    told_used: u64,
    /// Whether it was told that the disk is full.
    full: bool,
    /// Whether it holds so little, for want of room, that a write may lack it.
    is_short: bool,
    /// How many replicas were opened by it last.
    replicas: u64,
}

impl Session {
    pub(super) fn new(speaker: Speaker) -> Self {
        Self { speaker, granted: 0, touched: 0, told_used: 0, full: false, is_short: false, replicas: 0 }
    }

    /// Whether its gateway may hold writes back until there is room.
    pub(super) fn waits_for_space(&self) -> bool {
        self.full || self.is_short
    }

    /// A write has used credit.
    pub(super) fn touch(&mut self, extents: u64) {
        self.touched += extents;
    }

    fn unused(&self) -> u64 {
        self.granted.saturating_sub(self.touched)
    }

    /// Takes back what it has not used. Tells whether that was something.
    fn lapse(&mut self) -> bool {
        let changes = self.unused() > 0 || self.full;
        self.granted = self.granted.min(self.touched);
        (self.full, self.is_short) = (false, false);
        changes
    }
}

impl Node {
    /// Grants a session what there is room for. Tells whether its credit changed.
    fn grant(&mut self, id: SessionId) -> bool {
        let promised: u64 = self.sessions.values().map(Session::unused).sum();
        let space = self.engine.space();
        let room =
            (space.free_bytes.saturating_sub(space.reserve_bytes) / EXTENT_BYTES).saturating_sub(promised);
        // What waits for a checkpoint is not lacking: whoever needs it is told to wait as well, and the checkpoint is hurried.
        let comes_back = space.freeing_bytes > 0;
        self.wants_checkpoint |= comes_back && room < space.capacity_bytes / EXTENT_BYTES / SCARCE;
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        if session.replicas == 0 {
            return session.lapse();
        }
        // Writes may have been on their way when credit was taken back.
        session.granted = session.granted.max(session.touched);
        let missing = WINDOW_EXTENTS.saturating_sub(session.unused());
        // Half of what there is for it and for new sessions: what one holds without using it, another cannot have.
        let share = (room + session.unused()).div_ceil(2).min(WINDOW_EXTENTS);
        let grant = share.saturating_sub(session.unused());
        session.is_short = grant < missing && session.unused() + grant < STEP_EXTENTS;
        let full = session.is_short && !comes_back;
        let worth_it = missing >= STEP_EXTENTS && grant > 0;
        if !worth_it && full == session.full {
            return false;
        }
        session.granted += grant;
        session.full = full;
        true
    }

    /// Tells a session its credit.
    pub(super) fn tell_credit(&mut self, id: SessionId) {
        self.grant(id);
        self.send_positions(id, Vec::new());
    }

    /// A session opens a replica that another one may have opened before. A gateway may keep a session for ever though it has
    /// lost its volumes to others: a session that no replica listens to holds no credit. What is taken back cannot be missed:
    /// before the gateway may write to a replica again it opens it, and hears of its credit before the answer.
    pub(super) fn opened_by(&mut self, id: SessionId, former: Option<SessionId>) {
        if former == Some(id) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            session.replicas += 1;
        }
        self.leaves(former);
        self.tell_credit(id);
    }

    /// A replica no longer listens to a session.
    pub(super) fn leaves(&mut self, former: Option<SessionId>) {
        let Some(former) = former else { return };
        let Some(session) = self.sessions.get_mut(&former) else { return };
        session.replicas -= 1;
        if session.replicas == 0 {
            self.tell_credit(former);
        }
    }

    /// Space may have come back: sessions that wait for it are told.
    pub(super) fn tick_credit(&mut self) {
        let gateways =
            self.sessions.iter().filter(|(_, session)| matches!(session.speaker, Speaker::Gateway(_)));
        let ids: Vec<SessionId> = gateways.map(|(id, _)| *id).collect();
        let mut is_short = false;
        for id in ids {
            // A write that was refused moves no position; but it is no longer on its way, and nobody need wait for it.
            let arrived = |session: &Session| session.full && session.told_used != session.touched;
            if self.grant(id) || self.sessions.get(&id).is_some_and(arrived) {
                self.send_positions(id, Vec::new());
            }
            is_short |= self.sessions.get(&id).is_some_and(|session| session.is_short);
        }
        // Whoever is short and is not told that the disk is full waits for what a checkpoint gives back.
        self.wants_checkpoint |= is_short && self.engine.space().freeing_bytes > 0;
    }

    /// Tells each session how far its replicas are, in one message.
    pub(super) fn tell_positions(&mut self) {
        if self.moved.is_empty() || self.engine.has_uncommitted() {
            return;
        }
        debug_assert!(self.appended.is_empty(), "a position that the journal does not have is told");
        let moved = std::mem::take(&mut self.moved);
        let mut told: Vec<(SessionId, Position)> = moved
            .into_iter()
            .filter_map(|id| {
                let replica = self.replicas.get(&id)?;
                let position = Position {
                    replica: id,
                    epoch: replica.meta().promise.epoch,
                    accepted: self.accepting.position(id, replica),
                    durable: replica.durable(),
                };
                Some((replica.session()?, position))
            })
            .collect();
        told.sort_unstable_by_key(|(session, position)| (*session, position.replica));
        for chunk in told.chunk_by(|a, b| a.0 == b.0) {
            let session = chunk[0].0;
            self.grant(session);
            self.send_positions(session, chunk.iter().map(|(_, position)| *position).collect());
        }
    }

    fn send_positions(&mut self, id: SessionId, replicas: Vec<Position>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.told_used = session.touched;
        let Session { granted: credit, touched: used, full, .. } = *session;
        let positions = Positions { credit, used, full, replicas };
        self.send(id, Message::Positions(positions));
    }
}
