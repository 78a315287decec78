//! `quoin volume abort-change`.

use crate::client::{Client, Once};
use crate::command::volume_show;
use crate::failure::Failure;
use crate::view::{Report, json, words};
use clap::Args;
use quoin_api::v1::{AbortChangeRequest, Segment};

#[derive(Debug, Args)]
pub(crate) struct AbortChangeArgs {
    /// The volume's name
    volume: String,
}

pub(crate) async fn run(client: &Client, args: AbortChangeArgs) -> Result<Report, Failure> {
    let once = Once::new()?;
    let request = || AbortChangeRequest { volume: args.volume.clone() };
    let answer = client
        .ask_raw(async |mut cluster| Ok(cluster.abort_change(once.request(request())).await?.into_inner()))
        .await;
    let volume = match answer {
        Ok(volume) => volume,
        Err(status) => return Err(volume_show::refused(client, &args.volume, &status).await),
    };
    // What counts already cannot be taken back, and is completed.
    let left = |segment: &&Segment| segment.change.is_some();
    let text = match volume.segments.iter().filter(left).count() {
        0 => format!("nothing of {} is being changed\n", volume.name),
        left => {
            let segments = words::count(left, "segment is", "segments are");
            format!("given up; {segments} past that and will be completed\n")
        }
    };
    Ok(Report::new(text, json::Volume::from(&volume)))
}
