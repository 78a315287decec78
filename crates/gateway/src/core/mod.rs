//! One gateway: its volumes over its sessions with storage nodes. No socket, clock or thread: events in, [`Output`]s out,
//! so that the simulator runs what ships.
//!
//! Order of calls: [`Core::new`]; [`Core::attach`] for each volume; the `on_…` functions for what the storage nodes say;
//! [`Core::submit`] for clients; [`Core::tick`] as [`Core::is_busy`] suggests. After each batch of calls,
//! [`Core::outputs`] holds what is to be done.

mod links;
mod pieces;
mod reply;
mod report;
mod snapshots;
mod status;
mod view;
mod volume;

pub(crate) use reply::STATUS_BYTES;
pub use reply::{ClientOperation, Reply, StatusExtent, Ticket};
pub use report::{ReplicaStatus, SegmentStatus, VolumeReport};
pub use view::{View, ViewedVolume};
pub use volume::{Attachment, VolumeSpec};

use links::LinkTable;
use quoin_replication::Timing;
use quoin_replication::writer::Failure;
use quoin_types::collections::HashMap;
use quoin_types::{Epoch, InstanceId, Moment, NodeId, ReplicaId, SnapshotId, VolumeId};
use quoin_wire::{Heartbeat, Message};
use std::time::Duration;
use volume::Volume;

/// What the shell has to do.
#[derive(Debug)]
pub enum Output {
    /// Keep a session with a storage node at this address; tell [`Core::on_session_up`] whenever one is ready.
    Connect(NodeId, String),
    /// Send a message on the session with a node.
    Send(NodeId, Message),
    /// End the session with a node that does not answer; then make a new one.
    Cut(NodeId, &'static str),
    /// Answer a client.
    Reply(Ticket, Result<Reply, Failure>),
    /// The volume belongs to another gateway now: end its clients' sessions.
    Fenced(VolumeId),
    /// Accepted writes may be lost with this attachment (rule A2): end, before they get any answer that follows, the
    /// sessions of clients that were told that it goes on from an earlier one.
    Lossy(VolumeId),
}

/// One gateway.
#[derive(Debug)]
pub struct Core {
    instance: InstanceId,
    timing: Timing,
    retained_bytes_max: usize,
    links: LinkTable,
    volumes: HashMap<VolumeId, Volume>,
    routes: HashMap<ReplicaId, (VolumeId, usize)>,
    /// The last epoch of each volume that this gateway was the steward of: an older view must not begin it again.
    stewarded: HashMap<VolumeId, Epoch>,
    heartbeat_at: Moment,
    /// Whether something may be under way: set by whatever can begin something, found out anew by each tick.
    busy: bool,
    /// Whether clients have asked for anything since the last heartbeat.
    asked: bool,
    /// Whether they have not, and nothing is to be mended: found out anew by each tick.
    calm: bool,
    outputs: Vec<Output>,
}

impl Core {
    /// A gateway without volumes. `instance` is new for each process (rule W4).
    pub fn new(instance: InstanceId, retained_bytes_max: usize, timing: Timing) -> Self {
        Self {
            instance,
            timing,
            retained_bytes_max,
            links: LinkTable::default(),
            volumes: HashMap::default(),
            routes: HashMap::default(),
            stewarded: HashMap::default(),
            heartbeat_at: Moment::ZERO,
            busy: false,
            asked: false,
            calm: false,
            outputs: Vec::new(),
        }
    }

    /// This process.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Begins an attachment. A former one of the same volume must have ended, unless this gateway was its steward.
    pub fn attach(&mut self, spec: VolumeSpec, attachment: Attachment, now: Moment) {
        self.busy = true;
        let id = spec.id;
        self.forget(id);
        if attachment.steward {
            self.stewarded.insert(id, attachment.epoch);
        }
        let volume = Volume::new(spec, attachment, self.instance, self.retained_bytes_max, self.timing, now);
        let all = volume.segments().map(|segment| segment.voters().map(|voter| voter.node).collect());
        let members: Vec<(usize, Vec<NodeId>)> = all.enumerate().collect();
        self.volumes.insert(id, volume);
        self.welcome(id, &members, now);
        self.collect(id, now);
        // Leases are asked for as soon as the voters have promised.
        self.heartbeat_at = now;
    }

    /// Ends an attachment: open requests fail, leases are given back.
    pub fn detach(&mut self, id: VolumeId, now: Moment) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.release(self.instance, &mut self.links);
        volume.fence();
        self.collect(id, now);
        self.forget(id);
    }

    /// Whether the volume is attached for clients.
    pub fn is_attached(&self, id: VolumeId) -> bool {
        self.attachment(id).is_some_and(|attachment| !attachment.steward)
    }

    /// What is known of a volume's attachment. Since when it is unbroken, too: no longer than this once it has turned out to be
    /// lossy.
    pub fn attachment(&self, id: VolumeId) -> Option<Attachment> {
        self.volumes.get(&id).map(Volume::attachment)
    }

