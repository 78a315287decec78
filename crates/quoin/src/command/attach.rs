//! `quoin attach`: a volume as a disk of this machine, and the process that stays with it.

use crate::cli::Output;
use crate::client::DEV_DIR;
use crate::command::{attach_background, devices};
use crate::dev::state::State;
use crate::failure::Failure;
use crate::options::setting::{HostPort, Value};
use crate::units::duration::Period;
use crate::view::{Report, attached};
use clap::Args;
use quoin_attach::device::{Device, Places};
use quoin_attach::{Ended, Error, Options, Session};
use quoin_nbd::client::OpenError;
use quoin_service::logging::{self, LogFormat};
use std::path::Path;
use std::time::Duration;

/// Where a gateway serves NBD unless it is told otherwise.
const GATEWAY_DEFAULT: &str = "127.0.0.1:10809";
/// The longest name of an export that NBD knows.
const NAME_BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, Args)]
pub(crate) struct AttachArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// The volume's name
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// Stay in the foreground, for a service manager: the process that attends to the disk
    #[arg(long)]
    foreground: bool,
    /// Be the process that `quoin attach` leaves behind
    #[arg(long, hide = true)]
    background: bool,
}

/// How a volume becomes a disk; the same for `attach` and `mount`.
#[derive(Clone, Debug, Args)]
pub(crate) struct HowArgs {
    /// Where the gateway serves NBD [default: that of the dev cluster in ./quoin-dev, else 127.0.0.1:10809]
    #[arg(long, env = "QUOIN_GATEWAY", value_name = "HOST:PORT")]
    gateway: Option<String>,
    /// Which disk it becomes, for example /dev/nbd0 [default: any that is free]
    #[arg(long, value_name = "/dev/nbdN")]
    device: Option<Device>,
    /// How many connections to the gateway [default: one for each processor, at most 4, where the gateway allows several]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: Option<u32>,
    /// Refuse writes
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The logical block size: 512, 1024, 2048 or 4096
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = block_bytes)]
    block_size: u32,
    /// After how long without an answer the kernel sends a request again
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = whole_seconds)]
    timeout: Period,
    /// How long requests wait while the process that attends to the disk is gone, before they fail
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = whole_seconds)]
    dead_timeout: Period,
}

fn block_bytes(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| [512, 1024, 2048, 4096].contains(number));
    number.ok_or_else(|| "the kernel knows block sizes of 512, 1024, 2048 and 4096 bytes".to_owned())
}

fn whole_seconds(text: &str) -> Result<Period, String> {
    let period: Period = text.parse().map_err(|error| format!("{error}"))?;
    let is_whole = period.0.subsec_nanos() == 0 && !period.0.is_zero();
    is_whole.then_some(period).ok_or_else(|| "the kernel counts in whole seconds, from 1s".to_owned())
}

impl HowArgs {
    fn options(&self, volume: &str) -> Result<Options, Failure> {
        if volume.is_empty() || volume.len() > NAME_BYTES_MAX || volume.contains(['/', '\n']) {
            return Err(Failure::bad_usage(format!("`{volume}` is no volume's name")));
        }
        Ok(Options {
            volume: volume.to_owned(),
            gateway: gateway(self.gateway.as_deref(), Path::new(DEV_DIR))?,
            device: self.device,
            connections: self.connections,
            read_only: self.read_only,
            block_bytes: self.block_size,
            timeout: self.timeout.0,
            dead_timeout: self.dead_timeout.0,
        })
    }

    /// The same wishes as arguments, with the gateway found.
    pub(crate) fn words(&self, volume: &str) -> Result<Vec<String>, Failure> {
        let options = self.options(volume)?;
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let mut words = vec![
            volume.to_owned(),
            format!("--gateway={}", options.gateway),
            format!("--block-size={}", options.block_bytes),
            format!("--timeout={}", seconds(options.timeout)),
            format!("--dead-timeout={}", seconds(options.dead_timeout)),
        ];
        words.extend(options.device.map(|device| format!("--device={device}")));
        words.extend(options.connections.map(|count| format!("--connections={count}")));
        words.extend(options.read_only.then(|| "--read-only".to_owned()));
        Ok(words)
    }
}

