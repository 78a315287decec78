//! The command line: a contract, described in docs/operations/cli.md.

use crate::options::RoleArgs;
use crate::options::gateway::GatewayOptions;
use crate::options::manager::ManagerOptions;
use crate::options::storage_node::StorageNodeOptions;
use crate::{command, dev};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Replicated block storage: virtual disks that survive the loss of any machine
#[derive(Debug, Parser)]
#[command(name = "quoin", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine, for trying and developing
    Dev(dev::DevArgs),
    /// Create, list, show, resize, move and delete volumes
    Volume(VolumeArgs),
    /// Create, list and delete snapshots of volumes
    Snapshot(SnapshotArgs),
    /// List and show storage nodes
    Node(NodeArgs),
    /// Tell how the cluster and every copy of every volume does
    Status(StatusArgs),
    /// Look at the directory of a storage node that does not run
    Disk(DiskArgs),
    /// Attach a volume as a disk of this machine, through the kernel's NBD client
    Attach(command::attach::AttachArgs),
    /// Detach such a disk
    Detach(command::detach::DetachArgs),
    /// List the volumes that are disks of this machine
    Devices(command::devices::DevicesArgs),
    /// Attach a volume and mount it; an empty one gets a filesystem
    Mount(command::mount::MountArgs),
    /// Unmount a volume and detach it
    Umount(command::umount::UmountArgs),
    /// Run a cluster manager
    ClusterManager(RoleArgs<ManagerOptions>),
    /// Run a storage node
    StorageNode(RoleArgs<StorageNodeOptions>),
    /// Run a gateway
    Gateway(RoleArgs<GatewayOptions>),
}

/// How a command answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For scripts
    Json,
}

/// What every command that asks the cluster takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    /// The cluster managers: HOST:PORT,HOST:PORT,… [default: those of the dev cluster in ./quoin-dev]
    #[arg(long, env = "QUOIN_MANAGER", value_name = "ADDR", global = true)]
    pub(crate) manager: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a volume; it takes no space before it is written
    Create(command::volume_create::CreateArgs),
    /// List all volumes
    List,
    /// Show one volume and its copies
    Show(command::volume_show::ShowArgs),
    /// Delete a volume and all its data
    Delete(command::volume_delete::DeleteArgs),
    /// Grow a volume, also while it is in use
    Resize(command::volume_resize::ResizeArgs),
    /// Move the copies that a volume has on one storage node to another, also while it is in use
    Move(command::volume_move::MoveArgs),
    /// Change how many copies a volume has, also while it is in use
    SetReplicas(command::volume_set_replicas::SetReplicasArgs),
    /// Give up a move, or a change of the number of copies, whose new copies do not count yet
    AbortChange(command::volume_abort_change::AbortChangeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take a snapshot of a volume, also while it is in use
    Create(command::snapshot_create::CreateArgs),
    /// List the snapshots of a volume, or of all
    List(command::snapshot_list::ListArgs),
    /// Delete a snapshot
    Delete(command::snapshot_delete::DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List all storage nodes
    List,
    /// Show one storage node and what it holds
    Show(command::node_show::ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    /// How to answer; errors too
    #[arg(long, value_enum, default_value_t, global = true)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: DiskCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Verify everything on a disk, changing nothing
    Check(command::disk_check::CheckArgs),
    /// Print what is on a disk: its records and the entries of its maps, as text
    Dump(command::disk_dump::DumpArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
}
