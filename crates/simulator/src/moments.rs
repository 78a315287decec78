//! Faults that strike at a moment: when a promise is told, when a replica begins to pull, when a configuration is joint. What
//! needs two things to go wrong within a millisecond of each other does not happen by chance within a lifetime of runs.
//!
//! A [`Plan`] is a list of steps: a moment to wait for, and deeds that are done then. `world/plot.rs` carries it out.

use crate::faults::Kind;
use crate::queue::{MILLISECOND, Nanos};
use crate::random::Random;

/// What can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// A storage node tells that it has promised an epoch that is newer than the plot.
    Promises,
    /// A storage node tells that it has started an epoch.
    Starts,
    /// A storage node is told to join the stream and to pull what it lacks.
    Joins,
    /// It tells that it has joined.
    HasJoined,
    /// A storage node is told to pull without the stream.
    BeginsRound,
    /// It tells that it has.
    EndsRound,
    /// A storage node is told to repair an extent from a peer.
    Repairs,
    /// It is given an extent by a peer.
    IsFed,
    /// A storage node refuses a write, for it does not know the rest of the extent.
    Refuses,
    /// A gateway learns that its session with a storage node is over.
    SessionEnds,
    /// The managers have made a segment's configuration joint.
    IsJoint,
    /// They have ended that.
    IsPlain,
    /// A client is told that its write is done, under an epoch that is newer than the plot.
    IsAcknowledged,
}

/// When a step is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// At once.
    Once,
    /// After so long, on average.
    After(Nanos),
    /// At the next such moment. Who takes part in it is the plot's node, and the one that it pulls from its source.
    Next(Moment),
    /// At the next such moment of the plot's own node, or after so long.
    Its(Moment, Nanos),
}

/// What is done. *The gateway* is the one that serves then; *the former one* is that before it, if it is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// A fault as it comes by chance, on some storage node and the gateway.
    Fault(Kind),
    /// Of the storage nodes, only the source hears the gateway.
    OnlySourceHears,
    /// Some storage node is the source.
    PickSource,
    /// What the node and its source say to each other takes a while.
    SlowPull,
    /// The node and the gateway hear nothing of each other.
    CutNode,
    /// The node hears nothing of its peers.
    CutPeers,
    /// The gateway hears nothing of the node.
    MuteNode,
    /// It hears it again.
    LetSpeak,
    /// The connections between the node and the gateway break.
    BreakSession,
    PowerNode,
    KillNode,
    PauseNode,
    HangNode,
    IsolateNode,
    IsolateSource,
    /// One storage node that is neither the node nor the source.
    IsolateAnother,
    PowerSource,
    /// The gateway's process, or its machine.
    EndGateway,
    PauseGateway,
    /// The gateway is cut off from the voters of the next configuration, as far as the former one has a majority without them.
    CutNextVoters,
    /// The gateway hears nothing of the managers for a while.
    HoldNews,
    /// Those that were not cut off are isolated.
    IsolateKept,
    /// The former gateway hears the node, and nobody else of those that could tell it that it is over.
    DeafenFormer,
    /// The former gateway keeps a majority of one segment; a new one is given the other nodes.
    SplitSegments,
    /// A map entry rots, and a client writes across the end of its extent.
    RotUnderWrite,
    /// All clients keep to that extent, to the one that is repaired, or to the segment that is pulled.
    KeepClientsThere,
    /// What was written across an end is read.
    ReadAcross,
    /// All clients ask for as much as they may.
    AskMuch,
    /// All clients go to another gateway.
    ClientsAway,
    /// Half of them do.
    SomeClientsAway,
    /// One does.
    OneClientAway,
    /// What was cut is mended.
    Mend,
}

/// A step of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: At,
    pub(crate) then: Vec<Deed>,
}

/// A plan.
pub(crate) struct Plan {
    /// It is of use only where such faults come by chance, too.
    needs: Option<Kind>,
    steps: &'static [(At, &'static [Deed])],
}

const MS: Nanos = MILLISECOND;

