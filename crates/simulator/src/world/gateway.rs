//! A gateway's process on its machine: what its shell does, with virtual time in place of sockets and timers.

use super::glue::{Inbox, Outbox, brief, frame};
use super::manager::{HEARTBEAT, reply};
use super::network::{CALLED, CALLER, ConnId};
use super::{Event, Machine, Process, World};
use crate::clock::Clock;
use crate::queue::{MILLISECOND, Nanos};
use crate::random::Random;
use bytes::{Bytes, BytesMut};
use quoin_api::v1;
use quoin_cluster_manager::member::{Answer, Reply as Told, Request as Asked};
use quoin_gateway::answer;
use quoin_gateway::core::{Attachment, Core, Output, Reply, Ticket};
use quoin_gateway::words;
use quoin_nbd::{
    BlockSizes, Cookie, ExportError, ExportErrorKind, ExportInfo, Handshake, Limits, Received, ReplyEncoder,
    Step, Transmission,
};
use quoin_replication::writer::Failure;
use quoin_types::collections::HashMap;
use quoin_types::{ClusterId, Epoch, GatewayId, Generation, InstanceId, Moment, NodeId, VolumeId};
use quoin_wire::{Hello, LeaseHolder, Message, Speaker};
use std::collections::BTreeMap;
use std::time::Duration;

/// As the shell has them.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// After which time a process that ended is started again.
const RESTART_AFTER: Nanos = 100 * MILLISECOND;
/// The one export.
pub(super) const EXPORT: &str = "volume";

/// The way to a storage node.
struct NodeLink {
    address: String,
    conn: Option<ConnId>,
    up: bool,
    wait: Duration,
}

/// An attached volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Export {
    pub(crate) id: VolumeId,
    pub(crate) epoch: Epoch,
    /// Whether its report says for good whether it is lossy.
    judged: bool,
}

/// Where a client's session stands.
enum Stage {
    Handshake(Box<Handshake>),
    /// The managers are asked.
    Attaching(Box<Handshake>),
    Transmission(Box<Transmission>),
}

/// A client's session.
struct ClientSession {
    stage: Stage,
    input: BytesMut,
}

/// Where the answer to a request goes.
struct Waiting {
    conn: ConnId,
    cookie: Cookie,
    encoder: ReplyEncoder,
    asked: answer::Asked,
}

/// What ends with the process.
pub(crate) struct Running {
    pub(crate) core: Core,
    cluster: Option<ClusterId>,
    links: BTreeMap<NodeId, NodeLink>,
    inboxes: BTreeMap<ConnId, (NodeId, Inbox)>,
    export: Option<Export>,
    attaching: bool,
    clients: BTreeMap<ConnId, ClientSession>,
    tickets: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    /// Configurations that it has run, by segment, each with when it left them for the next; the last it has not left.
    ran: Vec<(Nanos, Vec<Generation>)>,
}

impl Running {
    /// The configurations that it runs, by segment.
    fn generations(&self) -> Vec<Generation> {
        let reports = self.core.reports();
        reports.iter().flat_map(|report| &report.segments).map(|segment| segment.generation).collect()
    }

    /// Takes note of the configurations that it runs. Fenced, it runs none, and yet may have to carry out what it decided
    /// before: one batch of messages can bring the last position that an answer waits for, and then the refusal.
    fn note_generations(&mut self, now: Nanos) {
        let generations = self.generations();
        if generations.is_empty() || self.ran.last().is_some_and(|(_, last)| *last == generations) {
            return;
        }
        if let Some((until, _)) = self.ran.last_mut() {
            *until = now;
        }
        self.ran.push((Nanos::MAX, generations));
    }
}

/// One gateway.
pub(crate) struct GatewayProcess {
    pub(crate) name: GatewayId,
    pub(crate) machine: Machine,
    clock: Clock,
    pub(crate) running: Option<Running>,
    pub(crate) incarnation: u64,
    pub(crate) paused_until: Nanos,
    /// Instances that are proven gone: what the lock file on the machine's own disk lists.
    past: Vec<InstanceId>,
    tick_timer: u64,
    tick_busy: bool,
}

impl GatewayProcess {
    pub(super) fn new(index: usize, machine: Machine, random: &mut Random) -> Self {
        Self {
            name: GatewayId(format!("gateway-{index}")),
            machine,
            clock: Clock::random(random),
            running: None,
            incarnation: 0,
            paused_until: 0,
            past: Vec::new(),
            tick_timer: 0,
            tick_busy: false,
        }
    }

