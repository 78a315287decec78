//! Runs a [`Node`]: one thread owns it with all its sockets; a few threads wait for the disk.

mod agent;
mod brief_syncs;
mod connection;
mod io_threads;
mod jobs;
mod metrics;
mod peer;
mod start;

use crate::config::Config;
use crate::node::{Fatal, Node, Output, PullId};
use agent::Reports;
use brief_syncs::BriefSyncs;
use connection::Doors;
use io_threads::{Done, IoThreads};
use quoin_disk::clock;
use quoin_service::alarm::Alarm;
use quoin_service::busy_poll::BusyPoll;
use quoin_store::SyncJob;
use quoin_transport::{Loans, Outbox, Routes, SharedMemory, SocketFile};
use quoin_types::collections::{HashMap, HashSet};
use quoin_types::{Moment, SessionId};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

/// How often time passes for the node while pulls are under way, while there are requests, and otherwise.
const TICK_BUSY: Duration = Duration::from_millis(5);
const TICK_IDLE: Duration = Duration::from_millis(200);
const TICK_AT_REST: Duration = Duration::from_secs(1);

/// Why a storage node could not start, or ended.
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
    /// The disk cannot be used.
    #[error("the disk in {dir}: {source}")]
    Disk {
        /// The directory.
        dir: String,
        /// The cause.
        source: quoin_store::Error,
    },
    /// The cluster manager refuses this node.
    #[error("the cluster manager refuses this storage node: {0}")]
    Refused(String),
    /// No address of a cluster manager is usable.
    #[error(transparent)]
    Managers(#[from] quoin_api::client::AddressError),
    /// The disk failed while running: the process ends and nothing is pretended.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl RunError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// A connection that the node sends on.
struct Link {
    outbox: Outbox,
    closed: CancellationToken,
}

/// What all tasks of the thread share.
struct Shell {
    node: RefCell<Option<Node>>,
    sessions: RefCell<HashMap<SessionId, Link>>,
    peers: RefCell<HashMap<PullId, Link>>,
    threads: IoThreads,
    brief_syncs: BriefSyncs,
    /// To peers. In its memory large data arrives, from all connections, and the store reads it to there.
    routes: Routes,
    reports: Reports,
    busy_poll: BusyPoll,
    fatal: Cell<Option<Fatal>>,
    /// Rung when ticks are needed soon.
    busy: Notify,
    shutdown: CancellationToken,
    stopping: CancellationToken,
}

/// Runs a storage node until `shutdown`; then everything accepted is made durable.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    LocalSet::new().run_until(run_local(config, shutdown)).await
}

async fn run_local(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(RunError::io(format!("cannot serve the data plane on {}", config.listen)))?;
    let address = data_address(&config, &listener)?;
    let local = listen_locally(&config, &address);
    let busy_poll = BusyPoll::new(config.busy_poll);
    let loans = Loans::default();
    let metrics = metrics::Metrics::new(&busy_poll, &loans);
    let stopping = CancellationToken::new();
    let admin = tokio::task::spawn_local(quoin_service::admin::serve(
        config.admin_listen,
        metrics.registry(),
        metrics.ready(),
        stopping.clone(),
    ));
    let started = tokio::select! {
        started = start::start(&config, &address) => started?,
        () = shutdown.cancelled() => return Ok(()),
        failed = admin => return Err(admin_failed(failed)),
    };
    metrics.set_ready();
    let (threads, mut done) = IoThreads::start().map_err(RunError::io("cannot start the I/O threads"))?;
    let (reports, reports_in) = agent::reports();
    let routes = Routes {
        memory: SharedMemory::new(started.node.engine().landing().clone(), local.is_some(), loans),
        local_sockets: config.local_sockets.clone(),
        tcp_congestion_control: config.tcp_congestion_control.clone(),
    };
    let shell = Rc::new(Shell {
        node: RefCell::new(Some(started.node)),
        sessions: RefCell::default(),
        peers: RefCell::default(),
        threads,
        brief_syncs: BriefSyncs::new(),
        routes,
        reports,
        busy_poll,
        fatal: Cell::new(None),
        busy: Notify::new(),
        shutdown,
        stopping: stopping.clone(),
    });
    let agent = agent::spawn(&shell, &config, started.managers, started.registration, reports_in);
    tokio::task::spawn_local(connection::accept(shell.clone(), Doors { tcp: listener, local }));
    tokio::task::spawn_local(tick(shell.clone(), metrics));
    let polling = shell.clone();
    tokio::task::spawn_local(async move { polling.busy_poll.run().await });
    shell.event(|_, _| Ok(()));
    loop {
        tokio::select! {
            () = shell.shutdown.cancelled() => break,
            Some(done) = done.recv() => shell.done(done),
        }
    }
    stopping.cancel();
    if let Some(fatal) = shell.fatal.take() {
        // Jobs may still be under way: the disk stays locked until the process has ended, and with it the last of them.
        std::mem::forget(shell.node.borrow_mut().take());
        return Err(fatal.into());
    }
    tracing::info!("making everything durable");
    agent.say_goodbye().await;
    shell.drain(&mut done).await;
    let node = shell.node.borrow_mut().take();
    node.map_or(Ok(()), Node::shutdown)?;
    Ok(())
}

