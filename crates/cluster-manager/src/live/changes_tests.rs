//! A leader that sees changes, snapshots and stewards through, on the word of gateways that are only said to report.

use super::*;
use quoin_api::v1;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{
    Candidate, Cause, Command, HealthChange, ReplicaState, SegmentAt, SegmentChange, State, Volume, apply,
};
use quoin_types::{
    ClusterId, DiskId, Durability, Epoch, Generation, InstanceId, ReplicaId, ReplicaRole, SnapshotId,
};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Moment {
    Moment::ZERO + SECOND * seconds
}

fn gateway(name: &str) -> GatewayId {
    GatewayId(name.to_owned())
}

fn process(number: u8) -> InstanceId {
    InstanceId([number; 16])
}

/// A leader, five nodes, and the volume `v` of two segments.
struct Leader {
    state: State,
    live: Live,
}

impl Leader {
    fn of(replicas: u32, min_replicas: Option<u32>) -> Self {
        let mut leader = Self { state: State::default(), live: Live::new(SECOND) };
        let cluster_id = ClusterId([9; 16]);
        leader.apply(&Command::InitCluster { cluster_id, managers: BTreeMap::new() });
        for number in 1..=5_u8 {
            let (name, disk) = (format!("node-{number}"), DiskId([number; 16]));
            let node = RegisterNode { cluster_id, name, disk, start_count: 1, ..RegisterNode::default() };
            leader.apply(&Command::RegisterNode(node));
        }
        let node = |number| Candidate { node: NodeId(number), free_bytes: 1 << 40 };
        leader.apply(&Command::CreateVolume {
            name: "v".to_owned(),
            size_bytes: 2 * 65536,
            segment_bytes: 65536,
            replicas,
            min_replicas,
            durability: Durability::Flush,
            candidates: (1..=u64::from(replicas)).map(node).collect(),
        });
        leader.settle();
        let time = leader.state.time();
        leader.live.enter(Some(1), at(100), || time);
        leader
    }

    fn apply(&mut self, command: &Command) {
        apply(&mut self.state, command).unwrap();
    }

    /// Every node reports that it has done everything.
    fn settle(&mut self) {
        for node in self.state.nodes().values().map(|node| (node.id, node.disk)).collect::<Vec<_>>() {
            let here = |wanted| {
                let replicas = self.state.replicas_on(node.0).filter(|(.., replica)| replica.state == wanted);
                replicas.map(|(.., replica)| replica.id).collect::<Vec<ReplicaId>>()
            };
            let (created, dropped) = (here(ReplicaState::Creating), here(ReplicaState::Dropping));
            self.apply(&Command::ReportReplicas { node: node.0, disk: node.1, created, dropped });
        }
    }

    fn volume(&self) -> &Volume {
        self.state.volume_named("v").unwrap()
    }

    fn attach(&mut self, name: &str, number: u8, second: u32) {
        let id = self.volume().id;
        self.live.attaching(id, gateway(name), at(second));
        let (gateway, instance, expected_epoch) = (gateway(name), process(number), self.volume().epoch);
        self.apply(&Command::Attach { volume: "v".to_owned(), gateway, instance, expected_epoch });
    }

    fn detach(&mut self, name: &str, clean: bool) {
        let (gateway, epoch) = (gateway(name), self.volume().epoch);
        self.apply(&Command::Detach { volume: "v".to_owned(), gateway, epoch, clean });
    }

    fn lose(&mut self, number: u64) {
        let node = &self.state.nodes()[&NodeId(number)];
        let (disk, start_count, absent) = (node.disk, node.start_count, Some(Cause::Silent));
        let change = HealthChange { node: node.id, disk, start_count, known: None, absent };
        self.apply(&Command::ChangeHealth { at: self.state.time(), changes: vec![change] });
    }

    /// Begins to move what node 1 has to node 4.
    fn begin_move(&mut self) {
        let volume = self.volume();
        let change = |(index, segment): (u32, &quoin_cluster::Segment)| SegmentChange {
            at: SegmentAt { index, generation: segment.generation },
            add: vec![NodeId(4)],
            remove: vec![segment.replicas.iter().find(|replica| replica.node == NodeId(1)).unwrap().id],
        };
        let segments = (0..).zip(&volume.segments).map(change).collect();
        let (volume, epoch) = (volume.id, volume.epoch);
        self.apply(&Command::BeginChange { volume, epoch, replicas: None, segments });
    }