    /// The size of an attached volume, in bytes.
    pub fn size_bytes(&self, id: VolumeId) -> Option<u64> {
        self.volumes.get(&id).map(Volume::size_bytes)
    }

    /// The cluster manager describes an attached volume in another way than before: it has grown, or configurations of its
    /// segments have changed.
    pub fn update(&mut self, spec: &VolumeSpec, now: Moment) {
        let Some(volume) = self.volumes.get_mut(&spec.id) else { return };
        if let Some(added) = volume.update(spec, now, &mut self.links) {
            self.busy = true;
            self.routes.retain(|_, (of, _)| *of != spec.id);
            self.welcome(spec.id, &added, now);
            self.collect(spec.id, now);
        }
    }

    /// The snapshots that the cluster manager wants taken in this attachment: all of them, each time. Each is placed in all
    /// segments at once, as soon as these have begun the epoch, and only once (rules N1, N2). [`VolumeReport::snapshots`]
    /// says when it is durable.
    pub fn place_snapshots(&mut self, id: VolumeId, taking: &[SnapshotId], now: Moment) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.want_snapshots(taking);
            self.collect(id, now);
        }
    }

    /// A storage node has moved.
    pub fn on_address(&mut self, node: NodeId, address: &str) {
        for volume in self.volumes.values_mut() {
            volume.set_address(node, address);
        }
        if self.links.set_address(node, address) {
            self.outputs.push(Output::Connect(node, address.into()));
        }
    }

    /// The attachment is over: the cluster manager gave the volume to another gateway, or deleted it.
    pub fn on_fenced(&mut self, id: VolumeId, now: Moment) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.fence();
            self.collect(id, now);
        }
    }

    /// A session with a storage node is ready. `local`: it is on this machine.
    pub fn on_session_up(&mut self, node: NodeId, local: bool, now: Moment) {
        self.busy = true;
        self.links.session_up(node, local, now);
        for id in self.volume_ids() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.session_up(node, self.links.is_local(node), now, &mut self.links);
            }
            self.collect(id, now);
        }
        self.heartbeat_at = now;
    }

    /// The session with a storage node has ended.
    pub fn on_session_down(&mut self, node: NodeId, now: Moment) {
        self.busy = true;
        self.links.session_down(node);
        for id in self.volume_ids() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.session_down(node, now, &mut self.links);
            }
            self.collect(id, now);
        }
    }

    /// A storage node says something.
    pub fn on_message(&mut self, node: NodeId, message: Message, now: Moment) {
        self.links.heard(node, now);
        match message {
            Message::Positions(positions) => {
                let more_credit = self.links.set_credit(node, &positions);
                for position in &positions.replicas {
                    self.with_segment(position.replica, now, |segment, links| {
                        segment.on_position(position, now, links);
                    });
                }
                if more_credit {
                    self.credit_changed(node, now);
                }
            }
            Message::ReadReply(reply) => {
                self.with_segment(reply.replica, now, |segment, links| {
                    segment.on_read_reply(reply, now, links);
                });
            }
            Message::BlockStatusReply(reply) => {
                self.with_segment(reply.replica, now, |segment, links| {
                    segment.on_block_status_reply(reply, now, links);
                });
            }
            Message::HeartbeatReply(reply) => {
                let sent_at = Moment::from_nanos(reply.stamp);
                for (replica, epoch) in reply.granted {
                    if self.epoch_of(replica) == Some(epoch) {
                        self.with_segment(replica, now, |segment, links| {
                            segment.on_lease(replica, sent_at, now, links);
                        });
                    }
                }
            }
            Message::OpenReply(reply) => {
                self.busy = true;
                self.with_segment(reply.replica, now, |segment, links| {
                    segment.on_open_reply(reply, now, links);
                });
                self.heartbeat_at = now;
            }
            Message::StartEpochReply(reply) => {
                self.with_segment(reply.replica, now, |segment, links| {
                    segment.on_start_epoch_reply(&reply, now, links);
                });
            }
            Message::Refused(refused) => {
                self.busy = true;
                self.with_segment(refused.replica, now, |segment, links| {
                    segment.on_refused(&refused, now, links);
                });
            }
            Message::Damaged(damaged) => {
                self.with_segment(damaged.replica, now, |segment, links| segment.on_damaged(&damaged, links));
            }
            Message::ResyncReport(report) => {
                self.busy = true;
                self.with_segment(report.replica, now, |segment, links| {
                    segment.on_resync_report(&report, now, links);
                });
            }
            _ => self.links.protocol_error(node),
        }
    }

    /// Takes a client's request. `false` if the volume is not attached for clients: then there is no reply.
    pub fn submit(&mut self, id: VolumeId, ticket: Ticket, operation: ClientOperation, now: Moment) -> bool {
        let Some(volume) = self.volumes.get_mut(&id).filter(|volume| !volume.attachment().steward) else {
            return false;
        };
        volume.submit(ticket, operation, now, &mut self.links);
        (self.busy, self.asked) = (true, true);
        self.collect(id, now);
        true
    }

    /// Bytes of requests that clients of a volume wait for.
    pub fn in_flight_bytes(&self, id: VolumeId) -> usize {
        self.volumes.get(&id).map_or(0, Volume::in_flight_bytes)
    }

    /// Whether ticks are needed soon (each [`Timing::hedge_min`]); otherwise each [`Timing::heartbeat`] is enough.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// How often ticks are needed at least. `None`: not until [`Core::is_busy`], because there is no volume and no session.
    pub fn tick_every(&self) -> Option<Duration> {
        match self.busy {
            true => Some(self.timing.hedge_min),
            false if self.volumes.is_empty() && self.links.up().is_empty() => None,
            false => Some(self.heartbeat_every()),
        }
    }

    /// When the next heartbeat is due.
    pub fn heartbeat_at(&self) -> Moment {
        self.heartbeat_at
    }

    /// Leases that nobody uses are renewed half as often. They last for eight heartbeats (rule R2), so a read that comes all
    /// the same waits for none.
    fn heartbeat_every(&self) -> Duration {
        self.timing.heartbeat * if self.calm { 2 } else { 1 }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Moment) {
        if now >= self.heartbeat_at {
            self.calm = !std::mem::take(&mut self.asked) && self.volumes.values().all(Volume::is_whole);
            self.heartbeat_at = now.next_multiple(self.heartbeat_every());
            self.heartbeat(now);
        }
        for id in self.volume_ids() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.tick(now, &mut self.links);
            }
            self.collect(id, now);
        }
        self.busy = self.volumes.values().any(Volume::is_busy);
        self.calm &= !self.asked && self.volumes.values().all(Volume::is_whole);
    }

    /// How the volumes do.
    pub fn reports(&self) -> Vec<VolumeReport> {
        let mut reports: Vec<_> = self.volumes.values().map(Volume::report).collect();
        reports.sort_unstable_by_key(|report| report.volume);
        reports
    }

    /// Takes what the shell has to do, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        self.links.take(&mut self.outputs);
        std::mem::take(&mut self.outputs)
    }

    /// R2: asks for leases, and notices nodes that are silent.
    fn heartbeat(&mut self, now: Moment) {
        for node in self.links.up() {
            self.links.check_silence(node, now);
            let replicas: Vec<_> =
                self.volumes.values().flat_map(|volume| volume.leases_wanted(node)).collect();
            let heartbeat = Heartbeat { stamp: now.as_nanos(), instance: self.instance, replicas };
            self.links.push(node, Message::Heartbeat(heartbeat));
        }
    }

    fn credit_changed(&mut self, node: NodeId, now: Moment) {
        for id in self.volume_ids() {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.credit_changed(node, now, &mut self.links);
            }
            self.collect(id, now);
        }
    }

    fn with_segment(
        &mut self,
        replica: ReplicaId,
        now: Moment,
        event: impl FnOnce(&mut quoin_replication::writer::Segment, &mut LinkTable),
    ) {
        let Some((id, index)) = self.routes.get(&replica).copied() else { return };
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.with_segment(index, now, &mut self.links, event);
        self.collect(id, now);
    }

    fn epoch_of(&self, replica: ReplicaId) -> Option<Epoch> {
        let (id, _) = *self.routes.get(&replica)?;
        self.attachment(id).map(|attachment| attachment.epoch)
    }

    /// Takes a volume's replies, and ends it if it is fenced.
    fn collect(&mut self, id: VolumeId, now: Moment) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let was_lossy = volume.is_lossy();
        volume.settle(now, &mut self.links);
        if volume.is_lossy() && !was_lossy && !volume.attachment().steward {
            self.outputs.push(Output::Lossy(id));
        }
        self.outputs.extend(volume.replies().map(|(ticket, reply)| Output::Reply(ticket, reply)));
        if volume.is_fenced() {
            if !volume.attachment().steward {
                self.outputs.push(Output::Fenced(id));
            }
            self.forget(id);
        }
    }

    fn forget(&mut self, id: VolumeId) {
        self.volumes.remove(&id);
        self.routes.retain(|_, (volume, _)| *volume != id);
    }

    /// Members are new in segments of a volume: their replicas are routed to it, and their nodes connected to.
    fn welcome(&mut self, id: VolumeId, members: &[(usize, Vec<NodeId>)], now: Moment) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        for (index, segment) in volume.segments().enumerate() {
            for voter in segment.voters() {
                self.routes.insert(voter.replica, (id, index));
                if self.links.need(voter.node, &voter.address) {
                    self.outputs.push(Output::Connect(voter.node, voter.address.clone()));
                }
            }
        }
        for (index, nodes) in members {
            for node in nodes {
                if self.links.is_up(*node) {
                    let local = self.links.is_local(*node);
                    volume.segment_session_up(*index, *node, local, now, &mut self.links);
                }
            }
        }
    }

    fn volume_ids(&self) -> Vec<VolumeId> {
        self.volumes.keys().copied().collect()
    }
}
