//! Connections to peers, for pulling.

use super::{Link, Shell};
use crate::node::PullId;
use quoin_transport::{Inbox, Outbox, ReadError, Stream};
use quoin_wire::{Hello, Message, Source, Speaker};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

/// How long connecting and saying hello may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long a peer may be silent while it owes an answer.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Makes the connections that pulls want.
pub(super) async fn connect_all(shell: Rc<Shell>, mut wanted: UnboundedReceiver<(PullId, Source)>) {
    while let Some((id, source)) = wanted.recv().await {
        let shell = shell.clone();
        tokio::task::spawn_local(async move {
            let closed = CancellationToken::new();
            if let Err(error) = pull(&shell, id, &source, &closed).await {
                tracing::debug!(peer = %source.address, %error, "a pull's connection has ended");
            }
            shell.peers.borrow_mut().remove(&id);
            shell.event(|node, _| {
                node.on_peer_closed(id);
                Ok(())
            });
        });
    }
}

async fn pull(
    shell: &Shell,
    id: PullId,
    source: &Source,
    closed: &CancellationToken,
) -> Result<(), ReadError> {
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let connect = shell.routes.connect(&source.address, async |stream| greet(shell, source, stream).await);
    let (stream, mut inbox) = tokio::time::timeout(CONNECT_MAX, connect).await.map_err(timed_out)??;
    let outbox = Outbox::new(stream.clone());
    let link = Link { outbox: outbox.clone(), closed: closed.clone() };
    shell.peers.borrow_mut().insert(id, link);
    shell.event(|node, now| node.on_peer_connected(id, now));
    let receive = async {
        loop {
            let mut broken = None;
            shell.brief_syncs.heard(None);
            shell.event(|node, now| {
                loop {
                    match inbox.next_message() {
                        Ok(Some(message)) => node.on_peer_message(id, message, now)?,
                        Ok(None) => return Ok(()),
                        Err(error) => {
                            broken = Some(error);
                            return Ok(());
                        }
                    }
                }
            });
            if let Some(error) = broken {
                return Err(ReadError::from(error));
            }
            tokio::time::timeout(SILENCE_MAX, inbox.fill(&stream)).await.map_err(timed_out)??;
        }
    };
    tokio::select! {
        result = receive => result,
        result = outbox.run() => result.map_err(ReadError::from),
        () = closed.cancelled() => Ok(()),
        () = shell.stopping.cancelled() => Ok(()),
    }
}

/// Begins a session.
async fn greet(shell: &Shell, source: &Source, stream: Stream) -> Result<(Rc<Stream>, Inbox), ReadError> {
    let own = shell.node.borrow().as_ref().map(|node| *node.identity());
    let Some(own) = own else { return Err(io::Error::other("this storage node is stopping").into()) };
    let stream = Rc::new(stream);
    let outbox = Outbox::new(stream.clone());
    outbox.push(&Message::Hello(Hello {
        cluster: own.cluster,
        speaker: Speaker::Peer(own.node),
        node: source.node,
    }));
    outbox.drain().await?;
    let mut inbox = Inbox::new(&stream);
    inbox.land_in(shell.routes.memory.landing().clone());
    match inbox.receive(&stream).await? {
        Message::HelloReply(reply) if reply.node == source.node => Ok((stream, inbox)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the peer is not who it should be").into()),
    }
}
