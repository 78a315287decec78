//! Runs a [`Core`]: one thread owns it with all its sockets.

mod attach;
mod client;
mod door;
mod listener;
mod manager;
mod memory;
mod metrics;
mod node;
mod past;
mod socket;
mod tickets;
mod tls;

use crate::config::Config;
use crate::core::{ClientOperation, Core, Output, Reply, Ticket};
use crate::listen::ListenAddress;
use attach::Exports;
use client::ClientLink;
use quoin_api::client::Managers;
use quoin_disk::clock;
use quoin_replication::Timing;
use quoin_replication::writer::Failure;
use quoin_service::alarm::Alarm;
use quoin_service::busy_poll::BusyPoll;
use quoin_transport::{Loans, Outbox, Routes, SharedMemory};
use quoin_types::collections::{HashMap, HashSet};
use quoin_types::{ClusterId, InstanceId, Moment, NodeId, VolumeId};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tickets::{Tickets, Waiting};
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
    /// A socket that the process was started with is for an address that it is not to serve.
    #[error("the gateway was started with a socket for {0}, which `listen` does not name")]
    Uninvited(ListenAddress),
    /// The credentials of TLS.
    #[error("TLS for clients: {0}")]
    Tls(String),
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

/// What all tasks of the thread share.
struct Shell {
    config: Config,
    core: RefCell<Core>,
    managers: Managers,
    exports: Exports,
    nodes: RefCell<HashMap<NodeId, node::NodeLink>>,
    clients: RefCell<HashMap<ClientId, ClientLink>>,
    memory: Rc<memory::Memory>,
    /// To storage nodes. Where those of this machine can read it, large writes arrive in its memory.
    routes: Routes,
    tls: Option<tls::Credentials>,
    tickets: RefCell<Tickets>,
    next: Cell<u64>,
    cluster: Cell<Option<ClusterId>>,
    past: past::Past,
    metrics: metrics::Metrics,
    busy_poll: BusyPoll,
    /// Rung when ticks are needed soon.
    busy: Notify,
    /// Rung after each tick, and by what happens while nothing is under way: for whoever tells the managers.
    awake: Notify,
    shutdown: CancellationToken,
    stopping: CancellationToken,
}

/// Runs a gateway until `shutdown`; then requests under way are answered and leases given back. `inherited`: the listening
/// sockets that the process was started with, in place of those that it would open for the same addresses.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    inherited: Vec<OwnedFd>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    LocalSet::new().run_until(run_local(config, inherited, shutdown)).await
}

