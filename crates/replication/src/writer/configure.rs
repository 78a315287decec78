//! Changes of the segment's configuration while it is attached (rule C1).
//!
//! The cluster manager takes the steps; each has a higher generation. A learner is filled like a voter that comes back,
//! and counts for nothing. In a joint configuration everything that needs a majority needs two: of those that voted
//! before and of those that will vote after. The manager takes the last step only when [`Segment::is_settled`] was
//! reported under the joint generation.

use super::voter::Voter;
use super::{Links, Phase, Segment, VoterConfig};
use quoin_types::{Generation, Moment, NodeId};

impl Segment {
    /// The number of the configuration in use.
    pub fn generation(&self) -> Generation {
        self.config.generation
    }

    /// Uses another configuration from now on, unless it is not newer than the one in use. Gives the nodes of new members:
    /// for each that has a session, [`Segment::session_up`] is to follow.
    pub fn configure(
        &mut self,
        generation: Generation,
        members: &[VoterConfig],
        now: Moment,
        links: &mut dyn Links,
    ) -> Vec<NodeId> {
        if generation <= self.config.generation || members.is_empty() || self.is_fenced() {
            return Vec::new();
        }
        self.config.generation = generation;
        self.settled_at = self.log.last();
        for index in (0..self.voters.len()).rev() {
            let replica = self.voters[index].config.replica;
            match members.iter().find(|member| member.replica == replica) {
                Some(member) => self.voters[index].config = member.clone(),
                None => self.dismiss(index, now, links),
            }
        }
        let mut added = Vec::new();
        for member in members {
            if self.voter(member.replica).is_none() {
                added.push(member.node);
                self.voters.push(Voter::new(member.clone()));
            }
        }
        match self.phase {
            Phase::Opening { .. } => self.tick_attach(now, links),
            // Who is the authority, and who is needed, is judged by the configuration: it is asked for anew.
            Phase::Recovering { authority } => self.authority_lost(authority, now, links),
            // What the epoch starts from was decided among all who could have had an acknowledged write. That stays so: no
            // step but the last takes voters away, and the last one waits for this attachment to have settled.
            Phase::Starting => self.run_if_started(),
            Phase::Running | Phase::Fenced => {}
        }
        self.advance(now, links);
        self.start_waiting(now, links);
        added
    }

    /// C1: whether everything that was given a seq before this configuration began to be used is durable on a majority of
    /// it, of both halves if it is joint. Only then may the manager leave the joint configuration.
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Running && self.durable_on_majority() >= self.settled_at
    }

    /// A member has left the configuration.
    fn dismiss(&mut self, index: usize, now: Moment, links: &mut dyn Links) {
        self.voters[index].fail("it left the configuration".into());
        if let Phase::Recovering { authority } = self.phase {
            // All are asked anew, before indices change their meaning.
            self.authority_lost(authority, now, links);
        }
        self.retry_reads_of(index, now, links);
        self.voters.remove(index);
    }
}
