//! Where clients come in: TCP ports and Unix sockets.

use super::door::Door;
use super::metrics::TurnedAway;
use super::socket::{ClientSocket, Peer};
use super::{RunError, Shell, client};
use crate::listen::ListenAddress;
use quoin_transport::{SocketFile, Stream};
use std::future::poll_fn;
use std::io;
use std::net;
use std::os::fd::OwnedFd;
use std::os::unix;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::task::JoinSet;

/// How often those are looked for who hold memory and do not move.
const LOOK_FOR_STALLED: Duration = Duration::from_secs(10);

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A place where clients come in.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix {
        /// Removed before the listener is closed. There is none where somebody else keeps the socket.
        _file: Option<SocketFile>,
        listener: UnixListener,
    },
}

/// Begins to listen at all addresses: with the sockets that the process was started with, where they are for one of these.
pub(super) fn bind(
    addresses: &[ListenAddress],
    inherited: Vec<OwnedFd>,
    socket_mode: u32,
) -> Result<Vec<Listener>, RunError> {
    let mut inherited = inherited
        .into_iter()
        .map(adopt)
        .collect::<io::Result<Vec<_>>>()
        .map_err(RunError::io("a socket that the gateway was started with"))?;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = match inherited.iter().position(|(own, _)| own == address) {
            Some(index) => Ok(inherited.swap_remove(index).1),
            None => listen(address, socket_mode),
        };
        listeners.push(listener.map_err(RunError::io(format!("cannot serve NBD at {address}")))?);
    }
    match inherited.first() {
        Some((address, _)) => Err(RunError::Uninvited(address.clone())),
        None => Ok(listeners),
    }
}

/// A listening socket as one of ours, and where it listens.
fn adopt(socket: OwnedFd) -> io::Result<(ListenAddress, Listener)> {
    let tcp = net::TcpListener::from(socket);
    if let Ok(address) = tcp.local_addr() {
        tcp.set_nonblocking(true)?;
        return Ok((ListenAddress::Tcp(address), Listener::Tcp(TcpListener::from_std(tcp)?)));
    }
    let unix = unix::net::UnixListener::from(OwnedFd::from(tcp));
    let address = unix.local_addr()?;
    let path = address.as_pathname().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "it is neither TCP nor a Unix socket with a path")
    })?;
    unix.set_nonblocking(true)?;
    let listener = Listener::Unix { _file: None, listener: UnixListener::from_std(unix)? };
    Ok((ListenAddress::Unix(path.to_owned()), listener))
}

fn listen(address: &ListenAddress, socket_mode: u32) -> io::Result<Listener> {
    match address {
        ListenAddress::Tcp(address) => {
            // A port that the last process has left a moment ago is free, as tokio's own `bind` has it.
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            socket.listen(BACKLOG).map(Listener::Tcp)
        }
        ListenAddress::Unix(path) => {
            let (file, listener) = SocketFile::bind(path, socket_mode)?;
            Ok(Listener::Unix { _file: Some(file), listener })
        }
    }
}

impl Listener {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(ClientSocket, Peer)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, address)| (Stream::from(stream).into(), Peer::Tcp(address))),
            Self::Unix { listener, .. } => listener.poll_accept(context).map_ok(|(stream, _)| {
                let process = stream.peer_cred().ok().map(|cred| (cred.pid().unwrap_or(0), cred.uid()));
                (Stream::from(stream).into(), Peer::Unix(process))
            }),
        }
    }
}

/// The next client at any of the listeners. `first` is where to look first: each has its turn.
async fn accept_any(listeners: &[Listener], first: usize) -> io::Result<(ClientSocket, Peer)> {
    poll_fn(|context| {
        let turns = listeners.iter().cycle().skip(first % listeners.len()).take(listeners.len());
        for listener in turns {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

/// Accepts clients until the gateway stops; then waits until each has its answers.
pub(super) async fn accept(shell: Rc<Shell>, listeners: Vec<Listener>) {
    let limits = shell.config.limits;
    let door = Door::new(limits.connections_max, limits.connections_per_address_max);
    let mut clients = JoinSet::new();
    let mut look_for_stalled = tokio::time::interval(LOOK_FOR_STALLED);
    for turn in 0.. {
        let accepted = tokio::select! {
            accepted = accept_any(&listeners, turn) => accepted,
            () = shell.shutdown.cancelled() => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            _ = look_for_stalled.tick() => {
                let count = shell.memory.cut_off_stalled();
                if count > 0 {
                    tracing::warn!(count, "memory for clients is short: those that did not move were cut off");
                }
                continue;
            }
        };
        match accepted {
            Ok((socket, peer)) => match door.enter(peer.machine()) {
                Ok(pass) => {
                    let shell = shell.clone();
                    clients.spawn_local(async move { serve(&shell, socket, peer, pass).await });
                }
                Err(reason) => {
                    shell.metrics.turned_away(reason);
                    tracing::debug!(%peer, ?reason, "a client is refused");
                }
            },
            Err(error) => {
                // Out of descriptors, for instance: the waiting ones are taken when some are free.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listeners);
    while clients.join_next().await.is_some() {}
}

async fn serve(shell: &Rc<Shell>, socket: ClientSocket, peer: Peer, pass: super::door::Pass) {
    match client::serve(shell, socket, pass).await {
        Ok(()) => tracing::debug!(%peer, "a client has left"),
        Err(error) => {
            if let Some(reason) = error.reason() {
                shell.metrics.turned_away(reason);
            }
            match error.reason() {
                // As many as somebody wishes: not worth a line each.
                Some(TurnedAway::Displaced | TurnedAway::Handshake) => {
                    tracing::debug!(%peer, %error, "a connection has ended without a session");
                }
                _ => tracing::info!(%peer, %error, "a client's session has ended"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_that_were_handed_over_are_used_and_strange_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nbd.sock");
        let tcp = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = unix::net::UnixListener::bind(&path).unwrap();
        let addresses = [ListenAddress::Unix(path.clone()), ListenAddress::Tcp(tcp.local_addr().unwrap())];
        let hand_over = || vec![tcp.try_clone().unwrap().into(), unix.try_clone().unwrap().into()];
        let listeners = bind(&addresses, hand_over(), 0o600).unwrap();
        assert!(
            matches!(listeners[0], Listener::Unix { _file: None, .. })
                && matches!(listeners[1], Listener::Tcp(_))
        );
        drop(listeners);
        assert!(path.exists(), "it is not ours to remove");
        let refusal = bind(&addresses[..1], hand_over(), 0o600).unwrap_err();
        assert!(matches!(refusal, RunError::Uninvited(address) if address == addresses[1]));
    }
}