/// Plans that were thought out, each with the rule that it tries (`docs/replication.md`).
const PLANS: [Plan; 11] = [
    // S2: one has what nobody else has and misses the beginning of an epoch, so that it must pull. The source then has what
    // nobody else has, gives it to the one that joins, and is gone with the gateway.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::PickSource, Deed::OnlySourceHears, Deed::AskMuch]),
            (At::After(20 * MS), &[Deed::IsolateSource, Deed::ClientsAway]),
            (At::Next(Moment::IsAcknowledged), &[Deed::Mend]),
            (
                At::Next(Moment::Joins),
                &[Deed::OnlySourceHears, Deed::SlowPull, Deed::KeepClientsThere, Deed::AskMuch],
            ),
            (
                At::Its(Moment::HasJoined, 40 * MS),
                &[Deed::EndGateway, Deed::IsolateSource, Deed::ClientsAway],
            ),
        ],
    },
    // S4: the same for a round, which counts until the epoch ends.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::PickSource, Deed::OnlySourceHears, Deed::AskMuch]),
            (At::After(20 * MS), &[Deed::IsolateSource, Deed::ClientsAway]),
            (At::Next(Moment::IsAcknowledged), &[Deed::Mend]),
            (At::Next(Moment::Joins), &[Deed::BreakSession]),
            (
                At::Next(Moment::BeginsRound),
                &[Deed::OnlySourceHears, Deed::SlowPull, Deed::KeepClientsThere, Deed::AskMuch],
            ),
            (
                At::Its(Moment::EndsRound, 60 * MS),
                &[Deed::EndGateway, Deed::IsolateSource, Deed::ClientsAway],
            ),
        ],
    },
    // R3: the same for a repair.
    Plan {
        needs: Some(Kind::Rot),
        steps: &[
            (
                At::Next(Moment::Repairs),
                &[Deed::OnlySourceHears, Deed::SlowPull, Deed::KeepClientsThere, Deed::AskMuch],
            ),
            (At::Its(Moment::IsFed, 150 * MS), &[Deed::EndGateway, Deed::IsolateSource, Deed::ClientsAway]),
        ],
    },
    // C1: the next voters lack, at the last step, what the former ones have.
    Plan {
        needs: Some(Kind::Reconfigure),
        steps: &[
            (At::Once, &[Deed::Fault(Kind::Reconfigure)]),
            (At::Next(Moment::IsJoint), &[Deed::CutNextVoters, Deed::HoldNews]),
            (At::Next(Moment::IsPlain), &[Deed::EndGateway, Deed::IsolateKept, Deed::ClientsAway]),
        ],
    },
    // Attach, step 6: one segment has gone over to the new gateway, another has not.
    Plan { needs: None, steps: &[(At::Once, &[Deed::SplitSegments])] },
    // A1: power fails between a promise and its sync, and the former gateway is back before the new one.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::SomeClientsAway]),
            (At::Next(Moment::Promises), &[Deed::CutNode, Deed::PowerNode, Deed::DeafenFormer]),
        ],
    },
    // The same for the start of an epoch.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::SomeClientsAway]),
            (At::Next(Moment::Starts), &[Deed::CutNode, Deed::PowerNode, Deed::DeafenFormer]),
        ],
    },
    // A2: an epoch that leaves much that nobody has acknowledged, one that acknowledges less, and a third.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::PickSource, Deed::OnlySourceHears, Deed::AskMuch]),
            (At::After(40 * MS), &[Deed::EndGateway, Deed::IsolateSource, Deed::OneClientAway]),
            (
                At::Next(Moment::IsAcknowledged),
                &[Deed::EndGateway, Deed::Mend, Deed::IsolateAnother, Deed::ClientsAway],
            ),
        ],
    },
    // W3: a position is told, and then its session and what it told are gone.
    Plan {
        needs: None,
        steps: &[
            (At::Once, &[Deed::PickSource, Deed::OnlySourceHears, Deed::AskMuch]),
            (At::After(10 * MS), &[Deed::PowerSource]),
            (At::Next(Moment::SessionEnds), &[Deed::Mend]),
        ],
    },
    // W1: a write is refused, and others follow it.
    Plan { needs: Some(Kind::Rot), steps: &[(At::Once, &[Deed::RotUnderWrite, Deed::KeepClientsThere])] },
    // R0: the same, and what it wrote is read before the gateway hears of that.
    Plan {
        needs: Some(Kind::Rot),
        steps: &[
            (At::Once, &[Deed::RotUnderWrite, Deed::KeepClientsThere]),
            (At::Its(Moment::Refuses, 20 * MS), &[Deed::MuteNode]),
            // Sooner than the gateway looks for another voter, for this one answers nothing any more.
            (At::After(MS / 3), &[Deed::ReadAcross]),
            (At::After(MS / 2), &[Deed::LetSpeak]),
        ],
    },
];

