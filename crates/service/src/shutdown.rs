//! The signals that end a role.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: the role was not given the time to drain.
const EXIT_IMPATIENT: i32 = 1;

/// A token that is cancelled at the first SIGTERM or SIGINT. The second one ends the process at once with code 1.
///
/// Must be called within a tokio runtime; the handlers are in place when it returns.
///
/// # Panics
/// If the process cannot install signal handlers, which happens only before it has done anything.
pub fn on_signal() -> CancellationToken {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping");
        cancelled.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "second signal: exiting at once");
        std::process::exit(EXIT_IMPATIENT);
    });
    token
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
