//! The data port: sessions of gateways and peers.

use super::{Link, Shell};
use quoin_service::busy_poll::Load;
use quoin_transport::{Inbox, Outbox, ReadError, SocketFile, Stream};
use quoin_types::SessionId;
use quoin_wire::{Hello, Message};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a new connection may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// The most connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Answers that a session has not fetched: beyond this, no more is read from it.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// Where sessions come from.
pub(super) struct Doors {
    pub(super) tcp: TcpListener,
    /// For processes of this machine. The file goes before the socket.
    pub(super) local: Option<(SocketFile, UnixListener)>,
}

impl Doors {
    async fn accept(&self) -> io::Result<Stream> {
        match &self.local {
            None => self.tcp.accept().await.map(|(stream, _)| stream.into()),
            Some((_, local)) => tokio::select! {
                accepted = self.tcp.accept() => accepted.map(|(stream, _)| stream.into()),
                accepted = local.accept() => accepted.map(|(stream, _)| stream.into()),
            },
        }
    }
}

/// Accepts connections until the node stops.
pub(super) async fn accept(shell: Rc<Shell>, doors: Doors) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = doors.accept() => accepted,
            () = shell.stopping.cancelled() => return,
        };
        match accepted {
            Ok(stream) => {
                let peer = stream.peer();
                let Ok(permit) = connections.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "too many connections: refused");
                    continue;
                };
                let shell = shell.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = serve(&shell, stream).await {
                        tracing::debug!(%peer, %error, "a connection has ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, for instance: the waiting ones are taken when some are free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(shell: &Shell, mut stream: Stream) -> Result<(), ReadError> {
    let greet = async {
        shell.routes.welcome(&mut stream).await?;
        let mut inbox = Inbox::new(&stream);
        let hello = inbox.receive(&stream).await?;
        Ok::<_, ReadError>((hello, inbox))
    };
    let (hello, mut inbox) = tokio::time::timeout(HELLO_MAX, greet)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let stream = Rc::new(stream);
    let Message::Hello(hello) = hello else { return Err(wrong("the first frame is no hello")) };
    check(shell, &hello)?;
    // Memory by the megabyte is for those who have said who they are.
    inbox.land_in(shell.routes.memory.landing().clone());
    let link = Link { outbox: Outbox::new(stream.clone()), closed: CancellationToken::new() };
    let (outbox, closed) = (link.outbox.clone(), link.closed.clone());
    let mut id = SessionId(0);
    // The link must stand before the node's first message on it is carried out.
    let mut link = Some(link);
    shell.event(|node, _| {
        id = node.on_session(hello.speaker);
        shell.sessions.borrow_mut().insert(id, link.take().expect("one session"));
        Ok(())
    });
    tracing::debug!(session = %id, speaker = ?hello.speaker, "a session begins");
    let result = tokio::select! {
        result = receive(shell, id, &stream, &mut inbox, &outbox) => result,
        result = outbox.run() => result.map_err(ReadError::from),
        () = closed.cancelled() => Ok(()),
        () = shell.stopping.cancelled() => Ok(()),
    };
    shell.sessions.borrow_mut().remove(&id);
    shell.event(|node, _| {
        node.on_session_closed(id);
        Ok(())
    });
    result
}

/// Reads, gives the node everything that has come as one batch, and lets it answer once.
async fn receive(
    shell: &Shell,
    id: SessionId,
    stream: &Stream,
    inbox: &mut Inbox,
    outbox: &Outbox,
) -> Result<(), ReadError> {
    loop {
        let mut broken = None;
        let mut load = Load::default();
        shell.event(|node, now| {
            loop {
                match inbox.next_message() {
                    Ok(Some(message)) => {
                        if load.requests == 0 {
                            shell.brief_syncs.heard(Some(id));
                        }
                        load.requests += 1;
                        load.changes += usize::from(!matches!(message, Message::Read(_)));
                        node.on_message(id, message, now)?;
                    }
                    Ok(None) => {
                        if load.requests > 0 {
                            shell.busy_poll.under_way(load);
                        }
                        return Ok(());
                    }
                    Err(error) => {
                        broken = Some(error);
                        return Ok(());
                    }
                }
            }
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        if outbox.len() > UNSENT_BYTES_MAX {
            outbox.drain().await?;
        }
        inbox.fill(stream).await?;
    }
}

fn check(shell: &Shell, hello: &Hello) -> Result<(), ReadError> {
    let node = shell.node.borrow();
    let Some(node) = node.as_ref() else { return Err(wrong("this storage node is stopping")) };
    let own = node.identity();
    if hello.cluster != own.cluster {
        return Err(wrong(format!(
            "a gateway or node of cluster {} connects to one of {}",
            hello.cluster, own.cluster
        )));
    }
    if hello.node != own.node {
        return Err(wrong(format!("someone looks for node {} at node {}'s address", hello.node, own.node)));
    }
    Ok(())
}

fn wrong(what: impl Into<String>) -> ReadError {
    let what = what.into();
    tracing::warn!(what, "a connection is refused");
    io::Error::new(io::ErrorKind::InvalidData, what).into()
}
