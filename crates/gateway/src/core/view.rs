//! What the cluster manager shows of this gateway's volumes, and what follows from it.

use super::{Attachment, Core, VolumeSpec};
use quoin_types::{Epoch, InstanceId, Moment, NodeId, SnapshotId, VolumeId};

/// The volumes that the cluster manager has given to this gateway.
#[derive(Clone, Default, Debug)]
pub struct View {
    /// Of the state that it shows. Managers that lag show older ones.
    pub revision: u64,
    /// The volumes.
    pub volumes: Vec<ViewedVolume>,
    /// Where storage nodes are.
    pub nodes: Vec<(NodeId, String)>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct ViewedVolume {
    /// Its description.
    pub spec: VolumeSpec,
    /// Its attachment's number.
    pub epoch: Epoch,
    /// The process of this gateway that has it: an epoch belongs to one (rule W4).
    pub instance: InstanceId,
    /// Whether this gateway is its steward only (rule C4).
    pub steward: bool,
    /// Whether it is on record that its attachment is lossy (rule A2).
    pub lossy: bool,
    /// The snapshots that are to be taken in this attachment.
    pub taking: Vec<SnapshotId>,
}

impl Core {
    /// The cluster manager shows its state: volumes that are no longer this process's are given up, those that are follow
    /// their description, and those that it is to be the steward of are begun. What is older than an attachment says
    /// nothing about it.
    pub fn on_view(&mut self, view: &View, now: Moment) {
        for (node, address) in &view.nodes {
            self.on_address(*node, address);
        }
        for id in self.volume_ids() {
            let Some(attachment) = self.attachment(id).filter(|own| own.revision <= view.revision) else {
                continue;
            };
            match view.volumes.iter().find(|shown| shown.spec.id == id) {
                Some(shown) if shown.epoch == attachment.epoch && shown.instance == self.instance => {
                    if shown.lossy {
                        self.loss_is_recorded(id);
                    }
                    self.update(&shown.spec, now);
                    self.place_snapshots(id, &shown.taking, now);
                }
                _ => self.on_fenced(id, now),
            }
        }
        let instance = self.instance;
        for shown in view.volumes.iter().filter(|shown| shown.steward && shown.instance == instance) {
            let id = shown.spec.id;
            let is_known = self.stewarded.get(&id).is_some_and(|epoch| *epoch >= shown.epoch);
            if self.attachment(id).is_none() && !is_known {
                tracing::info!(volume = %id, epoch = %shown.epoch, "repairing a volume that nobody uses");
                let attachment = Attachment {
                    epoch: shown.epoch,
                    unbroken_since: shown.epoch,
                    void: None,
                    steward: true,
                    revision: view.revision,
                };
                self.attach(shown.spec.clone(), attachment, now);
                self.place_snapshots(id, &shown.taking, now);
            }
        }
    }

    fn loss_is_recorded(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.loss_is_recorded();
        }
    }
}