/// Where the cluster reaches this node.
fn data_address(config: &Config, listener: &TcpListener) -> Result<String, RunError> {
    let listen = listener.local_addr().map_err(RunError::io("the data plane's address"))?;
    Ok(config.advertise.clone().unwrap_or_else(|| listen.to_string()))
}

/// Opens the door for this machine. Without it the network's is open to all.
fn listen_locally(config: &Config, address: &str) -> Option<(SocketFile, UnixListener)> {
    match config.local_sockets.as_ref()?.listen(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, "`local_sockets` cannot be used: processes of this machine come through the network");
            None
        }
    }
}

fn admin_failed(failed: Result<io::Result<()>, tokio::task::JoinError>) -> RunError {
    let source = match failed {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => io::Error::other("ended"),
    };
    RunError::io("the admin port")(source)
}

/// Lets time pass: quickly while pulls are under way.
async fn tick(shell: Rc<Shell>, metrics: metrics::Metrics) {
    let mut alarm = Alarm::new();
    loop {
        let (every, due) = shell.ticks_wanted();
        let now = clock::now();
        let usual = if every == TICK_AT_REST { now.next_multiple(every) } else { now + every };
        tokio::select! {
            () = alarm.until(due.map_or(usual, |due| usual.min(due))) => {}
            () = shell.busy.notified(), if every > TICK_BUSY => match shell.ticks_wanted() {
                // After a rest, the first request finds what has become of the disk's space meanwhile.
                (TICK_IDLE, Some(due)) if every == TICK_IDLE && due > clock::now() => continue,
                (TICK_AT_REST, Some(due)) if due > clock::now() => continue,
                _ => {}
            },
            () = shell.stopping.cancelled() => return,
        }
        shell.carry(Node::tick);
        shell.routes.memory.bury();
        if let Some(node) = shell.node.borrow().as_ref() {
            metrics.update(node);
        }
    }
}

fn tick_every(node: &Node) -> Duration {
    match (node.is_busy(), node.is_at_rest()) {
        (true, _) => TICK_BUSY,
        (false, false) => TICK_IDLE,
        (false, true) => TICK_AT_REST,
    }
}

impl Shell {
    /// How often ticks are needed, and when one is in any case.
    fn ticks_wanted(&self) -> (Duration, Option<Moment>) {
        self.node.borrow().as_ref().map_or((TICK_AT_REST, None), |node| (tick_every(node), node.due()))
    }

    /// A job has ended.
    fn done(&self, done: Done) {
        if let Done::Sync(_, time) = &done {
            self.brief_syncs.took(*time);
        }
        self.event(|node, now| done.deliver(node, now));
    }

