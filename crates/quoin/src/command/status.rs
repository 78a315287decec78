//! `quoin status`.

use crate::client::Client;
use crate::failure::Failure;
use crate::view::{self, Report, json, status};
use quoin_api::v1::GetStatusRequest;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often `--watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Cursor to the top left, and everything below it cleared: no flicker, unlike clearing first and asking then.
const REDRAW: &str = "\x1b[H\x1b[J";

/// The status now.
pub(crate) async fn once(client: &Client) -> Result<Report, Failure> {
    let reply = client
        .ask(async |mut cluster| Ok(cluster.get_status(GetStatusRequest {}).await?.into_inner()))
        .await?;
    Ok(Report::new(status::render(&reply, client.paint), json::Status::from(&reply)))
}

/// The status again and again, until Ctrl-C or SIGTERM. A cluster that does not answer is shown as such, and asked again.
/// As JSON: one line each time.
pub(crate) async fn watch(client: &Client) -> Result<(), Failure> {
    let stop = quoin_service::shutdown::on_signal();
    let redraws = std::io::stdout().is_terminal() && !client.is_json();
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            answer = once(client) => answer,
        };
        let text = match answer {
            Ok(report) if client.is_json() => format!("{}\n", report.json),
            Ok(report) => report.text,
            Err(failure) if client.is_json() => failure.to_json(),
            Err(failure) => failure.to_text(),
        };
        view::print(&if redraws { format!("{REDRAW}{text}") } else { text })?;
    }
}