    /// What the gateway of the present attachment would report: everything is in sync, apart from what is on these nodes.
    fn good_report(&self, behind: &[u64]) -> v1::AttachmentReport {
        let volume = self.volume();
        let health = |node: NodeId| match behind.contains(&node.0) {
            true => v1::ReplicaHealth::CatchingUp,
            false => v1::ReplicaHealth::InSync,
        };
        let members = volume.segments.iter().flat_map(|segment| segment.members());
        let segment = |(index, segment): (u32, &quoin_cluster::Segment)| v1::SegmentReport {
            index,
            generation: segment.generation.0,
            settled: false,
        };
        v1::AttachmentReport {
            volume: volume.id.0,
            epoch: volume.epoch.0,
            available: true,
            replicas: members
                .map(|(replica, _)| v1::ReplicaReport {
                    replica: replica.id.0,
                    health: health(replica.node).into(),
                    ..v1::ReplicaReport::default()
                })
                .collect(),
            segments: (0..).zip(&volume.segments).map(segment).collect(),
            ..v1::AttachmentReport::default()
        }
    }

    fn hear(&mut self, name: &str, number: u8, second: u32, report: Option<v1::AttachmentReport>) {
        let id = self.volume().id;
        let report = GatewayReport {
            at: at(second),
            alone_since: at(second),
            instance: process(number),
            nbd_address: String::new(),
            version: String::new(),
            attachments: report.into_iter().map(|report| (id, report)).collect(),
        };
        self.live.gateway_heard(gateway(name), report);
    }

    /// One look, carried out.
    fn look(&mut self, second: u32) -> Vec<Command> {
        let steps = self.live.next_steps(&self.state, at(second));
        steps.iter().for_each(|step| self.apply(step));
        steps
    }

    /// The roles in a segment, by node.
    fn roles(&self, segment: usize) -> Vec<(u64, ReplicaRole)> {
        let members = self.volume().segments[segment].members();
        let mut roles: Vec<_> = members.map(|(replica, role)| (replica.node.0, role)).collect();
        roles.sort_unstable();
        roles
    }

    fn steward(&self) -> Option<(String, InstanceId)> {
        let attachment = self.volume().attachment.as_ref().filter(|attachment| attachment.steward)?;
        Some((attachment.gateway.0.clone(), attachment.instance))
    }
}

#[test]
fn a_change_goes_on_when_its_gateway_says_so_of_this_very_configuration() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.begin_move();
    leader.settle();
    leader.hear("gw", 1, 101, Some(leader.good_report(&[4])));
    assert_eq!(leader.look(101), [], "not filled");
    let before = v1::AttachmentReport { epoch: 0, ..leader.good_report(&[]) };
    leader.hear("gw", 1, 101, Some(before));
    assert_eq!(leader.look(101), [], "of another attachment");
    let mut one_late = leader.good_report(&[]);
    one_late.segments[1].generation -= 1;
    leader.hear("gw", 2, 101, Some(one_late.clone()));
    assert_eq!(leader.look(101), [], "another process");
    leader.hear("gw", 1, 101, Some(one_late));
    assert_eq!(leader.look(105), [], "said too long ago");
    assert!(matches!(&leader.look(101)[..], [Command::EnterJoint { segments, .. }] if segments.len() == 1));
    assert_eq!(leader.roles(0)[3], (4, ReplicaRole::Incoming));
    assert_eq!(leader.roles(1)[3], (4, ReplicaRole::Learner));
    // The other one follows. What was said of segment 0 was of another generation: it is not settled by that.
    let mut report = leader.good_report(&[]);
    report.segments[0] = v1::SegmentReport { index: 0, generation: 2, settled: true };
    leader.hear("gw", 1, 102, Some(report));
    assert!(matches!(&leader.look(102)[..], [Command::EnterJoint { .. }]));
    let mut report = leader.good_report(&[]);
    leader.hear("gw", 1, 103, Some(report.clone()));
    assert_eq!(leader.look(103), [], "not settled");
    report.segments.iter_mut().for_each(|segment| segment.settled = true);
    leader.hear("gw", 1, 104, Some(report));
    assert!(matches!(&leader.look(104)[..], [Command::FinishChange { segments, .. }] if segments.len() == 2));
    assert_eq!(leader.roles(0), [2, 3, 4].map(|node| (node, ReplicaRole::Voter)));
    assert_eq!(leader.look(104), []);
}

