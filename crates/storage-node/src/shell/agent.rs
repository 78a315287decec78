//! What the node tells the cluster manager, and what it hears from it. Never on the I/O path.

use super::{Shell, peer, start};
use crate::config::Config;
use crate::words;
use quoin_api::client::Managers;
use quoin_api::v1::agent_client::AgentClient;
use quoin_api::v1::{NodeHeartbeatRequest, RegisterNodeRequest, ReportReplicasRequest, WatchReplicasRequest};
use quoin_disk::clock;
use quoin_service::alarm::Alarm;
use quoin_types::ReplicaId;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::Status;

/// How long to wait before a call that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// How long saying good-bye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// News of replicas for the cluster manager.
#[derive(Clone, Copy)]
enum Report {
    Created(ReplicaId),
    Dropped(ReplicaId),
}

/// Where the node's news go.
pub(super) struct Reports(UnboundedSender<Report>);

pub(super) struct ReportsIn(UnboundedReceiver<Report>);

pub(super) fn reports() -> (Reports, ReportsIn) {
    let (sender, receiver) = unbounded_channel();
    (Reports(sender), ReportsIn(receiver))
}

impl Reports {
    pub(super) fn created(&self, id: ReplicaId) {
        // The receiver is gone only while the node stops.
        let _ = self.0.send(Report::Created(id));
    }

    pub(super) fn dropped(&self, id: ReplicaId) {
        let _ = self.0.send(Report::Dropped(id));
    }
}

/// Starts the tasks that talk to the cluster manager. What is given back tells it at the end that the node stops.
pub(super) fn spawn(
    shell: &Rc<Shell>,
    config: &Config,
    managers: Managers,
    registration: RegisterNodeRequest,
    reports: ReportsIn,
) -> Rc<Agent> {
    let agent =
        Rc::new(Agent { shell: shell.clone(), managers, registration, every: config.heartbeat_interval });
    if let Some(wanted) = shell.threads.connects() {
        tokio::task::spawn_local(peer::connect_all(shell.clone(), wanted));
    }
    for task in [0, 1] {
        let agent = agent.clone();
        let stopping = shell.stopping.clone();
        tokio::task::spawn_local(async move {
            let work = async { if task == 0 { agent.heartbeats().await } else { agent.watch().await } };
            stopping.run_until_cancelled(work).await;
        });
    }
    let stopping = shell.stopping.clone();
    let reporter = agent.clone();
    tokio::task::spawn_local(async move { stopping.run_until_cancelled(reporter.report(reports)).await });
    agent
}

/// The node, towards the cluster manager.
pub(super) struct Agent {
    shell: Rc<Shell>,
    managers: Managers,
    registration: RegisterNodeRequest,
    every: Duration,
}

impl Agent {
    async fn heartbeats(&self) {
        let (mut alarm, mut next) = (Alarm::new(), clock::now());
        loop {
            alarm.until(next).await;
            next = clock::now().next_multiple(self.every);
            let Some(request) = self.heartbeat() else { return };
            let beat = async |mut client: AgentClient<_>| {
                Ok(client.node_heartbeat(request.clone()).await?.into_inner())
            };
            let reply = self.managers.heartbeat(self.every, beat).await;
            match reply {
                Ok(reply) if !reply.known => {
                    if let Err(error) = start::register(&self.managers, &self.registration).await {
                        tracing::error!(%error, "this node is no longer welcome");
                        self.shell.shutdown.cancel();
                        return;
                    }
                }
                Ok(_) => {}
                Err(status) => tracing::debug!(error = status.message(), "a heartbeat did not arrive"),
            }
        }
    }

    /// Says that the node stops, so that nothing new is placed on it. It stops in any case.
    pub(super) async fn say_goodbye(&self) {
        let Some(last) = self.heartbeat() else { return };
        let last = NodeHeartbeatRequest { leaving: true, ..last };
        let said = self.managers.agent(async |mut client| client.node_heartbeat(last.clone()).await);
        if !matches!(tokio::time::timeout(GOODBYE_MAX, said).await, Ok(Ok(_))) {
            tracing::debug!("no cluster manager heard that this node stops");
        }
    }

    fn heartbeat(&self) -> Option<NodeHeartbeatRequest> {
        let node = self.shell.node.borrow();
        let node = node.as_ref()?;
        let space = node.engine().space();
        Some(NodeHeartbeatRequest {
            node: node.identity().node.0,
            disk: self.registration.disk.clone(),
            start_count: self.registration.start_count,
            used_bytes: space.used_bytes,
            capacity_bytes: space.capacity_bytes,
            replicas: node.replica_counts().0 as u32,
            damaged_extents: node.damaged_extents() as u64,
            leaving: false,
        })
    }

    async fn watch(&self) {
        loop {
            if let Err(status) = self.watch_once().await {
                tracing::debug!(error = status.message(), "the watch of replicas broke; trying again");
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn watch_once(&self) -> Result<(), Status> {
        let node = self.shell.node.borrow().as_ref().map(|node| node.identity().node.0);
        let Some(node) = node else { return Ok(()) };
        let request = WatchReplicasRequest { node, disk: self.registration.disk.clone() };
        let mut stream = self
            .managers
            .agent_stream(async |mut client| Ok(client.watch_replicas(request.clone()).await?.into_inner()))
            .await?;
        while let Some(assignments) = stream.message().await? {
            let assignments = words::assignments(&assignments);
            self.shell.event(|node, now| node.on_assignments(&assignments, now));
        }
        Ok(())
    }

    /// Tells what was created and dropped, until the cluster manager has heard it.
    async fn report(&self, mut reports: ReportsIn) {
        let (mut created, mut dropped) = (BTreeSet::new(), BTreeSet::new());
        while let Some(report) = reports.0.recv().await {
            let mut next = Some(report);
            while let Some(report) = next {
                match report {
                    Report::Created(id) => created.insert(id.0),
                    Report::Dropped(id) => dropped.insert(id.0),
                };
                next = reports.0.try_recv().ok();
            }
            let node = self.shell.node.borrow().as_ref().map(|node| node.identity().node.0);
            let Some(node) = node else { return };
            let request = ReportReplicasRequest {
                node,
                disk: self.registration.disk.clone(),
                created: created.iter().copied().collect(),
                dropped: dropped.iter().copied().collect(),
            };
            let reply = loop {
                let call = async |mut client: AgentClient<_>| client.report_replicas(request.clone()).await;
                match self.managers.agent(call).await {
                    Ok(reply) => break reply.into_inner(),
                    Err(status) => tracing::debug!(
                        error = status.message(),
                        "a report of replicas did not arrive; trying again"
                    ),
                }
                tokio::time::sleep(TRY_AGAIN).await;
            };
            created.clear();
            dropped.clear();
            let unwanted: Vec<ReplicaId> = reply.unwanted.into_iter().map(ReplicaId).collect();
            if !unwanted.is_empty() {
                self.shell.event(|node, now| node.on_unwanted(&unwanted, now));
            }
        }
    }
}
