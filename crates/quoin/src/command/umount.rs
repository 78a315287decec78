//! `quoin umount`: unmounts a volume and detaches it.

use crate::cli::Output;
use crate::command::attach::{failure, named};
use crate::command::mount::call;
use crate::failure::Failure;
use crate::view::Report;
use clap::Args;
use quoin_attach::filesystem;
use std::path::Path;
use tokio::task::spawn_blocking;

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Where it is mounted, or the volume, or its device
    #[arg(value_name = "DIR|VOLUME|/dev/nbdN")]
    name: String,
    /// Leave it attached
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(args: UmountArgs) -> Result<Report, Failure> {
    let real = Path::new(&args.name).canonicalize();
    let name = match real {
        Ok(path) if args.name.contains('/') => path.display().to_string(),
        _ => args.name,
    };
    let attached = named(&name)?;
    let (device, volume) = (attached.device, attached.backend.volume.clone());
    let points = attached.mounted_at.clone();
    let unmounted = spawn_blocking(move || {
        for point in &points {
            let mut umount = filesystem::system("umount");
            umount.arg(point);
            call(umount, &format!("unmount {}", point.display())).map_err(|failure| {
                failure.hint("a program still uses it: `fuser -m` or `lsof` tells which")
            })?;
        }
        Ok::<Vec<String>, Failure>(points.iter().map(|point| point.display().to_string()).collect())
    });
    let unmounted = unmounted.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    if !args.keep {
        quoin_attach::detach(attached, false).await.map_err(|error| failure(&error))?;
    }
    let text = match args.keep {
        true => format!("unmounted {volume}; it is still {device}\n"),
        false => format!("unmounted {volume} and detached it from {device}\n"),
    };
    let json = serde_json::json!({
        "volume": volume,
        "device": device.to_string(),
        "unmounted": unmounted,
        "detached": !args.keep,
    });
    Ok(Report::new(text, json))
}