#[test]
fn copies_are_not_removed_while_those_that_stay_are_behind() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    let segments = &leader.volume().segments;
    let change = |(index, segment): (u32, &quoin_cluster::Segment)| SegmentChange {
        at: SegmentAt { index, generation: segment.generation },
        add: Vec::new(),
        remove: segment.replicas.iter().filter(|replica| replica.node.0 != 3).map(|r| r.id).collect(),
    };
    let segments = (0..).zip(segments).map(change).collect();
    let (volume, epoch) = (leader.volume().id, leader.volume().epoch);
    leader.apply(&Command::BeginChange { volume, epoch, replicas: Some(1), segments });
    leader.hear("gw", 1, 101, Some(leader.good_report(&[3])));
    assert_eq!(leader.look(101), []);
    leader.hear("gw", 1, 102, Some(leader.good_report(&[1])));
    assert!(matches!(&leader.look(102)[..], [Command::EnterJoint { .. }]));
}

#[test]
fn a_snapshot_is_kept_when_its_gateway_says_that_it_is_durable() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.apply(&Command::BeginSnapshot { volume: "v".to_owned(), name: "s".to_owned() });
    let mut report = leader.good_report(&[]);
    leader.hear("gw", 1, 101, Some(report.clone()));
    assert_eq!(leader.look(101), []);
    report.snapshots = vec![1];
    leader.hear("gw", 1, 102, Some(report));
    let (volume, epoch) = (leader.volume().id, Epoch(1));
    assert_eq!(leader.look(102), [Command::CommitSnapshot { volume, snapshot: SnapshotId(1), epoch }]);
    assert_eq!(leader.look(102), []);
}

/// It has lost what it said was durable: nothing brings it back under its id, and nobody has to be asked for another one.
#[test]
fn a_failed_copy_is_made_anew_where_it_was_once_the_others_have_everything() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    let fail = |leader: &Leader, behind: &[u64]| {
        let failed =
            leader.volume().segments[1].replicas.iter().find(|replica| replica.node.0 == 2).unwrap().id;
        let mut report = leader.good_report(behind);
        let of_failed = report.replicas.iter_mut().find(|told| told.replica == failed.0).unwrap();
        of_failed.health = v1::ReplicaHealth::Failed.into();
        (failed, report)
    };
    leader.hear("gw", 1, 101, Some(fail(&leader, &[3]).1));
    assert_eq!(leader.look(101), [], "the only one in sync has all there is");
    let (failed, report) = fail(&leader, &[]);
    leader.hear("gw", 2, 101, Some(report.clone()));
    assert_eq!(leader.look(101), [], "another process");
    leader.hear("gw", 1, 102, Some(report));
    let steps = leader.look(102);
    let [Command::BeginChange { segments, replicas: None, .. }] = &steps[..] else { panic!("{steps:?}") };
    let at = SegmentAt { index: 1, generation: Generation(1) };
    assert_eq!(*segments, [SegmentChange { at, add: vec![NodeId(2)], remove: vec![failed] }]);
    assert_eq!(leader.look(102), [], "once");
    leader.settle();
    leader.hear("gw", 1, 103, Some(leader.good_report(&[])));
    assert!(matches!(&leader.look(103)[..], [Command::EnterJoint { .. }]));
    let mut report = leader.good_report(&[]);
    report.segments.iter_mut().for_each(|segment| segment.settled = true);
    leader.hear("gw", 1, 104, Some(report));
    assert!(matches!(&leader.look(104)[..], [Command::FinishChange { .. }]));
    leader.settle();
    assert_eq!(leader.roles(1), [1, 2, 3].map(|node| (node, ReplicaRole::Voter)));
    assert!(leader.volume().replicas().all(|(.., replica)| replica.id != failed));
}

#[test]
fn an_operator_who_gives_the_replacement_up_has_time_to_do_something_else() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    let report = |leader: &Leader| {
        let mut report = leader.good_report(&[]);
        report.replicas[0].health = v1::ReplicaHealth::Failed.into();
        report
    };
    leader.hear("gw", 1, 101, Some(report(&leader)));
    assert!(matches!(&leader.look(101)[..], [Command::BeginChange { .. }]));
    let at = SegmentAt { index: 0, generation: leader.volume().segments[0].generation };
    let (volume, epoch) = (leader.volume().id, leader.volume().epoch);
    leader.apply(&Command::AbortChange { volume, epoch, segments: vec![at] });
    leader.settle();
    leader.hear("gw", 1, 102, Some(report(&leader)));
    assert_eq!(leader.look(102), []);
    leader.hear("gw", 1, 130, Some(report(&leader)));
    assert!(matches!(&leader.look(130)[..], [Command::BeginChange { .. }]));
}

