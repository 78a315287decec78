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
    /// Whether it was told that the disk is full.
    full: bool,
}

impl Session {
    pub(super) fn new(speaker: Speaker) -> Self {
        Self { speaker, granted: 0, touched: 0, full: false }
    }

    /// A write has used credit.
    pub(super) fn touch(&mut self, extents: u64) {
        self.touched += extents;
    }

    fn unused(&self) -> u64 {
        self.granted.saturating_sub(self.touched)
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
        self.wants_checkpoint = comes_back && room < space.capacity_bytes / EXTENT_BYTES / SCARCE;
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let missing = WINDOW_EXTENTS.saturating_sub(session.unused());
        // Half of what there is for it and for new sessions: what one holds without using it, another cannot have, and a
        // gateway that has lost its volume to another may keep its session, and its credit, for ever.
        let share = (room + session.unused()).div_ceil(2).min(WINDOW_EXTENTS);
        let grant = share.saturating_sub(session.unused());
        let full = grant < missing && session.unused() + grant < STEP_EXTENTS && !comes_back;
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

    /// Space may have come back: sessions that wait for it are told.
    pub(super) fn tick_credit(&mut self) {
        let gateways =
            self.sessions.iter().filter(|(_, session)| matches!(session.speaker, Speaker::Gateway(_)));
        let ids: Vec<SessionId> = gateways.map(|(id, _)| *id).collect();
        for id in ids {
            if self.grant(id) {
                self.send_positions(id, Vec::new());
            }
        }
    }

    /// Tells each session how far its replicas are, in one message.
    pub(super) fn tell_positions(&mut self) {
        if self.moved.is_empty() || self.engine.has_uncommitted() {
            return;
        }
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
        let Some(session) = self.sessions.get(&id) else { return };
        let positions = Positions { credit: session.granted, full: session.full, replicas };
        self.send(id, Message::Positions(positions));
    }
}
