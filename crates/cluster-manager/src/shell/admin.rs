//! The admin port.

use crate::shared::Shared;
use prometheus_client::registry::Registry;
use quoin_service::admin;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves health and metrics. Ready is a member that knows a leader, and, if it leads, has caught up.
pub(crate) async fn serve(
    listen: SocketAddr,
    registry: Registry,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let ready = Arc::new(move || {
        let leadership = *shared.leadership.borrow();
        match leadership.leader {
            None => Err("no leader: a majority of the members must reach each other".to_owned()),
            Some(_) if shared.state().cluster_id().is_none() => Err("nothing applied yet".to_owned()),
            Some(_) => Ok(()),
        }
    });
    admin::serve(listen, Arc::new(registry), ready, shutdown).await
}
