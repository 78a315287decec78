//! W3: what an acknowledgement rests on was told on sessions that had not ended. A gateway's own counting, done once more from
//! what it hears: a write is acknowledged only if at one moment a majority of the voters had told that they have it, each on the
//! session that it has then, or that it is durable there.

use super::{Configurations, Sent};
use quoin_types::collections::HashMap;
use quoin_types::joint;
use quoin_types::{Epoch, NodeId, ReplicaId, ReplicaRole, SegmentId, Seq};
use quoin_wire::Message;
use std::collections::BTreeSet;

/// What a gateway has heard of a replica on the present session.
#[derive(Clone, Copy, Debug)]
struct Heard {
    node: NodeId,
    epoch: Epoch,
    accepted: Seq,
}

#[derive(Default)]
pub(super) struct Counted {
    heard: HashMap<(usize, ReplicaId), Heard>,
    /// Durable is durable, whatever becomes of the session.
    durable: HashMap<(ReplicaId, Epoch), Seq>,
    /// The furthest that a majority was at one moment.
    reached: HashMap<(SegmentId, Epoch), Seq>,
}

impl Counted {
    /// A message from a node has come to a gateway.
    pub(super) fn heard(
        &mut self,
        gateway: usize,
        node: NodeId,
        message: &Message,
        segments: &HashMap<ReplicaId, SegmentId>,
        configurations: &Configurations,
    ) {
        let mut risen = Vec::new();
        match message {
            Message::Positions(positions) => {
                for position in &positions.replicas {
                    let durable = self.durable.entry((position.replica, position.epoch)).or_default();
                    *durable = position.durable.max(*durable);
                    let heard = Heard { node, epoch: position.epoch, accepted: position.accepted };
                    risen.push((position.replica, heard));
                }
            }
            // In this epoch's history: it goes on from there.
            Message::OpenReply(reply) => {
                let Ok(report) = &reply.result else { return };
                // What it told before is over.
                self.heard.remove(&(gateway, reply.replica));
                let starts = report.history.last().is_some_and(|last| last.epoch == reply.epoch);
                if starts && !report.mixed {
                    let durable = self.durable.entry((reply.replica, reply.epoch)).or_default();
                    *durable = report.last.max(*durable);
                    risen.push((reply.replica, Heard { node, epoch: reply.epoch, accepted: report.last }));
                }
            }
            _ => return,
        }
        for (replica, heard) in risen {
            // What is told to be accepted stays so for the session: of writes behind it a node may say less for a while.
            let known = self.heard.get(&(gateway, replica));
            if known.is_some_and(|known| known.epoch == heard.epoch && known.accepted >= heard.accepted) {
                continue;
            }
            self.heard.insert((gateway, replica), heard);
            if let Some(segment) = segments.get(&replica) {
                self.count(Some(gateway), *segment, heard.epoch, configurations);
            }
        }
    }

    /// A gateway's session with a node has ended.
    pub(super) fn ended(&mut self, gateway: usize, node: NodeId) {
        self.heard.retain(|(by, _), heard| *by != gateway || heard.node != node);
    }

    /// Which configuration the gateway runs is not known here: the one that gives most counts. `None`: no gateway has a
    /// session with any member, and only what is durable counts.
    fn count(
        &mut self,
        gateway: Option<usize>,
        segment: SegmentId,
        epoch: Epoch,
        configurations: &Configurations,
    ) {
        let at = |replica: ReplicaId| {
            let heard = gateway.and_then(|gateway| self.heard.get(&(gateway, replica)));
            let heard = heard.filter(|heard| heard.epoch == epoch);
            let durable = self.durable.get(&(replica, epoch)).copied().unwrap_or_default();
            heard.map_or(durable, |heard| heard.accepted.max(durable))
        };
        let known = configurations.get(&segment).map(Vec::as_slice).unwrap_or_default();
        let position = |members: &Vec<_>| joint::position(members, |(_, role)| *role, |(id, _)| at(*id));
        let position = known.iter().map(|(_, members)| position(members)).max().unwrap_or_default();
        let reached = self.reached.entry((segment, epoch)).or_default();
        *reached = position.max(*reached);
    }

    /// A segment's configuration has changed, and with it what a majority is.
    pub(super) fn configured(
        &mut self,
        segment: SegmentId,
        members: &[(ReplicaId, ReplicaRole)],
        configurations: &Configurations,
    ) {
        let is_member = |replica: ReplicaId| members.iter().any(|(id, _)| *id == replica);
        let heard = self.heard.iter().filter(|((_, by), _)| is_member(*by));
        let heard = heard.map(|((gateway, _), heard)| (Some(*gateway), heard.epoch));
        // A member whose session has ended may be all that is left to be counted, as the survivor of two: what it has told to
        // be durable is on its disk.
        let durable = self.durable.keys().filter(|(replica, _)| is_member(*replica));
        let durable = durable.map(|(_, epoch)| (None, *epoch));
        let gateways: BTreeSet<(Option<usize>, Epoch)> = heard.chain(durable).collect();
        for (gateway, epoch) in gateways {
            self.count(gateway, segment, epoch, configurations);
        }
    }

