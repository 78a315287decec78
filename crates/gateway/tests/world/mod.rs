//! A world in one thread: the gateway's core and real storage nodes over disks in memory, connected by queues. A seed
//! decides what happens next, so that a failure can be repeated.

use quoin_disk::{Dir, MemDir, OpenMode};
use quoin_gateway::core::{
    Attachment, ClientOperation, Core, Output, ReplicaStatus, Reply, Ticket, View as ManagersView,
    ViewedVolume, VolumeSpec,
};
use quoin_replication::Timing;
use quoin_replication::replica::ReplicaMeta;
use quoin_replication::writer::{Failure, VoterConfig, VoterHealth};
use quoin_storage_node::node as storage;
use quoin_storage_node::node::{Assignment, KeptSnapshots, Limits, Node, NodeIdentity, PullId, Wanted};
use quoin_store::{ApplyJob, CheckpointJob, Engine, Identity, Options, PlaceJob, ScrubJob, SyncJob, View};
use quoin_types::{
    BootId, ClusterId, DiskId, Durability, Epoch, Generation, InstanceId, Moment, NodeId, ReplicaId,
    ReplicaRole, SegmentId, SessionId, SnapshotId, VolumeId,
};
use quoin_wire::{Hello, Message, Speaker};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const VOLUME: VolumeId = VolumeId(1);
/// Little, so that replicas which come back are often too late to be sent what they missed.
const RETAINED_BYTES: usize = 128 << 10;
/// Everything is scrubbed a few times in a run.
const LIMITS: Limits = Limits {
    resync_bytes_per_second: None,
    scrub_bytes_per_second: Some(8 << 20),
    scrub_interval: Duration::ZERO,
};
const CLUSTER: ClusterId = ClusterId([7; 16]);

/// A small deterministic generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

enum Job {
    Place(PlaceJob),
    Sync(SyncJob),
    Apply(ApplyJob),
    Checkpoint(CheckpointJob),
    Read(storage::ReadJob),
    Scrub(ScrubJob),
}

/// A pull's connection: from the node that pulls to its peer.
struct Pull {
    peer: usize,
    session: SessionId,
    to_peer: VecDeque<Message>,
    from_peer: VecDeque<Message>,
}

struct Slot {
    dir: MemDir,
    node: Option<Node>,
    boot: u8,
    session: Option<SessionId>,
    to_node: VecDeque<Message>,
    to_gateway: VecDeque<Message>,
    jobs: VecDeque<Job>,
    pulls: BTreeMap<PullId, Pull>,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) random: Random,
    pub(crate) core: Core,
    slots: Vec<Slot>,
    spec: VolumeSpec,
    epoch: u64,
    steps: u64,
    /// Nodes that come back at a step.
    returns: Vec<(u64, usize)>,
    next_ticket: u64,
    /// What the cluster manager wants kept, should a node ask.
    kept: KeptSnapshots,
    pub(crate) replies: Vec<(Ticket, Result<Reply, Failure>)>,
    /// How many answers there were when the attachment turned out to be lossy.
    pub(crate) lossy_after: Option<usize>,
    /// Whether the cluster manager puts that on record when it is told.
    pub(crate) records_loss: bool,
}

/// Everything shorter than in life, so that leases end and begin within a few thousand steps.
fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(40),
        heartbeat: Duration::from_millis(6),
        late_answers: Duration::from_millis(4),
        retry: Duration::from_millis(4),
        lossy_after: Duration::from_secs(3600),
        ..Timing::default()
    }
}

fn options() -> Options {
    Options { journal_file_bytes: 256 << 10, journal_files: 4, reserve_bytes: 1 << 20 }
}

impl World {
    pub(crate) fn new(
        seed: u64,
        nodes: usize,
        segments: u32,
        segment_bytes: u64,
        durability: Durability,
    ) -> Self {
        let voters = |index: u32| {
            let voter = |node: usize| VoterConfig {
                node: NodeId(node as u64 + 1),
                name: format!("node-{}", node + 1),
                address: format!("{node}"),
                replica: ReplicaId(u64::from(index) * 100 + node as u64 + 1),
                role: ReplicaRole::Voter,
            };
            (Generation(1), (0..nodes).map(voter).collect())
        };
        let spec = VolumeSpec {
            id: VOLUME,
            size_bytes: u64::from(segments) * segment_bytes,
            segment_bytes,
            durability,
            segments: (0..segments).map(voters).collect(),
        };
        let mut world = Self {
            now: Moment::from_nanos(1_000_000_000),
            random: Random::new(seed),
            core: Core::new(InstanceId([1; 16]), RETAINED_BYTES, timing()),
            slots: Vec::new(),
            spec,
            epoch: 0,
            steps: 0,
            returns: Vec::new(),
            next_ticket: 0,
            kept: KeptSnapshots::default(),
            replies: Vec::new(),
            lossy_after: None,
            records_loss: true,
        };
        for index in 0..nodes {
            world.format(index);
        }
        world.attach();
        world
    }

