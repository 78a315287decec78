//! Exports: which volumes are attached here, and how they come to be.

use super::Shell;
use crate::core::Attachment;
use crate::words;
use quoin_api::client::is_unreachable;
use quoin_api::v1;
use quoin_nbd::{AttachmentInfo, ExportError, ExportErrorKind, ExportSnapshot};
use quoin_types::collections::HashMap;
use quoin_types::{ClusterId, Epoch, InstanceId, NodeId, VolumeId};
use quoin_wire::LeaseHolder;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use tonic::{Code, Status};

/// How long an attach goes on trying to reach a cluster manager.
const ATTACH_MAX: Duration = Duration::from_secs(20);
/// How long to wait before it tries again.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// An attached volume.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Export {
    pub(super) name: String,
    pub(super) id: VolumeId,
    pub(super) epoch: Epoch,
}

/// The attached volumes by name.
#[derive(Default)]
pub(super) struct Exports {
    attached: RefCell<HashMap<String, Export>>,
    /// One attach at a time: a second client of the same export finds it attached.
    attaching: Mutex<()>,
}

impl Exports {
    pub(super) fn get(&self, name: &str) -> Option<VolumeId> {
        self.attached.borrow().get(name).map(|export| export.id)
    }

    pub(super) fn forget(&self, id: VolumeId) {
        self.attached.borrow_mut().retain(|_, export| export.id != id);
    }

    /// All, by name.
    pub(super) fn attached(&self) -> Vec<Export> {
        let mut list: Vec<_> = self.attached.borrow().values().cloned().collect();
        list.sort_unstable();
        list
    }
}

/// Attaches a volume unless it is attached; gives its id.
pub(super) async fn attach(shell: &Rc<Shell>, name: &str) -> Result<VolumeId, ExportError> {
    if let Some(id) = shell.exports.get(name) {
        return Ok(id);
    }
    let one_at_a_time = shell.exports.attaching.lock().await;
    if let Some(id) = shell.exports.get(name) {
        return Ok(id);
    }
    let ask = async {
        loop {
            match ask(shell, name).await {
                Err(status) if is_unreachable(&status) => tokio::time::sleep(TRY_AGAIN).await,
                answer => return answer,
            }
        }
    };
    let asked = tokio::time::timeout(ATTACH_MAX, ask).await.map_err(|_| {
        ExportError::new(ExportErrorKind::Shutdown, "no cluster manager answers; try again later")
    })?;
    let reply = match asked {
        Ok(reply) => reply,
        Err(status) => {
            drop(one_at_a_time);
            let refusal = export_error(&status);
            let elsewhere = match refusal.kind {
                ExportErrorKind::Policy => elsewhere(shell, name).await,
                ExportErrorKind::Unknown | ExportErrorKind::Shutdown => None,
            };
            return Err(ExportError { elsewhere, ..refusal });
        }
    };
    begin(shell, name, &reply).ok_or_else(|| {
        ExportError::new(
            ExportErrorKind::Policy,
            "the cluster manager described the volume in a way not understood",
        )
    })
}

/// A volume's size in bytes, without attaching it: to be told about it is not to use it.
pub(super) async fn size_bytes(shell: &Rc<Shell>, name: &str) -> Result<u64, ExportError> {
    if let Some(size_bytes) = shell.exports.get(name).and_then(|id| shell.core.borrow().size_bytes(id)) {
        return Ok(size_bytes);
    }
    let volume = described(shell, name).await?;
    match volume.state() {
        v1::VolumeState::Ready => Ok(volume.size_bytes),
        _ => Err(ExportError::new(ExportErrorKind::Policy, "the volume is being created, or deleted")),
    }
}

/// What the cluster managers know of a volume.
async fn described(shell: &Rc<Shell>, name: &str) -> Result<v1::Volume, ExportError> {
    let request = v1::GetVolumeRequest { name: name.into() };
    let ask =
        shell.managers.cluster(async |mut client| Ok(client.get_volume(request.clone()).await?.into_inner()));
    ask.await.map_err(|status| export_error(&status))
}