#[test]
fn one_of_two_is_gone_on_with_if_it_is_whole() {
    let mut leader = Leader::of(2, Some(1));
    leader.attach("gw", 1, 100);
    let mut report = leader.good_report(&[2]);
    let of_node_1 = leader.volume().segments[0].replicas.iter().find(|replica| replica.node.0 == 1);
    let id = of_node_1.unwrap().id.0;
    report.replicas.iter_mut().filter(|told| told.replica == id).for_each(|told| told.whole = true);
    leader.hear("gw", 1, 101, Some(report.clone()));
    assert_eq!(leader.look(101), [], "both nodes are there");
    leader.lose(2);
    let mut before = report.clone();
    before.replicas.iter_mut().for_each(|told| told.health = v1::ReplicaHealth::InSync.into());
    leader.hear("gw", 1, 101, Some(before));
    assert_eq!(leader.look(101), [], "said before its gateway lost the other one: both went on since");
    leader.hear("gw", 1, 101, Some(report.clone()));
    // Segment 1 has nobody of whom that is sure.
    let steps = leader.look(101);
    assert!(matches!(&steps[..], [Command::Shrink { segment: SegmentAt { index: 0, .. }, .. }]), "{steps:?}");
    assert_eq!(leader.roles(0), [(1, ReplicaRole::Voter)]);
    leader.hear("gw", 1, 102, Some(report));
    assert_eq!(leader.look(102), []);
}

#[test]
fn a_volume_that_did_not_end_clean_is_looked_after_until_it_is() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.hear("gw", 1, 100, None);
    leader.detach("gw", true);
    assert_eq!(leader.look(101), [], "nothing to do");
    leader.attach("gw", 1, 101);
    leader.detach("gw", false);
    assert!(matches!(&leader.look(101)[..], [Command::AssignSteward { .. }]));
    assert_eq!(leader.steward(), Some(("gw".to_owned(), process(1))));
    leader.hear("gw", 1, 102, None);
    assert_eq!(leader.look(102), [], "it has had no time yet");
    leader.hear("gw", 1, 103, Some(leader.good_report(&[2])));
    assert_eq!(leader.look(103), []);
    leader.hear("gw", 1, 104, Some(leader.good_report(&[])));
    assert!(matches!(&leader.look(104)[..], [Command::Detach { clean: true, .. }]));
    assert!(!leader.volume().dirty && leader.volume().attachment.is_none());
    assert_eq!(leader.look(104), []);
}

#[test]
fn a_steward_does_not_wait_for_a_node_that_is_gone() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.detach("gw", false);
    leader.lose(3);
    leader.hear("gw", 1, 101, None);
    leader.look(101);
    assert!(leader.steward().is_some(), "the other two may differ");
    leader.hear("gw", 1, 102, Some(leader.good_report(&[3])));
    assert!(matches!(&leader.look(102)[..], [Command::Detach { clean: false, .. }]));
    assert_eq!(leader.look(102), [], "not again, as long as nothing is different");
    // It is back.
    let node = &leader.state.nodes()[&NodeId(3)];
    let (disk, start_count, known) = (node.disk, node.start_count, node.health.cause());
    let change = HealthChange { node: node.id, disk, start_count, known, absent: None };
    leader.apply(&Command::ChangeHealth { at: leader.state.time(), changes: vec![change] });
    assert!(matches!(&leader.look(102)[..], [Command::AssignSteward { .. }]));
    // With two of three gone there is nothing to do for anybody.
    leader.lose(2);
    leader.lose(3);
    let nothing_yet = v1::AttachmentReport { segments: Vec::new(), ..leader.good_report(&[1, 2, 3]) };
    leader.hear("gw", 1, 103, Some(nothing_yet));
    assert!(matches!(&leader.look(103)[..], [Command::Detach { clean: false, .. }]));
    assert_eq!(leader.look(103), []);
}

