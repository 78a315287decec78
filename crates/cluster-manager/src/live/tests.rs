//! A leader that hears, concludes, and finds its conclusions in the state.

use super::*;
use quoin_api::v1;
use quoin_cluster::command::RegisterNode;
use quoin_cluster::{Absence, Candidate, Cause, Command, Health, Node, State, apply};
use quoin_types::{ClusterId, DiskId, Durability, Epoch, InstanceId};

const SECOND: Duration = Duration::from_secs(1);
const CLUSTER: ClusterId = ClusterId([9; 16]);

/// A moment, in seconds.
fn at(seconds: u32) -> Moment {
    Moment::ZERO + SECOND * seconds
}

fn cluster_time(seconds: u64) -> ClusterTime {
    ClusterTime::from_millis(seconds * 1000)
}

fn disk(number: u64) -> DiskId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    DiskId(bytes)
}

/// The state, and the memory of whoever leads.
struct Leader {
    state: State,
    live: Live,
}

impl Leader {
    /// Leads in term 1 from second 100 on, with nodes that have registered with others.
    fn of(nodes: u64) -> Self {
        let mut leader = Self { state: State::default(), live: Live::new(SECOND) };
        let command = Command::InitCluster { cluster_id: CLUSTER, managers: BTreeMap::new() };
        apply(&mut leader.state, &command).unwrap();
        for number in 1..=nodes {
            leader.register(number, 1);
        }
        leader.begin(1, 100);
        leader
    }

    fn begin(&mut self, term: u64, second: u32) {
        let time = self.state.time();
        self.live.enter(Some(term), at(second), || time);
        assert_eq!(self.conclude(second), 0);
    }

    fn register(&mut self, number: u64, start_count: u64) {
        let node = RegisterNode {
            cluster_id: CLUSTER,
            name: format!("node-{number}"),
            disk: disk(number),
            start_count,
            ..RegisterNode::default()
        };
        apply(&mut self.state, &Command::RegisterNode(node)).unwrap();
    }

    fn node(&self, number: u64) -> Node {
        self.state.nodes()[&NodeId(number)].clone()
    }

    fn hear_report(&mut self, number: u64, second: u32, leaving: bool) {
        let report = NodeReport { used_bytes: 0, capacity_bytes: 1, damaged_extents: 0, leaving };
        self.live.node_heard(&self.node(number), report, at(second));
    }

    fn hear(&mut self, number: u64, second: u32) {
        self.hear_report(number, second, false);
    }

    /// One look of the duty: how many changes it made.
    fn conclude(&mut self, second: u32) -> usize {
        let Some(command) = self.live.conclude(&self.state, at(second)) else { return 0 };
        apply(&mut self.state, &command).unwrap();
        let Command::ChangeHealth { changes, .. } = command else { panic!("{command:?}") };
        changes.len()
    }

    fn presence(&self, number: u64, second: u32) -> Presence {
        self.live.node_presence(&self.node(number), at(second))
    }
}

#[test]
fn a_new_leader_waits_before_it_calls_anyone_unreachable() {
    let mut leader = Leader::of(1);
    assert_eq!((leader.conclude(103), leader.presence(1, 103)), (0, Presence::Unknown));
    assert_eq!((leader.conclude(104), leader.presence(1, 104)), (1, Presence::Unreachable));
    // Concluded once.
    assert_eq!(leader.conclude(105), 0);
    leader.hear(1, 106);
    assert_eq!(leader.presence(1, 106), Presence::Unreachable, "not before it stands in the state");
    assert_eq!((leader.conclude(106), leader.presence(1, 109)), (1, Presence::Online));
    assert_eq!((leader.conclude(109), leader.presence(1, 109)), (0, Presence::Online));
    assert_eq!(leader.presence(1, 110), Presence::Unknown, "missed, and not concluded yet");
    assert_eq!((leader.conclude(110), leader.presence(1, 110)), (1, Presence::Unreachable));
    assert_eq!(leader.live.node_silence(&leader.node(1), at(116)), 10 * SECOND);
}

