//! Opening the disk and joining the cluster.

use super::RunError;
use crate::config::Config;
use crate::node::{Node, NodeIdentity};
use quoin_api::client::{Managers, is_unreachable};
use quoin_api::v1::{RegisterNodeReply, RegisterNodeRequest};
use quoin_disk::{OsDir, clock};
use quoin_replication::Timing;
use quoin_store::{Engine, Identity, Opened, Options};
use quoin_types::{BootId, ClusterId, DiskId, NodeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long to wait before a cluster manager that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Started {
    pub(super) node: Node,
    pub(super) managers: Managers,
    pub(super) registration: RegisterNodeRequest,
}

/// Opens the disk, formatting an empty one for the cluster, and registers with the cluster manager (rule C2: nothing is
/// served before the start count is known to be above the last one).
pub(super) async fn start(config: &Config, listener: &TcpListener) -> Result<Started, RunError> {
    let managers = Managers::new(&config.managers)?;
    let boot = clock::boot_id().map_err(RunError::io("cannot read the kernel's boot id"))?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(RunError::io(format!("cannot create {}", config.data_dir.display())))?;
    let dir = OsDir::open(&config.data_dir)
        .map_err(RunError::io(format!("cannot open {}", config.data_dir.display())))?;
    let dir: Arc<dyn quoin_disk::Dir> = Arc::new(dir);
    let mut registration = registration(config, listener)?;
    let (engine, opened) = match open(config, &dir, boot) {
        Err(quoin_store::Error::NotFormatted) => {
            let reply = register(&managers, &registration).await?;
            let cluster = ClusterId::from_slice(&reply.cluster_id)
                .ok_or_else(|| RunError::Refused("it did not say which cluster it is".into()))?;
            let identity = new_identity(config, cluster)?;
            tracing::info!(%cluster, disk = %identity.disk, capacity = identity.capacity_bytes, "formatting the disk");
            Engine::format(dir.as_ref(), &identity).map_err(disk_error(config))?;
            open(config, &dir, boot).map_err(disk_error(config))?
        }
        opened => opened.map_err(disk_error(config))?,
    };
    tracing::info!(
        start = opened.start_count,
        power_was_lost = opened.power_was_lost,
        crashed = opened.crashed,
        replayed = opened.replayed_records,
        "the disk is open"
    );
    let identity = engine.identity();
    registration.cluster_id = identity.cluster.as_bytes().to_vec();
    registration.disk = identity.disk.as_bytes().to_vec();
    registration.start_count = opened.start_count;
    registration.capacity_bytes = identity.capacity_bytes;
    let reply = register(&managers, &registration).await?;
    let identity =
        NodeIdentity { cluster: identity.cluster, node: NodeId(reply.node), disk: identity.disk, boot };
    tracing::info!(node = %identity.node, cluster = %identity.cluster, "registered");
    let node = Node::new(identity, engine, &opened, config.limits, Timing::default(), clock::now())?;
    Ok(Started { node, managers, registration })
}

fn open(
    config: &Config,
    dir: &Arc<dyn quoin_disk::Dir>,
    boot: BootId,
) -> Result<(Engine, Opened), quoin_store::Error> {
    let options = Options {
        journal_file_bytes: config.journal_file_bytes,
        journal_files: config.journal_files,
        ..Options::default()
    };
    Engine::open(dir.clone(), None, boot, options)
}

fn disk_error(config: &Config) -> impl Fn(quoin_store::Error) -> RunError {
    let dir = config.data_dir.display().to_string();
    move |source| RunError::Disk { dir: dir.clone(), source }
}

fn new_identity(config: &Config, cluster: ClusterId) -> Result<Identity, RunError> {
    let disk = random_id()?;
    let capacity_bytes = match config.capacity_bytes {
        Some(bytes) => bytes,
        None => free_bytes(config)?,
    };
    Ok(Identity { cluster, disk: DiskId(disk), capacity_bytes })
}

fn random_id() -> Result<[u8; 16], RunError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| RunError::io("the random source")(std::io::Error::other(error.to_string())))?;
    Ok(id)
}

/// What the filesystem has free, less a tenth that is left to others.
fn free_bytes(config: &Config) -> Result<u64, RunError> {
    let filesystem = rustix::fs::statvfs(&config.data_dir).map_err(|error| {
        RunError::io(format!("cannot tell the free space of {}", config.data_dir.display()))(error.into())
    })?;
    let free = filesystem.f_bavail * filesystem.f_frsize;
    Ok(free - free / 10)
}

fn registration(config: &Config, listener: &TcpListener) -> Result<RegisterNodeRequest, RunError> {
    let instance = random_id()?;
    let listen = listener.local_addr().map_err(RunError::io("the data plane's address"))?;
    Ok(RegisterNodeRequest {
        name: config.name.clone(),
        data_address: config.advertise.clone().unwrap_or_else(|| listen.to_string()),
        admin_address: config.admin_listen.to_string(),
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        instance: instance.to_vec(),
        ..RegisterNodeRequest::default()
    })
}

/// Registers, however long it takes to reach a cluster manager.
pub(super) async fn register(
    managers: &Managers,
    request: &RegisterNodeRequest,
) -> Result<RegisterNodeReply, RunError> {
    let mut told = false;
    loop {
        match managers
            .agent(async |mut client| Ok(client.register_node(request.clone()).await?.into_inner()))
            .await
        {
            Ok(reply) => return Ok(reply),
            Err(status) if is_unreachable(&status) => {
                if !told {
                    tracing::warn!(error = status.message(), "no cluster manager answers; trying on");
                    told = true;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(status) => return Err(RunError::Refused(status.message().into())),
        }
    }
}
