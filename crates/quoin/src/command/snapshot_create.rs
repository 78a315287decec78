//! `quoin snapshot create`.

use crate::client::{Client, Once};
use crate::command::volume_show;
use crate::failure::Failure;
use crate::units::duration::Period;
use crate::view::{Report, json};
use clap::Args;
use quoin_api::v1::{CreateSnapshotRequest, Snapshot, SnapshotState};
use std::time::Duration;
use tokio::time::Instant;

/// How often to ask whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The volume's name
    volume: String,
    /// The snapshot's name, unique among those of the volume
    name: String,
    /// How long to wait until it is kept by a majority of the copies
    #[arg(long, value_name = "DURATION", default_value = "30s", conflicts_with = "no_wait")]
    wait: Period,
    /// Answer when the snapshot is begun, not when it is ready
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(client: &Client, args: CreateArgs) -> Result<Report, Failure> {
    let deadline = Instant::now() + args.wait.0;
    let once = Once::new()?;
    let request = || CreateSnapshotRequest {
        volume: args.volume.clone(),
        name: args.name.clone(),
        no_wait: args.no_wait,
    };
    let answer = client
        .ask_raw(async |mut cluster| Ok(cluster.create_snapshot(once.request(request())).await?.into_inner()))
        .await;
    let mut snapshot = match answer {
        Ok(snapshot) => snapshot,
        Err(status) => return Err(volume_show::refused(client, &args.volume, &status).await),
    };
    while snapshot.state() != SnapshotState::Ready && !args.no_wait {
        if Instant::now() >= deadline {
            return Err(still_taking(&args));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        snapshot = look(client, &args.volume, &snapshot).await?;
    }
    let verb = if args.no_wait { "taking" } else { "took" };
    let text = format!("{verb} snapshot {} of {}\n", snapshot.name, args.volume);
    Ok(Report::new(text, json::Snapshot::of(&args.volume, &snapshot)))
}

async fn look(client: &Client, volume: &str, begun: &Snapshot) -> Result<Snapshot, Failure> {
    let snapshots = volume_show::get(client, volume).await?.snapshots;
    snapshots.into_iter().find(|snapshot| snapshot.id == begun.id).ok_or_else(|| {
        Failure::failed(format!("snapshot {} ended with the attachment that was to take it", begun.name))
            .hint("take it again")
    })
}

fn still_taking(args: &CreateArgs) -> Failure {
    Failure::unavailable(format!("snapshot {} of {} is not ready yet", args.name, args.volume)).hint(
        "it becomes ready by itself when a gateway is online and a majority of the copies answers: see `quoin status`",
    )
}
