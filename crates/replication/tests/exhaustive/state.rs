//! A state of the whole: nodes, gateways, what is on its way between them, what clients know, and what may still happen.
//!
//! Parts are shared between states and copied when an action changes them; each keeps its own hash.

use crate::check::Seen;
use crate::digest::{Digest, digest_of, hash_of};
use crate::node::Node;
use quoin_replication::Timing;
use quoin_replication::writer::{Segment, SegmentConfig, VoterConfig};
use quoin_types::{
    Durability, Epoch, Generation, InstanceId, Moment, NodeId, ReplicaId, ReplicaRole, SegmentId, SessionId,
};
use quoin_wire::{Message, ReadReply, ReadResult};
use std::rc::Rc;
use std::time::Duration;

pub(crate) const NODES: usize = 3;
pub(crate) const GATEWAYS: usize = 2;

/// What a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    /// A write of a block.
    Write(usize),
    /// A write that is acknowledged when it is durable.
    Durable(usize),
    Flush,
    Read(usize),
}

/// What may happen in a run, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    /// What the clients of each gateway ask, in this order.
    pub(crate) asks: [&'static [Ask]; GATEWAYS],
    /// Whether the first gateway serves when the exploration begins. Otherwise its attach is explored too.
    pub(crate) served: bool,
    /// Whether the second gateway comes.
    pub(crate) takeover: bool,
    /// The nodes that each gateway has sessions with, as bits.
    pub(crate) reach: [u8; GATEWAYS],
    pub(crate) durability: Durability,
    /// The most bytes that a gateway keeps for replicas that come back: zero makes them pull.
    pub(crate) retained_bytes_max: usize,
    /// A late read is sent to a second replica at once.
    pub(crate) hedged: bool,
    /// An attach does not wait for unshaken answers (rule A2) before it is lossy. Otherwise it waits for a tick.
    pub(crate) lossy_at_once: bool,
    pub(crate) faults: Faults,
}

/// How often each may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Faults {
    /// A session of a gateway and a node breaks; what is in flight on it is lost; a new one begins.
    pub(crate) breaks: u8,
    /// A node's process ends and starts again. For as long as nothing is delivered to it, it is down.
    pub(crate) crashes: u8,
    /// A node loses power and comes back. As long as that may be, a sync is an action of its own.
    pub(crate) powers: u8,
    /// All nodes lose power and come back.
    pub(crate) powers_of_all: u8,
    /// A pull's connection breaks.
    pub(crate) pulls: u8,
    /// A lease's time passes.
    pub(crate) ticks: u8,
    /// Rounds of heartbeats, of each gateway.
    pub(crate) heartbeats: [u8; GATEWAYS],
}

pub(crate) const LEASE: Duration = Duration::from_secs(1);
/// Longer than a lease as its granter counts it.
pub(crate) const TICK: Duration = Duration::from_millis(1020);

impl Bounds {
    pub(crate) fn timing(&self) -> Timing {
        let never = Duration::from_secs(3600);
        let hedge = if self.hedged { Duration::ZERO } else { never };
        Timing {
            lease: LEASE,
            heartbeat: LEASE,
            late_answers: Duration::ZERO,
            lossy_after: if self.lossy_at_once { Duration::ZERO } else { TICK },
            unanswered_max: never,
            hedge_min: hedge,
            hedge_max: hedge,
            retry: TICK,
        }
    }

    /// Whether a gateway has sessions with a node.
    pub(crate) fn reaches(&self, gateway: usize, node: usize) -> bool {
        self.reach[gateway] & 1 << node != 0
    }

    /// All writes, numbered from 1: whose, and of which block.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (usize, usize)> {
        let writes = |gateway: usize| {
            self.asks[gateway].iter().filter_map(move |ask| match ask {
                Ask::Write(block) | Ask::Durable(block) => Some((gateway, *block)),
                Ask::Flush | Ask::Read(_) => None,
            })
        };
        writes(0).chain(writes(1))
    }

    /// The number of the write that is a gateway's ask.
    pub(crate) fn write_number(&self, gateway: usize, ask: usize) -> u8 {
        let is_write = |ask: &&Ask| matches!(ask, Ask::Write(_) | Ask::Durable(_));
        let before: usize = (0..gateway).map(|g| self.asks[g].iter().filter(is_write).count()).sum();
        (before + self.asks[gateway][..=ask].iter().filter(is_write).count()) as u8
    }
}

/// What tells one value from another.
pub(crate) trait Fingerprint: Clone {
    fn fingerprint(&self) -> u128;
}

impl Fingerprint for Node {
    fn fingerprint(&self) -> u128 {
        digest_of(self)
    }
}

impl Fingerprint for Gateway {
    fn fingerprint(&self) -> u128 {
        digest_of(self)
    }
}

impl Fingerprint for Seen {
    fn fingerprint(&self) -> u128 {
        hash_of(self)
    }
}

