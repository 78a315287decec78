//! Runs a [`Core`]: one thread owns it with all its sockets.

mod attach;
mod client;
mod listener;
mod manager;
mod metrics;
mod node;
mod past;

use crate::answer::Asked;
use crate::config::Config;
use crate::core::{ClientOperation, Core, Output, Reply, Ticket};
use attach::Exports;
use client::ClientLink;
use quoin_api::client::Managers;
use quoin_disk::clock;
use quoin_nbd::{Cookie, ReplyEncoder};
use quoin_replication::Timing;
use quoin_replication::writer::Failure;
use quoin_transport::Outbox;
use quoin_types::collections::{HashMap, HashSet};
use quoin_types::{ClusterId, InstanceId, Moment, NodeId, VolumeId};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

/// How long requests under way may take once the gateway stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Why a gateway could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A directory, file or socket.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// No address of a cluster manager is usable.
    #[error(transparent)]
    Managers(#[from] quoin_api::client::AddressError),
}

impl RunError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// The number of a client's connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct ClientId(u64);

/// Where the answer to a request goes.
struct Waiting {
    client: ClientId,
    cookie: Cookie,
    encoder: ReplyEncoder,
    asked: Asked,
    /// What the request holds in memory.
    memory_bytes: usize,
    begun: Moment,
    is_read: bool,
}

/// What all tasks of the thread share.
struct Shell {
    config: Config,
    core: RefCell<Core>,
    managers: Managers,
    exports: Exports,
    nodes: RefCell<HashMap<NodeId, node::NodeLink>>,
    clients: RefCell<HashMap<ClientId, ClientLink>>,
    tickets: RefCell<HashMap<Ticket, Waiting>>,
    next: Cell<u64>,
    /// What requests of all clients hold in memory.
    under_way_bytes: Cell<usize>,
    cluster: Cell<Option<ClusterId>>,
    past: past::Past,
    metrics: metrics::Metrics,
    /// Rung when ticks are needed soon.
    busy: Notify,
    shutdown: CancellationToken,
    stopping: CancellationToken,
}

/// Runs a gateway until `shutdown`; then requests under way are answered and leases given back.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    LocalSet::new().run_until(run_local(config, shutdown)).await
}

async fn run_local(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let instance = new_instance()?;
    let past = past::Past::take(&config.data_dir, instance)?;
    let listener = TcpListener::bind(config.nbd_listen)
        .await
        .map_err(RunError::io(format!("cannot serve NBD on {}", config.nbd_listen)))?;
    let managers = Managers::new(&config.managers)?;
    let timing = Timing::default();
    let metrics = metrics::Metrics::new();
    let stopping = CancellationToken::new();
    let shell = Rc::new(Shell {
        core: RefCell::new(Core::new(instance, config.retained_bytes_max, timing)),
        managers,
        exports: Exports::default(),
        nodes: RefCell::default(),
        clients: RefCell::default(),
        tickets: RefCell::default(),
        next: Cell::new(0),
        under_way_bytes: Cell::new(0),
        cluster: Cell::new(None),
        past,
        metrics,
        busy: Notify::new(),
        shutdown,
        stopping,
        config,
    });
    tracing::info!(%instance, nbd = %shell.config.nbd_listen, "the gateway starts");
    let admin = tokio::task::spawn_local(quoin_service::admin::serve(
        shell.config.admin_listen,
        shell.metrics.registry(),
        shell.metrics.ready(),
        shell.stopping.clone(),
    ));
    manager::spawn(&shell);
    let clients = tokio::task::spawn_local(listener::accept(shell.clone(), listener));
    tokio::task::spawn_local(tick(shell.clone(), timing));
    tokio::select! {
        () = shell.shutdown.cancelled() => {}
        failed = admin => {
            let source = match failed {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => io::Error::other("ended"),
            };
            return Err(RunError::io("the admin port")(source));
        }
    }
    tracing::info!("answering what is under way");
    if tokio::time::timeout(DRAIN_MAX, clients).await.is_err() {
        tracing::warn!(
            "some requests could not be answered in time; their clients will see a broken connection"
        );
    }
    shell.let_go().await;
    shell.stopping.cancel();
    Ok(())
}

fn new_instance() -> Result<InstanceId, RunError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|error| RunError::io("the random source")(io::Error::other(error.to_string())))?;
    Ok(InstanceId(instance))
}

/// Lets time pass: quickly while something is under way.
async fn tick(shell: Rc<Shell>, timing: Timing) {
    loop {
        let busy = shell.core.borrow().is_busy();
        tokio::select! {
            () = tokio::time::sleep(if busy { timing.hedge_min } else { timing.heartbeat }) => {}
            () = shell.busy.notified(), if !busy => {}
            () = shell.stopping.cancelled() => return,
        }
        shell.event(Core::tick);
    }
}