    fn format(&mut self, index: usize) {
        let dir = MemDir::new();
        let identity =
            Identity { cluster: CLUSTER, disk: DiskId([index as u8 + 1; 16]), capacity_bytes: 256 << 20 };
        Engine::format(&dir, &identity).unwrap();
        self.slots.push(Slot {
            dir,
            node: None,
            boot: 1,
            session: None,
            to_node: VecDeque::new(),
            to_gateway: VecDeque::new(),
            jobs: VecDeque::new(),
            pulls: BTreeMap::new(),
        });
        self.start(index);
        self.assign(index, Wanted::Created);
        while self.run_job(index) {}
    }

    /// The cluster manager tells a node what is wanted of it, if it runs.
    fn assign(&mut self, index: usize, wanted: Wanted) {
        let assignments: Vec<Assignment> = (0..self.spec.segments.len() as u32)
            .map(|segment| Assignment {
                replica: self.spec.segments[segment as usize].1[index].replica,
                segment: SegmentId { volume: VOLUME, index: segment },
                generation: Generation(1),
                segment_bytes: self.spec.segment_bytes,
                wanted,
                snapshots: self.kept.clone(),
            })
            .collect();
        let now = self.now;
        if let Some(node) = self.slots[index].node.as_mut() {
            node.on_assignments(&assignments, now).unwrap();
            self.carry_out(index);
        }
    }

    /// The cluster manager wants these snapshots kept, of those up to an id; it tells one node, or all.
    pub(crate) fn keep_snapshots(&mut self, kept: KeptSnapshots, node: Option<usize>) {
        self.kept = kept;
        let all = 0..self.slots.len();
        all.filter(|index| node.is_none_or(|node| node == *index))
            .for_each(|index| self.assign(index, Wanted::Kept));
    }

    /// The cluster manager wants these taken.
    pub(crate) fn take_snapshots(&mut self, taking: &[SnapshotId]) {
        self.core.place_snapshots(VOLUME, taking, self.now);
        self.carry_out_core();
    }

    /// The snapshots that are durable on a majority of every segment.
    pub(crate) fn durable_snapshots(&self) -> Vec<SnapshotId> {
        self.core.reports()[0].snapshots.clone()
    }

