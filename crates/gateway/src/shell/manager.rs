//! What the gateway tells the cluster manager, and what it hears from it. Never on the I/O path.

use super::Shell;
use super::attach::Export;
use crate::core::{SegmentStatus, VolumeReport};
use crate::words;
use quoin_api::v1;
use quoin_api::v1::agent_client::AgentClient;
use quoin_disk::clock;
use quoin_replication::writer::VoterHealth;
use quoin_service::alarm::Alarm;
use quoin_types::{ClusterId, Epoch, Moment, SnapshotId, VolumeId};
use std::mem::Discriminant;
use std::rc::Rc;
use std::time::Duration;
use tonic::Status;

/// How often the gateway looks whether there is news, while anything is under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How far from its time a heartbeat may be.
const WITH_A_TICK: Duration = Duration::from_millis(10);
/// How long to wait before a watch that broke is begun anew.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Starts the tasks that talk to the cluster manager.
pub(super) fn spawn(shell: &Rc<Shell>) {
    let (first, second) = (shell.clone(), shell.clone());
    tokio::task::spawn_local(
        async move { first.stopping.clone().run_until_cancelled(heartbeats(&first)).await },
    );
    tokio::task::spawn_local(
        async move { second.stopping.clone().run_until_cancelled(watch(&second)).await },
    );
}

/// Ends attachments, so that others need not wait. `clean`: those that leave nothing to repair.
pub(super) async fn detach_all(shell: &Rc<Shell>, attached: &[Export], clean: &[VolumeId]) {
    for Export { name, epoch, id } in attached {
        let request = v1::DetachRequest {
            volume: name.clone(),
            epoch: epoch.0,
            gateway: shell.config.id.clone(),
            clean: clean.contains(id),
        };
        if let Err(status) =
            shell.managers.agent(async |mut client| client.detach(request.clone()).await).await
        {
            tracing::debug!(
                volume = name,
                error = status.message(),
                "could not tell that a volume is detached"
            );
        }
    }
}

async fn heartbeats(shell: &Rc<Shell>) {
    let every = shell.config.heartbeat_interval;
    let (mut told, mut told_at) = (Vec::new(), None::<Moment>);
    let (mut alarm, mut next) = (Alarm::new(), clock::now());
    loop {
        // While nothing is under way, what is new is new after a tick, if there are any. A heartbeat that is nearly due goes
        // with that: one wake-up for both.
        let busy = shell.core.borrow().is_busy();
        let wait = told_at.filter(|_| !busy).map_or(next, |at| at.next_multiple(every) + WITH_A_TICK);
        tokio::select! {
            () = alarm.until(wait) => {}
            () = shell.awake.notified(), if !busy => {}
        }
        let reports = shell.core.borrow().reports();
        let (now, news) = (clock::now(), outline(shell, &reports));
        next = (now + LOOK_EVERY).min(now.next_multiple(every));
        let due = told_at.is_none_or(|at| now >= at.next_multiple(every));
        if !due && news == told {
            continue;
        }
        (told, told_at) = (news, Some(now));
        shell.routes.memory.bury();
        shell.metrics.update(&reports, shell.clients.borrow().len(), shell.memory.held());
        let request = heartbeat(shell, &reports);
        let beat = async |mut client: AgentClient<_>| {
            Ok(client.gateway_heartbeat(request.clone()).await?.into_inner())
        };
        let sent = shell.managers.heartbeat(every, beat).await;
        match sent {
            Ok(_) => shell.metrics.set_ready(),
            Err(status) => tracing::debug!(error = status.message(), "a heartbeat did not arrive"),
        }
    }
}

/// What of a report is worth a heartbeat before its time: how the volume and its replicas do, not how fast; and whether
/// clients use it, because an unused volume may be given to another gateway.
#[derive(PartialEq, Eq)]
struct Outline {
    volume: VolumeId,
    epoch: Epoch,
    available: bool,
    lossy: bool,
    clients: u32,
    segments: Vec<SegmentStatus>,
    snapshots: Vec<SnapshotId>,
    replicas: Vec<(Discriminant<VoterHealth>, bool)>,
}

fn outline(shell: &Shell, reports: &[VolumeReport]) -> Vec<Outline> {
    reports
        .iter()
        .map(|report| Outline {
            volume: report.volume,
            epoch: report.epoch,
            available: report.available,
            lossy: report.lossy,
            clients: clients_of(shell, report.volume),
            segments: report.segments.clone(),
            replicas: report
                .replicas
                .iter()
                .map(|replica| (std::mem::discriminant(&replica.health), replica.shaken))
                .collect(),
            snapshots: report.snapshots.clone(),
        })
        .collect()
}

fn clients_of(shell: &Shell, volume: VolumeId) -> u32 {
    shell.clients.borrow().values().filter(|client| client.volume == volume).count() as u32
}

fn heartbeat(shell: &Shell, reports: &[VolumeReport]) -> v1::GatewayHeartbeatRequest {
    v1::GatewayHeartbeatRequest {
        gateway: shell.config.id.clone(),
        instance: shell.core.borrow().instance().as_bytes().to_vec(),
        nbd_address: shell.served_at(),
        version: env!("CARGO_PKG_VERSION").into(),
        attachments: reports
            .iter()
            .map(|report| words::attachment_report(report, clients_of(shell, report.volume)))
            .collect(),
    }
}

async fn watch(shell: &Rc<Shell>) {
    loop {
        if let Err(status) = watch_once(shell).await {
            tracing::debug!(error = status.message(), "the watch of attachments broke; trying again");
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

async fn watch_once(shell: &Rc<Shell>) -> Result<(), Status> {
    let request = v1::WatchGatewayRequest {
        gateway: shell.config.id.clone(),
        instance: shell.core.borrow().instance().as_bytes().to_vec(),
    };
    let mut stream = shell
        .managers
        .agent_stream(async |mut client| Ok(client.watch_gateway(request.clone()).await?.into_inner()))
        .await?;
    while let Some(view) = stream.message().await? {
        shell.cluster.set(ClusterId::from_slice(&view.cluster_id).or(shell.cluster.get()));
        let view = words::view(&view);
        shell.event(|core, now| core.on_view(&view, now));
    }
    Ok(())
}