/// For plans that nobody has thought out.
const MOMENTS: [Moment; 13] = [
    Moment::Promises,
    Moment::Starts,
    Moment::Joins,
    Moment::HasJoined,
    Moment::BeginsRound,
    Moment::EndsRound,
    Moment::Repairs,
    Moment::IsFed,
    Moment::Refuses,
    Moment::SessionEnds,
    Moment::IsJoint,
    Moment::IsPlain,
    Moment::IsAcknowledged,
];
const FIRST_DEEDS: [Deed; 12] = [
    Deed::OnlySourceHears,
    Deed::SlowPull,
    Deed::CutNode,
    Deed::CutPeers,
    Deed::BreakSession,
    Deed::PowerNode,
    Deed::KillNode,
    Deed::PauseNode,
    Deed::HangNode,
    Deed::IsolateNode,
    Deed::IsolateSource,
    Deed::PowerSource,
];
const LATER_DEEDS: [Deed; 8] = [
    Deed::EndGateway,
    Deed::PauseGateway,
    Deed::ClientsAway,
    Deed::SomeClientsAway,
    Deed::IsolateAnother,
    Deed::PowerNode,
    Deed::BreakSession,
    Deed::Mend,
];

/// A plan, thought out or not.
pub(crate) fn draw(random: &mut Random, faults: &[Kind]) -> Vec<Step> {
    if random.permille(250) {
        return draw_any(random);
    }
    let fits = |plan: &&Plan| plan.needs.is_none_or(|kind| faults.contains(&kind));
    let fitting: Vec<&Plan> = PLANS.iter().filter(fits).collect();
    // Those that are of use in few scenarios come more often there.
    let rare = fitting.iter().filter(|plan| plan.needs.is_some());
    let chosen: Vec<&Plan> = fitting.iter().chain(rare.clone()).chain(rare).copied().collect();
    let plan = chosen[random.index(chosen.len())];
    plan.steps.iter().map(|(at, then)| Step { at: *at, then: then.to_vec() }).collect()
}

/// A moment or two, and whatever comes to mind.
fn draw_any(random: &mut Random) -> Vec<Step> {
    let begin = random.pick(&[
        Deed::Fault(Kind::KillNode),
        Deed::Fault(Kind::BreakConnections),
        Deed::Fault(Kind::IsolateNode),
        Deed::ClientsAway,
        Deed::SomeClientsAway,
    ]);
    let mut steps = vec![Step { at: At::Once, then: vec![begin] }];
    for _ in 0..random.between(1, 2) {
        let then = (0..random.between(1, 3)).map(|_| random.pick(&FIRST_DEEDS)).collect();
        steps.push(Step { at: At::Next(random.pick(&MOMENTS)), then });
    }
    let at = match random.below(3) {
        0 => At::Next(random.pick(&MOMENTS)),
        1 => At::Its(random.pick(&MOMENTS), 50 * MS),
        _ => At::After(random.pick(&[1, 10, 50]) * MS),
    };
    let then = (0..random.between(1, 3)).map(|_| random.pick(&LATER_DEEDS)).collect();
    steps.push(Step { at, then });
    steps
}
