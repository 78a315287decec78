//! The admin port: `/healthz`, `/readyz` and `/metrics` over plain HTTP.
//!
//! `/healthz` says that the process runs and can answer; `/readyz` that it can do its work now. Nothing here changes
//! anything: the port is safe to show to a monitoring system.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The content type of OpenMetrics text, version 1.0.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long requests under way may take once the role stops. A client that sends half a request cannot hold it up.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Whether a role can do its work now; if not, why, in words for its operator. Called for each `/readyz`: must not block.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

struct Admin {
    registry: Arc<Registry>,
    build: Registry,
    ready: Ready,
}

/// Serves the admin port until `shutdown` is cancelled.
///
/// - `GET /healthz`: 200 `ok`.
/// - `GET /readyz`: 200 `ok`, or 503 and the reason.
/// - `GET /metrics`: `registry` as OpenMetrics text, with `quoin_build_info{version}` in front.
///
/// A role that wants `/readyz` to tell of its draining gives a token that it cancels after the drain.
///
/// # Errors
/// The address cannot be bound (the error names it), or accepting fails for good.
pub async fn serve(
    listen: SocketAddr,
    registry: Arc<Registry>,
    ready: Ready,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("admin port {listen}: {error}")))?;
    serve_on(listener, registry, ready, shutdown).await
}

/// As [`serve`], on a socket that listens already.
///
/// # Errors
/// Accepting fails for good.
pub async fn serve_on(
    listener: TcpListener,
    registry: Arc<Registry>,
    ready: Ready,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let admin = Arc::new(Admin { registry, build: build_info(), ready });
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drained_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        result = async { server.await } => result,
        () = drained_late => Ok(()),
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    match (admin.ready)() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let mut text = String::new();
    let encoded = encode_registry(&mut text, &admin.build)
        .and_then(|()| encode_registry(&mut text, &admin.registry))
        .and_then(|()| encode_eof(&mut text));
    match encoded {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn build_info() -> Registry {
    let mut registry = Registry::default();
    let info = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("quoin_build", "The version of Quoin that runs", info);
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: quoin\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_admin_port_tells_health_readiness_and_metrics() {
        let mut registry = Registry::default();
        let writes: Counter = Counter::default();
        registry.register("quoin_writes", "Writes", writes.clone());
        writes.inc_by(7);
        let is_ready = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&is_ready);
        let ready: Ready =
            Arc::new(
                move || {
                    if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("no leader yet".to_owned()) }
                },
            );
        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_on(listener, Arc::new(registry), ready, shutdown.clone()));

        let health = ask(address, "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let not_ready = ask(address, "/readyz").await;
        assert!(
            not_ready.starts_with("HTTP/1.1 503") && not_ready.ends_with("no leader yet\n"),
            "{not_ready}"
        );
        is_ready.store(true, Ordering::Relaxed);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
        assert!(metrics.contains(concat!("quoin_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
        assert!(metrics.contains("quoin_writes_total 7\n"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));

        let _half_a_request = TcpStream::connect(address).await.unwrap();
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let error = serve(address, Arc::default(), Arc::new(|| Ok(())), shutdown).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
