//! `quoin mount`: attaches a volume if it is not, makes a filesystem if it is empty, and mounts it.

use crate::cli::Output;
use crate::command::attach::{self, HowArgs};
use crate::command::{attach_background, devices};
use crate::failure::Failure;
use crate::view::Report;
use clap::Args;
use quoin_attach::device::Attached;
use quoin_attach::filesystem::{self, Kind, Plan, Refusal};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// The volume's name
    volume: String,
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The filesystem that an empty volume gets (ext4 if not said), and that another one must have: ext4 or xfs
    #[arg(long, value_name = "ext4|xfs")]
    fs: Option<Kind>,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn run(args: MountArgs) -> Result<Report, Failure> {
    // A mount point is shown by its real path.
    let directory = args.directory.canonicalize().ok().filter(|path| path.is_dir()).ok_or_else(|| {
        Failure::not_found(format!("{} is no directory", args.directory.display())).hint("make it with mkdir")
    })?;
    let former = devices::find(&args.volume)?.filter(|attached| attached.backend.volume == args.volume);
    let is_attended = former.as_ref().is_some_and(|former| former.pid.is_some());
    if !is_attended {
        attach_background::start(&args.how, &args.volume).await?;
    }
    let attached = attach::named(&args.volume)?;
    match tokio::task::spawn_blocking({
        let (attached, directory, wanted) = (attached.clone(), directory.clone(), args.fs);
        let read_only = args.how.read_only || attached.read_only;
        move || mount(&attached, &directory, wanted, read_only)
    })
    .await
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    {
        Ok((kind, formatted)) => Ok(report(&attached, &directory, &kind, formatted)),
        Err(failure) => {
            if former.is_none() {
                // The first failure is the one to tell about.
                let _ = quoin_attach::detach(attached, false).await;
            }
            Err(failure)
        }
    }
}

/// The filesystem, and whether it was made.
fn mount(
    attached: &Attached,
    directory: &Path,
    wanted: Option<Kind>,
    read_only: bool,
) -> Result<(String, bool), Failure> {
    let device = attached.device.path();
    let content = filesystem::look(&device)
        .map_err(|error| tool("blkid", &format!("see what is on {}", device.display()), &error))?;
    let plan =
        filesystem::plan(&content, wanted, read_only).map_err(|refusal| refused(attached, &refusal))?;
    let (kind, formatted) = match plan {
        Plan::Mount(kind) => (kind, false),
        Plan::Format(kind) => {
            call(kind.format(&device), &format!("make a filesystem on {}", device.display()))?;
            (kind.to_string(), true)
        }
    };
    let options = if read_only { "ro" } else { "rw,discard" };
    let mut mount = filesystem::system("mount");
    mount.args(["-t", &kind, "-o", options]).arg(&device).arg(directory);
    call(mount, &format!("mount {} on {}", device.display(), directory.display()))?;
    Ok((kind, formatted))
}

fn report(attached: &Attached, directory: &Path, kind: &str, formatted: bool) -> Report {
    let (volume, device) = (&attached.backend.volume, attached.device);
    let made = if formatted { "a new " } else { "" };
    let json = serde_json::json!({
        "volume": volume,
        "device": device.to_string(),
        "directory": directory.display().to_string(),
        "filesystem": kind,
        "formatted": formatted,
    });
    Report::new(format!("mounted {volume} ({made}{kind} on {device}) on {}\n", directory.display()), json)
}

fn refused(attached: &Attached, refusal: &Refusal) -> Failure {
    let (volume, device) = (&attached.backend.volume, attached.device);
    let failure = Failure::failed(format!("volume {volume} is not mounted: {refusal}"));
    match refusal {
        Refusal::OtherKind { found, .. } => failure.hint(format!("mount it as it is, with --fs {found} or without --fs")),
        Refusal::NotMountable(_) => {
            failure.hint(format!("`quoin attach {volume}`, then use {device} with the tools it was made with"))
        }
        Refusal::Unknown => failure.hint(format!(
            "nothing that holds data is formatted here; if it may go: `quoin attach {volume}`, then `wipefs -a` and \
             mkfs, or `blkdiscard`"
        )),
        Refusal::EmptyReadOnly => failure.hint("mount it without --read-only once, so that a filesystem can be made"),
    }
}

/// Runs a program of the system to its end.
pub(crate) fn call(mut command: Command, action: &str) -> Result<(), Failure> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| tool(&program, action, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Failure::failed(format!("cannot {action}: {program}: {words} ({})", output.status)))
}

fn tool(program: &str, action: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::failed(format!("cannot {action}: the program {program} is not here"))
                .hint("it is in the package util-linux, e2fsprogs (ext4) or xfsprogs (XFS)")
        }
        _ => Failure::io(action, error),
    }
}
