//! `quoin dev`: a whole cluster on one machine, each role a process of its own that can be killed.

mod bring_up;
mod config_file;
mod control;
mod doors;
mod layout;
mod leftovers;
mod member;
mod plan;
mod ports;
mod probe;
mod process;
mod respawn;
mod say;
mod shut_down;
pub(crate) mod state;
mod supervisor;

use crate::cli::Output;
use crate::client::DEV_DIR;
use crate::command::volume_create::check_size;
use crate::failure::Failure;
use crate::units::size::Size;
use crate::view::{Report, words};
use bring_up::BringUp;
use clap::{Args, Subcommand};
use control::{Action, Request};
use layout::Layout;
use member::{RespawnRoles, Role};
use quoin_types::Durability;
use say::Say;
use state::State;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use supervisor::{Event, Supervisor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The volume that every dev cluster has.
const VOLUME: &str = "vol1";
const SIZE_DEFAULT: Size = Size(4 << 30);

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// The cluster's directory
    #[arg(long, default_value = DEV_DIR, global = true)]
    dir: PathBuf,
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<DevCommand>,
}

/// What a cluster is to be like. Where nothing is said, as it was at its last start.
#[derive(Clone, PartialEq, Debug, Default, Args)]
struct RunArgs {
    /// How many storage nodes [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: Option<u32>,
    /// How many cluster managers [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=7))]
    managers: Option<u32>,
    /// Where NBD is served; port 0 chooses a free one [default: 127.0.0.1:10809]
    #[arg(long, value_name = "IP:PORT")]
    nbd: Option<SocketAddr>,
    /// When a plain write to vol1 is acknowledged: `flush`, or `write-through` [default: flush]
    #[arg(long)]
    durability: Option<Durability>,
    /// The size of vol1 [default: 4GiB]
    #[arg(long)]
    size: Option<Size>,
    /// Start afresh: removes the directory's data
    #[arg(long)]
    reset: bool,
    /// Which roles are started again when they die: a list, `all` or `none` [default: gateway,cluster-manager]
    #[arg(long, value_name = "ROLES")]
    respawn: Option<RespawnRoles>,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start a process of a running dev cluster
    Start(MemberArgs),
    /// Stop a process (SIGTERM); it stays down until it is started
    Stop(MemberArgs),
    /// Kill a process (SIGKILL), as a crash would
    Kill(MemberArgs),
}

#[derive(Debug, Args)]
struct MemberArgs {
    /// <role>-<n>, for example storage-node-2
    process: String,
}

/// Runs a dev cluster, or acts on one that runs.
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    let as_json = args.output == Output::Json;
    let (action, member) = match args.command {
        None => return supervise(&args.dir, &args.run, Say::new(as_json)).await,
        Some(_) if args.run != RunArgs::default() => {
            return Err(Failure::bad_usage(
                "the options of `quoin dev` itself mean nothing to start, stop and kill",
            )
            .hint("leave them out; --dir and --output may stay"));
        }
        Some(DevCommand::Start(args)) => (Action::Start, args.process),
        Some(DevCommand::Stop(args)) => (Action::Stop, args.process),
        Some(DevCommand::Kill(args)) => (Action::Kill, args.process),
    };
    let layout = Layout::existing(&args.dir)?;
    let (message, pid) = control::ask(&layout, &Request { action, member: member.clone() }).await?;
    let json = serde_json::json!({ "process": member, "action": action, "message": message, "pid": pid });
    Report::new(format!("{message}\n"), json).print(as_json)
}

/// Runs a cluster until a signal.
async fn supervise(dir: &Path, args: &RunArgs, say: Say) -> Result<(), Failure> {
    let size = args.size.unwrap_or(SIZE_DEFAULT);
    check_size(size)?;
    let signals = Signals::listen()?;
    let layout = Layout::prepare(dir)?;
    let _lock = layout.take()?;
    leftovers::stop(&layout, &say).await?;
    let state = prepare(&layout, args)?;

    let (events, mut received) = mpsc::unbounded_channel();
    control::serve(&layout, events.clone())?;
    let respawn = args.respawn.clone().unwrap_or_else(RespawnRoles::usual);
    tell_start(&layout, &state, say);
    let bring_up = BringUp::new(state.clone(), size, args.size.is_some(), say)?;
    let mut supervisor = Supervisor::new(layout, state, respawn, say, events);
    let mut outcome = supervisor.start_all();
    if outcome.is_ok() {
        outcome = serve(&mut supervisor, &mut received, &bring_up, &signals).await;
    }
    if outcome.is_ok() {
        say.progress("stopping");
    }
    let left = supervisor.shut_down(&signals.hurry).await;
    outcome?;
    if let Some(member) = left.first() {
        return Err(Failure::failed(format!("{member} could not be ended")));
    }
    if signals.hurry.is_cancelled() {
        return Err(Failure::failed("stopped in a hurry: processes were killed"));
    }
    say.progress("stopped");
    Ok(())
}

