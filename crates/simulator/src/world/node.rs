//! A storage node's process on its machine: what its shell does, with virtual time in place of threads.

use super::glue::{Inbox, Outbox, brief, frame};
use super::manager::{HEARTBEAT, is_refused, reply};
use super::network::{CALLED, CALLER, ConnId};
use super::rolled_back::Past;
use super::{Event, Machine, Process, World};
use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::queue::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::random::Random;
use crate::setup::Setup;
use bytes::Bytes;
use quoin_api::v1;
use quoin_cluster_manager::member::{Answer, Reply, Request};
use quoin_storage_node::node as storage;
use quoin_storage_node::node::{Fatal, Limits, Node, NodeIdentity, PullId, ReadJob};
use quoin_store::{
    ApplyJob, CheckpointJob, Engine, Identity, Opened, Options, PlaceJob, ScrubJob, SyncDone, SyncJob,
    Unopened,
};
use quoin_types::{BootId, ClusterId, DiskId, InstanceId, Moment, NodeId, ReplicaId, SessionId, StartMark};
use quoin_wire::{Hello, Message, Source, Speaker};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// As the shell has them.
const TICK_BUSY: Duration = Duration::from_millis(5);
const TICK_IDLE: Duration = Duration::from_millis(200);
const PULL_CONNECT_MAX: Duration = Duration::from_secs(2);
const PULL_SILENCE_MAX: Duration = Duration::from_secs(10);
/// After which time a process that ended is started again.
const RESTART_AFTER: Nanos = 100 * MILLISECOND;
/// The longest that a disk job takes, but for a disk that hangs.
const JOB_MAX: Nanos = SECOND / 2;
/// Laps of the scrub begin no sooner after one another: there is little to look at.
const SCRUB_INTERVAL: Duration = Duration::from_millis(300);
/// A checkpoint is due 15 seconds after the last one: with journals this small, one comes much sooner.
pub(crate) const OPTIONS: Options =
    Options { journal_file_bytes: 256 << 10, journal_files: 4, reserve_bytes: 1 << 20 };

enum Job {
    Place(PlaceJob),
    Sync(SyncJob),
    /// Run already: told later.
    Synced(SyncDone),
    Apply(ApplyJob),
    Checkpoint(CheckpointJob),
    Read(ReadJob),
    Scrub(ScrubJob),
}

/// A thread, or several that take their jobs from one queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Place(usize),
    Sync,
    Apply,
    Checkpoint,
    Read(usize),
    Scrub,
}

/// A connection to a peer that is pulled from.
struct PullConn {
    id: PullId,
    source: NodeId,
    ready: bool,
    heard: u64,
}

/// What ends with the process.
#[derive(Default)]
struct Volatile {
    /// The disk is looked at, and the managers have not said yet that it may start.
    unopened: Option<Unopened>,
    /// The disk is open, and the managers have not accepted this start yet.
    opened: Option<(Engine, Opened)>,
    sessions: BTreeMap<SessionId, ConnId>,
    inboxes: BTreeMap<ConnId, Inbox>,
    conn_sessions: BTreeMap<ConnId, SessionId>,
    pulls: BTreeMap<ConnId, PullConn>,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    lanes: BTreeMap<Lane, Nanos>,
    created: Vec<ReplicaId>,
    dropped: Vec<ReplicaId>,
}

impl Volatile {
    /// Whether no start is under way.
    fn is_idle(&self) -> bool {
        self.unopened.is_none() && self.opened.is_none()
    }
}

/// One storage node.
pub(crate) struct NodeProcess {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) machine: Machine,
    pub(crate) disk: SimDisk,
    /// The disk's identity, once it is formatted.
    pub(super) disk_id: Option<DiskId>,
    pub(super) past: Past,
    capacity_bytes: u64,
    clock: Clock,
    pub(crate) node: Option<Node>,
    pub(crate) incarnation: u64,
    pub(crate) paused_until: Nanos,
    /// Disk jobs end no sooner.
    pub(crate) hung_until: Nanos,
    /// Disk jobs take so many times as long.
    pub(crate) slowness: u64,
    /// It is not started again by itself.
    pub(crate) held: bool,
    /// The managers refuse its disk.
    pub(crate) refused: bool,
    /// Its journal has rotted, and it has not started since.
    pub(crate) rotted: bool,
    id: NodeId,
    instance: InstanceId,
    tick_timer: u64,
    tick_busy: bool,
    volatile: Volatile,
}

