//! Which replicas are on this disk: created once, dropped once (rule C2).

use super::effects::Effect;
use super::snapshots::KeptSnapshots;
use super::{Fatal, Node, Output};
use quoin_replication::replica::{Replica, ReplicaMeta};
use quoin_types::collections::HashSet;
use quoin_types::{Generation, Moment, ReplicaId, SegmentId};

/// What the cluster manager wants of one replica on this disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// The replica.
    pub replica: ReplicaId,
    /// The segment that it holds.
    pub segment: SegmentId,
    /// The segment's configuration.
    pub generation: Generation,
    /// The size of the volume's segments, in bytes.
    pub segment_bytes: u64,
    /// What is wanted.
    pub wanted: Wanted,
    /// Which snapshots are kept.
    pub snapshots: KeptSnapshots,
}

/// What the cluster manager wants of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// To be created, unless it exists.
    Created,
    /// It exists, by this disk's own report. Never created again.
    Kept,
    /// To be dropped, if it exists.
    Dropped,
}

impl Node {
    /// The cluster manager's list for this disk. What is not on it is told to the managers, and left alone until they say
    /// that it is unwanted ([`Node::on_unwanted`]): the list may be older than the replica, and nothing is dropped unasked.
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_assignments(&mut self, assignments: &[Assignment], now: Moment) -> Result<(), Fatal> {
        for assignment in assignments {
            let id = assignment.replica;
            if assignment.wanted != Wanted::Dropped {
                self.keep_snapshots(id, &assignment.snapshots)?;
            }
            let exists = self.replicas.contains_key(&id);
            match assignment.wanted {
                Wanted::Created if exists => self.tell_again(Effect::Created(id), Output::Created(id)),
                Wanted::Created => self.create(assignment)?,
                Wanted::Dropped if exists => self.remove(id)?,
                Wanted::Dropped => self.tell_again(Effect::Dropped(id), Output::Dropped(id)),
                Wanted::Kept if exists => {}
                Wanted::Kept => {
                    tracing::error!(replica = %id, segment = %assignment.segment,
                        "this disk has lost a replica that it once had; it will not answer for it");
                }
            }
        }
        let listed: HashSet<ReplicaId> = assignments.iter().map(|assignment| assignment.replica).collect();
        let mut unlisted: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        unlisted.retain(|id| !listed.contains(id));
        unlisted.sort_unstable();
        unlisted.into_iter().for_each(|id| self.tell_again(Effect::Created(id), Output::Created(id)));
        self.end_batch(now)
    }

    /// The cluster managers have said of replicas that were told to exist ([`Output::Created`]) that nobody wants them, now or
    /// ever: a list that was older than their end had brought them back (rule C2).
    ///
    /// # Errors
    /// The disk failed.
    pub fn on_unwanted(&mut self, unwanted: &[ReplicaId], now: Moment) -> Result<(), Fatal> {
        for id in unwanted {
            if self.replicas.contains_key(id) {
                tracing::info!(replica = %id, "the cluster managers do not know this replica any more; it is dropped");
                self.remove(*id)?;
            }
        }
        self.end_batch(now)
    }

    fn create(&mut self, assignment: &Assignment) -> Result<(), Fatal> {
        let meta = ReplicaMeta::new(assignment.segment, assignment.generation);
        let id = assignment.replica;
        match self.engine.create_replica(id, assignment.segment_bytes, meta.encode()) {
            Ok(lsn) => {
                self.replicas.insert(id, Replica::create(id, meta, self.timing));
                self.effects.at(lsn, Effect::Created(id));
                Ok(())
            }
            Err(quoin_store::Error::NoSpace) => {
                tracing::warn!(replica = %id, "no space to create a replica; it will be tried again");
                Ok(())
            }
            Err(quoin_store::Error::ReplicaExists(_)) => {
                // Not in `replicas`, so it was dropped, and only its remains are still there: no list that is true wants it.
                tracing::debug!(replica = %id, "an old list has a replica that is being dropped");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&mut self, id: ReplicaId) -> Result<(), Fatal> {
        self.drop_pull(id);
        let former = self.replicas.remove(&id).and_then(|replica| replica.session());
        self.leaves(former);
        self.damages.forget(id);
        self.kept.remove(&id);
        let lsn = self.engine.drop_replica(id)?;
        self.effects.at(lsn, Effect::Dropped(id));
        Ok(())
    }
}
