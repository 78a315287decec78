//! Rules C1 and C3, one small conversation each.

mod support;

use quoin_replication::Timing;
use quoin_replication::replica::{Replica, ReplicaMeta};
use quoin_replication::writer::*;
use quoin_types::*;
use quoin_wire::*;
use std::time::Duration;
use support::{Sent, config, member, report};

/// A segment and the messages that it has sent.
struct Attached {
    epoch: Epoch,
    segment: Segment,
    sent: Sent,
}

use ReplicaRole::{Incoming, Learner, Outgoing, Voter};

fn now() -> Moment {
    Moment::ZERO + Duration::from_millis(5)
}

fn members(members: &[(u64, ReplicaRole)]) -> Vec<VoterConfig> {
    members.iter().map(|(number, role)| member(*number, *role)).collect()
}

impl Attached {
    fn new(epoch: u64, configuration: &[(u64, ReplicaRole)]) -> Self {
        let segment = Segment::new(config(epoch, members(configuration), 1 << 20), now());
        let mut attached = Self { epoch: Epoch(epoch), segment, sent: Sent::default() };
        for (node, _) in configuration {
            attached.segment.session_up(NodeId(*node), now(), &mut attached.sent);
        }
        attached
    }

    /// New replicas, all of which are live and have granted leases.
    fn running(configuration: &[(u64, ReplicaRole)]) -> Self {
        let mut attached = Self::new(1, configuration);
        for (replica, _) in configuration {
            attached.opened(*replica, report(&[], 0));
        }
        for (replica, _) in configuration {
            attached.started(*replica);
            attached.leased(*replica);
        }
        attached.segment.allow_serving(now(), &mut attached.sent);
        assert!(attached.segment.is_available());
        attached
    }

    fn opened(&mut self, replica: u64, report: ReplicaReport) {
        let reply = OpenReply { replica: ReplicaId(replica), epoch: self.epoch, result: Ok(report) };
        self.segment.on_open_reply(reply, now(), &mut self.sent);
    }

    fn started(&mut self, replica: u64) {
        let reply = StartEpochReply { replica: ReplicaId(replica), epoch: self.epoch, result: Ok(()) };
        self.segment.on_start_epoch_reply(&reply, now(), &mut self.sent);
    }

    fn leased(&mut self, replica: u64) {
        self.segment.on_lease(ReplicaId(replica), now(), now(), &mut self.sent);
    }

    fn position(&mut self, replica: u64, accepted: u64, durable: u64) {
        let (accepted, durable) = (Seq(accepted), Seq(durable));
        let position = Position { replica: ReplicaId(replica), epoch: self.epoch, accepted, durable };
        self.segment.on_position(&position, now(), &mut self.sent);
    }

    fn write(&mut self, token: u64) {
        let operation = Operation::Zero { offset: 0, length: BLOCK_BYTES };
        let request = Request::Replicate { operation, durable: false };
        self.segment.submit(Token(token), request, now(), &mut self.sent);
    }

    fn done(&mut self) -> Vec<u64> {
        let token = |completion| match completion {
            Completion::Done(token) => token.0,
            other => panic!("{other:?}"),
        };
        self.segment.completions().map(token).collect()
    }

    fn configure(&mut self, generation: u64, configuration: &[(u64, ReplicaRole)]) {
        let members = members(configuration);
        for node in self.segment.configure(Generation(generation), &members, now(), &mut self.sent) {
            self.segment.session_up(node, now(), &mut self.sent);
        }
    }

    /// The learner has joined the live stream and has everything.
    fn filled(&mut self, replica: u64) {
        let order = self.sent.messages.iter().rev().find_map(|(node, message)| match message {
            Message::Resync(order) if *node == NodeId(replica) => Some(order.clone()),
            _ => None,
        });
        let order = order.expect("a resync was ordered");
        let done = ResyncReport {
            replica: order.replica,
            epoch: order.epoch,
            done_bytes: 0,
            total_bytes: 0,
            state: ResyncState::Complete,
        };
        self.segment.on_resync_report(&done, now(), &mut self.sent);
    }
}

const THREE: [(u64, ReplicaRole); 3] = [(1, Voter), (2, Voter), (3, Voter)];