    /// Gives an event (or a batch of them) to the node and does what it says. More may follow soon.
    fn event(&self, event: impl FnOnce(&mut Node, Moment) -> Result<(), Fatal>) {
        self.busy_poll.work_came(clock::now());
        self.carry(event);
        self.busy_poll.work_done();
    }

    /// Gives an event, or time, to the node and does what it says.
    fn carry(&self, event: impl FnOnce(&mut Node, Moment) -> Result<(), Fatal>) {
        let mut own_sync = self.carry_once(event);
        while let Some(job) = own_sync {
            let (done, time) = io_threads::run_sync(job);
            self.brief_syncs.took(time);
            own_sync = self.carry_once(|node, now| node.on_synced(done, now));
        }
    }

    /// Gives back a sync that is to be waited for here.
    fn carry_once(&self, event: impl FnOnce(&mut Node, Moment) -> Result<(), Fatal>) -> Option<SyncJob> {
        let outputs = {
            let mut node = self.node.borrow_mut();
            let node = node.as_mut()?;
            let now = clock::now();
            let (was_every, was_due) = (tick_every(node), node.due());
            if let Err(fatal) = event(node, now).and_then(|()| node.end_batch(now)) {
                tracing::error!(error = %fatal, "the disk failed; this process ends");
                self.fatal.set(Some(fatal));
                self.shutdown.cancel();
                return None;
            }
            let sooner = node.due().is_some_and(|due| was_due.is_none_or(|was| due < was));
            if tick_every(node) < was_every || sooner {
                self.busy.notify_one();
            }
            node.outputs()
        };
        self.carry_out(outputs)
    }

    /// Gives back a sync that is to be waited for here.
    fn carry_out(&self, outputs: Vec<Output>) -> Option<SyncJob> {
        let mut own_sync = None;
        let mut dirty = HashSet::default();
        let mut dirty_peers = HashSet::default();
        let sessions = self.sessions.borrow();
        for output in outputs {
            match output {
                Output::Send(id, message) => {
                    if let Some(link) = sessions.get(&id) {
                        link.outbox.push(&message);
                        dirty.insert(id);
                    }
                }
                Output::Close(id, reason) => {
                    if let Some(link) = sessions.get(&id) {
                        tracing::warn!(session = %id, reason, "closing a session");
                        link.closed.cancel();
                    }
                }
                Output::Place(job) => self.threads.place(job),
                Output::Sync(job) if self.brief_syncs.waits_here(&job, self.busy_poll.is_calm()) => {
                    own_sync = Some(job);
                }
                Output::Sync(job) => self.threads.sync(job),
                Output::Apply(job) => self.threads.apply(job),
                Output::Checkpoint(job) => self.threads.checkpoint(job),
                Output::Read(job) => self.threads.read(job),
                Output::Scrub(job) => self.threads.scrub(job),
                Output::SendPeer(id, message) => {
                    if let Some(link) = self.peers.borrow().get(&id) {
                        link.outbox.push(&message);
                        dirty_peers.insert(id);
                    }
                }
                Output::ConnectPeer(id, source) => self.threads.connect_peer(id, source),
                Output::ClosePeer(id) => {
                    if let Some(link) = self.peers.borrow_mut().remove(&id) {
                        link.closed.cancel();
                    }
                }
                Output::Created(id) => self.reports.created(id),
                Output::Dropped(id) => self.reports.dropped(id),
            }
        }
        for id in dirty {
            sessions[&id].outbox.flush();
        }
        let peers = self.peers.borrow();
        dirty_peers.iter().filter_map(|id| peers.get(id)).for_each(|link| link.outbox.flush());
        own_sync
    }

    /// Waits for the jobs under way, so that the engine can be shut down.
    async fn drain(&self, done: &mut io_threads::Finished) {
        while self.threads.disk_jobs_under_way() {
            let Some(done) = done.recv().await else { return };
            self.done(done);
            if self.fatal.take().is_some() {
                return;
            }
        }
    }
}