impl NodeProcess {
    pub(crate) fn new(index: usize, setup: &Setup, random: &mut Random) -> Self {
        Self {
            index,
            name: format!("node-{index}"),
            machine: index,
            disk: SimDisk::new(Random::new(random.next()), setup.uncached_permille),
            disk_id: None,
            past: Past::default(),
            capacity_bytes: setup.capacity_bytes,
            clock: Clock::random(random),
            node: None,
            incarnation: 0,
            paused_until: 0,
            hung_until: 0,
            slowness: 1,
            held: false,
            refused: false,
            rotted: false,
            id: NodeId(0),
            instance: InstanceId::default(),
            tick_timer: 0,
            tick_busy: false,
            volatile: Volatile::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// Whether nothing is under way on its disk but scrub, and nobody pulls.
    pub(crate) fn is_quiet(&self) -> bool {
        self.volatile.jobs.values().all(|job| matches!(job, Job::Scrub(_))) && self.volatile.pulls.is_empty()
    }
}

impl World {
    pub(super) fn start_node(&mut self, index: usize, incarnation: u64) {
        let process = &mut self.nodes[index];
        let idle = process.node.is_none() && process.volatile.is_idle();
        if process.incarnation != incarnation || !idle || process.held {
            return;
        }
        let machine = process.machine;
        if !self.machine_is_up(machine) {
            return;
        }
        let process = &mut self.nodes[index];
        process.instance = InstanceId(self.id_random.bytes_16());
        match Engine::look_at(Arc::new(process.disk.clone()), None) {
            Ok(unopened) => process.volatile.unopened = Some(unopened),
            Err(quoin_store::Error::NotFormatted) => {}
            Err(quoin_store::Error::Io { .. }) => return self.restart_node_later(index),
            Err(error) => return self.refuses_its_disk(index, &error),
        }
        self.register_node(index, incarnation);
    }

    /// Asks the managers whether the disk may start, and then to accept its start (rule C2), again and again until they answer.
    pub(super) fn register_node(&mut self, index: usize, incarnation: u64) {
        let process = &self.nodes[index];
        if process.incarnation != incarnation {
            return;
        }
        let mut registration = v1::RegisterNodeRequest {
            name: process.name.clone(),
            instance: process.instance.as_bytes().to_vec(),
            data_address: index.to_string(),
            admin_address: "-".into(),
            capacity_bytes: process.capacity_bytes,
            ..v1::RegisterNodeRequest::default()
        };
        let running = process.node.as_ref().map(Node::engine);
        let opened = process.volatile.opened.as_ref().map(|(engine, _)| engine);
        if let Some(engine) = running.or(opened) {
            registration.cluster_id = engine.identity().cluster.as_bytes().to_vec();
            registration.disk = engine.identity().disk.as_bytes().to_vec();
            registration.start_count = engine.start_count();
        } else if let Some(unopened) = &process.volatile.unopened {
            registration.cluster_id = unopened.identity().cluster.as_bytes().to_vec();
            registration.disk = unopened.identity().disk.as_bytes().to_vec();
            registration.start_count = unopened.next_start_count();
            registration.asks = true;
            registration.last_mark = unopened.last_start().mark.0.to_vec();
        }
        self.call_manager(Process::Node(index), Request::RegisterNode(registration));
    }

    /// The managers have answered, or nobody has.
    pub(super) fn node_is_answered(&mut self, index: usize, request: &Request, answer: Option<Box<Answer>>) {
        match request {
            Request::RegisterNode(_) if is_refused(answer.as_deref()) => self.node_refused(index),
            Request::RegisterNode(asked) => {
                let Some(Reply::RegisterNode(reply)) = reply(answer) else { return };
                match ClusterId::from_slice(&reply.cluster_id) {
                    Some(cluster) if asked.disk.is_empty() => self.node_may_format(index, cluster),
                    _ if asked.asks => self.node_may_start(index),
                    _ => self.node_registered(index, NodeId(reply.node)),
                }
            }
            Request::NodeHeartbeat(_) => {
                if let Some(Reply::Heartbeat(v1::HeartbeatReply { known: false, .. })) = reply(answer) {
                    let incarnation = self.nodes[index].incarnation;
                    self.register_node(index, incarnation);
                }
            }
            Request::ReportReplicas(_) => {
                let Some(Reply::ReportReplicas(reply)) = reply(answer) else { return };
                let unwanted: Vec<ReplicaId> = reply.unwanted.into_iter().map(ReplicaId).collect();
                if !unwanted.is_empty() {
                    self.node_event(index, |node, now| node.on_unwanted(&unwanted, now));
                }
            }
            _ => {}
        }
    }

    pub(super) fn node_heartbeat(&mut self, index: usize) {
        let process = &self.nodes[index];
        let Some(node) = &process.node else { return };
        let space = node.engine().space();
        let request = v1::NodeHeartbeatRequest {
            node: node.identity().node.0,
            disk: node.identity().disk.as_bytes().to_vec(),
            start_count: node.engine().start_count(),
            used_bytes: space.used_bytes,
            capacity_bytes: space.capacity_bytes,
            replicas: node.replica_counts().0 as u32,
            damaged_extents: node.damaged_extents() as u64,
            leaving: false,
        };
        let (incarnation, wait) = (process.incarnation, process.clock.virtual_time(HEARTBEAT));
        self.call_manager(Process::Node(index), Request::NodeHeartbeat(request));
        self.queue.push(self.now + wait, Event::Heartbeat { who: Process::Node(index), incarnation });
    }

    /// The managers told the cluster's identity to a node whose disk is empty.
    pub(super) fn node_may_format(&mut self, index: usize, cluster: ClusterId) {
        let disk = DiskId(self.id_random.bytes_16());
        let process = &mut self.nodes[index];
        if process.node.is_some() || !process.volatile.is_idle() {
            return;
        }
        let identity = Identity { cluster, disk, capacity_bytes: process.capacity_bytes };
        if Engine::format(&process.disk, &identity).is_err() {
            return self.restart_node_later(index);
        }
        process.disk_id = Some(disk);
        match Engine::look_at(Arc::new(process.disk.clone()), None) {
            Ok(unopened) => process.volatile.unopened = Some(unopened),
            Err(_) => return self.restart_node_later(index),
        }
        let incarnation = self.nodes[index].incarnation;
        self.register_node(index, incarnation);
    }

    /// The managers have not refused the disk's next start: it is made, and they are asked to accept it.
    fn node_may_start(&mut self, index: usize) {
        let boot = self.boot_of(self.nodes[index].machine);
        let process = &mut self.nodes[index];
        let Some(unopened) = process.volatile.unopened.take() else { return };
        match unopened.open(boot, OPTIONS, StartMark::from(process.instance)) {
            Ok(opened) => {
                process.volatile.opened = Some(opened);
                process.rotted = false;
            }
            // Others have the space for now: its supervisor tries again.
            Err(quoin_store::Error::Io { .. } | quoin_store::Error::NoSpace) => {
                return self.restart_node_later(index);
            }
            Err(error) => return self.refuses_its_disk(index, &error),
        }
        let incarnation = self.nodes[index].incarnation;
        self.register_node(index, incarnation);
    }

    /// The managers do not want this disk: the process ends, and its supervisor tries again, in vain.
    pub(super) fn node_refused(&mut self, index: usize) {
        self.nodes[index].refused = true;
        self.end_node(index);
        self.judge_refused(index);
        self.restart_node_later(index);
    }

    pub(super) fn node_registered(&mut self, index: usize, id: NodeId) {
        let now = self.node_moment(index);
        let boot = self.boot_of(self.nodes[index].machine);
        let process = &mut self.nodes[index];
        let Some((engine, opened)) = process.volatile.opened.take() else { return };
        let own = engine.identity();
        let identity = NodeIdentity { cluster: own.cluster, node: id, disk: own.disk, boot };
        process.id = id;
        process.refused = false;
        let disk = own.disk;
        let limits = Limits {
            resync_bytes_per_second: self.setup.resync_bytes_per_second,
            scrub_bytes_per_second: self.setup.scrub_bytes_per_second,
            scrub_interval: SCRUB_INTERVAL,
        };
        match Node::new(identity, engine, &opened, limits, self.setup.timing, now) {
            Ok(node) => process.node = Some(node),
            Err(_) => {
                self.end_node(index);
                return self.restart_node_later(index);
            }
        }
        self.judge_accepted(disk);
        self.watch(Process::Node(index));
        let incarnation = self.nodes[index].incarnation;
        self.queue.push(self.now, Event::Heartbeat { who: Process::Node(index), incarnation });
        self.node_event(index, |_, _| Ok(()));
        self.arm_node_tick(index, 0);
    }

    pub(super) fn restart_node_later(&mut self, index: usize) {
        let process = &mut self.nodes[index];
        process.volatile = Volatile::default();
        process.incarnation += 1;
        let incarnation = process.incarnation;
        self.queue.push(self.now + RESTART_AFTER, Event::NodeStart { node: index, incarnation });
    }

    /// The process is gone; the disk has what a crash of a process leaves.
    pub(super) fn end_node(&mut self, index: usize) {
        self.close_all_of(Process::Node(index), false);
        // The kernel finishes what it has begun.
        for job in self.syncs_begun(index) {
            job.run();
        }
        let process = &mut self.nodes[index];
        process.node = None;
        process.volatile = Volatile::default();
        process.incarnation += 1;
        process.paused_until = 0;
        process.disk = process.disk.process_crash();
    }

    /// As [`World::end_node`], with the machine's power.
    pub(super) fn end_node_by_power(&mut self, index: usize) {
        self.close_all_of(Process::Node(index), true);
        for job in self.syncs_begun(index) {
            self.nodes[index].disk.while_losing_power(|| job.run());
        }
        let seed = self.disk_random.next();
        let process = &mut self.nodes[index];
        process.node = None;
        process.volatile = Volatile::default();
        process.incarnation += 1;
        process.paused_until = 0;
        process.hung_until = 0;
        process.disk = process.disk.power_loss(seed);
    }

    /// Takes the syncs that have begun, of those that have not ended.
    fn syncs_begun(&mut self, index: usize) -> Vec<SyncJob> {
        let jobs = std::mem::take(&mut self.nodes[index].volatile.jobs);
        let syncs = jobs.into_values().filter_map(|job| match job {
            Job::Sync(job) => Some(job),
            _ => None,
        });
        syncs.filter(|_| self.disk_random.permille(500)).collect()
    }

    pub(crate) fn node_moment(&self, index: usize) -> Moment {
        self.nodes[index].clock.at(self.now)
    }

    fn boot_of(&self, machine: Machine) -> BootId {
        let mut boot = [machine as u8 + 1; 16];
        boot[..8].copy_from_slice(&self.boot_number(machine).to_le_bytes());
        BootId(boot)
    }

    /// Gives an event (or a batch of them) to the node and does what it says; as the shell's function of that name.
    pub(super) fn node_event(
        &mut self,
        index: usize,
        event: impl FnOnce(&mut Node, Moment) -> Result<(), Fatal>,
    ) {
        let now = self.node_moment(index);
        let Some(node) = self.nodes[index].node.as_mut() else { return };
        let (was_busy, was_due) = (node.is_busy(), node.due());
        if event(node, now).and_then(|()| node.end_batch(now)).is_err() {
            self.end_node(index);
            return self.restart_node_later(index);
        }
        let sooner = node.due().is_some_and(|due| was_due.is_none_or(|was| due < was));
        let wait = match node.due() {
            _ if node.is_busy() && !was_busy => Some(Duration::ZERO),
            Some(due) if sooner => Some(due.since(now)),
            _ => None,
        };
        let outputs = node.outputs();
        if let Some(wait) = wait.filter(|_| !self.nodes[index].tick_busy) {
            let wait = self.nodes[index].clock.virtual_time(wait);
            self.arm_node_tick(index, wait);
        }
        self.carry_out_node(index, outputs);
    }

    fn carry_out_node(&mut self, index: usize, outputs: Vec<storage::Output>) {
        let mut outboxes: BTreeMap<(ConnId, usize), Outbox> = BTreeMap::new();
        for output in outputs {
            match output {
                storage::Output::Send(session, message) => {
                    self.observer.node_says(&self.nodes[index], &message);
                    self.node_speaks(index, &message);
                    self.trace.line(self.now, || format!("node {index} on {session}: {}", brief(&message)));
                    if let Some(conn) = self.nodes[index].volatile.sessions.get(&session) {
                        outboxes.entry((*conn, CALLED)).or_default().push(&message);
                    }
                }
                storage::Output::Close(session, reason) => {
                    self.fail(format!("node {index} closes a session: {reason}"));
                    if let Some(conn) = self.nodes[index].volatile.sessions.get(&session).copied() {
                        self.close(conn, CALLED);
                    }
                }
                storage::Output::Place(job) => self.queue_job(index, Job::Place(job)),
                storage::Output::Sync(job) => self.queue_job(index, Job::Sync(job)),
                storage::Output::Apply(job) => self.queue_job(index, Job::Apply(job)),
                storage::Output::Checkpoint(job) => self.queue_job(index, Job::Checkpoint(job)),
                storage::Output::Read(job) => self.queue_job(index, Job::Read(job)),
                storage::Output::Scrub(job) => self.queue_job(index, Job::Scrub(job)),
                storage::Output::ConnectPeer(id, source) => self.connect_peer(index, id, &source),
                storage::Output::SendPeer(id, message) => {
                    if let Some(conn) = self.pull_conn(index, id) {
                        outboxes.entry((conn, CALLER)).or_default().push(&message);
                    }
                }
                storage::Output::ClosePeer(id) => {
                    if let Some(conn) = self.pull_conn(index, id) {
                        self.nodes[index].volatile.pulls.remove(&conn);
                        self.nodes[index].volatile.inboxes.remove(&conn);
                        self.close(conn, CALLER);
                    }
                }
                storage::Output::Created(id) => self.nodes[index].volatile.created.push(id),
                storage::Output::Dropped(id) => self.nodes[index].volatile.dropped.push(id),
            }
        }
        for ((conn, side), outbox) in outboxes {
            self.send_on(conn, side, outbox.take());
        }
        self.report_replicas(index);
    }

    /// Tells the managers what was created and dropped, until they have heard it.
    fn report_replicas(&mut self, index: usize) {
        let process = &mut self.nodes[index];
        let Some(node) = &process.node else { return };
        let (id, disk) = (node.identity().node, node.identity().disk);
        let created = std::mem::take(&mut process.volatile.created);
        let dropped = std::mem::take(&mut process.volatile.dropped);
        if !created.is_empty() || !dropped.is_empty() {
            let request = v1::ReportReplicasRequest {
                node: id.0,
                disk: disk.as_bytes().to_vec(),
                created: created.into_iter().map(|id| id.0).collect(),
                dropped: dropped.into_iter().map(|id| id.0).collect(),
            };
            self.call_manager(Process::Node(index), Request::ReportReplicas(request));
        }
    }

    pub(super) fn node_sees(&mut self, index: usize, view: &v1::ReplicaAssignments) {
        let assignments = quoin_storage_node::words::assignments(view);
        self.node_event(index, |node, now| node.on_assignments(&assignments, now));
    }

    fn arm_node_tick(&mut self, index: usize, wait: Nanos) {
        let process = &mut self.nodes[index];
        process.tick_timer += 1;
        let timer = process.tick_timer;
        self.queue.push(self.now + wait, Event::NodeTick { node: index, timer });
    }

    pub(super) fn on_node_tick(&mut self, index: usize, timer: u64) {
        if self.nodes[index].tick_timer != timer || self.nodes[index].node.is_none() {
            return;
        }
        self.nodes[index].tick_busy = true;
        self.node_event(index, Node::tick);
        let now = self.node_moment(index);
        let process = &mut self.nodes[index];
        let Some(node) = &process.node else { return };
        process.tick_busy = node.is_busy();
        let usual = if process.tick_busy { TICK_BUSY } else { TICK_IDLE };
        let wait = node.due().map_or(usual, |due| usual.min(due.since(now)));
        let wait = process.clock.virtual_time(wait).max(10 * MICROSECOND);
        self.arm_node_tick(index, wait);
    }

    /// Bytes have come on a connection.
    pub(super) fn node_bytes(
        &mut self,
        index: usize,
        conn: ConnId,
        side: usize,
        is_new: bool,
        bytes: &Bytes,
    ) {
        let volatile = &mut self.nodes[index].volatile;
        if is_new && side == CALLED {
            volatile.inboxes.insert(conn, Inbox::default());
        }
        let Some(inbox) = volatile.inboxes.get_mut(&conn) else { return };
        let messages = match inbox.take(bytes) {
            Ok(messages) => messages,
            Err(error) => return self.fail(format!("node {index} was sent what is no frame: {error}")),
        };
        if side == CALLER {
            return self.pulled(index, conn, messages);
        }
        let mut messages = messages.into_iter();
        let session = match self.nodes[index].volatile.conn_sessions.get(&conn) {
            Some(session) => *session,
            None => match messages.next() {
                Some(Message::Hello(hello)) => match self.accept(index, conn, &hello) {
                    Some(session) => session,
                    None => return self.close(conn, CALLED),
                },
                Some(_) => return self.fail(format!("node {index} was sent no hello first")),
                None => return,
            },
        };
        messages.as_slice().iter().for_each(|message| self.node_hears(index, message));
        self.node_event(index, |node, now| {
            messages.try_for_each(|message| node.on_message(session, message, now))
        });
    }

    fn accept(&mut self, index: usize, conn: ConnId, hello: &Hello) -> Option<SessionId> {
        let node = self.nodes[index].node.as_mut()?;
        let own = node.identity();
        if hello.cluster != own.cluster || hello.node != own.node {
            return None;
        }
        let session = node.on_session(hello.speaker);
        let volatile = &mut self.nodes[index].volatile;
        volatile.sessions.insert(session, conn);
        volatile.conn_sessions.insert(conn, session);
        Some(session)
    }

    pub(super) fn node_conn_ended(&mut self, index: usize, conn: ConnId) {
        let volatile = &mut self.nodes[index].volatile;
        volatile.inboxes.remove(&conn);
        if let Some(session) = volatile.conn_sessions.remove(&conn) {
            volatile.sessions.remove(&session);
            self.node_event(index, |node, _| {
                node.on_session_closed(session);
                Ok(())
            });
        } else if let Some(pull) = self.nodes[index].volatile.pulls.remove(&conn) {
            self.node_event(index, |node, _| {
                node.on_peer_closed(pull.id);
                Ok(())
            });
        }
    }

    fn pull_conn(&self, index: usize, id: PullId) -> Option<ConnId> {
        let mut pulls = self.nodes[index].volatile.pulls.iter();
        pulls.find(|(_, pull)| pull.id == id).map(|(conn, _)| *conn)
    }

    fn connect_peer(&mut self, index: usize, id: PullId, source: &Source) {
        let own = self.nodes[index].node.as_ref().map(|node| *node.identity());
        let peer = source.address.parse::<usize>().ok().filter(|peer| *peer < self.nodes.len());
        let (Some(own), Some(peer)) = (own, peer) else {
            return self.fail(format!("node {index} is to pull from {}", source.address));
        };
        let conn = self.connect(Process::Node(index), Process::Node(peer));
        let pull = PullConn { id, source: source.node, ready: false, heard: 0 };
        let volatile = &mut self.nodes[index].volatile;
        volatile.pulls.insert(conn, pull);
        volatile.inboxes.insert(conn, Inbox::default());
        let hello = Hello { cluster: own.cluster, speaker: Speaker::Peer(own.node), node: source.node };
        self.send_on(conn, CALLER, frame(&Message::Hello(hello)));
        self.arm_pull_timeout(index, conn, PULL_CONNECT_MAX, 0);
    }

    fn arm_pull_timeout(&mut self, index: usize, conn: ConnId, wait: Duration, heard: u64) {
        let process = &self.nodes[index];
        let at = self.now + process.clock.virtual_time(wait);
        let incarnation = process.incarnation;
        self.queue.push(at, Event::PullTimeout { node: index, incarnation, conn, heard });
    }

    /// The peer was silent: the connection is given up, as the shell does.
    pub(super) fn on_pull_timeout(&mut self, index: usize, incarnation: u64, conn: ConnId, heard: u64) {
        let process = &self.nodes[index];
        let silent = process.volatile.pulls.get(&conn).is_some_and(|pull| pull.heard == heard);
        if process.incarnation == incarnation && silent {
            self.close(conn, CALLER);
            self.node_conn_ended(index, conn);
        }
    }

    /// A peer has answered.
    fn pulled(&mut self, index: usize, conn: ConnId, messages: Vec<Message>) {
        let Some(pull) = self.nodes[index].volatile.pulls.get_mut(&conn) else { return };
        pull.heard += 1;
        let (id, heard, was_ready, source) = (pull.id, pull.heard, pull.ready, pull.source);
        pull.ready = true;
        self.arm_pull_timeout(index, conn, PULL_SILENCE_MAX, heard);
        let mut messages = messages.into_iter();
        if !was_ready {
            match messages.next() {
                Some(Message::HelloReply(reply)) if reply.node == source => {
                    self.node_event(index, |node, now| node.on_peer_connected(id, now));
                }
                Some(_) => {
                    self.close(conn, CALLER);
                    return self.node_conn_ended(index, conn);
                }
                None => {
                    if let Some(pull) = self.nodes[index].volatile.pulls.get_mut(&conn) {
                        pull.ready = false;
                    }
                    return;
                }
            }
        }
        if messages.as_slice().iter().any(|message| matches!(message, Message::FetchReply(_))) {
            self.node_is_fed(index);
        }
        self.node_event(index, |node, now| {
            messages.try_for_each(|message| node.on_peer_message(id, message, now))
        });
    }

    fn queue_job(&mut self, index: usize, job: Job) {
        let latency = self.setup.disk_latency;
        let random = &mut self.disk_random;
        let (low, high) = match &job {
            Job::Sync(_) | Job::Synced(_) => (latency, latency * 4),
            Job::Checkpoint(_) => (latency * 2, latency * 20),
            Job::Place(_) | Job::Read(_) | Job::Scrub(_) => (latency / 4, latency * 2),
            Job::Apply(_) => (latency / 8, latency),
        };
        let mut time = random.between(low, high);
        if random.permille(5) {
            time *= 20;
        }
        let thread = random.index(4);
        let lane = match &job {
            Job::Place(_) => Lane::Place(thread),
            Job::Sync(_) | Job::Synced(_) => Lane::Sync,
            Job::Apply(_) => Lane::Apply,
            Job::Checkpoint(_) => Lane::Checkpoint,
            Job::Read(_) => Lane::Read(thread),
            Job::Scrub(_) => Lane::Scrub,
        };
        // A sync covers what was written before it began: done at its beginning it shows whoever counts on more, done at
        // its end it leaves everything volatile while it runs.
        let at_once = self.disk_random.permille(500);
        let process = &mut self.nodes[index];
        let volatile = &mut process.volatile;
        let free = volatile.lanes.get(&lane).copied().unwrap_or_default();
        let idle = free <= self.now && process.hung_until <= self.now;
        let job = match job {
            Job::Sync(job) if at_once && idle => Job::Synced(job.run()),
            job => job,
        };
        let done = free.max(self.now) + (time * process.slowness).min(JOB_MAX);
        volatile.lanes.insert(lane, done);
        volatile.next_job += 1;
        let number = volatile.next_job;
        volatile.jobs.insert(number, job);
        let incarnation = process.incarnation;
        self.queue.push(done, Event::Job { node: index, incarnation, number });
    }

    pub(super) fn on_job(&mut self, index: usize, incarnation: u64, number: u64) {
        let process = &mut self.nodes[index];
        if process.incarnation != incarnation {
            return;
        }
        if process.hung_until > self.now {
            return self.queue.push(process.hung_until, Event::Job { node: index, incarnation, number });
        }
        let Some(job) = process.volatile.jobs.remove(&number) else { return };
        self.node_event(index, |node, now| match job {
            Job::Place(job) => node.on_placed(job.run(), now),
            Job::Sync(job) => node.on_synced(job.run(), now),
            Job::Synced(done) => node.on_synced(done, now),
            Job::Apply(job) => node.on_applied(job.run(), now),
            Job::Checkpoint(job) => node.on_checkpointed(job.run(), now),
            Job::Read(mut job) => {
                job.run();
                node.on_read_done(job)
            }
            Job::Scrub(mut job) => {
                job.run();
                node.on_scrubbed(job)
            }
        });
    }

    /// A time in which two checkpoints by age have come and gone.
    pub(crate) const TWO_CHECKPOINTS: Nanos = 34 * SECOND;
}