    /// What is attached here, as this process sees it.
    pub(crate) fn export(&self) -> Option<Export> {
        self.running.as_ref()?.export
    }
}

impl World {
    pub(super) fn start_gateway(&mut self, index: usize, incarnation: u64) {
        let process = &mut self.gateways[index];
        let machine = process.machine;
        if process.incarnation != incarnation || process.running.is_some() || !self.machine_is_up(machine) {
            return;
        }
        let instance = InstanceId(self.id_random.bytes_16());
        let core = Core::new(instance, self.setup.retained_bytes_max, self.setup.timing);
        let process = &mut self.gateways[index];
        process.running = Some(Running {
            core,
            cluster: None,
            links: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            export: None,
            attaching: false,
            clients: BTreeMap::new(),
            tickets: HashMap::default(),
            next_ticket: 0,
            ran: Vec::new(),
        });
        process.past.push(instance);
        self.watch(Process::Gateway(index));
        self.queue.push(self.now, Event::Heartbeat { who: Process::Gateway(index), incarnation });
        self.arm_gateway_tick(index, 0);
    }

    pub(super) fn end_gateway(&mut self, index: usize, power_lost: bool) {
        self.judge_attachment(index);
        self.close_all_of(Process::Gateway(index), power_lost);
        let process = &mut self.gateways[index];
        process.running = None;
        process.incarnation += 1;
        process.paused_until = 0;
    }

    pub(super) fn restart_gateway_later(&mut self, index: usize) {
        let process = &mut self.gateways[index];
        process.incarnation += 1;
        let incarnation = process.incarnation;
        self.queue.push(self.now + RESTART_AFTER, Event::GatewayStart { gateway: index, incarnation });
    }

    /// Gives an event (or a batch of them) to the core and does what it says; as the shell's function of that name.
    pub(super) fn gateway_event<T: Default>(
        &mut self,
        index: usize,
        event: impl FnOnce(&mut Core, Moment) -> T,
    ) -> T {
        let now = self.gateways[index].clock.at(self.now);
        let Some(running) = self.gateways[index].running.as_mut() else { return T::default() };
        let was_busy = running.core.is_busy();
        let result = event(&mut running.core, now);
        let wakes = !was_busy && running.core.is_busy();
        let outputs = running.core.outputs();
        if wakes && !self.gateways[index].tick_busy {
            self.arm_gateway_tick(index, 0);
        }
        self.judge_attachment(index);
        self.carry_out_gateway(index, outputs);
        result
    }