#[test]
fn the_next_leader_knows_who_was_unreachable_and_waits_for_the_others() {
    let mut leader = Leader::of(3);
    leader.hear(1, 101);
    leader.hear(2, 101);
    leader.hear_report(3, 101, true);
    assert_eq!(leader.conclude(101), 1);
    // Another machine, another clock.
    leader.begin(2, 7);
    assert_eq!(
        [1, 2, 3].map(|n| leader.presence(n, 7)),
        [Presence::Unknown, Presence::Unknown, Presence::Unreachable]
    );
    leader.hear(1, 8);
    let candidates = leader.live.candidates(&leader.state, at(8));
    let online: Vec<NodeId> = candidates.online.iter().map(|candidate| candidate.node).collect();
    assert_eq!((online, candidates.unknown), (vec![NodeId(1)], 1));
    leader.hear(1, 11);
    assert_eq!((leader.conclude(11), leader.presence(2, 11)), (1, Presence::Unreachable));
    assert_eq!(leader.live.candidates(&leader.state, at(11)).unknown, 0);
}

#[test]
fn an_absence_is_counted_on_by_the_next_leader() {
    let mut leader = Leader::of(1);
    leader.hear_report(1, 110, true);
    leader.conclude(110);
    let absent = Health::Unreachable(Absence { cause: Cause::Left, since: cluster_time(10) });
    assert_eq!(leader.node(1).health, absent);
    for second in 111..=290 {
        assert_eq!(leader.conclude(second), 0);
    }
    assert_eq!(leader.state.time(), cluster_time(190), "a reading a minute");
    // Ten seconds after that reading it is over with that leader: they are lost, nothing is made up.
    leader.begin(2, 5000);
    assert_eq!(leader.live.node_silence(&leader.node(1), at(5007)), 187 * SECOND);
    leader.register(1, 2);
    leader.hear(1, 5008);
    for second in 5008..5308 {
        leader.hear(1, second);
        leader.conclude(second);
    }
    assert_eq!(leader.state.time(), cluster_time(190), "nobody is absent, nothing is read");
}

#[test]
fn a_good_bye_is_the_last_word_of_a_start_and_says_nothing_of_the_next() {
    let mut leader = Leader::of(1);
    leader.hear_report(1, 101, true);
    // Sent before, and late.
    leader.hear(1, 101);
    assert_eq!((leader.conclude(101), leader.presence(1, 101)), (1, Presence::Unreachable));
    leader.hear(1, 102);
    assert_eq!(leader.conclude(102), 0);
    leader.begin(2, 200);
    leader.hear(1, 201);
    assert_eq!((leader.conclude(201), leader.presence(1, 201)), (0, Presence::Unreachable));
    // The next start, when its registration is applied and its leader has not heard of that yet.
    leader.begin(3, 300);
    leader.register(1, 2);
    leader.hear_report(1, 310, true);
    leader.register(1, 3);
    assert_eq!((leader.conclude(310), leader.presence(1, 310)), (0, Presence::Unknown));
    leader.hear(1, 311);
    assert_eq!((leader.conclude(311), leader.presence(1, 311)), (0, Presence::Online));
}

#[test]
fn a_silent_node_that_says_good_bye_has_left_since() {
    let mut leader = Leader::of(1);
    assert_eq!(leader.conclude(104), 1);
    leader.hear_report(1, 110, true);
    assert_eq!(leader.conclude(110), 1);
    let absent = Health::Unreachable(Absence { cause: Cause::Left, since: cluster_time(10) });
    assert_eq!(leader.node(1).health, absent);
}

#[test]
fn a_thousand_nodes_that_go_at_once_are_one_command() {
    let mut leader = Leader::of(1000);
    for number in 1..=1000 {
        leader.hear(number, 101);
    }
    assert_eq!(leader.conclude(104), 0);
    let revision = leader.state.revision();
    assert_eq!(leader.conclude(105), 1000);
    assert_eq!(leader.state.revision(), revision + 1);
    assert_eq!(leader.conclude(106), 0);
}