/// Three voters with a write that all have, and a fourth replica that has been filled.
fn with_learner() -> Attached {
    let mut attached = Attached::running(&THREE);
    attached.write(1);
    (1..=3).for_each(|replica| attached.position(replica, 1, 1));
    assert_eq!(attached.done(), [1]);
    attached.configure(2, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    attached.opened(4, report(&[], 0));
    attached.filled(4);
    attached
}

#[test]
fn a_learner_is_filled_and_counts_for_nothing() {
    let mut attached = with_learner();
    attached.position(4, 1, 1);
    let status = attached.segment.status();
    assert!(status.iter().all(|voter| voter.health == VoterHealth::InSync), "{status:?}");
    attached.write(2);
    attached.position(1, 2, 2);
    attached.position(4, 2, 2);
    assert_eq!(attached.done(), [], "one voter is no majority");
    attached.position(2, 2, 2);
    assert_eq!(attached.done(), [2]);
}

#[test]
fn a_learner_does_not_take_part_in_an_attach() {
    let mut attached = Attached::new(2, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    attached.opened(1, report(&[(1, 1)], 5));
    attached.opened(4, report(&[(1, 1)], 9));
    assert!(!attached.segment.is_promised());
    attached.opened(2, report(&[(1, 1)], 5));
    attached.opened(3, report(&[(1, 1)], 5));
    let start = attached.sent.messages.iter().find_map(|(_, message)| match message {
        Message::StartEpoch(start) => Some(start.expect),
        _ => None,
    });
    assert_eq!(
        start,
        Some(Point { epoch: Epoch(1), seq: Seq(5) }),
        "nobody acknowledged what only a learner has"
    );
}

#[test]
fn c1_a_joint_configuration_acknowledges_by_both_majorities() {
    let mut attached = with_learner();
    attached.configure(3, &[(1, Outgoing), (2, Voter), (3, Voter), (4, Incoming)]);
    attached.write(2);
    attached.position(1, 2, 0);
    attached.position(2, 2, 0);
    assert_eq!(attached.done(), [], "of the next voters only one has it");
    attached.position(4, 2, 0);
    assert_eq!(attached.done(), [2]);
    attached.segment.submit(Token(3), Request::Flush, now(), &mut attached.sent);
    attached.position(3, 2, 2);
    attached.position(4, 2, 2);
    assert_eq!(attached.done(), [], "of the former voters only one has it durably");
    attached.position(1, 2, 2);
    assert_eq!(attached.done(), [3]);
}

#[test]
fn c1_reads_need_leases_of_both_halves() {
    // {1} becomes {2}: no voter is in both.
    let mut attached = Attached::running(&[(1, Voter)]);
    attached.configure(2, &[(1, Voter), (2, Learner)]);
    attached.opened(2, report(&[], 0));
    // The epoch began with nothing, so the empty replica is in its very state.
    attached.started(2);
    attached.configure(3, &[(1, Outgoing), (2, Incoming)]);
    attached.sent.messages.clear();
    let read = Request::Read { offset: 0, length: BLOCK_BYTES as u32, in_order: false };
    let reads =
        |sent: &Sent| sent.messages.iter().filter(|(_, message)| matches!(message, Message::Read(_))).count();
    attached.segment.submit(Token(7), read, now(), &mut attached.sent);
    assert_eq!(reads(&attached.sent), 0, "a lease of one half is none");
    attached.leased(2);
    assert_eq!(reads(&attached.sent), 1);
}

#[test]
fn c1_settled_once_all_from_before_is_durable_on_the_next_majority() {
    let mut attached = with_learner();
    attached.write(2);
    (1..=3).for_each(|replica| attached.position(replica, 2, 2));
    assert_eq!(attached.done(), [2]);
    attached.configure(3, &[(1, Outgoing), (2, Outgoing), (3, Voter), (4, Incoming)]);
    assert!(!attached.segment.is_settled(), "replica 4 has not said that it has write 2");
    attached.position(4, 2, 1);
    assert!(!attached.segment.is_settled(), "accepted is not durable");
    attached.position(4, 2, 2);
    assert!(attached.segment.is_settled());
    attached.configure(4, &[(3, Voter), (4, Voter)]);
    assert!(attached.segment.is_settled() && attached.segment.is_available());
    attached.write(3);
    attached.position(3, 3, 0);
    assert_eq!(attached.done(), []);
    attached.position(4, 3, 0);
    assert_eq!(attached.done(), [3]);
}

#[test]
fn c1_an_attach_in_a_joint_configuration_asks_both_majorities() {
    let joint = [(1, Outgoing), (2, Voter), (3, Voter), (4, Incoming)];
    let mut attached = Attached::new(2, &joint);
    attached.opened(1, report(&[(1, 1)], 5));
    attached.opened(2, report(&[(1, 1)], 5));
    assert!(!attached.segment.is_promised(), "of 2, 3 and 4 only one has promised");
    attached.opened(4, report(&[], 0));
    attached.segment.tick(now() + Timing::default().late_answers, &mut attached.sent);
    assert!(attached.segment.is_promised());
    let starts = attached
        .sent
        .messages
        .iter()
        .filter(|(_, message)| matches!(message, Message::StartEpoch(_)))
        .count();
    assert_eq!(
        starts, 0,
        "4 is brought to the state first: 1 and 2 are a majority of the former voters only"
    );
}

#[test]
fn an_older_or_equal_generation_changes_nothing() {
    let mut attached = with_learner();
    attached.configure(2, &[(1, Voter)]);
    attached.configure(1, &[(1, Voter)]);
    assert_eq!(attached.segment.voters().count(), 4);
    assert_eq!(attached.segment.generation(), Generation(2));
}

#[test]
fn c1_a_replica_is_not_opened_under_a_lower_generation_than_it_knows() {
    let segment = SegmentId { volume: VolumeId(1), index: 0 };
    let mut replica =
        Replica::create(ReplicaId(1), ReplicaMeta::new(segment, Generation(1)), Timing::default());
    let open = |epoch: u64, generation: u64| Open {
        replica: ReplicaId(1),
        segment,
        epoch: Epoch(epoch),
        generation: Generation(generation),
        instance: InstanceId([1; 16]),
        void: None,
    };
    assert!(replica.open(SessionId(1), &open(1, 3)).is_ok());
    let refused = replica.open(SessionId(2), &open(2, 2)).err();
    assert_eq!(refused, Some(Refusal::HigherGeneration(Generation(3))), "a higher epoch is no excuse");
    assert!(replica.open(SessionId(2), &open(2, 3)).is_ok());
}

#[test]
fn a_replica_that_knows_a_higher_generation_is_asked_again_and_fences_nobody() {
    let mut attached = Attached::new(2, &THREE);
    let refusal = Refusal::HigherGeneration(Generation(9));
    let reply = OpenReply { replica: ReplicaId(1), epoch: Epoch(2), result: Err(refusal) };
    attached.segment.on_open_reply(reply, now(), &mut attached.sent);
    assert!(!attached.segment.is_fenced(), "the news of that configuration is on its way here");
    attached.sent.messages.clear();
    attached.segment.tick(now() + Duration::from_secs(1), &mut attached.sent);
    assert!(
        attached
            .sent
            .messages
            .iter()
            .any(|(node, message)| *node == NodeId(1) && matches!(message, Message::Open(_)))
    );
}

#[test]
fn a_change_in_mid_attach_begins_the_choice_of_the_authority_anew() {
    let mut attached = Attached::new(2, &THREE);
    attached.opened(1, report(&[(1, 1)], 9));
    attached.opened(2, report(&[(1, 1)], 5));
    attached.opened(3, report(&[(1, 1)], 7));
    assert!(attached.segment.is_promised(), "1 is the authority, 2 and 3 copy from it");
    // C3 with three is not done; a learner comes, which shifts nothing but must not be taken for an answer.
    attached.configure(2, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    assert!(!attached.segment.is_promised());
    attached.opened(1, report(&[(1, 1)], 9));
    attached.opened(2, report(&[(1, 1)], 9));
    attached.opened(3, report(&[(1, 1)], 9));
    (1..=3).for_each(|replica| attached.started(replica));
    assert!(attached.segment.is_available());
}

#[test]
fn c3_the_survivor_of_two_is_whole_only_if_that_is_known() {
    let whole = |attached: &Attached| -> Vec<bool> {
        attached.segment.status().iter().map(|voter| voter.whole).collect()
    };
    let mut attached = Attached::running(&[(1, Voter), (2, Voter)]);
    assert_eq!(whole(&attached), [true, true]);
    attached.segment.session_down(NodeId(2), now(), &mut attached.sent);
    assert_eq!(whole(&attached), [true, false]);
    attached.write(1);
    assert_eq!(attached.done(), [], "one of two is no majority");
    attached.configure(2, &[(1, Voter)]);
    attached.position(1, 1, 1);
    assert_eq!(attached.done(), [1]);

    let two = [(1, Voter), (2, Voter)];
    for (mixed, shaken, expected) in
        [(false, false, true), (true, false, false), (false, true, false), (true, true, false)]
    {
        let mut attached = Attached::new(2, &two);
        attached.opened(1, ReplicaReport { mixed, shaken, ..report(&[(1, 1)], 3) });
        assert_eq!(whole(&attached), [expected, false], "mixed {mixed}, shaken {shaken}");
    }
}

#[test]
fn c3_a_shaken_voter_is_whole_once_it_has_everything_again() {
    let mut attached = Attached::running(&[(1, Voter), (2, Voter)]);
    attached.write(1);
    attached.position(1, 1, 0);
    attached.position(2, 1, 0);
    attached.segment.session_up(NodeId(1), now(), &mut attached.sent);
    attached.opened(1, ReplicaReport { shaken: true, ..report(&[(1, 1)], 0) });
    assert!(!attached.segment.status()[0].whole);
    attached.position(1, 1, 0);
    assert!(!attached.segment.status()[0].whole, "its power may go again before anybody acts on it");
    attached.position(1, 1, 1);
    assert!(attached.segment.status()[0].whole);
}

/// Whoever hears it acts later: by then the survivor may have lost its power, and its gateway with it.
#[test]
fn c3_a_voter_is_whole_once_what_is_acknowledged_is_durable_on_it() {
    let mut attached = Attached::running(&[(1, Voter), (2, Voter)]);
    attached.write(1);
    attached.position(1, 1, 0);
    attached.position(2, 1, 1);
    assert_eq!(attached.done(), [1]);
    let whole =
        |attached: &Attached| attached.segment.status().iter().map(|voter| voter.whole).collect::<Vec<_>>();
    assert_eq!(whole(&attached), [false, true]);
    attached.position(1, 1, 1);
    assert_eq!(whole(&attached), [true, true]);
}

#[test]
fn reads_under_way_to_a_dismissed_replica_are_asked_of_another() {
    let mut attached = with_learner();
    attached.leased(4);
    attached.sent.messages.clear();
    let read = Request::Read { offset: 0, length: BLOCK_BYTES as u32, in_order: false };
    attached.segment.submit(Token(7), read, now(), &mut attached.sent);
    let asked = |sent: &Sent| -> Vec<u64> {
        let node =
            |(node, message): &(NodeId, Message)| matches!(message, Message::Read(_)).then_some(node.0);
        sent.messages.iter().filter_map(node).collect()
    };
    let first = asked(&attached.sent)[0];
    attached.position(4, 1, 1);
    let rest: Vec<(u64, ReplicaRole)> =
        (1..=4).filter(|number| *number != first).map(|number| (number, Voter)).collect();
    attached.configure(5, &rest);
    assert_eq!(asked(&attached.sent).len(), 2);
    assert_ne!(asked(&attached.sent)[1], first);
}

#[test]
fn a_learner_that_its_node_does_not_have_yet_is_asked_again() {
    let mut attached = Attached::running(&THREE);
    attached.configure(2, &[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    let refused = |replica| OpenReply {
        replica: ReplicaId(replica),
        epoch: Epoch(1),
        result: Err(Refusal::UnknownReplica),
    };
    attached.segment.on_open_reply(refused(4), now(), &mut attached.sent);
    attached.sent.messages.clear();
    attached.segment.tick(now() + Duration::from_secs(1), &mut attached.sent);
    assert!(
        attached
            .sent
            .messages
            .iter()
            .any(|(node, message)| *node == NodeId(4) && matches!(message, Message::Open(_)))
    );
    // C2: a voter that its node no longer has is lost for good.
    attached.segment.session_up(NodeId(3), now(), &mut attached.sent);
    attached.segment.on_open_reply(refused(3), now(), &mut attached.sent);
    assert!(matches!(attached.segment.status()[2].health, VoterHealth::Failed(_)));
}
