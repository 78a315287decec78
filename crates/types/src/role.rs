//! What a replica is in its segment's configuration.

use crate::quorum::{majority, majority_position, meets_every_majority};

/// What a replica is in its segment's configuration. A configuration with incoming or outgoing replicas is *joint*: two
/// majorities are needed for everything, one of the former voters and one of the next ones (rule C1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ReplicaRole {
    /// Its acknowledgements count, before a change and after it.
    #[default]
    Voter,
    /// It is being filled, and counts for nothing yet.
    Learner,
    /// Of a joint configuration: a voter of the next one.
    Incoming,
    /// Of a joint configuration: a voter of the former one.
    Outgoing,
}

impl ReplicaRole {
    /// Whether it votes in the configuration that a joint one leaves; in a plain one, whether it votes.
    pub fn votes_before(self) -> bool {
        matches!(self, Self::Voter | Self::Outgoing)
    }

    /// Whether it votes in the configuration that a joint one goes to; in a plain one, whether it votes.
    pub fn votes_after(self) -> bool {
        matches!(self, Self::Voter | Self::Incoming)
    }

    /// Whether it votes at all.
    pub fn votes(self) -> bool {
        self != Self::Learner
    }
}

/// Majorities of a configuration; of a joint one, of both of its halves (rule C1). Each member comes with its role.
pub mod joint {
    use super::{ReplicaRole, majority, majority_position, meets_every_majority};
    use crate::limits::MEMBERS_MAX;

    /// Whether those for which `yes` holds are a majority.
    pub fn is_majority<M>(members: &[M], role: impl Fn(&M) -> ReplicaRole, yes: impl Fn(&M) -> bool) -> bool {
        both_halves(|votes| {
            let (all, with) = count(members, &role, votes, &yes);
            all > 0 && with >= majority(all)
        })
    }

    /// Whether those for which `yes` holds meet every majority.
    pub fn meets_majorities<M>(
        members: &[M],
        role: impl Fn(&M) -> ReplicaRole,
        yes: impl Fn(&M) -> bool,
    ) -> bool {
        both_halves(|votes| {
            let (all, with) = count(members, &role, votes, &yes);
            all > 0 && with >= meets_every_majority(all)
        })
    }

    /// The greatest position that a majority has reached; the least value without voters. At most [`MEMBERS_MAX`] members.
    pub fn position<M, T: Ord + Copy + Default>(
        members: &[M],
        role: impl Fn(&M) -> ReplicaRole,
        of: impl Fn(&M) -> T,
    ) -> T {
        let half = |votes: fn(ReplicaRole) -> bool| {
            // On the stack: this is asked for every acknowledgement.
            let mut positions = [T::default(); MEMBERS_MAX];
            let mut count = 0;
            for member in members.iter().filter(|member| votes(role(member))) {
                positions[count] = of(member);
                count += 1;
            }
            majority_position(&mut positions[..count]).unwrap_or_default()
        };
        half(ReplicaRole::votes_before).min(half(ReplicaRole::votes_after))
    }

    fn both_halves(half: impl Fn(fn(ReplicaRole) -> bool) -> bool) -> bool {
        half(ReplicaRole::votes_before) && half(ReplicaRole::votes_after)
    }

    fn count<M>(
        members: &[M],
        role: &impl Fn(&M) -> ReplicaRole,
        votes: fn(ReplicaRole) -> bool,
        yes: &impl Fn(&M) -> bool,
    ) -> (usize, usize) {
        let voters = || members.iter().filter(|member| votes(role(member)));
        (voters().count(), voters().filter(|member| yes(member)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::ReplicaRole::{Incoming, Learner, Outgoing, Voter};
    use super::joint::{is_majority, meets_majorities, position};
    use super::*;

    type Member = (ReplicaRole, u64);

    fn majority_with(members: &[Member]) -> bool {
        is_majority(members, |m| m.0, |m| m.1 > 0)
    }

    #[test]
    fn a_plain_configuration_has_one_majority() {
        assert!(majority_with(&[(Voter, 1), (Voter, 1), (Voter, 0)]));
        assert!(!majority_with(&[(Voter, 1), (Voter, 0), (Voter, 0), (Learner, 1)]));
        assert!(!majority_with(&[(Learner, 1)]));
        assert_eq!(position(&[(Voter, 7), (Voter, 5), (Voter, 1), (Learner, 9)], |m| m.0, |m| m.1), 5);
        assert!(meets_majorities(&[(Voter, 1), (Voter, 1), (Voter, 0)], |m| m.0, |m| m.1 > 0));
        assert!(!meets_majorities(&[(Voter, 1), (Voter, 0), (Voter, 0)], |m| m.0, |m| m.1 > 0));
    }

    #[test]
    fn a_joint_one_has_two() {
        // {1, 2, 3} becomes {2, 3, 4}.
        let with = |yes: [u64; 4]| [(Outgoing, yes[0]), (Voter, yes[1]), (Voter, yes[2]), (Incoming, yes[3])];
        assert!(majority_with(&with([0, 1, 1, 0])));
        assert!(majority_with(&with([1, 1, 0, 1])));
        assert!(!majority_with(&with([1, 1, 0, 0])));
        assert!(!majority_with(&with([0, 1, 0, 1])));
        assert_eq!(position(&with([9, 8, 1, 0]), |m| m.0, |m| m.1), 1);
        assert_eq!(position(&with([9, 8, 1, 7]), |m| m.0, |m| m.1), 7);
    }
}