/// Where the gateway is: as given, that of the dev cluster in `dev_dir`, or where one is by default.
fn gateway(given: Option<&str>, dev_dir: &Path) -> Result<String, Failure> {
    if let Some(text) = given {
        let read = HostPort::read(text).map_err(|reason| {
            Failure::bad_usage(format!("`--gateway` (or QUOIN_GATEWAY) = \"{text}\": {reason}"))
                .hint(format!("write host and port, for example {GATEWAY_DEFAULT}"))
        })?;
        return Ok(read.0);
    }
    let dev = State::load(dev_dir)?;
    let address = dev.as_ref().and_then(|state| state.uri().strip_prefix("nbd://")?.split('/').next());
    Ok(address.unwrap_or(GATEWAY_DEFAULT).to_owned())
}

pub(crate) async fn run(args: AttachArgs) -> Result<(), Failure> {
    let as_json = args.output == Output::Json;
    if args.background {
        return attach_background::serve(attach(&args)).await;
    }
    if !args.foreground {
        let device = attach_background::start(&args.how, &args.volume).await?;
        return report(&args.volume, &format!("attached {} as {device}\n", args.volume))?.print(as_json);
    }
    let session = attach(&args).await?;
    let verb = if session.is_new() { "attached" } else { "took over" };
    let text = format!("{verb} {} as {}; Ctrl-C detaches it\n", args.volume, session.device());
    report(&args.volume, &text)?.print(as_json)?;
    quoin_service::notify::ready();
    stay(session).await
}

async fn attach(args: &AttachArgs) -> Result<Session, Failure> {
    let options = args.how.options(&args.volume)?;
    let session = Session::attach(&options).await.map_err(|error| failure(&error))?;
    logging::init("attach", &args.volume, LogFormat::Text, None)
        .map_err(|error| Failure::bad_usage(format!("RUST_LOG: {error}")))?;
    let (device, connections) = (session.device(), session.connections());
    tracing::info!(volume = args.volume, %device, connections, size_bytes = session.size_bytes(), "attached");
    Ok(session)
}

/// Attends to the disk until it is detached.
pub(crate) async fn stay(session: Session) -> Result<(), Failure> {
    let device = session.device();
    match session.run(quoin_service::shutdown::on_signal()).await {
        Ended::Detached => {
            tracing::info!(%device, "detached");
            Ok(())
        }
        Ended::LeftInUse => Err(Failure::failed(format!("{device} is in use and stays; its requests wait"))
            .hint("run the same `quoin attach` again to serve them, or `quoin detach --force` to fail them")),
    }
}

/// What to say of a volume that is attached now.
pub(crate) fn report(volume: &str, text: &str) -> Result<Report, Failure> {
    let found = Places::default().find(volume).map_err(|error| Failure::io("read /sys/block", &error))?;
    let found = found.ok_or_else(|| Failure::failed(format!("volume {volume} was detached meanwhile")))?;
    Ok(Report::new(text, attached::Attached::from(&found)))
}