impl Shell {
    fn next_number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Gives an event (or a batch of them) to the core and does what it says.
    fn event<T>(self: &Rc<Self>, event: impl FnOnce(&mut Core, Moment) -> T) -> T {
        let (result, outputs) = {
            let mut core = self.core.borrow_mut();
            let was_busy = core.is_busy();
            let result = event(&mut core, clock::now());
            if !was_busy && core.is_busy() {
                self.busy.notify_one();
            }
            (result, core.outputs())
        };
        self.carry_out(outputs);
        result
    }

    /// Gives a client's request to the core. `false` if its volume is not attached any more.
    fn submit(
        &self,
        core: &mut Core,
        volume: VolumeId,
        waiting: Waiting,
        operation: ClientOperation,
    ) -> bool {
        let ticket = Ticket(self.next_number());
        let now = waiting.begun;
        let memory_bytes = waiting.memory_bytes;
        self.under_way_bytes.set(self.under_way_bytes.get() + memory_bytes);
        self.tickets.borrow_mut().insert(ticket, waiting);
        let taken = core.submit(volume, ticket, operation, now);
        if !taken {
            self.tickets.borrow_mut().remove(&ticket);
            self.gave_room(memory_bytes);
        }
        taken
    }

    /// A request is over, whether or not its client is still there.
    fn gave_room(&self, memory_bytes: usize) {
        self.under_way_bytes.set(self.under_way_bytes.get() - memory_bytes);
    }

    fn carry_out(self: &Rc<Self>, outputs: Vec<Output>) {
        let mut dirty_nodes = HashSet::default();
        let mut dirty_clients = HashSet::default();
        for output in outputs {
            match output {
                Output::Send(id, message) => {
                    if let Some(outbox) = self.nodes.borrow().get(&id).and_then(node::NodeLink::outbox) {
                        outbox.push(&message);
                        dirty_nodes.insert(id);
                    }
                }
                Output::Reply(ticket, reply) => {
                    if let Some(client) = self.reply(ticket, reply) {
                        dirty_clients.insert(client);
                    }
                }
                Output::Connect(id, address) => node::connect(self, id, address),
                Output::Cut(id, reason) => {
                    tracing::warn!(node = %id, reason, "cutting a storage node loose");
                    if let Some(link) = self.nodes.borrow().get(&id) {
                        link.cut();
                    }
                }
                Output::Fenced(id) => {
                    tracing::warn!(volume = %id, "the volume is no longer this gateway's; its clients are disconnected");
                    self.exports.forget(id);
                    let clients = self.clients.borrow();
                    clients
                        .values()
                        .filter(|client| client.volume == id)
                        .for_each(|client| client.closed.cancel());
                }
            }
        }
        for id in dirty_nodes {
            if let Some(outbox) = self.nodes.borrow().get(&id).and_then(node::NodeLink::outbox) {
                outbox.flush();
            }
        }
        let clients = self.clients.borrow();
        dirty_clients.iter().filter_map(|id| clients.get(id)).for_each(|client| client.outbox.flush());
    }

    /// Queues the answer to a client's request; gives the client, if it is still there.
    fn reply(&self, ticket: Ticket, reply: Result<Reply, Failure>) -> Option<ClientId> {
        let waiting = self.tickets.borrow_mut().remove(&ticket)?;
        self.gave_room(waiting.memory_bytes);
        let clients = self.clients.borrow();
        let client = clients.get(&waiting.client)?;
        self.metrics.answered(waiting.is_read, clock::now().since(waiting.begun), reply.is_ok());
        client.answer(&waiting, reply);
        Some(waiting.client)
    }

    /// Gives leases and attachments back.
    async fn let_go(self: &Rc<Self>) {
        let attached = self.exports.attached();
        let clean: Vec<VolumeId> = {
            let reports = self.core.borrow().reports();
            reports.iter().filter(|report| report.is_clean()).map(|report| report.volume).collect()
        };
        self.event(|core, now| attached.iter().for_each(|export| core.detach(export.id, now)));
        let outboxes: Vec<Outbox> =
            self.nodes.borrow().values().filter_map(node::NodeLink::outbox).cloned().collect();
        let sent = async {
            for outbox in outboxes {
                // A node that is gone has no use for a release.
                let _ = outbox.drain().await;
            }
            manager::detach_all(self, &attached, &clean).await;
        };
        if tokio::time::timeout(Duration::from_secs(1), sent).await.is_err() {
            tracing::debug!(
                "not everyone heard that the volumes are free; their leases run out by themselves"
            );
        }
    }
}
