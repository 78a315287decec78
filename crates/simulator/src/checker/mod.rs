//! What must hold, one file each. Some is judged while the world runs, from what processes say to each other and what
//! clients are told; the rest when everything is healed and quiet.

mod acknowledged_is_on_a_majority;
mod bounded_memory;
mod ended_sessions_do_not_count;
mod flushed_is_durable;
mod linearizable;
mod lossy_is_on_record;
pub(crate) mod never_stalled;
mod no_amnesia;
mod no_space_leak;
mod replicas_converge;
pub(crate) mod rolled_back_disks_stay_out;
mod single_writer;
mod snapshot_is_a_cut;
pub(crate) mod space_is_decided_early;
mod stewards_serve_nobody;
mod survivors_are_whole;

pub(crate) use bounded_memory::{Held, check as bounded_memory};
pub(crate) use linearizable::check as linearizable;
pub(crate) use no_amnesia::Rotten;
pub(crate) use no_space_leak::check as no_space_leak;
pub(crate) use replicas_converge::check as replicas_converge;
pub(crate) use space_is_decided_early::Refused;

use crate::queue::Nanos;
use crate::world::NodeProcess;
use acknowledged_is_on_a_majority::Positions;
use ended_sessions_do_not_count::Counted;
use flushed_is_durable::Unflushed;
use lossy_is_on_record::Record;
use no_amnesia::Memory;
use quoin_cluster::Volume;
use quoin_history::History;
use quoin_types::Generation;
use quoin_types::collections::HashMap;
use quoin_types::{
    BLOCK_BYTES, Durability, Epoch, NodeId, ReplicaId, ReplicaRole, SegmentId, Seq, SnapshotId,
};
use quoin_wire::Message;
use single_writer::Writers;
use snapshot_is_a_cut::{Windows, Writes};
use std::collections::BTreeMap;
use stewards_serve_nobody::Stewards;
use survivors_are_whole::Survivors;

/// Where a value was sent: the place of its write in its segment's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sent {
    segment: SegmentId,
    epoch: Epoch,
    seq: Seq,
}

/// The configurations of a segment, the latest last: a gateway runs one of them, and not always the latest.
type Configurations = HashMap<SegmentId, Vec<(Generation, Vec<(ReplicaId, ReplicaRole)>)>>;
/// So many configurations back, no gateway that could acknowledge anything runs one any more.
const CONFIGURATIONS_KEPT: usize = 6;

/// The configurations that a gateway has run in this attachment.
#[derive(Clone, Copy)]
struct Run<'a> {
    configurations: &'a Configurations,
    /// By segment, and until when.
    ran: &'a [(Nanos, Vec<Generation>)],
}

impl Run<'_> {
    /// Whether something is so in a configuration of the segment that the gateway has run since a moment: what was reached in
    /// one of them stays so in the next.
    fn any_since(
        &self,
        since: Nanos,
        segment: SegmentId,
        is_so: impl Fn(&[(ReplicaId, ReplicaRole)]) -> bool,
    ) -> bool {
        let known = self.configurations.get(&segment).map(Vec::as_slice).unwrap_or_default();
        let ran = self.ran.iter().filter(|(until, _)| *until >= since);
        let mut ran = ran.filter_map(|(_, generations)| generations.get(segment.index as usize));
        ran.any(|ran| known.iter().any(|(generation, members)| generation == ran && is_so(members)))
    }
}

/// An acknowledgement to a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged<'a> {
    /// The epoch of the client's session.
    pub(crate) epoch: u64,
    /// When it was asked.
    pub(crate) start: Nanos,
    /// When it was answered.
    pub(crate) end: Nanos,
    /// Registers with the values written to them.
    pub(crate) values: &'a [(u64, u64)],
    /// It promised durability.
    pub(crate) durable: bool,
}

/// Sees and hears everything, and never says a word to the processes.
pub(crate) struct Observer {
    pub(crate) history: History,
    durability: Durability,
    segments: HashMap<ReplicaId, SegmentId>,
    configurations: Configurations,
    sent: HashMap<u64, Sent>,
    positions: Positions,
    unflushed: Unflushed,
    counted: Counted,
    writers: Writers,
    stewards: Stewards,
    record: Record,
    survivors: Survivors,
    memory: Memory,
    windows: Windows,
    problem: Option<String>,
}

impl Observer {
    pub(crate) fn new(durability: Durability, rotten: Rotten) -> Self {
        Self {
            history: History::default(),
            durability,
            segments: HashMap::default(),
            configurations: HashMap::default(),
            sent: HashMap::default(),
            positions: Positions::default(),
            unflushed: Unflushed::default(),
            counted: Counted::default(),
            writers: Writers::default(),
            stewards: Stewards::default(),
            record: Record::default(),
            survivors: Survivors::default(),
            memory: Memory::new(rotten),
            windows: Windows::default(),
            problem: None,
        }
    }

    /// What is wrong, if something is; told once.
    pub(crate) fn problem(&mut self) -> Option<String> {
        self.problem.take()
    }

    fn note(&mut self, result: Result<(), String>) {
        if let Err(problem) = result {
            self.problem.get_or_insert(problem);
        }
    }