    /// A gateway tells a client that these values, by register, are written.
    pub(super) fn acknowledged(
        &self,
        values: &[(u64, u64)],
        sent: &HashMap<u64, Sent>,
    ) -> Result<(), String> {
        for (_, value) in values.iter().filter(|(register, value)| *value != 0 && *register < 1 << 32) {
            let Some(sent) = sent.get(value) else { continue };
            let reached = self.reached.get(&(sent.segment, sent.epoch)).copied().unwrap_or_default();
            if reached < sent.seq {
                return Err(format!(
                    "{value} is acknowledged for {sent:?}, of which sessions that had not ended vouch for {reached}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::{Generation, VolumeId};
    use quoin_wire::{Position, Positions};

    const SEGMENT: SegmentId = SegmentId { volume: VolumeId(1), index: 0 };
    const EPOCH: Epoch = Epoch(1);

    fn told(replica: u64, accepted: u64, durable: u64) -> Message {
        let position = Position {
            replica: ReplicaId(replica),
            epoch: EPOCH,
            accepted: Seq(accepted),
            durable: Seq(durable),
        };
        Message::Positions(Positions { replicas: vec![position], ..Positions::default() })
    }

    /// Three voters of one segment, each on the node of its number; a write of value 9 has seq 5.
    struct Scene {
        counted: Counted,
        segments: HashMap<ReplicaId, SegmentId>,
        configurations: Configurations,
        sent: HashMap<u64, Sent>,
    }

    impl Scene {
        fn new() -> Self {
            let members = (1..=3).map(|id| (ReplicaId(id), ReplicaRole::Voter)).collect();
            Self {
                counted: Counted::default(),
                segments: (1..=3).map(|id| (ReplicaId(id), SEGMENT)).collect(),
                configurations: [(SEGMENT, vec![(Generation(1), members)])].into_iter().collect(),
                sent: [(9, Sent { segment: SEGMENT, epoch: EPOCH, seq: Seq(5) })].into_iter().collect(),
            }
        }

        fn hears(&mut self, replica: u64, accepted: u64, durable: u64) {
            let message = told(replica, accepted, durable);
            self.counted.heard(0, NodeId(replica), &message, &self.segments, &self.configurations);
        }

        fn may_acknowledge(&self) -> bool {
            self.counted.acknowledged(&[(0, 9)], &self.sent).is_ok()
        }
    }

    #[test]
    fn a_majority_at_one_moment_is_enough_whatever_comes_later() {
        let mut scene = Scene::new();
        scene.hears(1, 5, 3);
        assert!(!scene.may_acknowledge());
        scene.hears(2, 6, 3);
        scene.counted.ended(0, NodeId(1));
        assert!(scene.may_acknowledge());
    }

    #[test]
    fn what_an_ended_session_told_counts_only_as_far_as_it_is_durable() {
        let mut scene = Scene::new();
        scene.hears(1, 5, 4);
        scene.counted.ended(0, NodeId(1));
        scene.hears(2, 5, 3);
        assert!(!scene.may_acknowledge());
        // Nor does what another gateway was told.
        let message = told(3, 5, 3);
        scene.counted.heard(1, NodeId(3), &message, &scene.segments, &scene.configurations);
        assert!(!scene.may_acknowledge());
        scene.hears(1, 5, 5);
        scene.counted.ended(0, NodeId(1));
        assert!(scene.may_acknowledge());
    }

    #[test]
    fn what_is_durable_on_the_survivor_counts_though_its_session_has_ended() {
        let mut scene = Scene::new();
        let becomes = |scene: &mut Scene, generation, voters: &[u64]| {
            let members: Vec<_> = voters.iter().map(|id| (ReplicaId(*id), ReplicaRole::Voter)).collect();
            let known = scene.configurations.entry(SEGMENT).or_default();
            known.push((Generation(generation), members.clone()));
            scene.counted.configured(SEGMENT, &members, &scene.configurations);
        };
        scene.configurations.clear();
        becomes(&mut scene, 1, &[1, 2]);
        scene.hears(1, 5, 4);
        scene.counted.ended(0, NodeId(1));
        becomes(&mut scene, 2, &[1]);
        assert!(!scene.may_acknowledge(), "accepted on an ended session, and not durable");

        let mut scene = Scene::new();
        scene.configurations.clear();
        becomes(&mut scene, 1, &[1, 2]);
        scene.hears(1, 5, 5);
        scene.counted.ended(0, NodeId(1));
        assert!(!scene.may_acknowledge(), "of two voters, one has it");
        becomes(&mut scene, 2, &[1]);
        assert!(scene.may_acknowledge());
    }
}