#[test]
fn a_detached_volume_is_changed_and_snapshotted_by_a_steward() {
    let mut leader = Leader::of(3, None);
    leader.hear("gw", 1, 101, None);
    leader.begin_move();
    leader.settle();
    leader.apply(&Command::BeginSnapshot { volume: "v".to_owned(), name: "s".to_owned() });
    assert!(matches!(&leader.look(101)[..], [Command::AssignSteward { .. }]));
    let report = v1::AttachmentReport { snapshots: vec![1], ..leader.good_report(&[]) };
    leader.hear("gw", 1, 102, Some(report));
    assert!(matches!(&leader.look(102)[..], [Command::CommitSnapshot { .. }]), "one thing after the other");
    assert!(matches!(&leader.look(102)[..], [Command::EnterJoint { .. }]));
    leader.hear("gw", 1, 103, Some(leader.good_report(&[])));
    assert_eq!(leader.look(103), [], "all in sync, but not done");
    let mut report = leader.good_report(&[]);
    report.segments.iter_mut().for_each(|segment| segment.settled = true);
    leader.hear("gw", 1, 103, Some(report));
    assert!(matches!(&leader.look(103)[..], [Command::FinishChange { .. }]));
    leader.hear("gw", 1, 104, Some(leader.good_report(&[])));
    assert!(matches!(&leader.look(104)[..], [Command::Detach { clean: true, .. }]));
}

#[test]
fn a_steward_that_is_gone_is_replaced_by_another() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw-a", 1, 100);
    leader.detach("gw-a", false);
    leader.hear("gw-a", 1, 101, None);
    leader.look(101);
    assert_eq!(leader.steward().unwrap().0, "gw-a");
    leader.hear("gw-b", 2, 104, None);
    assert_eq!(leader.look(104), []);
    assert!(matches!(&leader.look(105)[..], [Command::AssignSteward { .. }]));
    assert_eq!(leader.steward().unwrap().0, "gw-b");
    // One that is there and does not take it up is replaced, too, if there is another one; itself otherwise.
    leader.hear("gw-a", 3, 108, None);
    leader.hear("gw-b", 2, 108, None);
    leader.look(109);
    assert_eq!(leader.steward(), Some(("gw-a".to_owned(), process(3))));
    leader.hear("gw-a", 4, 113, None);
    leader.look(113);
    assert_eq!(leader.steward(), Some(("gw-a".to_owned(), process(4))));
}

/// The only gateway gave a volume back, was made its steward at once, and went.
#[test]
fn a_steward_that_is_gone_leaves_the_volume_to_nobody_if_there_is_no_other() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.detach("gw", false);
    leader.hear("gw", 1, 101, None);
    leader.look(101);
    assert!(leader.steward().is_some());
    assert!(matches!(&leader.look(110)[..], [Command::Detach { clean: false, .. }]));
    assert!(leader.volume().attachment.is_none());
    assert_eq!(leader.look(111), []);
    leader.hear("gw", 2, 112, None);
    assert!(matches!(&leader.look(112)[..], [Command::AssignSteward { .. }]), "it is back");
}

#[test]
fn an_attachment_ends_with_its_process_and_not_with_its_silence() {
    let mut leader = Leader::of(3, None);
    leader.attach("gw", 1, 100);
    leader.hear("gw", 1, 101, Some(leader.good_report(&[])));
    leader.hear("other", 9, 120, None);
    assert_eq!(leader.look(120), [], "silent, but its clients may go on");
    // Two processes of one name, turn by turn: both are alive.
    for second in 120..130 {
        leader.hear("gw", 1 + (second % 2) as u8, second, None);
        assert_eq!(leader.look(second), []);
    }
    for second in 130..134 {
        leader.hear("gw", 2, second, None);
    }
    let steps = leader.look(134);
    assert!(matches!(&steps[..], [Command::Detach { clean: false, .. }]), "{steps:?}");
    assert!(matches!(&leader.look(134)[..], [Command::AssignSteward { .. }]));
    // A process that attaches before it has reported is not taken for the one before.
    leader.attach("gw", 3, 134);
    assert_eq!(leader.look(134), []);
}

#[test]
fn a_gateway_looks_after_a_few_volumes_at_once() {
    let mut leader = Leader::of(3, None);
    leader.hear("gw", 1, 101, None);
    for number in 0..6 {
        let name = format!("w{number}");
        let node = |number| Candidate { node: NodeId(number), free_bytes: 1 << 40 };
        leader.apply(&Command::CreateVolume {
            name: name.clone(),
            size_bytes: 4096,
            segment_bytes: 65536,
            replicas: 1,
            min_replicas: None,
            durability: Durability::Flush,
            candidates: (1..=3).map(node).collect(),
        });
        leader.settle();
        leader.apply(&Command::BeginSnapshot { volume: name, name: "s".to_owned() });
    }
    assert_eq!(leader.look(101).len(), stewards::STEWARDED_MAX);
    assert_eq!(leader.look(101).len(), 0);
}