    /// A gateway sends a message to a storage node.
    pub(crate) fn gateway_says(&mut self, message: &Message, now: Nanos) {
        self.survivors.says(message);
        match message {
            Message::Open(open) => {
                self.segments.insert(open.replica, open.segment);
            }
            Message::Heartbeat(heartbeat) => {
                let result = self.stewards.asks_for_leases(heartbeat);
                self.note(result);
            }
            Message::Snapshot(snapshot) => self.windows.placed(snapshot.snapshot, now),
            Message::Write(write) => {
                let Some(segment) = self.segments.get(&write.replica).copied() else { return };
                let sent = Sent { segment, epoch: write.epoch, seq: write.seq };
                for block in write.data.chunks(BLOCK_BYTES as usize) {
                    let value = u64::from_le_bytes(block[..8].try_into().unwrap_or_default());
                    if value != 0 {
                        self.sent.entry(value).or_insert(sent);
                    }
                }
            }
            _ => {}
        }
    }

    /// A message from a storage node comes to a gateway.
    pub(crate) fn gateway_hears(&mut self, gateway: usize, node: NodeId, message: &Message, now: Nanos) {
        self.counted.heard(gateway, node, message, &self.segments, &self.configurations);
        match message {
            Message::Positions(positions) => {
                positions.replicas.iter().for_each(|position| self.memory.heard(position));
            }
            Message::OpenReply(reply) => {
                self.memory.heard_opened(reply);
                self.survivors.heard_opened(reply, now);
            }
            _ => {}
        }
    }

    /// A gateway sends a client word that its write is done.
    pub(crate) fn gateway_acknowledges(&mut self, values: &[(u64, u64)]) {
        let result = self.counted.acknowledged(values, &self.sent);
        self.note(result);
    }

    /// A gateway learns that its session with a storage node is over, or is over itself.
    pub(crate) fn session_ended(&mut self, gateway: usize, node: NodeId) {
        self.counted.ended(gateway, node);
    }

    /// A storage node sends a message.
    pub(crate) fn node_says(&mut self, process: &NodeProcess, message: &Message) {
        match message {
            Message::Positions(positions) => {
                for position in &positions.replicas {
                    self.positions.told(position);
                    self.memory.told(position);
                }
            }
            Message::StartEpochReply(reply) if reply.result.is_ok() => {
                self.memory.started(reply.replica, reply.epoch);
            }
            Message::OpenReply(reply) => {
                let disk = process.node.as_ref().map(|node| node.identity().disk).unwrap_or_default();
                let result = self.memory.opened(reply, disk);
                self.note(result);
                self.positions.opened(reply);
            }
            _ => {}
        }
    }

    /// Whether a write with this value was given a number and sent to anybody.
    fn was_sent(&self, value: u64) -> bool {
        self.sent.contains_key(&value)
    }

    /// The attachment is without proof that every accepted write is there (rule A2), and may have begun so.
    pub(crate) fn attachment_is_lossy(&mut self, epoch: Epoch, began: bool) {
        self.history.push_lossy(epoch.0);
        if began {
            let result = self.record.begins_lossy(epoch);
            self.note(result);
        }
    }

    /// What the managers know of the volume.
    pub(crate) fn volume_is(&mut self, volume: &Volume, now: Nanos) {
        self.stewards.volume_is(volume);
        self.record.volume_is(volume);
        let result = self.survivors.volume_is(volume, now);
        self.note(result);
        self.windows.volume_is(volume, now);
        for (index, segment) in (0..).zip(&volume.segments) {
            let id = SegmentId { volume: volume.id, index };
            let known = self.configurations.entry(id).or_default();
            if known.last().is_none_or(|(generation, _)| *generation < segment.generation) {
                let members: Vec<_> = segment.members().map(|(replica, role)| (replica.id, role)).collect();
                known.push((segment.generation, members.clone()));
                if known.len() > CONFIGURATIONS_KEPT {
                    known.remove(0);
                }
                self.counted.configured(id, &members, &self.configurations);
            }
        }
    }

    /// Looks at what is left in the end.
    pub(crate) fn check_members(&self, volume: &Volume) -> Result<(), String> {
        self.memory.check_members(volume)
    }

    /// Judges snapshots by what their registers show.
    pub(crate) fn snapshots_show(&self, shown: &BTreeMap<SnapshotId, Vec<(u64, u64)>>) -> Result<(), String> {
        if shown.is_empty() {
            return Ok(());
        }
        let writes = Writes::of(&self.history);
        shown.iter().try_for_each(|(id, values)| writes.judge(*id, values, &self.windows))
    }

    /// A gateway is about to answer a write, or a flush (which has no values). What it has run, by segment, and until when.
    pub(crate) fn answers(
        &mut self,
        told: &Acknowledged<'_>,
        is_flush: bool,
        ran: &[(Nanos, Vec<Generation>)],
    ) {
        let run = Run { configurations: &self.configurations, ran };
        let result = if is_flush {
            self.unflushed.flushed(told, run, &self.positions, &self.sent)
        } else {
            let durable = told.durable || self.durability == Durability::WriteThrough;
            self.positions.acknowledged(told, durable, run, &self.sent)
        };
        self.note(result);
    }

    /// A client was told that its write, or its flush, is done.
    pub(crate) fn acknowledged(&mut self, told: &Acknowledged<'_>, is_flush: bool) {
        let result = self.stewards.acknowledges(told);
        self.note(result);
        if !is_flush {
            let result = self.writers.acknowledged(told);
            self.note(result);
            self.unflushed.acknowledged(told);
        }
    }
}