impl Fingerprint for Message {
    fn fingerprint(&self) -> u128 {
        match self {
            // The text of four thousand bytes takes long to hash, and the first one tells all.
            Message::ReadReply(ReadReply { id, replica, result: ReadResult::Data { data, .. } }) => {
                digest_of(&(id, replica, data[0]))
            }
            other => digest_of(other),
        }
    }
}

/// A part of a state with its hash.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    value: Rc<T>,
    pub(crate) hash: u128,
}

impl<T: Fingerprint> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        let hash = value.fingerprint();
        Self { value: Rc::new(value), hash }
    }

    pub(crate) fn get(&self) -> &T {
        &self.value
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(Rc::make_mut(&mut self.value));
        self.hash = self.value.fingerprint();
        result
    }
}

/// A message on its way.
pub(crate) type Letter = Part<Message>;

/// The session between a gateway and a node: two ordered streams.
#[derive(Clone, Default)]
pub(crate) struct Link {
    pub(crate) session: SessionId,
    pub(crate) open: bool,
    pub(crate) to_node: Vec<Letter>,
    pub(crate) to_gateway: Vec<Letter>,
}

impl Link {
    /// The gateway is gone, or a new session begins: what is in flight is lost.
    pub(crate) fn clear(&mut self) {
        self.to_node.clear();
        self.to_gateway.clear();
    }

    fn push_to_gateway(&mut self, letter: Letter) {
        // Positions are cumulative, and later ones replace those that were not yet sent.
        if matches!(letter.get(), Message::Positions(_)) {
            self.to_gateway.pop_if(|last| matches!(last.get(), Message::Positions(_)));
        }
        self.to_gateway.push(letter);
    }
}

/// A gateway: its segment, and how many of its client's asks were submitted.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) segment: Segment,
    pub(crate) asked: usize,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) nodes: [Part<Node>; NODES],
    pub(crate) gateways: [Option<Part<Gateway>>; GATEWAYS],
    pub(crate) links: [[Link; NODES]; GATEWAYS],
    pub(crate) seen: Part<Seen>,
    pub(crate) left: Faults,
    pub(crate) ticks: u64,
    pub(crate) sessions: u64,
}

impl State {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let node = |index: usize| Part::new(Node::new(ReplicaId(index as u64), bounds.timing()));
        Self {
            nodes: std::array::from_fn(node),
            gateways: [None, None],
            links: std::array::from_fn(|_| std::array::from_fn(|_| Link::default())),
            seen: Part::new(Seen::new(bounds)),
            left: bounds.faults,
            ticks: 0,
            sessions: 0,
        }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment::ZERO + TICK * (1 + self.ticks as u32)
    }

    pub(crate) fn hash(&self) -> u128 {
        let mut digest = Digest::new();
        self.nodes.iter().for_each(|node| digest.digest(node.hash));
        self.gateways.iter().for_each(|gateway| digest.digest(gateway.as_ref().map_or(0, |part| part.hash)));
        for link in self.links.iter().flatten() {
            digest.number(link.session.0 << 1 | u64::from(link.open));
            for queue in [&link.to_node, &link.to_gateway] {
                digest.number(queue.len() as u64);
                queue.iter().for_each(|letter| digest.digest(letter.hash));
            }
        }
        digest.digest(self.seen.hash);
        digest.digest(hash_of(&(self.left, self.ticks, self.sessions)));
        digest.done()
    }

    /// What a node sends goes onto the sessions that are still open.
    pub(crate) fn post_to_gateway(&mut self, node: usize, session: SessionId, letter: &Letter) {
        let mut links = self.links.iter_mut().map(|links| &mut links[node]);
        if let Some(link) = links.find(|link| link.open && link.session == session) {
            link.push_to_gateway(letter.clone());
        }
    }

    pub(crate) fn post_to_node(&mut self, gateway: usize, node: usize, letter: &Letter) {
        let link = &mut self.links[gateway][node];
        if link.open {
            link.to_node.push(letter.clone());
        }
    }
}

pub(crate) fn gateway_config(bounds: &Bounds, gateway: usize) -> SegmentConfig {
    let voter = |index: usize| VoterConfig {
        node: NodeId(index as u64),
        name: String::new(),
        address: String::new(),
        replica: ReplicaId(index as u64),
        role: ReplicaRole::Voter,
    };
    SegmentConfig {
        id: SegmentId::default(),
        generation: Generation(0),
        voters: (0..NODES).map(voter).collect(),
        durability: bounds.durability,
        epoch: epoch_of(gateway),
        instance: instance_of(gateway),
        void: None,
        records_loss: false,
        retained_bytes_max: bounds.retained_bytes_max,
        timing: bounds.timing(),
    }
}

pub(crate) fn epoch_of(gateway: usize) -> Epoch {
    Epoch(gateway as u64 + 1)
}

pub(crate) fn instance_of(gateway: usize) -> InstanceId {
    InstanceId([gateway as u8 + 1; 16])
}