/// The attachment under which another gateway has a volume: clients that go on from an earlier one of their own need not wait
/// until it ends.
async fn elsewhere(shell: &Rc<Shell>, name: &str) -> Option<AttachmentInfo> {
    let volume = described(shell, name).await.ok()?;
    let given = volume.attachment.filter(|given| !given.steward)?;
    Some(AttachmentInfo {
        cluster: shell.cluster.get()?.0,
        volume: volume.id,
        epoch: given.epoch,
        unbroken_since: words::unbroken_since(&given).0,
    })
}

/// What clients of a volume may be told of its attachment.
pub(super) fn info(shell: &Shell, volume: VolumeId) -> Option<AttachmentInfo> {
    let attachment = shell.core.borrow().attachment(volume).filter(|attachment| !attachment.steward)?;
    Some(AttachmentInfo {
        cluster: shell.cluster.get()?.0,
        volume: volume.0,
        epoch: attachment.epoch.0,
        unbroken_since: attachment.unbroken_since.0,
    })
}

/// The snapshots of a volume that can be asked about; none, if only the volume's existence is asked for.
pub(super) async fn snapshots(
    shell: &Rc<Shell>,
    name: &str,
    with_snapshots: bool,
) -> Result<Vec<ExportSnapshot>, ExportError> {
    if !with_snapshots && shell.exports.get(name).is_some() {
        return Ok(Vec::new());
    }
    let volume = described(shell, name).await?;
    let ready = volume.snapshots.into_iter().filter(|one| one.state() == v1::SnapshotState::Ready);
    Ok(ready.map(|snapshot| ExportSnapshot { name: snapshot.name, key: snapshot.id }).collect())
}

async fn ask(shell: &Rc<Shell>, name: &str) -> Result<v1::AttachReply, Status> {
    let request = v1::AttachRequest {
        volume: name.into(),
        gateway: shell.config.id.clone(),
        instance: shell.core.borrow().instance().as_bytes().to_vec(),
        take_over: false,
    };
    shell.managers.agent(async |mut client| Ok(client.attach(request.clone()).await?.into_inner())).await
}

fn begin(shell: &Rc<Shell>, name: &str, reply: &v1::AttachReply) -> Option<VolumeId> {
    let volume = reply.volume.as_ref()?;
    let spec = words::spec(volume, &reply.nodes)?;
    let given = volume.attachment.as_ref()?;
    let (epoch, unbroken_since) = (Epoch(given.epoch), words::unbroken_since(given));
    let previous = InstanceId::from_slice(&reply.previous_instance)
        .map(|instance| LeaseHolder { instance, epoch: Epoch(reply.previous_epoch) });
    let void = previous.filter(|holder| shell.past.is_gone(holder.instance));
    shell.cluster.set(Some(ClusterId::from_slice(&reply.cluster_id)?));
    let id = spec.id;
    tracing::info!(volume = name, %id, %epoch, %unbroken_since, former_lease_voided = void.is_some(), "attaching");
    shell.exports.attached.borrow_mut().insert(name.into(), Export { name: name.into(), id, epoch });
    shell.event(|core, now| {
        for node in &reply.nodes {
            core.on_address(NodeId(node.node), &node.data_address);
        }
        let revision = volume.revision;
        let attachment = Attachment { epoch, unbroken_since, void, steward: false, revision };
        core.attach(spec, attachment, now);
    });
    Some(id)
}

fn export_error(status: &Status) -> ExportError {
    let kind = match status.code() {
        Code::NotFound => ExportErrorKind::Unknown,
        Code::Unavailable | Code::DeadlineExceeded => ExportErrorKind::Shutdown,
        _ => ExportErrorKind::Policy,
    };
    ExportError::new(kind, status.message())
}
