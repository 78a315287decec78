//! Who the members of the manager are to be.

use super::request::{Refused, Reply};
use super::step::{Context, Point, Step, Until};
use crate::raft::{MemberChange, Membership};

/// The next step from how the members are to how they are wanted: take the new one in, fill it, give it a vote, only then
/// let the old one go, and at last see to it that they know.
pub(super) fn change(
    add: Option<&(u64, String)>,
    remove: Option<u64>,
    point: Point,
    cx: &Context<'_>,
) -> Result<Step, Refused> {
    let settled = point == Point::Look(Until::Settled);
    if let Point::Applied(result) = point {
        result?;
    }
    if add.is_some_and(|(id, _)| *id == 0 || remove == Some(*id)) {
        return Err(Refused::invalid("a member's id is not 0, and no member is added and removed at once"));
    }
    if let Some((id, address)) = add {
        match cx.consensus.membership(*id) {
            Membership::None => {
                return Ok(Step::Change(MemberChange::Learner { id: *id, address: address.clone() }));
            }
            Membership::Learner { ready: false } => return Ok(Step::Wait(Until::Decidable)),
            Membership::Learner { ready: true } => return Ok(Step::Change(MemberChange::Voter { id: *id })),
            Membership::Voter => {}
        }
    }
    let Some(id) = remove.filter(|id| cx.consensus.membership(*id) != Membership::None) else {
        // Whoever hears it may lose any minority of the new members at once, and switch off those that are gone.
        return Ok(if settled { Step::Answer(Reply::MembersChanged) } else { Step::Settle });
    };
    if cx.consensus.membership(id) == Membership::Voter && cx.consensus.voters() == 1 {
        return Err(Refused::precondition("the last member cannot go".to_owned(), "add another one first"));
    }
    if id == cx.id { Ok(Step::Resign) } else { Ok(Step::Change(MemberChange::Gone { id })) }
}