    /// Starts a node's process on its disk.
    pub(crate) fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.node.is_some() {
            return;
        }
        let dir: Arc<dyn Dir> = Arc::new(slot.dir.clone());
        let boot = BootId([slot.boot; 16]);
        let (engine, opened) = Engine::open(dir, Some(CLUSTER), boot, options()).unwrap();
        let identity = NodeIdentity {
            cluster: CLUSTER,
            node: NodeId(index as u64 + 1),
            disk: engine.identity().disk,
            boot,
        };
        slot.node = Some(Node::new(identity, engine, &opened, LIMITS, timing(), self.now).unwrap());
        self.carry_out(index);
    }

    /// `kill -9` of a node, or loss of its machine's power.
    pub(crate) fn kill(&mut self, index: usize, power: bool) {
        let seed = self.random.next();
        self.disconnect(index);
        let slot = &mut self.slots[index];
        if slot.node.take().is_none() {
            return;
        }
        slot.jobs.clear();
        slot.pulls.clear();
        slot.dir = if power { slot.dir.crash(seed) } else { slot.dir.process_crash() };
        slot.boot += u8::from(power);
        // Those that pulled from it notice.
        for other in 0..self.slots.len() {
            let gone: Vec<PullId> = self.slots[other]
                .pulls
                .iter()
                .filter(|(_, pull)| pull.peer == index)
                .map(|(id, _)| *id)
                .collect();
            for id in gone {
                self.slots[other].pulls.remove(&id);
                if let Some(node) = self.slots[other].node.as_mut() {
                    node.on_peer_closed(id);
                }
                self.carry_out(other);
            }
        }
    }

    /// As [`World::kill`] of a node chosen by the seed, which comes back some steps later.
    pub(crate) fn kill_for_a_while(&mut self, power: bool) {
        let index = self.random.below(self.slots.len() as u64) as usize;
        self.kill(index, power);
        let away = 1 + self.random.below(2000);
        self.returns.push((self.steps + away, index));
    }

    /// Breaks the session between the gateway and a node; what is on its way is lost.
    pub(crate) fn disconnect(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.to_node.clear();
        slot.to_gateway.clear();
        let Some(session) = slot.session.take() else { return };
        if let Some(node) = slot.node.as_mut() {
            node.on_session_closed(session);
        }
        self.core.on_session_down(NodeId(index as u64 + 1), self.now);
        self.carry_out(index);
        self.carry_out_core();
    }

    fn connect(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(node) = slot.node.as_mut().filter(|_| slot.session.is_none()) else { return };
        let hello = Hello {
            cluster: CLUSTER,
            speaker: Speaker::Gateway(self.core.instance()),
            node: NodeId(index as u64 + 1),
        };
        slot.session = Some(node.on_session(hello.speaker));
        self.core.on_session_up(NodeId(index as u64 + 1), false, self.now);
        self.carry_out(index);
        self.carry_out_core();
    }

    /// Ends the gateway's process and starts a new one, which attaches under a new epoch.
    pub(crate) fn restart_gateway(&mut self) {
        self.restart_gateway_with(timing());
    }

    /// As [`World::restart_gateway`], after all machines have lost their power: no majority remembers, and the attachment is
    /// lossy after a second (rule A2). Elsewhere it never is in the time that a test has, for no test is to pass by that.
    pub(crate) fn restart_gateway_after_outage(&mut self) {
        self.restart_gateway_with(Timing { lossy_after: Duration::from_secs(1), ..timing() });
    }

    fn restart_gateway_with(&mut self, timing: Timing) {
        for index in 0..self.slots.len() {
            self.disconnect(index);
        }
        let instance = InstanceId([self.epoch as u8 + 2; 16]);
        self.core = Core::new(instance, RETAINED_BYTES, timing);
        self.replies.clear();
        self.lossy_after = None;
        self.attach();
    }

    fn attach(&mut self) {
        self.epoch += 1;
        // No other gateway ever has it, as the cluster manager knows.
        let (epoch, unbroken_since) = (Epoch(self.epoch), Epoch(1));
        let attachment =
            Attachment { epoch, unbroken_since, void: None, steward: false, revision: self.epoch };
        self.core.attach(self.spec.clone(), attachment, self.now);
        self.carry_out_core();
    }

    pub(crate) fn submit(&mut self, operation: ClientOperation) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        assert!(self.core.submit(VOLUME, ticket, operation, self.now));
        self.carry_out_core();
        ticket
    }

    /// Does one thing that can happen, chosen by the seed.
    pub(crate) fn step(&mut self) {
        self.steps += 1;
        while let Some(at) = self.returns.iter().position(|(step, _)| *step <= self.steps) {
            let (_, index) = self.returns.swap_remove(at);
            self.start(index);
        }
        let index = self.random.below(self.slots.len() as u64) as usize;
        match self.random.below(12) {
            0..=3 => self.deliver_to_node(index),
            4..=6 => self.deliver_to_gateway(index),
            7..=8 => {
                self.run_job(index);
            }
            9 => self.move_pulls(index),
            10 => self.connect(index),
            _ => self.pass_time(),
        }
    }

    fn pass_time(&mut self) {
        self.now = self.now + Duration::from_micros(self.random.below(4000));
        self.core.tick(self.now);
        self.carry_out_core();
        for index in 0..self.slots.len() {
            let now = self.now;
            if let Some(node) = self.slots[index].node.as_mut() {
                node.tick(now).unwrap();
            }
            self.carry_out(index);
        }
    }

    fn deliver_to_node(&mut self, index: usize) {
        let batch = self.random.below(4) + 1;
        let slot = &mut self.slots[index];
        let (Some(node), Some(session)) = (slot.node.as_mut(), slot.session) else { return };
        for _ in 0..batch {
            let Some(message) = slot.to_node.pop_front() else { break };
            node.on_message(session, message, self.now).unwrap();
        }
        node.end_batch(self.now).unwrap();
        self.carry_out(index);
    }

    fn deliver_to_gateway(&mut self, index: usize) {
        let Some(message) = self.slots[index].to_gateway.pop_front() else { return };
        self.core.on_message(NodeId(index as u64 + 1), message, self.now);
        self.carry_out_core();
    }

    fn run_job(&mut self, index: usize) -> bool {
        let now = self.now;
        let Some(job) = self.slots[index].jobs.pop_front() else { return false };
        let node = self.slots[index].node.as_mut().expect("a stopped node has no jobs");
        match job {
            Job::Place(job) => node.on_placed(job.run(), now).unwrap(),
            Job::Sync(job) => node.on_synced(job.run(), now).unwrap(),
            Job::Apply(job) => node.on_applied(job.run(), now).unwrap(),
            Job::Checkpoint(job) => node.on_checkpointed(job.run(), now).unwrap(),
            Job::Read(mut job) => {
                job.run();
                node.on_read_done(job).unwrap();
                node.end_batch(now).unwrap();
            }
            Job::Scrub(mut job) => {
                job.run();
                node.on_scrubbed(job).unwrap();
                node.end_batch(now).unwrap();
            }
        }
        self.carry_out(index);
        true
    }

    fn move_pulls(&mut self, index: usize) {
        let ids: Vec<PullId> = self.slots[index].pulls.keys().copied().collect();
        for id in ids {
            let Some(pull) = self.slots[index].pulls.get_mut(&id) else { continue };
            let (peer, session) = (pull.peer, pull.session);
            let asked = pull.to_peer.pop_front();
            let answered = pull.from_peer.pop_front();
            if let (Some(message), Some(node)) = (asked, self.slots[peer].node.as_mut()) {
                node.on_message(session, message, self.now).unwrap();
                node.end_batch(self.now).unwrap();
                self.carry_out(peer);
            }
            if let (Some(message), Some(node)) = (answered, self.slots[index].node.as_mut()) {
                node.on_peer_message(id, message, self.now).unwrap();
                node.end_batch(self.now).unwrap();
                self.carry_out(index);
            }
        }
    }

    /// The cluster manager shows that the attachment is recorded as lossy.
    pub(crate) fn record_loss(&mut self) {
        let shown = ViewedVolume {
            spec: self.spec.clone(),
            epoch: Epoch(self.epoch),
            instance: self.core.instance(),
            steward: false,
            lossy: true,
            taking: Vec::new(),
        };
        let view = ManagersView { revision: self.epoch, volumes: vec![shown], nodes: Vec::new() };
        self.core.on_view(&view, self.now);
        self.carry_out_core();
    }

    fn carry_out_core(&mut self) {
        let mut turned_lossy = false;
        for output in self.core.outputs() {
            match output {
                Output::Connect(..) => {}
                Output::Send(node, message) => {
                    let slot = &mut self.slots[node.0 as usize - 1];
                    if slot.session.is_some() {
                        slot.to_node.push_back(message);
                    }
                }
                Output::Cut(node, _) => self.disconnect(node.0 as usize - 1),
                Output::Reply(ticket, reply) => self.replies.push((ticket, reply)),
                Output::Fenced(id) => panic!("volume {id} was fenced though nobody else wanted it"),
                Output::Lossy(_) => {
                    self.lossy_after = Some(self.replies.len());
                    turned_lossy = true;
                }
            }
        }
        if turned_lossy && self.records_loss {
            self.record_loss();
        }
    }

    fn carry_out(&mut self, index: usize) {
        let Some(node) = self.slots[index].node.as_mut() else { return };
        for output in node.outputs() {
            match output {
                storage::Output::Send(session, message) => self.send(index, session, message),
                storage::Output::Close(_, reason) => panic!("node {index} closes a session: {reason}"),
                storage::Output::Place(job) => self.slots[index].jobs.push_back(Job::Place(job)),
                storage::Output::Sync(job) => self.slots[index].jobs.push_back(Job::Sync(job)),
                storage::Output::Apply(job) => self.slots[index].jobs.push_back(Job::Apply(job)),
                storage::Output::Checkpoint(job) => self.slots[index].jobs.push_back(Job::Checkpoint(job)),
                storage::Output::Read(job) => self.slots[index].jobs.push_back(Job::Read(job)),
                storage::Output::Scrub(job) => self.slots[index].jobs.push_back(Job::Scrub(job)),
                storage::Output::ConnectPeer(id, source) => self.connect_peer(index, id, source.node),
                storage::Output::SendPeer(id, message) => {
                    if let Some(pull) = self.slots[index].pulls.get_mut(&id) {
                        pull.to_peer.push_back(message);
                    }
                }
                storage::Output::ClosePeer(id) => {
                    if let Some(pull) = self.slots[index].pulls.remove(&id)
                        && let Some(peer) = self.slots[pull.peer].node.as_mut()
                    {
                        peer.on_session_closed(pull.session);
                    }
                }
                storage::Output::Created(_) | storage::Output::Dropped(_) => {}
            }
        }
    }

    fn send(&mut self, index: usize, session: SessionId, message: Message) {
        if matches!(message, Message::HelloReply(_)) {
            return;
        }
        if self.slots[index].session == Some(session) {
            self.slots[index].to_gateway.push_back(message);
            return;
        }
        for slot in &mut self.slots {
            if let Some(pull) =
                slot.pulls.values_mut().find(|pull| pull.peer == index && pull.session == session)
            {
                pull.from_peer.push_back(message);
                return;
            }
        }
    }

    fn connect_peer(&mut self, index: usize, id: PullId, peer: NodeId) {
        let peer = peer.0 as usize - 1;
        let now = self.now;
        let session = self.slots[peer]
            .node
            .as_mut()
            .map(|node| node.on_session(Speaker::Peer(NodeId(index as u64 + 1))));
        if let Some(session) = session {
            let pull = Pull { peer, session, to_peer: VecDeque::new(), from_peer: VecDeque::new() };
            self.slots[index].pulls.insert(id, pull);
            self.carry_out(peer);
        }
        if let Some(node) = self.slots[index].node.as_mut() {
            match session {
                Some(_) => node.on_peer_connected(id, now).unwrap(),
                None => node.on_peer_closed(id),
            }
            node.end_batch(now).unwrap();
        }
        self.carry_out(index);
    }

    /// Starts every node and lets the world run until all replicas are in sync. Panics if they never are.
    pub(crate) fn heal(&mut self) {
        for index in 0..self.slots.len() {
            self.start(index);
        }
        for round in 0..400_000 {
            self.step();
            if round % 64 > 0 {
                continue;
            }
            if self.is_in_sync() && !self.anyone_shaken() {
                return;
            }
        }
        panic!("the replicas do not come together: {:#?}", self.core.reports());
    }

    pub(crate) fn is_in_sync(&self) -> bool {
        let in_sync = |replica: &ReplicaStatus| replica.health == VoterHealth::InSync;
        self.core.reports()[0].replicas.iter().all(in_sync)
    }

    /// Whether a replica does not know yet that it has everything again (rule A2).
    fn anyone_shaken(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.node.as_ref()).any(|node| {
            node.engine().replicas().any(|(_, view)| ReplicaMeta::decode(view.meta).unwrap().shaken)
        })
    }

    /// Lets the world run until a request is answered.
    pub(crate) fn answer(&mut self, ticket: Ticket) -> Result<Reply, Failure> {
        for _ in 0..400_000 {
            if let Some(at) = self.replies.iter().position(|(other, _)| *other == ticket) {
                return self.replies.swap_remove(at).1;
            }
            self.step();
        }
        panic!("request {ticket:?} is never answered: {:#?}", self.core.reports());
    }

    /// What each node's disk holds of the volume, read straight from its engine.
    pub(crate) fn contents(&mut self) -> Vec<Vec<u8>> {
        self.contents_of(View::Live)
    }

    /// The snapshots that each node's disk holds, of each segment.
    pub(crate) fn snapshots(&mut self) -> Vec<Vec<Vec<SnapshotId>>> {
        let replicas = |index: usize| self.spec.segments.iter().map(move |(_, voters)| voters[index].replica);
        let of = |index: usize, replica| {
            let engine = self.slots[index].node.as_ref().expect("all run").engine();
            engine.snapshots(replica).unwrap().iter().map(|snapshot| snapshot.id).collect()
        };
        (0..self.slots.len())
            .map(|index| replicas(index).map(|replica| of(index, replica)).collect())
            .collect()
    }

    /// What each node's disk holds of the volume in this view. The nodes run on afterwards.
    pub(crate) fn contents_of(&mut self, view: View) -> Vec<Vec<u8>> {
        let contents = self.read_disks(view);
        (0..self.slots.len()).for_each(|index| self.start(index));
        contents
    }

    fn read_disks(&mut self, view: View) -> Vec<Vec<u8>> {
        let (segments, segment_bytes) = (self.spec.segments.clone(), self.spec.segment_bytes);
        (0..self.slots.len())
            .map(|index| {
                while self.run_job(index) {}
                let boot = BootId([self.slots[index].boot; 16]);
                self.kill(index, false);
                let dir: Arc<dyn Dir> = Arc::new(self.slots[index].dir.clone());
                let (mut engine, _) = Engine::open(dir, Some(CLUSTER), boot, options()).unwrap();
                let mut bytes = Vec::new();
                for (_, voters) in &segments {
                    for offset in (0..segment_bytes).step_by(1 << 16) {
                        let plan = engine.read(voters[index].replica, view, offset, 1 << 16).unwrap();
                        match engine.finish_read(plan).unwrap() {
                            quoin_store::ReadOutcome::Data { data, .. } => bytes.extend_from_slice(&data),
                            _ => panic!("node {index} cannot read its own disk at {offset}"),
                        }
                    }
                }
                bytes
            })
            .collect()
    }

    /// Bit rot: flips a bit of a block, or of a map entry, on one node's disk. A good copy is always somewhere: each extent
    /// rots on one node only; and map entries rot on the first node only, for a node with damaged ones may lag, and then
    /// the others must be able to give it all that it lacks. Says whether there was anything to rot.
    pub(crate) fn rot(&mut self, in_map: bool) -> bool {
        let segment = self.random.below(self.spec.segments.len() as u64) as usize;
        let extent = self.random.below(self.spec.segment_bytes >> 16);
        let victim = (segment + extent as usize) % self.slots.len();
        let in_map = in_map && victim == 0;
        self.rot_at(victim, segment, extent, in_map)
    }

    pub(crate) fn rot_at(&mut self, victim: usize, segment: usize, extent: u64, in_map: bool) -> bool {
        let replica = self.spec.segments[segment].1[victim].replica;
        let dir = &self.slots[victim].dir;
        let Ok(map) = dir.open(&format!("map.{replica}"), OpenMode::Existing) else { return false };
        let mut entry = [0; 96];
        let place = 4096 + extent * 96;
        if map.read_at(&mut entry, place).is_err() || entry == [0; 96] {
            return false;
        }
        let (file, at) = if in_map {
            (map, place + self.random.below(96))
        } else {
            let data = dir.open("data", OpenMode::Existing).unwrap();
            let slot = u64::from_le_bytes(entry[..8].try_into().unwrap());
            let zeros = u16::from_le_bytes([entry[80], entry[81]]);
            let block = self.random.below(16);
            let is_there = slot < data.len().unwrap() >> 16;
            if !is_there || zeros >> block & 1 == 1 {
                return false;
            }
            (data, (slot << 16) + (block << 12) + self.random.below(4096))
        };
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ (1 << self.random.below(8))], at).unwrap();
        file.sync().unwrap();
        true
    }

    /// Lets the world run until every disk was looked at as a whole and no damage is left.
    pub(crate) fn mend(&mut self) {
        let laps = |world: &Self| -> Vec<u64> {
            world.slots.iter().map(|slot| slot.node.as_ref().unwrap().scrub_laps().0).collect()
        };
        let before = laps(self);
        for _ in 0..400_000 {
            self.step();
            let is_whole = self.slots.iter().all(|slot| slot.node.as_ref().unwrap().damaged_extents() == 0);
            if is_whole && laps(self).iter().zip(&before).all(|(now, then)| *now >= then + 2) {
                return;
            }
        }
        let left: Vec<_> =
            self.slots.iter().map(|slot| slot.node.as_ref().unwrap().damaged_extents()).collect();
        panic!("damage is left: {left:?}, laps {before:?} then {:?}: {:#?}", laps(self), self.core.reports());
    }

    /// Extents found damaged, and repaired, by a node since its start.
    pub(crate) fn damage(&self, index: usize) -> (u64, u64) {
        let counters = self.slots[index].node.as_ref().unwrap().counters();
        (counters.damage_found, counters.repaired)
    }

    pub(crate) fn nodes(&self) -> usize {
        self.slots.len()
    }
}
