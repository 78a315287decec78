//! A slice of a volume: its replicas, what each of them is in its configuration, and how that changes (rule C1).

use quoin_types::{DiskId, Generation, NodeId, ReplicaId, ReplicaRole};

/// How far a replica has come. Only ever moves forward (rule C2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ReplicaState {
    /// The storage node is to create it. Nobody has written to it.
    Creating,
    /// It exists on its disk, and is never created again under this id.
    Ready,
    /// The storage node is to drop it. It is in no configuration any more.
    Dropping,
}

/// One copy of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Never reused.
    pub id: ReplicaId,
    /// The node it was placed on.
    pub node: NodeId,
    /// The very disk it was placed on: another disk in the same node never answers for it.
    pub disk: DiskId,
    /// How far it has come.
    pub state: ReplicaState,
}

/// How far a change of a configuration has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChangeStage {
    /// The added replicas are learners. The voters are what they were, and the change may be given up.
    Filling,
    /// Former and next voters both count: it takes two majorities. There is no way back, only on.
    Joint,
}

/// A change of a segment's voters that is under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The replicas that become voters.
    pub add: Vec<ReplicaId>,
    /// The voters that leave.
    pub remove: Vec<ReplicaId>,
    /// How far it has come.
    pub stage: ChangeStage,
}

/// A slice of a volume, with its replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The number of this configuration. Every step of a change raises it.
    pub generation: Generation,
    /// The members of the configuration, and the replicas that have left one and are still to be dropped.
    pub replicas: Vec<Replica>,
    /// What is being changed: one thing at a time.
    pub change: Option<Change>,
}

impl Segment {
    /// What a replica is in this configuration; `None` for one that is to be dropped.
    pub fn role(&self, replica: &Replica) -> Option<ReplicaRole> {
        if replica.state == ReplicaState::Dropping {
            return None;
        }
        let Some(change) = &self.change else { return Some(ReplicaRole::Voter) };
        let (added, removed) = (change.add.contains(&replica.id), change.remove.contains(&replica.id));
        Some(match change.stage {
            ChangeStage::Filling if added => ReplicaRole::Learner,
            ChangeStage::Joint if added => ReplicaRole::Incoming,
            ChangeStage::Joint if removed => ReplicaRole::Outgoing,
            ChangeStage::Filling | ChangeStage::Joint => ReplicaRole::Voter,
        })
    }

    /// The members of the configuration, with what each of them is.
    pub fn members(&self) -> impl Iterator<Item = (&Replica, ReplicaRole)> {
        self.replicas.iter().filter_map(|replica| Some((replica, self.role(replica)?)))
    }

    /// Those whose answers count now. In a joint configuration the former and the next ones.
    pub fn voters(&self) -> impl Iterator<Item = &Replica> {
        self.members().filter(|(_, role)| role.votes()).map(|(replica, _)| replica)
    }

    /// Those who are the voters when the change under way is done; the present ones, if there is none.
    pub fn next_voters(&self) -> impl Iterator<Item = &Replica> {
        let leaves = |id: ReplicaId| self.change.as_ref().is_some_and(|change| change.remove.contains(&id));
        self.members().map(|(replica, _)| replica).filter(move |replica| !leaves(replica.id))
    }

    /// Whether every replica that votes exists on its disk.
    pub fn voters_exist(&self) -> bool {
        self.voters().all(|replica| replica.state == ReplicaState::Ready)
    }

    /// Goes to the next configuration: the change under way is now this.
    pub(crate) fn step(&mut self, change: Option<Change>) {
        self.change = change;
        self.generation = self.generation.next();
    }

    /// Begins to drop these replicas. They are in no configuration from now on.
    pub(crate) fn drop_replicas(&mut self, ids: &[ReplicaId]) {
        let leaving = self.replicas.iter_mut().filter(|replica| ids.contains(&replica.id));
        leaving.for_each(|replica| replica.state = ReplicaState::Dropping);
    }

    /// Gives up a change whose learners count for nothing yet.
    pub(crate) fn abort(&mut self) {
        if let Some(change) = self.change.take_if(|change| change.stage == ChangeStage::Filling) {
            self.drop_replicas(&change.add);
            self.step(None);
        }
    }
}
