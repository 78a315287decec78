//! The commands, one file each. Each asks, and hands back what is to be printed.

pub(crate) mod attach;
pub(crate) mod attach_background;
pub(crate) mod change;
pub(crate) mod detach;
pub(crate) mod devices;
pub(crate) mod disk;
pub(crate) mod disk_check;
pub(crate) mod disk_dump;
pub(crate) mod mount;
pub(crate) mod node_list;
pub(crate) mod node_show;
pub(crate) mod snapshot_create;
pub(crate) mod snapshot_delete;
pub(crate) mod snapshot_list;
pub(crate) mod status;
pub(crate) mod umount;
pub(crate) mod volume_abort_change;
pub(crate) mod volume_create;
pub(crate) mod volume_delete;
pub(crate) mod volume_list;
pub(crate) mod volume_move;
pub(crate) mod volume_resize;
pub(crate) mod volume_set_replicas;
pub(crate) mod volume_show;

use crate::cli::{
    Cli, ClientArgs, Command, DiskCommand, NodeCommand, Output, SnapshotCommand, VolumeCommand,
};
use crate::client::Client;
use crate::failure::Failure;
use crate::view::Report;
use crate::{dev, roles};
use clap::ArgMatches;

/// Runs the command. `matches` are those of the whole command line.
pub(crate) fn run(cli: Cli, matches: &ArgMatches) -> Result<(), Failure> {
    let (_, role_matches) = matches.subcommand().expect("clap demands a command");
    match cli.command {
        Command::ClusterManager(args) => {
            let (config, logging) = args.load(role_matches)?.resolve()?;
            roles::cluster_manager(config, &logging)
        }
        Command::StorageNode(args) => {
            let (config, logging) = args.load(role_matches)?.resolve()?;
            roles::storage_node(config, &logging)
        }
        Command::Gateway(args) => {
            let (config, logging) = args.load(role_matches)?.resolve()?;
            roles::gateway(config, &logging)
        }
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Volume(args) => answer(&args.client, async |client| match args.command {
            VolumeCommand::Create(args) => volume_create::run(client, args).await,
            VolumeCommand::List => volume_list::run(client).await,
            VolumeCommand::Show(args) => volume_show::run(client, args).await,
            VolumeCommand::Delete(args) => volume_delete::run(client, args).await,
            VolumeCommand::Resize(args) => volume_resize::run(client, args).await,
            VolumeCommand::Move(args) => volume_move::run(client, args).await,
            VolumeCommand::SetReplicas(args) => volume_set_replicas::run(client, args).await,
            VolumeCommand::AbortChange(args) => volume_abort_change::run(client, args).await,
        }),
        Command::Snapshot(args) => answer(&args.client, async |client| match args.command {
            SnapshotCommand::Create(args) => snapshot_create::run(client, args).await,
            SnapshotCommand::List(args) => snapshot_list::run(client, args).await,
            SnapshotCommand::Delete(args) => snapshot_delete::run(client, args).await,
        }),
        Command::Node(args) => answer(&args.client, async |client| match args.command {
            NodeCommand::List => node_list::run(client).await,
            NodeCommand::Show(args) => node_show::run(client, args).await,
        }),
        Command::Disk(args) => match args.command {
            DiskCommand::Check(check) => disk_check::run(&check, args.output),
            DiskCommand::Dump(args) => disk_dump::run(&args),
        },
        Command::Attach(args) => block_on(attach::run(args)),
        Command::Detach(args) => print(args.output, detach::run(args)),
        Command::Devices(args) => devices::run()?.print(args.output == Output::Json),
        Command::Mount(args) => print(args.output, mount::run(args)),
        Command::Umount(args) => print(args.output, umount::run(args)),
        Command::Status(args) => block_on(async {
            let client = Client::new(&args.client)?;
            if args.watch {
                status::watch(&client).await
            } else {
                client.print(&status::once(&client).await?)
            }
        }),
    }
}

/// Runs a command that answers once.
fn answer(
    args: &ClientArgs,
    command: impl AsyncFnOnce(&Client) -> Result<Report, Failure>,
) -> Result<(), Failure> {
    block_on(async {
        let client = Client::new(args)?;
        let report = command(&client).await?;
        client.print(&report)
    })
}

/// Runs a command that asks no cluster and answers once.
fn print(output: Output, command: impl Future<Output = Result<Report, Failure>>) -> Result<(), Failure> {
    block_on(async { command.await?.print(output == Output::Json) })
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start a runtime", &error))?;
    let result = runtime.block_on(command);
    // Not waited for: a thread may still sit in a read of the terminal.
    runtime.shutdown_background();
    result
}