async fn run_local(
    config: Config,
    inherited: Vec<OwnedFd>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let instance = new_instance()?;
    let past = past::Past::take(&config.data_dir, instance)?;
    let tls = config.tls.as_ref().map(tls::Credentials::load).transpose();
    let tls = tls.map_err(|error| RunError::Tls(error.to_string()))?;
    let listeners = listener::bind(&config.listen, inherited, config.socket_mode)?;
    let managers = Managers::new(&config.managers)?;
    let busy_poll = BusyPoll::new(config.busy_poll);
    let loans = Loans::default();
    let metrics = metrics::Metrics::new(&busy_poll, &loans);
    let stopping = CancellationToken::new();
    let shell = Rc::new(Shell {
        core: RefCell::new(Core::new(instance, config.retained_bytes_max, Timing::default())),
        managers,
        exports: Exports::default(),
        nodes: RefCell::default(),
        clients: RefCell::default(),
        memory: memory::Memory::new(
            config.limits.client_memory_bytes_max,
            config.limits.clients_memory_bytes_max,
        ),
        routes: Routes {
            memory: SharedMemory::new(Arc::default(), config.local_sockets.is_some(), loans),
            local_sockets: config.local_sockets.clone(),
            tcp_congestion_control: config.tcp_congestion_control.clone(),
        },
        tickets: RefCell::default(),
        next: Cell::new(0),
        cluster: Cell::new(None),
        past,
        metrics,
        busy_poll,
        tls,
        busy: Notify::new(),
        awake: Notify::new(),
        shutdown,
        stopping,
        config,
    });
    tracing::info!(%instance, nbd = shell.served_at(), "the gateway starts");
    let admin = tokio::task::spawn_local(quoin_service::admin::serve(
        shell.config.admin_listen,
        shell.metrics.registry(),
        shell.metrics.ready(),
        shell.stopping.clone(),
    ));
    manager::spawn(&shell);
    let clients = tokio::task::spawn_local(listener::accept(shell.clone(), listeners));
    tokio::task::spawn_local(tick(shell.clone()));
    let polling = shell.clone();
    tokio::task::spawn_local(async move { polling.busy_poll.run().await });
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
async fn tick(shell: Rc<Shell>) {
    let mut alarm = Alarm::new();
    loop {
        let (busy, every, heartbeat) = {
            let core = shell.core.borrow();
            (core.is_busy(), core.tick_every(), core.heartbeat_at())
        };
        let now = clock::now();
        // With something under way, each tick leaves the thread to it for a while.
        let next =
            every.map(|every| if busy { now + every } else { now.next_multiple(every).min(heartbeat) });
        tokio::select! {
            () = alarm.until(next.unwrap_or_default()), if next.is_some() => {}
            () = shell.busy.notified(), if !busy => {}
            () = shell.stopping.cancelled() => return,
        }
        shell.carry(Core::tick);
        shell.awake.notify_one();
    }
}

impl Shell {
    /// Where clients connect, in words.
    fn served_at(&self) -> String {
        self.config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn next_number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// Gives an event (or a batch of them) to the core and does what it says. More may follow soon.
    fn event<T>(self: &Rc<Self>, event: impl FnOnce(&mut Core, Moment) -> T) -> T {
        self.busy_poll.work_came(clock::now());
        let result = self.carry(event);
        self.busy_poll.under_way(self.tickets.borrow().load());
        self.busy_poll.work_done();
        result
    }

    /// Gives an event, or time, to the core and does what it says.
    fn carry<T>(self: &Rc<Self>, event: impl FnOnce(&mut Core, Moment) -> T) -> T {
        let (result, outputs) = {
            let mut core = self.core.borrow_mut();
            let was_busy = core.is_busy();
            let result = event(&mut core, clock::now());
            if !was_busy && core.is_busy() {
                self.busy.notify_one();
            }
            if !was_busy {
                // It may be news, and no tick comes soon.
                self.awake.notify_one();
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
        self.tickets.borrow_mut().insert(ticket, waiting);
        let taken = core.submit(volume, ticket, operation, now);
        if !taken {
            self.tickets.borrow_mut().remove(ticket);
        }
        taken
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
                Output::Lossy(id) => {
                    tracing::warn!(
                        volume = %id,
                        "writes that were accepted but never flushed may be lost; clients of before are disconnected"
                    );
                    // What is answered from now on does not reach them.
                    self.clients.borrow_mut().retain(|_, client| {
                        let ends = client.volume == id && client.goes_on;
                        if ends {
                            client.closed.cancel();
                        }
                        !ends
                    });
                }
            }
        }
        for id in dirty_nodes {
            if let Some(outbox) = self.nodes.borrow().get(&id).and_then(node::NodeLink::outbox) {
                outbox.flush();
            }
        }
        let clients = self.clients.borrow();
        dirty_clients.iter().filter_map(|id| clients.get(id)).for_each(ClientLink::flush);
    }

    /// Queues the answer to a client's request; gives the client, if it is still there.
    fn reply(&self, ticket: Ticket, reply: Result<Reply, Failure>) -> Option<ClientId> {
        let waiting = self.tickets.borrow_mut().remove(ticket)?;
        let clients = self.clients.borrow();
        let client = clients.get(&waiting.client)?;
        self.metrics.answered(waiting.is_read, clock::now().since(waiting.begun), reply.is_ok());
        client.answer(&waiting, reply);
        Some(waiting.client)
    }

    /// Gives leases and attachments back. What is unanswered stays so, and its clients' connections break with the process: they ask
    /// the next gateway again, where an error would be the end of it for the users of their disks.
    async fn let_go(self: &Rc<Self>) {
        self.clients.borrow_mut().clear();
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
