//! The NBD port.

use super::{Shell, client};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Accepts clients until the gateway stops; then waits until each has its answers.
pub(super) async fn accept(shell: Rc<Shell>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(shell.config.connections_max));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shell.shutdown.cancelled() => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => continue,
        };
        match accepted {
            Ok((stream, address)) => {
                let Ok(permit) = connections.clone().try_acquire_owned() else {
                    tracing::warn!(%address, "too many clients: refused");
                    continue;
                };
                let shell = shell.clone();
                clients.spawn_local(async move {
                    match client::serve(&shell, stream).await {
                        Ok(()) => tracing::debug!(%address, "a client has left"),
                        Err(error) => tracing::info!(%address, %error, "a client's session has ended"),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, for instance: the waiting ones are taken when some are free.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}
