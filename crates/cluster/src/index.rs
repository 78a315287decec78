//! What is derived from the state, so that common questions cost what their answer is long. Never stored: rebuilt from a
//! snapshot, kept up by [`State::change_volume`], which every change of a volume goes through.

use crate::state::State;
use crate::volume::{Volume, VolumeStage};
use quoin_types::{GatewayId, NodeId, SegmentId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// What belongs on one node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct OnNode {
    pub(crate) segments: BTreeSet<SegmentId>,
    /// When that last changed, as a revision of the state.
    pub(crate) revision: u64,
}

/// What is attached to one gateway.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct AtGateway {
    pub(crate) volumes: BTreeSet<VolumeId>,
    /// When those, or the addresses of their nodes, last changed.
    pub(crate) revision: u64,
}

/// Everything derived.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Index {
    pub(crate) names: BTreeMap<String, VolumeId>,
    pub(crate) by_node: BTreeMap<NodeId, OnNode>,
    pub(crate) by_gateway: BTreeMap<GatewayId, AtGateway>,
    /// Volumes that a leader has something to do for, now or when a node goes.
    pub(crate) tended: BTreeSet<VolumeId>,
    /// The revision of the state that it was built for. Who is not named above may have been, just before: whoever watches a
    /// member that has come so far by a snapshot must be told that nothing is left.
    pub(crate) built: u64,
}

impl Index {
    /// The index of a state that came without one. Everything counts as changed at the state's revision.
    pub(crate) fn build(volumes: &BTreeMap<VolumeId, Volume>, revision: u64) -> Self {
        let mut index = Self { built: revision, ..Self::default() };
        for volume in volumes.values() {
            index.add(volume, revision);
        }
        index
    }

    fn add(&mut self, volume: &Volume, revision: u64) {
        if volume.stage() != VolumeStage::Deleting {
            self.names.insert(volume.name.clone(), volume.id);
        }
        for (segment, _, replica) in volume.replicas() {
            let on_node = self.by_node.entry(replica.node).or_default();
            on_node.segments.insert(segment);
            on_node.revision = revision;
        }
        if volume.is_tended() {
            self.tended.insert(volume.id);
        }
        if let Some(attachment) = &volume.attachment {
            let at = self.by_gateway.entry(attachment.gateway.clone()).or_default();
            at.volumes.insert(volume.id);
            at.revision = revision;
        }
    }

    fn remove(&mut self, volume: &Volume, revision: u64) {
        if volume.stage() != VolumeStage::Deleting {
            self.names.remove(&volume.name);
        }
        for (segment, _, replica) in volume.replicas() {
            let on_node = self.by_node.entry(replica.node).or_default();
            on_node.segments.remove(&segment);
            on_node.revision = revision;
        }
        self.tended.remove(&volume.id);
        if let Some(attachment) = &volume.attachment {
            let at = self.by_gateway.entry(attachment.gateway.clone()).or_default();
            at.volumes.remove(&volume.id);
            at.revision = revision;
        }
    }
}

impl State {
    /// Puts a new volume in, as of the current revision.
    pub(crate) fn insert_volume(&mut self, mut volume: Volume) {
        volume.revision = self.revision;
        self.index.add(&volume, self.revision);
        self.volumes.insert(volume.id, volume);
    }

    /// Changes a volume and everything derived from it. A tombstone without replicas is removed.
    pub(crate) fn change_volume(&mut self, id: VolumeId, change: impl FnOnce(&mut Volume)) {
        let Some(mut volume) = self.volumes.remove(&id) else { return };
        self.index.remove(&volume, self.revision);
        change(&mut volume);
        let gone = volume.deleting && volume.replicas().next().is_none();
        if !gone {
            self.insert_volume(volume);
        }
    }

    /// Tells the gateways that use a node that its addresses have changed.
    pub(crate) fn node_moved(&mut self, node: NodeId) {
        let volumes: BTreeSet<VolumeId> = self.replicas_on(node).map(|(volume, ..)| volume.id).collect();
        for id in volumes {
            let attachment = self.volumes.get(&id).and_then(|volume| volume.attachment.as_ref());
            if let Some(at) = attachment.and_then(|at| self.index.by_gateway.get_mut(&at.gateway)) {
                at.revision = self.revision;
            }
        }
    }
}