    /// Takes note of an attachment that is lossy (rule A2) before it serves.
    fn judge_attachment(&mut self, index: usize) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let Some(export) = running.export.as_mut().filter(|export| !export.judged) else { return };
        let Some(report) = running.core.reports().into_iter().find(|report| report.volume == export.id)
        else {
            return;
        };
        // Only an attachment that began may have lost anything for good; while it may still begin it is looked at again.
        export.judged = report.available;
        if report.lossy {
            self.observer.attachment_is_lossy(export.epoch, report.available);
        }
    }

    fn arm_gateway_tick(&mut self, index: usize, wait: Nanos) {
        let process = &mut self.gateways[index];
        process.tick_timer += 1;
        let timer = process.tick_timer;
        self.queue.push(self.now + wait, Event::GatewayTick { gateway: index, timer });
    }

    pub(super) fn on_gateway_tick(&mut self, index: usize, timer: u64) {
        if self.gateways[index].tick_timer != timer || self.gateways[index].running.is_none() {
            return;
        }
        self.gateways[index].tick_busy = true;
        self.gateway_event(index, Core::tick);
        let timing = self.setup.timing;
        let process = &mut self.gateways[index];
        let Some(running) = &process.running else { return };
        process.tick_busy = running.core.is_busy();
        let wait = if process.tick_busy { timing.hedge_min } else { timing.heartbeat };
        let wait = process.clock.virtual_time(wait);
        self.arm_gateway_tick(index, wait);
    }

    fn carry_out_gateway(&mut self, index: usize, outputs: Vec<Output>) {
        let mut outboxes: BTreeMap<ConnId, Outbox> = BTreeMap::new();
        let mut answers: BTreeMap<ConnId, BytesMut> = BTreeMap::new();
        for output in outputs {
            match output {
                Output::Send(node, message) => {
                    self.observer.gateway_says(&message, self.now);
                    if matches!(message, Message::Read(_)) {
                        self.last_reader = Some(node);
                    }
                    self.trace
                        .line(self.now, || format!("gateway {index} to node {node}: {}", brief(&message)));
                    let Some(running) = &self.gateways[index].running else { return };
                    if let Some(conn) = running.links.get(&node).filter(|link| link.up).and_then(|l| l.conn) {
                        outboxes.entry(conn).or_default().push(&message);
                    }
                }
                Output::Reply(ticket, reply) => self.answer_client(index, ticket, reply, &mut answers),
                Output::Connect(node, address) => self.keep_session(index, node, address),
                Output::Cut(node, _) => self.cut_later(index, node),
                Output::Fenced(_) => self.lose_volume(index),
                // The clients here ask for no attachment, and keep nothing of what they have read.
                Output::Lossy(_) => {}
            }
        }
        for (conn, outbox) in outboxes {
            self.send_on(conn, CALLER, outbox.take());
        }
        for (conn, bytes) in answers {
            self.send_on(conn, CALLED, bytes.freeze());
        }
    }

    /// The volume belongs to another gateway: clients are disconnected.
    fn lose_volume(&mut self, index: usize) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        running.export = None;
        let clients = std::mem::take(&mut running.clients);
        running.tickets.clear();
        for conn in clients.into_keys() {
            self.close(conn, CALLED);
        }
    }

    fn answer_client(
        &mut self,
        index: usize,
        ticket: Ticket,
        reply: Result<Reply, Failure>,
        answers: &mut BTreeMap<ConnId, BytesMut>,
    ) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let Some(waiting) = running.tickets.remove(&ticket) else { return };
        if matches!(reply, Ok(Reply::Done)) {
            running.note_generations(self.now);
            let ran = running.ran.clone();
            self.judge_answer(waiting.conn, waiting.cookie.number, &ran);
        }
        let out = answers.entry(waiting.conn).or_default();
        answer::answer(waiting.encoder, waiting.cookie, &waiting.asked, reply, out);
    }

    // Sessions with storage nodes.

    fn keep_session(&mut self, index: usize, node: NodeId, address: String) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let link = NodeLink { address, conn: None, up: false, wait: RETRY_MIN };
        let former = running.links.insert(node, link);
        if let Some(conn) = former.and_then(|link| link.conn) {
            self.close(conn, CALLER);
        }
        let incarnation = self.gateways[index].incarnation;
        self.queue.push(self.now, Event::GatewayConnect { gateway: index, incarnation, node });
    }

    pub(super) fn gateway_connect(&mut self, index: usize, incarnation: u64, node: NodeId) {
        let process = &self.gateways[index];
        let Some(running) = process.running.as_ref().filter(|_| process.incarnation == incarnation) else {
            return;
        };
        let Some(link) = running.links.get(&node).filter(|link| link.conn.is_none()) else { return };
        let (Some(cluster), Ok(peer)) = (running.cluster, link.address.parse::<usize>()) else { return };
        let speaker = Speaker::Gateway(running.core.instance());
        let conn = self.connect(Process::Gateway(index), Process::Node(peer));
        let hello = Message::Hello(Hello { cluster, speaker, node });
        let process = &mut self.gateways[index];
        let timeout = process.clock.virtual_time(CONNECT_MAX);
        let Some(running) = process.running.as_mut() else { return };
        if let Some(link) = running.links.get_mut(&node) {
            link.conn = Some(conn);
        }
        running.inboxes.insert(conn, (node, Inbox::default()));
        self.send_on(conn, CALLER, frame(&hello));
        let event = Event::GatewayConnectTimeout { gateway: index, incarnation, node, conn };
        self.queue.push(self.now + timeout, event);
    }

    pub(super) fn gateway_connect_timeout(
        &mut self,
        index: usize,
        incarnation: u64,
        node: NodeId,
        conn: ConnId,
    ) {
        let process = &self.gateways[index];
        let Some(running) = process.running.as_ref().filter(|_| process.incarnation == incarnation) else {
            return;
        };
        if running.links.get(&node).is_some_and(|link| link.conn == Some(conn) && !link.up) {
            self.close(conn, CALLER);
            self.session_ended(index, conn);
        }
    }

    fn cut_later(&mut self, index: usize, node: NodeId) {
        let process = &self.gateways[index];
        let Some(running) = &process.running else { return };
        if let Some(conn) = running.links.get(&node).and_then(|link| link.conn) {
            let event = Event::GatewayCut { gateway: index, incarnation: process.incarnation, node, conn };
            self.queue.push(self.now, event);
        }
    }

    pub(super) fn gateway_cut(&mut self, index: usize, incarnation: u64, node: NodeId, conn: ConnId) {
        let process = &self.gateways[index];
        let Some(running) = process.running.as_ref().filter(|_| process.incarnation == incarnation) else {
            return;
        };
        if running.links.get(&node).is_some_and(|link| link.conn == Some(conn)) {
            self.close(conn, CALLER);
            self.session_ended(index, conn);
        }
    }

    /// The connection to a storage node is over: another is tried after a time.
    fn session_ended(&mut self, index: usize, conn: ConnId) {
        let process = &mut self.gateways[index];
        let Some(running) = process.running.as_mut() else { return };
        let Some((node, _)) = running.inboxes.remove(&conn) else { return };
        let Some(link) = running.links.get_mut(&node).filter(|link| link.conn == Some(conn)) else { return };
        let was_up = std::mem::replace(&mut link.up, false);
        link.conn = None;
        let wait = process.clock.virtual_time(link.wait);
        link.wait = (link.wait * 2).min(RETRY_MAX);
        let incarnation = process.incarnation;
        self.queue.push(self.now + wait, Event::GatewayConnect { gateway: index, incarnation, node });
        if was_up {
            self.session_is_over(node);
            self.observer.session_ended(index, node);
            self.gateway_event(index, |core, now| core.on_session_down(node, now));
        }
    }

    pub(super) fn gateway_bytes(&mut self, index: usize, conn: ConnId, side: usize, bytes: &Bytes) {
        if side == CALLED {
            return self.take_from_client(index, conn, bytes);
        }
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let Some((node, inbox)) = running.inboxes.get_mut(&conn) else { return };
        let node = *node;
        let messages = match inbox.take(bytes) {
            Ok(messages) => messages,
            Err(error) => return self.fail(format!("gateway {index} was sent what is no frame: {error}")),
        };
        let mut messages = messages.into_iter();
        let Some(link) = running.links.get_mut(&node).filter(|link| link.conn == Some(conn)) else { return };
        if !link.up {
            match messages.next() {
                Some(Message::HelloReply(reply)) if reply.node == node => {
                    link.up = true;
                    link.wait = RETRY_MIN;
                    let local = link
                        .address
                        .parse::<usize>()
                        .is_ok_and(|peer| self.nodes[peer].machine == self.gateways[index].machine);
                    self.gateway_event(index, |core, now| core.on_session_up(node, local, now));
                }
                Some(_) => {
                    self.close(conn, CALLER);
                    return self.session_ended(index, conn);
                }
                None => return,
            }
        }
        let now = self.now;
        for message in messages.as_slice() {
            self.observer.gateway_hears(index, node, message, now);
        }
        self.gateway_event(index, |core, now| {
            messages.for_each(|message| core.on_message(node, message, now));
        });
    }

    pub(super) fn gateway_conn_ended(&mut self, index: usize, conn: ConnId) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        if running.clients.remove(&conn).is_some() {
            running.tickets.retain(|_, waiting| waiting.conn != conn);
        } else {
            self.session_ended(index, conn);
        }
    }

    // Attaching.

    /// Attaches the volume unless it is attached; clients that wait for it are answered.
    pub(super) fn gateway_attach(&mut self, index: usize, incarnation: u64) {
        let process = &mut self.gateways[index];
        let Some(running) = process.running.as_mut().filter(|_| process.incarnation == incarnation) else {
            return;
        };
        if running.export.is_some() {
            return self.answer_opens(index, true);
        }
        if std::mem::replace(&mut running.attaching, true) {
            return;
        }
        let instance = running.core.instance();
        let request = v1::AttachRequest {
            volume: EXPORT.into(),
            gateway: process.name.0.clone(),
            instance: instance.as_bytes().to_vec(),
            take_over: self.fault_random.permille(700),
        };
        self.call_manager(Process::Gateway(index), Asked::Attach(request));
    }

    /// The managers have answered, or nobody has.
    pub(super) fn gateway_is_answered(&mut self, index: usize, request: &Asked, answer: Option<Box<Answer>>) {
        if !matches!(request, Asked::Attach(_)) {
            return;
        }
        if let Some(running) = self.gateways[index].running.as_mut() {
            running.attaching = false;
        }
        let attached = match reply(answer) {
            Some(Told::Attach(reply)) => self.gateway_attached(index, &reply),
            _ => None,
        };
        self.answer_opens(index, attached.is_some());
    }

    fn gateway_attached(&mut self, index: usize, reply: &v1::AttachReply) -> Option<()> {
        let process = &mut self.gateways[index];
        let running = process.running.as_mut()?;
        let volume = reply.volume.as_ref()?;
        let spec = words::spec(volume, &reply.nodes)?;
        let given = volume.attachment.as_ref()?;
        let (epoch, unbroken_since) = (Epoch(given.epoch), words::unbroken_since(given));
        let previous = InstanceId::from_slice(&reply.previous_instance)
            .map(|instance| LeaseHolder { instance, epoch: Epoch(reply.previous_epoch) });
        let own = running.core.instance();
        let void = previous.filter(|old| process.past.contains(&old.instance) && old.instance != own);
        running.cluster = ClusterId::from_slice(&reply.cluster_id);
        running.export = Some(Export { id: spec.id, epoch, judged: false });
        let revision = volume.revision;
        self.gateway_event(index, |core, now| {
            for node in &reply.nodes {
                core.on_address(NodeId(node.node), &node.data_address);
            }
            core.attach(spec, Attachment { epoch, unbroken_since, void, steward: false, revision }, now);
        });
        self.gateways[index].running.as_mut()?.note_generations(self.now);
        Some(())
    }

    pub(super) fn gateway_sees(&mut self, index: usize, view: &v1::GatewayView) {
        if let Some(running) = self.gateways[index].running.as_mut() {
            running.cluster = ClusterId::from_slice(&view.cluster_id).or(running.cluster);
        }
        let view = words::view(view);
        self.gateway_event(index, |core, now| core.on_view(&view, now));
        if let Some(running) = self.gateways[index].running.as_mut() {
            running.note_generations(self.now);
        }
    }

    pub(super) fn gateway_heartbeat(&mut self, index: usize) {
        let process = &self.gateways[index];
        let Some(running) = &process.running else { return };
        let export = running.export.map(|export| export.id);
        let in_use = running.clients.values().filter(|client| matches!(client.stage, Stage::Transmission(_)));
        let clients = in_use.count() as u32;
        let reports = running.core.reports();
        let reports = reports.iter().map(|report| {
            words::attachment_report(report, if export == Some(report.volume) { clients } else { 0 })
        });
        let request = v1::GatewayHeartbeatRequest {
            gateway: process.name.0.clone(),
            instance: running.core.instance().as_bytes().to_vec(),
            nbd_address: "-".into(),
            version: String::new(),
            attachments: reports.collect(),
        };
        // The shell reports at once when something has changed: half of the interval stands for that.
        let (incarnation, wait) = (process.incarnation, process.clock.virtual_time(HEARTBEAT / 2));
        self.call_manager(Process::Gateway(index), Asked::GatewayHeartbeat(request));
        self.queue.push(self.now + wait, Event::Heartbeat { who: Process::Gateway(index), incarnation });
    }

    /// Tells the clients that wait for the volume.
    fn answer_opens(&mut self, index: usize, attached: bool) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let size_bytes = running.export.and_then(|export| running.core.size_bytes(export.id));
        let info = size_bytes.filter(|_| attached).map(|size_bytes| ExportInfo {
            name: EXPORT.into(),
            description: String::new(),
            size_bytes,
            read_only: false,
            multi_conn: true,
            block_sizes: BlockSizes::default(),
            attachment: None,
        });
        let mut waiting = Vec::new();
        for (conn, client) in &mut running.clients {
            let stage = std::mem::replace(
                &mut client.stage,
                Stage::Handshake(Box::new(Handshake::new(Limits::default()))),
            );
            client.stage = match stage {
                Stage::Attaching(mut handshake) => {
                    let refusal = || ExportError::new(ExportErrorKind::Shutdown, "not attached");
                    handshake.answer_open(info.clone().ok_or_else(refusal));
                    waiting.push(*conn);
                    Stage::Handshake(handshake)
                }
                other => other,
            };
        }
        for conn in waiting {
            self.handshake(index, conn);
        }
    }

    // Clients.

    fn take_from_client(&mut self, index: usize, conn: ConnId, bytes: &Bytes) {
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let new = || ClientSession {
            stage: Stage::Handshake(Box::new(Handshake::new(Limits::default()))),
            input: BytesMut::new(),
        };
        let client = running.clients.entry(conn).or_insert_with(new);
        client.input.extend_from_slice(bytes);
        match client.stage {
            Stage::Handshake(_) => self.handshake(index, conn),
            Stage::Attaching(_) => {}
            Stage::Transmission(_) => self.take_requests(index, conn),
        }
    }

    fn handshake(&mut self, index: usize, conn: ConnId) {
        let mut sent = BytesMut::new();
        let mut over = false;
        let mut attach = false;
        loop {
            let Some(running) = self.gateways[index].running.as_mut() else { return };
            let Some(client) = running.clients.get_mut(&conn) else { return };
            let Stage::Handshake(handshake) = &mut client.stage else { break };
            match handshake.advance(&mut client.input) {
                Ok(Step::NeedMore { .. }) => break,
                Ok(Step::Send(bytes)) => sent.extend_from_slice(&bytes),
                Ok(Step::StartTls) => unreachable!("this session was not given TLS to offer"),
                Ok(Step::ListExports) => handshake.answer_list(Ok(&[])),
                Ok(Step::MetaContexts { .. }) => handshake.answer_contexts(Ok(&[])),
                Ok(Step::OpenExport { .. }) => {
                    let fresh = Box::new(Handshake::new(Limits::default()));
                    if let Stage::Handshake(own) =
                        std::mem::replace(&mut client.stage, Stage::Handshake(fresh))
                    {
                        client.stage = Stage::Attaching(own);
                    }
                    attach = true;
                    break;
                }
                Ok(Step::Transmission { export, negotiated }) => {
                    let transmission = Transmission::new(&export, negotiated, Limits::default());
                    client.stage = Stage::Transmission(Box::new(transmission));
                    break;
                }
                Ok(Step::Close(_)) | Err(_) => {
                    running.clients.remove(&conn);
                    over = true;
                    break;
                }
            }
        }
        self.send_on(conn, CALLED, sent.freeze());
        if over {
            self.close(conn, CALLED);
        } else if attach {
            let incarnation = self.gateways[index].incarnation;
            self.queue.push(self.now, Event::GatewayAttach { gateway: index, incarnation });
        } else {
            self.take_requests(index, conn);
        }
    }

    /// Gives the core every whole request that has come, as one batch.
    fn take_requests(&mut self, index: usize, conn: ConnId) {
        let now = self.gateways[index].clock.at(self.now);
        let Some(running) = self.gateways[index].running.as_mut() else { return };
        let Some(client) = running.clients.get_mut(&conn) else { return };
        let Stage::Transmission(transmission) = &mut client.stage else { return };
        let was_busy = running.core.is_busy();
        let mut answered = BytesMut::new();
        let mut over = false;
        let encoder = transmission.replies();
        loop {
            match transmission.next_request(&mut client.input) {
                Ok(Some(Received::Request(request))) => {
                    running.next_ticket += 1;
                    let ticket = Ticket(running.next_ticket);
                    let (operation, asked) = answer::begin(request.operation);
                    let waiting = Waiting { conn, cookie: request.cookie, encoder, asked };
                    running.tickets.insert(ticket, waiting);
                    let volume = running.export.map(|export| export.id);
                    if !volume.is_some_and(|volume| running.core.submit(volume, ticket, operation, now)) {
                        running.tickets.remove(&ticket);
                        over = true;
                        break;
                    }
                }
                Ok(Some(Received::Answered(answer))) => answered.extend_from_slice(&answer.reply),
                Ok(None) => break,
                Ok(Some(Received::Disconnect)) | Err(_) => {
                    over = true;
                    break;
                }
            }
        }
        // As the shell, whose batch of requests is one event.
        let wakes = !was_busy && running.core.is_busy();
        if wakes && !self.gateways[index].tick_busy {
            self.arm_gateway_tick(index, 0);
        }
        self.gateway_event(index, |_, _| ());
        self.send_on(conn, CALLED, answered.freeze());
        if over {
            if let Some(running) = self.gateways[index].running.as_mut() {
                running.clients.remove(&conn);
                running.tickets.retain(|_, waiting| waiting.conn != conn);
            }
            self.close(conn, CALLED);
        }
    }
}
