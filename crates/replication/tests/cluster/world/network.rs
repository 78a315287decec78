//! Sessions: ordered both ways, until they break; then a prefix of what was sent has arrived, and each side learns of it in
//! its own time.

use super::{Event, MILLISECOND, Session, World};
use crate::gateway::Gateway;
use quoin_types::{NodeId, SessionId};
use quoin_wire::Message;

impl World {
    /// A session was asked for. It fails at once if there is no way.
    pub(super) fn connect(&mut self, gateway: usize, node: usize) {
        if !self.gateways[gateway].up {
            return;
        }
        let cut = self.cut_gateway.get(&(gateway, node)).is_some_and(|until| *until > self.now);
        if cut || !self.nodes[node].up {
            let delay = self.rng.between(5, 20) * MILLISECOND;
            return self.later(delay, Event::Connect { gateway, node });
        }
        let session = self.sessions.len();
        self.sessions.push(Session {
            gateway,
            node,
            process: self.nodes[node].process,
            broken: false,
            ended_at_node: false,
            ended_at_gateway: false,
            last_to_node: 0,
            last_to_gateway: 0,
        });
        let delay = self.delay();
        self.later(delay, Event::Hello { session });
    }

    pub(super) fn hello(&mut self, session: usize) {
        let delay = self.delay();
        if !self.sessions[session].broken {
            self.later(delay, Event::Ready { session });
        }
    }

    pub(super) fn ready(&mut self, session: usize) {
        let Session { gateway, node, ended_at_gateway, .. } = self.sessions[session];
        if ended_at_gateway || !self.gateways[gateway].up {
            return;
        }
        self.gateways[gateway].sessions[node] = Some(session);
        let now = self.gateway_clock(gateway);
        let Gateway { segment, outbox, .. } = &mut self.gateways[gateway];
        segment.session_up(NodeId(node as u64), now, outbox);
        self.after_gateway(gateway);
    }

    pub(super) fn delay(&mut self) -> u64 {
        let slow = self.rng.permille(20);
        let most = if slow { self.setup.delay_max * 8 } else { self.setup.delay_max };
        self.rng.between(20_000, most)
    }

    pub(super) fn arrive_at_node(&mut self, session: usize, message: Message) {
        let Session { node, process, ended_at_node, .. } = self.sessions[session];
        if ended_at_node || self.nodes[node].process != process {
            return;
        }
        self.note_operation(&message);
        let now = self.clock(&self.node_machines[node]);
        self.nodes[node].on_message(SessionId(session as u64), message, now, &mut self.rng);
        self.after_node(node, None);
    }

    /// Under one epoch, one seq is one operation.
    pub(super) fn note_operation(&mut self, message: &Message) {
        let (epoch, seq, content) = match message {
            Message::Write(write) => {
                (write.epoch, write.seq, (write.offset, crate::store::block_value(&write.data)))
            }
            Message::Zero(zero) => (zero.epoch, zero.seq, (zero.offset, zero.length)),
            Message::Snapshot(snapshot) => (snapshot.epoch, snapshot.seq, (u64::MAX, snapshot.snapshot.0)),
            Message::StartEpoch(start) => {
                self.mixed_start |= start.allow_mixed;
                return;
            }
            _ => return,
        };
        if *self.operations.entry((epoch.0, seq.0)).or_insert(content) != content {
            self.problem = Some(format!("two operations are write {seq} of epoch {epoch}"));
        }
    }

    pub(super) fn send(&mut self, session: usize, to_node: bool, message: Message) {
        let time = self.now + self.delay();
        let state = &mut self.sessions[session];
        if state.broken {
            return;
        }
        let last = if to_node { &mut state.last_to_node } else { &mut state.last_to_gateway };
        *last = time.max(*last);
        let time = *last;
        let event =
            if to_node { Event::ToNode { session, message } } else { Event::ToGateway { session, message } };
        self.at(time, event);
    }

    pub(crate) fn break_session(&mut self, session: usize) {
        if !self.sessions[session].broken {
            self.sessions[session].broken = true;
            let (node_sees, gateway_sees) =
                (self.rng.below(20 * MILLISECOND), self.rng.below(5 * MILLISECOND));
            self.later(node_sees, Event::NodeSeesEnd { session });
            self.later(gateway_sees, Event::GatewaySeesEnd { session });
        }
    }

    pub(super) fn end_at_gateway(&mut self, session: usize) {
        let Session { gateway, node, ended_at_gateway, .. } = self.sessions[session];
        if ended_at_gateway || !self.gateways[gateway].up {
            return;
        }
        self.sessions[session].ended_at_gateway = true;
        if self.gateways[gateway].sessions[node] == Some(session) {
            self.gateways[gateway].sessions[node] = None;
            let now = self.gateway_clock(gateway);
            let Gateway { segment, outbox, .. } = &mut self.gateways[gateway];
            segment.session_down(NodeId(node as u64), now, outbox);
        }
        let delay = self.rng.between(1, 10) * MILLISECOND;
        self.later(delay, Event::Connect { gateway, node });
        self.after_gateway(gateway);
    }
}