/// Handles events until a signal, or until the cluster fails to come up.
async fn serve(
    supervisor: &mut Supervisor,
    received: &mut mpsc::UnboundedReceiver<Event>,
    bring_up: &BringUp,
    signals: &Signals,
) -> Result<(), Failure> {
    let coming_up = bring_up.run();
    tokio::pin!(coming_up);
    let mut is_up = false;
    loop {
        tokio::select! {
            () = signals.stop.cancelled() => return Ok(()),
            Some(event) = received.recv() => supervisor.handle(event)?,
            volume = &mut coming_up, if !is_up => {
                is_up = true;
                supervisor.is_up();
                supervisor.tell_ready(Size(volume?.size_bytes));
            }
        }
    }
}

/// The state that the cluster is to have, written down, with every process's configuration.
fn prepare(layout: &Layout, args: &RunArgs) -> Result<State, Failure> {
    if args.reset {
        layout.reset()?;
    }
    let former = State::load(layout.dir())?;
    if former.is_none() && !layout::is_empty(&layout.data_dir())? {
        let dir = layout.dir().display();
        return Err(Failure::failed(format!("{dir} holds data, but its cluster.json is missing"))
            .hint("--reset removes the data and starts afresh"));
    }
    let mut state = plan::plan(args, former.as_ref())?;
    state.supervisor_pid = Some(std::process::id());
    layout.make_dirs()?;
    config_file::write_all(layout, &state)?;
    state.save(&layout.state())?;
    Ok(state)
}

fn tell_start(layout: &Layout, state: &State, say: Say) {
    let managers =
        words::count(state.of(Role::ClusterManager).count(), "cluster manager", "cluster managers");
    let nodes = words::count(state.of(Role::StorageNode).count(), "storage node", "storage nodes");
    say.progress(&format!("starting {managers}, {nodes} and a gateway in {}", layout.dir().display()));
}

impl RespawnRoles {
    fn usual() -> Self {
        "gateway,cluster-manager".parse().expect("these are roles")
    }
}

impl Supervisor {
    /// Says that the cluster is ready, and what may be tried with it.
    fn tell_ready(&self, size: Size) {
        let uri = self.state.uri();
        let program = program();
        let is_default = std::fs::canonicalize(DEV_DIR).is_ok_and(|dir| dir == self.layout.dir());
        let dir = if is_default { String::new() } else { format!(" --dir {}", self.layout.dir().display()) };
        let managers = match is_default {
            true => String::new(),
            false => format!(" --manager {}", self.state.manager_addresses().join(",")),
        };
        let victim = self.state.of(Role::StorageNode).last().map_or(1, |node| node.n);
        let writes = (size.0 / 65536).clamp(1, 16384);
        let fill = format!("qemu-img bench -w -f raw -t none -s 65536 -d 16 -c {writes} {uri}");
        let unix_uri = self.layout.nbd_socket().map(|socket| unix_uri(&self.state.volume, &socket));
        self.say.ready(
            uri,
            unix_uri.as_deref(),
            &[
                ("fill it", fill),
                ("kill a storage node meanwhile", format!("{program} dev kill storage-node-{victim}{dir}")),
                ("look at the status", format!("{program} status{managers}")),
            ],
        );
    }
}

/// The NBD project's URI of an export behind a Unix socket.
fn unix_uri(export: &str, socket: &Path) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let path = socket.as_os_str().as_encoded_bytes().iter().map(|byte| match is_plain(*byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    format!("nbd+unix:///{export}?socket={}", path.collect::<String>())
}

/// How the user can call this very program again: by its path from here, if that is shorter.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "quoin".to_owned() };
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&here) {
        Ok(relative) => format!("./{}", relative.display()),
        Err(_) => path.display().to_string(),
    }
}

/// The first signal stops the cluster, the second one kills what is left of it. A terminal that closes counts, too.
struct Signals {
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("listen for signals", &error));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        let signals = Self { stop: CancellationToken::new(), hurry: CancellationToken::new() };
        let (stop, hurry) = (signals.stop.clone(), signals.hurry.clone());
        tokio::spawn(async move {
            for token in [stop, hurry] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(signals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_path_survives_its_uri() {
        let uri = unix_uri("vol1", Path::new("/tmp/a b&c/run/nbd.sock"));
        assert_eq!(uri, "nbd+unix:///vol1?socket=/tmp/a%20b%26c/run/nbd.sock");
    }
}