/// Why it did not work, and what to do about it.
pub(crate) fn failure(error: &Error) -> Failure {
    let failed = Failure::failed(error.to_string());
    match error {
        Error::NoModule => failed.hint("load it with `modprobe nbd`; on some systems it is in a package of its own"),
        Error::NotPermitted => failed.hint("run it as root, for example with sudo"),
        Error::OldKernel => failed.hint("Linux 5.14 or newer keeps it"),
        Error::NoGateway { .. } => Failure::unavailable(error.to_string())
            .hint("start a gateway on this machine, or name one with --gateway HOST:PORT"),
        Error::Open { volume, error: reason, .. } => match reason {
            OpenError::Unknown(_) => Failure::not_found(format!("volume {volume} does not exist"))
                .hint("`quoin volume list` shows the volumes that exist"),
            OpenError::Refused(_) | OpenError::Elsewhere { .. } => failed.hint(format!(
                "`quoin volume show {volume}` tells where it is attached; detach it there first"
            )),
            OpenError::Unavailable(_) => {
                Failure::unavailable(error.to_string()).hint("`quoin status` tells what is missing")
            }
            OpenError::Protocol(_) => failed.hint("--gateway is the address where a Quoin gateway serves NBD"),
        },
        Error::Interrupted(volume) => failed.hint(format!(
            "`quoin detach --force {volume}`, which loses what is not written yet, and attach it again"
        )),
        Error::Untold { .. } => Failure::unavailable(error.to_string())
            .hint("upgrade the gateway; until then, requests wait"),
        Error::OneConnectionOnly => failed.hint("attach it with --connections 1"),
        Error::DeviceInUse(_) => failed.hint("without --device, one that is free is taken"),
        Error::NoDevice(_) => {
            Failure::not_found(error.to_string()).hint("without --device, one that is free is taken")
        }
        Error::AttachedHere { volume, .. } => {
            failed.hint(format!("`quoin devices` shows it; `quoin detach {volume}` detaches it"))
        }
        Error::OtherDevice { volume, .. } => {
            failed.hint(format!("leave --device out, or `quoin detach {volume}` first"))
        }
        Error::Busy(device) => failed.hint(format!(
            "unmount it first (`quoin umount {device}`), or `quoin detach --force`, which loses what is not written yet"
        )),
        Error::Unattended(_) => Failure::unavailable(error.to_string()).hint(
            "`quoin attach VOLUME` takes it over; `quoin detach --force` gives it up, with what is not written yet",
        ),
        Error::Stuck(..) => failed.hint("somebody still has it open; it goes when they close it"),
        Error::Kernel { .. } => failed.hint("the kernel's own words are in `dmesg`"),
        Error::Io { .. } => failed,
    }
}

/// The volume or device that a user named, which must be attached here.
pub(crate) fn named(name: &str) -> Result<quoin_attach::device::Attached, Failure> {
    devices::find(name)?.ok_or_else(|| {
        Failure::not_found(format!("{name} is not attached on this machine"))
            .hint("`quoin devices` shows what is; name the volume, the device or the directory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn the_gateway_is_given_or_the_default() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(gateway(None, directory.path()).unwrap(), GATEWAY_DEFAULT);
        assert_eq!(gateway(Some("[::1]:1"), directory.path()).unwrap(), "[::1]:1");
        let bad = gateway(Some("host"), directory.path()).unwrap_err();
        assert_eq!(bad.kind, Kind::BadUsage);
        assert!(bad.message.contains("--gateway"), "{}", bad.message);
    }

    #[test]
    fn the_kernel_s_numbers_are_checked() {
        assert_eq!(block_bytes("4096"), Ok(4096));
        assert!(block_bytes("8192").is_err() && block_bytes("0").is_err());
        assert_eq!(whole_seconds("2m"), Ok(Period(Duration::from_secs(120))));
        assert!(whole_seconds("1500ms").is_err() && whole_seconds("0s").is_err());
    }

    #[test]
    fn what_a_script_may_tell_apart_has_a_kind_of_its_own() {
        let open = |error| Error::Open { address: "a:1".into(), volume: "v".into(), error };
        for (error, kind) in [
            (Error::NoModule, Kind::Failed),
            (open(OpenError::Unknown("x".into())), Kind::NotFound),
            (open(OpenError::Refused("x".into())), Kind::Failed),
            (open(OpenError::Unavailable("x".into())), Kind::Unavailable),
            (Error::Unattended(Device(0)), Kind::Unavailable),
            (Error::NoDevice(Device(0)), Kind::NotFound),
            (Error::Interrupted("v".into()), Kind::Failed),
            (Error::Untold { address: "a:1".into(), volume: "v".into() }, Kind::Unavailable),
        ] {
            let failure = failure(&error);
            assert_eq!(failure.kind, kind, "{error}");
            assert!(failure.hint.is_some(), "{error}");
        }
        let no_module = failure(&Error::NoModule);
        assert!(no_module.hint.unwrap().contains("modprobe nbd"));
    }
}
