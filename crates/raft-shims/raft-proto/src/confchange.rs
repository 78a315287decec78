//! Changes of membership in their two forms, and helpers on them.

use crate::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use std::borrow::Cow;

/// One step of a change: what happens to one member.
pub fn new_conf_change_single(node_id: u64, change_type: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { change_type: change_type as i32, node_id }
}

/// Either form of a change of membership.
pub trait ConfChangeI {
    /// The change in its newer form.
    fn into_v2(self) -> ConfChangeV2;
    /// A view of the change in its newer form.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;
    /// The change in its older form, if it was given in that.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        let change = new_conf_change_single(self.node_id, self.get_change_type());
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![change],
            context: self.context,
        }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// Whether the change goes through a joint configuration: `Some(whether raft leaves it by itself)` if so. It does
    /// when it has several steps, or asks for it.
    pub fn enter_joint(&self) -> Option<bool> {
        match self.get_transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether this is the empty change, which ends a joint configuration.
    pub fn leave_joint(&self) -> bool {
        self.changes.is_empty() && self.get_transition() == ConfChangeTransition::Auto
    }
}

impl<V, L> From<(V, L)> for ConfState
where
    V: IntoIterator<Item = u64>,
    L: IntoIterator<Item = u64>,
{
    fn from((voters, learners): (V, L)) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Whether two configurations have the same members in the same parts, in whatever order they are listed.
pub fn conf_state_eq(left: &ConfState, right: &ConfState) -> bool {
    fn sorted(ids: &[u64]) -> Vec<u64> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    }
    left.auto_leave == right.auto_leave
        && [
            (&left.voters, &right.voters),
            (&left.learners, &right.learners),
            (&left.voters_outgoing, &right.voters_outgoing),
            (&left.learners_next, &right.learners_next),
        ]
        .into_iter()
        .all(|(left, right)| sorted(left) == sorted(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_but_parts_do() {
        let left = ConfState::from((vec![1, 2, 3], vec![4]));
        assert!(conf_state_eq(&left, &ConfState::from(([3, 1, 2], [4]))));
        assert!(!conf_state_eq(&left, &ConfState::from(([1, 2], [3, 4]))));
    }

    #[test]
    fn only_changes_of_several_steps_are_joint() {
        let one = ConfChange { node_id: 4, ..Default::default() }.into_v2();
        assert_eq!(one.enter_joint(), None);
        assert!(!one.leave_joint());
        let two = ConfChangeV2 { changes: vec![one.changes[0].clone(), one.changes[0].clone()], ..one };
        assert_eq!(two.enter_joint(), Some(true));
        assert!(ConfChangeV2::default().leave_joint());
    }
}
