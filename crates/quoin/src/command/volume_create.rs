//! `quoin volume create`.

use crate::client::Client;
use crate::command::volume_show;
use crate::failure::Failure;
use crate::units::duration::Period;
use crate::units::size::Size;
use crate::view::{Report, json, words};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use quoin_api::v1::{self, CreateVolumeRequest, ReplicaState, Volume, VolumeState};
use quoin_types::limits::REPLICAS_MAX;
use quoin_types::{BLOCK_BYTES, Durability};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Code;

/// A command that takes longer than this shows that it is at work.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How often to ask whether the replicas exist.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The volume's name, which is also its NBD export
    name: String,
    /// Its size, for example 10GiB
    #[arg(long)]
    size: Size,
    /// How many copies it has, each on another storage node
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=REPLICAS_MAX as i64))]
    replicas: u32,
    /// 1: when one of two copies is lost for a while, go on with the other one alone [default: a majority]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=REPLICAS_MAX as i64))]
    min_replicas: Option<u32>,
    /// When a plain write is acknowledged: `flush`, or `write-through`
    #[arg(long, default_value_t)]
    durability: Durability,
    /// How long to wait until the replicas exist on their disks
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    wait: Period,
}

pub(crate) async fn run(client: &Client, args: CreateArgs) -> Result<Report, Failure> {
    let volume = with_spinner(client, &args.name, create(client, &args)).await?;
    let text =
        format!("created {}: {}, {} replicas\n", volume.name, Size(volume.size_bytes), volume.replicas);
    Ok(Report::new(text, json::Volume::from(&volume)))
}

async fn create(client: &Client, args: &CreateArgs) -> Result<Volume, Failure> {
    check_size(args.size)?;
    let deadline = Instant::now() + args.wait.0;
    let request = CreateVolumeRequest {
        name: args.name.clone(),
        size_bytes: args.size.0,
        replicas: args.replicas,
        durability: v1::Durability::from(args.durability).into(),
        segment_bytes: 0,
        min_replicas: args.min_replicas.unwrap_or(0),
    };
    let mut volume = request_once(client, &request).await?;
    while volume.state() != VolumeState::Ready {
        if Instant::now() >= deadline {
            return Err(still_creating(&volume));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        volume = volume_show::get(client, &args.name).await?;
    }
    Ok(volume)
}

/// Creates the volume. When the first manager asked did not answer in time and the next says that the volume exists, it
/// is the first one's work, if it is just as asked for.
async fn request_once(client: &Client, request: &CreateVolumeRequest) -> Result<Volume, Failure> {
    let mut tries = 0;
    let answer = client
        .ask_raw(async |mut cluster| {
            tries += 1;
            Ok(cluster.create_volume(request.clone()).await?.into_inner())
        })
        .await;
    match answer {
        Ok(volume) => Ok(volume),
        Err(status) if status.code() == Code::AlreadyExists => {
            let found = volume_show::get(client, &request.name).await?;
            let is_alike = found.size_bytes == request.size_bytes
                && found.replicas == request.replicas
                && found.min_replicas == request.min_replicas
                && found.durability == request.durability;
            if tries > 1 && is_alike {
                return Ok(found);
            }
            Err(Failure::failed(format!("volume {} exists already", request.name))
                .hint(format!("choose another name, or see `quoin volume show {}`", request.name)))
        }
        Err(status) => Err(client.failure(&status)),
    }
}

/// Sizes are whole blocks.
pub(crate) fn check_size(size: Size) -> Result<(), Failure> {
    if size.0 > 0 && size.0.is_multiple_of(BLOCK_BYTES) {
        return Ok(());
    }
    let next = size.0.max(1).next_multiple_of(BLOCK_BYTES);
    Err(Failure::bad_usage(format!("option `size` = {} bytes: not a multiple of {BLOCK_BYTES}", size.0))
        .hint(format!("the next possible size is {next} bytes")))
}

fn still_creating(volume: &Volume) -> Failure {
    let replicas = || volume.segments.iter().flat_map(|segment| &segment.replicas);
    let missing = replicas().filter(|replica| replica.state() == ReplicaState::Creating).count();
    let of_them = words::count(replicas().count(), "replica does", "replicas do");
    Failure::unavailable(format!("volume {} exists, but {missing} of {of_them} not yet", volume.name))
        .hint("it becomes ready by itself when their storage nodes are online: see `quoin status`")
}

/// Shows a spinner on a terminal once the command takes long.
async fn with_spinner<T>(client: &Client, name: &str, work: impl Future<Output = T>) -> T {
    let is_shown = std::io::stderr().is_terminal() && !client.is_json();
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(SILENCE_MAX, &mut work).await {
        return done;
    }
    if !is_shown {
        return work.await;
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.set_message(format!("waiting until the replicas of {name} exist"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    let done = work.await;
    spinner.finish_and_clear();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_blocks() {
        assert!(check_size(Size(4096)).is_ok());
        assert!(check_size(Size(0)).is_err());
        let hint = check_size(Size(4097)).unwrap_err().hint.unwrap();
        assert!(hint.contains("8192"), "{hint}");
    }
}