#[test]
fn a_leader_that_slept_misses_nobody_for_that() {
    let mut leader = Leader::of(1);
    leader.hear(1, 101);
    // The machine is suspended for a while.
    for second in [101, 102, 500] {
        leader.live.enter(Some(1), at(second), || unreachable!("the same term"));
    }
    assert_eq!((leader.conclude(501), leader.presence(1, 501)), (0, Presence::Online));
    assert_eq!((leader.conclude(503), leader.presence(1, 503)), (1, Presence::Unreachable));
    let absent = Health::Unreachable(Absence { cause: Cause::Silent, since: cluster_time(5) });
    assert_eq!(leader.node(1).health, absent, "time in which nobody led is not counted");
}

/// A volume `v`, attached to a gateway at its first epoch, which the leader knew of beforehand.
fn attach(leader: &mut Leader, gateway: &GatewayId, second: u32) {
    let create = Command::CreateVolume {
        name: "v".to_owned(),
        size_bytes: 4096,
        segment_bytes: 65536,
        replicas: 1,
        min_replicas: None,
        durability: Durability::Flush,
        candidates: vec![Candidate { node: NodeId(1), free_bytes: 1 << 40 }],
    };
    apply(&mut leader.state, &create).unwrap();
    let volume = leader.state.volume_named("v").unwrap();
    let (id, created) = (volume.id, volume.replicas().map(|(.., replica)| replica.id).collect());
    let report = Command::ReportReplicas { node: NodeId(1), disk: disk(1), created, dropped: Vec::new() };
    apply(&mut leader.state, &report).unwrap();
    leader.live.attaching(id, gateway.clone(), at(second));
    let attach = Command::Attach {
        volume: "v".to_owned(),
        gateway: gateway.clone(),
        instance: InstanceId([1; 16]),
        expected_epoch: Epoch::ZERO,
    };
    apply(&mut leader.state, &attach).unwrap();
}

/// What a gateway reports of its first attachment, if it knows of it.
fn gateway_report(second: u32, clients: Option<u32>) -> GatewayReport {
    let report = |clients| v1::AttachmentReport { volume: 1, epoch: 1, clients, ..Default::default() };
    GatewayReport {
        at: at(second),
        alone_since: at(second),
        instance: InstanceId([1; 16]),
        nbd_address: String::new(),
        version: String::new(),
        attachments: clients.map(|clients| (VolumeId(1), report(clients))).into_iter().collect(),
    }
}

#[test]
fn a_volume_is_not_unused_because_its_gateway_had_no_time_to_report() {
    let mut leader = Leader::of(1);
    let (gateway, other) = (GatewayId("gw-a".to_owned()), GatewayId("gw-b".to_owned()));
    leader.live.gateway_heard(gateway.clone(), gateway_report(101, None));
    attach(&mut leader, &gateway, 101);
    // One that was too late by a hair looks again.
    leader.live.attaching(VolumeId(1), other.clone(), at(101));
    let in_use = |leader: &Leader, second: u32| {
        let volume = leader.state.volume_named("v").unwrap();
        leader.live.in_use(volume, Some(&other), at(second))
    };
    assert_eq!(in_use(&leader, 101), Some(InUse::NotKnownYet { gateway: gateway.clone() }));
    leader.live.gateway_heard(gateway.clone(), gateway_report(102, Some(1)));
    assert_eq!(in_use(&leader, 102), Some(InUse::Clients { gateway: gateway.clone(), clients: 1 }));
    leader.live.gateway_heard(gateway.clone(), gateway_report(103, Some(0)));
    assert_eq!(in_use(&leader, 103), None);
    // One that lives on and never reports on it has not got it: nobody waits for ever.
    leader.live.gateway_heard(gateway.clone(), gateway_report(104, None));
    assert_eq!(in_use(&leader, 104), Some(InUse::NotKnownYet { gateway }));
    assert_eq!(in_use(&leader, 105), None);
}
