//! Opening the disk and joining the cluster.

use super::RunError;
use crate::config::Config;
use crate::node::{Node, NodeIdentity};
use quoin_api::client::{Managers, is_unreachable};
use quoin_api::v1::{RegisterNodeReply, RegisterNodeRequest};
use quoin_disk::{OsDir, clock};
use quoin_replication::Timing;
use quoin_store::{Engine, Identity, Options, Unopened};
use quoin_types::{ClusterId, DiskId, InstanceId, NodeId, StartMark};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before a cluster manager that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Started {
    pub(super) node: Node,
    pub(super) managers: Managers,
    pub(super) registration: RegisterNodeRequest,
}

/// Opens the disk, formatting an empty one for the cluster, and registers with the cluster manager. Rule C2: nothing is served
/// before the start count is known to be above the last one, and nothing on the disk changes before the managers have said
/// that it may start: one that is refused does not climb.
pub(super) async fn start(config: &Config, address: &str) -> Result<Started, RunError> {
    let managers = Managers::new(&config.managers)?;
    let boot = clock::boot_id().map_err(RunError::io("cannot read the kernel's boot id"))?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(RunError::io(format!("cannot create {}", config.data_dir.display())))?;
    let dir = OsDir::open(&config.data_dir)
        .map_err(RunError::io(format!("cannot open {}", config.data_dir.display())))?;
    let dir: Arc<dyn quoin_disk::Dir> = Arc::new(dir);
    let instance = InstanceId(random_id()?);
    let mut registration = registration(config, address, instance)?;
    let unopened = match Engine::look_at(dir.clone(), None) {
        Err(quoin_store::Error::NotFormatted) => {
            format(config, &managers, &registration, dir.as_ref()).await?;
            Engine::look_at(dir, None)
        }
        looked_at => looked_at,
    };
    let unopened = unopened.map_err(disk_error(config))?;
    describe(&mut registration, &unopened);
    register(&managers, &registration).await?;
    let options = Options {
        journal_file_bytes: config.journal_file_bytes,
        journal_files: config.journal_files,
        ..Options::default()
    };
    let (engine, opened) =
        unopened.open(boot, options, StartMark::from(instance)).map_err(disk_error(config))?;
    tracing::info!(
        start = opened.start_count,
        power_was_lost = opened.power_was_lost,
        crashed = opened.crashed,
        replayed = opened.replayed_records,
        "the disk is open"
    );
    registration.asks = false;
    registration.last_mark.clear();
    let reply = register(&managers, &registration).await?;
    let identity = engine.identity();
    let identity =
        NodeIdentity { cluster: identity.cluster, node: NodeId(reply.node), disk: identity.disk, boot };
    tracing::info!(node = %identity.node, cluster = %identity.cluster, "registered");
    let node = Node::new(identity, engine, &opened, config.limits, Timing::default(), clock::now())?;
    Ok(Started { node, managers, registration })
}

/// Formats an empty directory for the cluster that the managers are of.
async fn format(
    config: &Config,
    managers: &Managers,
    registration: &RegisterNodeRequest,
    dir: &dyn quoin_disk::Dir,
) -> Result<(), RunError> {
    let reply = register(managers, registration).await?;
    let cluster = ClusterId::from_slice(&reply.cluster_id)
        .ok_or_else(|| RunError::Refused("it did not say which cluster it is".into()))?;
    let identity = new_identity(config, cluster)?;
    tracing::info!(%cluster, disk = %identity.disk, capacity = identity.capacity_bytes, "formatting the disk");
    Engine::format(dir, &identity).map_err(disk_error(config))
}

/// Asks whether this disk may make its next start.
fn describe(registration: &mut RegisterNodeRequest, unopened: &Unopened) {
    let identity = unopened.identity();
    registration.cluster_id = identity.cluster.as_bytes().to_vec();
    registration.disk = identity.disk.as_bytes().to_vec();
    registration.capacity_bytes = identity.capacity_bytes;
    registration.start_count = unopened.next_start_count();
    registration.asks = true;
    registration.last_mark = unopened.last_start().mark.0.to_vec();
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

fn registration(
    config: &Config,
    address: &str,
    instance: InstanceId,
) -> Result<RegisterNodeRequest, RunError> {
    Ok(RegisterNodeRequest {
        name: config.name.clone(),
        data_address: address.to_owned(),
        admin_address: config.admin_listen.to_string(),
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        instance: instance.as_bytes().to_vec(),
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
