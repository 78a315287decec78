//! Sessions with storage nodes: one connection each, made anew whenever it breaks.

use super::Shell;
use quoin_transport::{Inbox, Outbox, ReadError, Stream};
use quoin_types::NodeId;
use quoin_wire::{Hello, Message, Speaker};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long connecting and saying hello may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a connection is tried again: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// What may wait to be sent to a node: beyond this it is cut loose. The segments' windows keep it far below.
const UNSENT_BYTES_MAX: usize = 256 << 20;

/// The way to one node.
pub(super) struct NodeLink {
    outbox: Option<Outbox>,
    cut: CancellationToken,
    /// Ends the task; another address, for instance.
    stop: CancellationToken,
}

impl NodeLink {
    /// Where to send; `None` without a session.
    pub(super) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    /// Ends the present session.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }
}

/// Keeps a session with a node at an address from now on.
pub(super) fn connect(shell: &Rc<Shell>, id: NodeId, address: String) {
    let stop = CancellationToken::new();
    let link = NodeLink { outbox: None, cut: CancellationToken::new(), stop: stop.clone() };
    if let Some(former) = shell.nodes.borrow_mut().insert(id, link) {
        former.stop.cancel();
        former.cut.cancel();
    }
    let shell = shell.clone();
    tokio::task::spawn_local(async move {
        let stopping = shell.stopping.clone();
        tokio::select! {
            () = keep(&shell, id, &address, &stop) => {}
            () = stopping.cancelled() => {}
        }
    });
}

async fn keep(shell: &Rc<Shell>, id: NodeId, address: &str, stop: &CancellationToken) {
    let mut wait = RETRY_MIN;
    while !stop.is_cancelled() {
        let greet = async |stream| greet(shell, id, stream).await;
        match tokio::time::timeout(CONNECT_MAX, shell.routes.connect(address, greet)).await {
            Ok(Ok((stream, inbox))) => {
                wait = RETRY_MIN;
                let error = session(shell, id, stream, inbox, stop).await;
                tracing::info!(node = %id, address, %error, "the session with a storage node has ended");
            }
            Ok(Err(error)) => {
                tracing::debug!(node = %id, address, %error, "a storage node cannot be reached");
            }
            Err(_) => tracing::debug!(node = %id, address, "a storage node does not answer"),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_MAX),
            () = stop.cancelled() => {}
        }
    }
}

/// Begins a session.
async fn greet(shell: &Rc<Shell>, id: NodeId, stream: Stream) -> Result<(Rc<Stream>, Inbox), ReadError> {
    let Some(cluster) = shell.cluster.get() else {
        return Err(io::Error::other("the cluster is not known").into());
    };
    let stream = Rc::new(stream);
    let instance = shell.core.borrow().instance();
    let outbox = Outbox::new(stream.clone());
    outbox.push(&Message::Hello(Hello { cluster, speaker: Speaker::Gateway(instance), node: id }));
    outbox.drain().await?;
    let mut inbox = Inbox::new(&stream);
    match inbox.receive(&stream).await? {
        Message::HelloReply(reply) if reply.node == id => Ok((stream, inbox)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "another storage node answers there").into()),
    }
}

/// Serves one session to its end; gives the reason of that.
async fn session(
    shell: &Rc<Shell>,
    id: NodeId,
    stream: Rc<Stream>,
    mut inbox: Inbox,
    stop: &CancellationToken,
) -> ReadError {
    let outbox = Outbox::new(stream.clone());
    let cut = CancellationToken::new();
    if let Some(link) = shell.nodes.borrow_mut().get_mut(&id) {
        link.outbox = Some(outbox.clone());
        link.cut = cut.clone();
    }
    let local = stream.is_local();
    tracing::info!(node = %id, local, "a session with a storage node begins");
    shell.event(|core, now| core.on_session_up(id, local, now));
    let error = tokio::select! {
        error = receive(shell, id, &stream, &mut inbox, &outbox) => error,
        result = outbox.run() => result.err().unwrap_or_else(|| io::Error::other("ended")).into(),
        () = cut.cancelled() => io::Error::new(io::ErrorKind::TimedOut, "cut loose").into(),
        () = stop.cancelled() => io::Error::other("the node has moved").into(),
    };
    if !stop.is_cancelled()
        && let Some(link) = shell.nodes.borrow_mut().get_mut(&id)
    {
        link.outbox = None;
    }
    shell.event(|core, now| core.on_session_down(id, now));
    error
}

async fn receive(
    shell: &Rc<Shell>,
    id: NodeId,
    stream: &Stream,
    inbox: &mut Inbox,
    outbox: &Outbox,
) -> ReadError {
    loop {
        let broken = shell.event(|core, now| {
            loop {
                match inbox.next_message() {
                    Ok(Some(message)) => core.on_message(id, message, now),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                }
            }
        });
        if let Some(error) = broken {
            return error.into();
        }
        if outbox.len() > UNSENT_BYTES_MAX {
            return io::Error::new(io::ErrorKind::TimedOut, "it does not take what is sent").into();
        }
        if let Err(error) = inbox.fill(stream).await {
            return error;
        }
    }
}
