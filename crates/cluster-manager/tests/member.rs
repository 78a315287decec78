//! One member at a time, by hand: what it says before and after its disk has it, and how requests wait.

use quoin_api::v1;
use quoin_cluster::RequestId;
use quoin_cluster_manager::member::{
    Answer, Asked, Member, MemberConfig, MemberError, OutboundMessage, Reply, Request, Ticket,
};
use quoin_disk::{Dir, Effect, Fault, FaultyDir, MemDir, Operation};
use quoin_types::{DiskId, GatewayId, Moment, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Members that hear each other at once.
struct Group {
    now: Moment,
    members: BTreeMap<u64, Member>,
    disks: BTreeMap<u64, FaultyDir>,
    last_ticket: u64,
    answers: BTreeMap<Ticket, Answer>,
}

impl Group {
    /// As many members, one of which leads.
    fn of(count: u64) -> Self {
        let addresses: BTreeMap<u64, String> = (1..=count).map(|id| (id, format!("m{id}:1"))).collect();
        let mut group = Self {
            now: Moment::ZERO,
            members: BTreeMap::new(),
            disks: BTreeMap::new(),
            last_ticket: 0,
            answers: BTreeMap::new(),
        };
        for id in 1..=count {
            let disk = FaultyDir::new(Arc::new(MemDir::new()));
            let config = MemberConfig {
                id,
                members: addresses.clone(),
                seed: id,
                tick: TICK,
                heartbeat_interval: HEARTBEAT,
            };
            group.members.insert(id, Member::open(config, &disk as &dyn Dir, group.now).unwrap());
            group.disks.insert(id, disk);
        }
        (0..100).for_each(|_| group.tick());
        assert!(group.members.values().any(Member::leads));
        group
    }

    fn leader(&self) -> u64 {
        *self.members.iter().find(|(_, member)| member.leads()).map(|(id, _)| id).unwrap()
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        self.members.values_mut().for_each(|member| member.tick(self.now));
        self.settle();
    }

    /// Carries messages until all is quiet.
    fn settle(&mut self) {
        loop {
            let mut sent: Vec<(u64, OutboundMessage)> = Vec::new();
            for (id, member) in &mut self.members {
                member.advance(self.now, &mut |message| sent.push((*id, message))).unwrap();
                self.answers.extend(member.take_answers());
            }
            if sent.is_empty() {
                return;
            }
            for (from, message) in sent {
                let receiver = self.members.get_mut(&message.to).unwrap();
                receiver.on_message(from, &message.bytes, self.now);
                let sender = self.members.get_mut(&from).unwrap();
                if message.snapshot {
                    sender.snapshot_sent(message.to, true);
                }
            }
        }
    }

    fn begin(&mut self, request: Request) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let asked = Asked {
            request_id: RequestId(u128::from(self.last_ticket).to_le_bytes()),
            deadline: self.now + ANSWER_WITHIN,
            request,
        };
        let leader = self.leader();
        self.members.get_mut(&leader).unwrap().request(ticket, asked, self.now);
        ticket
    }

    /// Asks the leader; what it answers at once.
    fn ask(&mut self, request: Request) -> Result<Answer, Ticket> {
        let ticket = self.begin(request);
        self.settle();
        self.answers.remove(&ticket).ok_or(ticket)
    }

    fn reply(&mut self, request: Request) -> Reply {
        match self.ask(request) {
            Ok(Answer::Reply(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn fail_next_sync(&self, id: u64) {
        let (operation, effect) = (Operation::Sync, Effect::InputOutput);
        self.disks[&id].inject(Fault { operation, name_prefix: "raft".into(), after: 0, times: 1, effect });
    }

    fn advance(&mut self, id: u64) -> (Vec<OutboundMessage>, Result<(), MemberError>) {
        let mut sent = Vec::new();
        let result = self.members.get_mut(&id).unwrap().advance(self.now, &mut |message| sent.push(message));
        (sent, result)
    }

    /// A node that holds a ready volume `v` of one replica.
    fn with_volume() -> Self {
        let mut group = Self::of(1);
        let cluster_id = group.members[&1].state().cluster_id().unwrap().0.to_vec();
        let register = v1::RegisterNodeRequest {
            cluster_id,
            name: "node-1".to_owned(),
            disk: vec![7; 16],
            start_count: 1,
            capacity_bytes: 1 << 40,
            ..v1::RegisterNodeRequest::default()
        };
        group.reply(Request::RegisterNode(register));
        let create = v1::CreateVolumeRequest {
            name: "v".to_owned(),
            size_bytes: 1 << 20,
            replicas: 1,
            ..v1::CreateVolumeRequest::default()
        };
        let creating = group.ask(Request::CreateVolume(create)).unwrap_err();
        let replicas = group.members[&1].node_view(NodeId(1), DiskId([7; 16])).replicas;
        let created: Vec<u64> = replicas.iter().map(|replica| replica.replica).collect();
        assert_eq!(created.len(), 1);
        let report = v1::ReportReplicasRequest { node: 1, disk: vec![7; 16], created, dropped: Vec::new() };
        group.reply(Request::ReportReplicas(report));
        let Some(Answer::Reply(Reply::Volume(volume))) = group.answers.remove(&creating) else {
            panic!("not answered when the replica was there")
        };
        assert_eq!(volume.state(), v1::VolumeState::Ready);
        group
    }
}

/// A command that changes nothing.
fn nothing() -> Request {
    Request::Propose(quoin_cluster::Command::ReportReplicas {
        node: NodeId(9),
        disk: DiskId([0; 16]),
        created: Vec::new(),
        dropped: Vec::new(),
    })
}

fn attach(gateway: &str) -> Request {
    Request::Attach(v1::AttachRequest {
        volume: "v".to_owned(),
        gateway: gateway.to_owned(),
        instance: vec![1; 16],
        take_over: false,
    })
}

fn report(gateway: &str, attachments: Vec<v1::AttachmentReport>) -> Request {
    Request::GatewayHeartbeat(v1::GatewayHeartbeatRequest {
        gateway: gateway.to_owned(),
        instance: vec![1; 16],
        attachments,
        ..v1::GatewayHeartbeatRequest::default()
    })
}

fn clients(epoch: u64, clients: u32) -> Vec<v1::AttachmentReport> {
    vec![v1::AttachmentReport { volume: 1, epoch, clients, ..v1::AttachmentReport::default() }]
}

#[test]
fn a_leader_says_what_is_new_before_its_disk_has_it_and_counts_it_after() {
    let mut group = Group::of(3);
    let leader = group.leader();
    let ticket = group.begin(nothing());
    group.fail_next_sync(leader);
    let (sent, result) = group.advance(leader);
    assert_eq!(sent.len(), 2, "the entry goes to both others while the disk works");
    assert!(matches!(result, Err(MemberError::Store(_))), "{result:?}");
    let member = group.members.get_mut(&leader).unwrap();
    assert!(member.take_answers().iter().all(|(answered, _)| *answered != ticket));
    let (sent, result) = group.advance(leader);
    assert!(sent.is_empty() && matches!(result, Err(MemberError::Ended)), "{result:?}");
}

#[test]
fn a_follower_promises_nothing_that_its_disk_has_not() {
    let mut group = Group::of(3);
    let leader = group.leader();
    group.begin(nothing());
    let (sent, result) = group.advance(leader);
    result.unwrap();
    for message in sent {
        let follower = message.to;
        group.members.get_mut(&follower).unwrap().on_message(leader, &message.bytes, group.now);
        group.fail_next_sync(follower);
        let (promises, result) = group.advance(follower);
        assert!(promises.is_empty() && result.is_err(), "{promises:?}, {result:?}");
    }
}

#[test]
fn whoever_would_take_a_volume_waits_until_it_is_known_who_uses_it() {
    let mut group = Group::with_volume();
    let Reply::Attach(first) = group.reply(attach("gw-a")) else { panic!() };
    assert_eq!(first.volume.map(|volume| volume.epoch), Some(1));
    assert_eq!(group.members[&1].gateway_view(&GatewayId("gw-a".to_owned())).volumes.len(), 1);
    // It is alive, and has had no time to say who uses it.
    group.reply(report("gw-a", Vec::new()));
    let waiting = [0; 2].map(|_| group.ask(attach("gw-b")).unwrap_err());
    group.reply(report("gw-a", clients(1, 1)));
    for ticket in waiting {
        let answer = group.answers.remove(&ticket);
        let Some(Answer::Refused(refused)) = answer else { panic!("{answer:?}") };
        assert!(refused.message.contains("1 clients"), "{refused:?}");
    }
    group.reply(report("gw-a", clients(1, 0)));
    let Reply::Attach(second) = group.reply(attach("gw-b")) else { panic!() };
    assert_eq!((second.previous_epoch, second.volume.map(|volume| volume.epoch)), (1, Some(2)));
}

#[test]
fn of_two_that_take_a_volume_at_once_the_second_looks_again() {
    let mut group = Group::with_volume();
    group.reply(report("gw-a", Vec::new()));
    let tickets = ["gw-a", "gw-b"].map(|gateway| group.begin(attach(gateway)));
    group.settle();
    assert!(matches!(group.answers.remove(&tickets[0]), Some(Answer::Reply(Reply::Attach(_)))));
    assert_eq!(group.answers.get(&tickets[1]), None, "the other one finds it attached, and waits");
    group.reply(report("gw-a", clients(1, 3)));
    let answer = group.answers.remove(&tickets[1]);
    let Some(Answer::Refused(refused)) = answer else { panic!("{answer:?}") };
    assert!(refused.message.contains("3 clients"), "{refused:?}");
}

#[test]
fn a_volume_that_is_not_made_in_time_is_shown_as_it_is() {
    let mut group = Group::with_volume();
    let create = v1::CreateVolumeRequest {
        name: "w".to_owned(),
        size_bytes: 1 << 20,
        replicas: 1,
        ..v1::CreateVolumeRequest::default()
    };
    let node = v1::NodeHeartbeatRequest {
        node: 1,
        disk: vec![7; 16],
        start_count: 1,
        capacity_bytes: 1 << 40,
        ..v1::NodeHeartbeatRequest::default()
    };
    group.reply(Request::NodeHeartbeat(node));
    let ticket = group.ask(Request::CreateVolume(create)).unwrap_err();
    let asked = group.now;
    while !group.answers.contains_key(&ticket) {
        group.tick();
    }
    let waited = group.now.since(asked);
    assert!(waited < ANSWER_WITHIN && waited > ANSWER_WITHIN * 3 / 4, "{waited:?}");
    let answer = group.answers.remove(&ticket);
    let Some(Answer::Reply(Reply::Volume(volume))) = answer else { panic!("{answer:?}") };
    assert_eq!(volume.state(), v1::VolumeState::Creating);
}

/// What the node's report is answered.
fn unwanted(group: &mut Group, created: &[u64], dropped: &[u64]) -> Vec<u64> {
    let (created, dropped) = (created.to_vec(), dropped.to_vec());
    let report = v1::ReportReplicasRequest { node: 1, disk: vec![7; 16], created, dropped };
    match group.reply(Request::ReportReplicas(report)) {
        Reply::ReportReplicas(reply) => reply.unwanted,
        other => panic!("{other:?}"),
    }
}

/// A disk may have a replica that is long gone, made for a list that was behind. Of an id that was never given nothing is
/// said: it may be of a state that these managers have lost.
#[test]
fn a_disk_is_told_which_of_its_replicas_nobody_wants() {
    let mut group = Group::with_volume();
    assert_eq!(unwanted(&mut group, &[1, 2], &[]), [0; 0]);
    let delete = v1::DeleteVolumeRequest { name: "v".to_owned(), ..v1::DeleteVolumeRequest::default() };
    assert!(matches!(group.reply(Request::DeleteVolume(delete)), Reply::DeleteVolume(_)));
    assert_eq!(unwanted(&mut group, &[1], &[]), [0; 0], "it is to be dropped, and listed so");
    assert_eq!(unwanted(&mut group, &[], &[1]), [0; 0]);
    assert_eq!(unwanted(&mut group, &[1, 2], &[]), [1]);
}

#[test]
fn a_leader_that_nobody_hears_sends_its_askers_away() {
    let mut group = Group::of(2);
    let leader = group.leader();
    let ticket = group.begin(nothing());
    let mut answers = Vec::new();
    for _ in 0..25 {
        group.now = group.now + TICK;
        let now = group.now;
        let member = group.members.get_mut(&leader).unwrap();
        member.tick(now);
        member.advance(now, &mut |_| {}).unwrap();
        answers.extend(member.take_answers());
    }
    assert_eq!(answers, [(ticket, Answer::TryAgain { leader: None })], "it leads no more");
    assert!(!group.members[&leader].leads());
}

#[test]
fn a_lossy_attachment_is_recorded_once() {
    let mut group = Group::with_volume();
    group.reply(attach("gw-a"));
    let lossy = vec![v1::AttachmentReport { lossy: true, ..clients(1, 1).remove(0) }];
    group.reply(report("gw-a", lossy.clone()));
    let is_lossy = |group: &Group| {
        let state = group.members[&1].state();
        state.volume_named("v").and_then(|volume| volume.attachment.as_ref().map(|at| at.lossy))
    };
    assert_eq!(is_lossy(&group), Some(true));
    let applied = group.members[&1].applied_index();
    group.reply(report("gw-a", lossy));
    assert_eq!(group.members[&1].applied_index(), applied, "a heartbeat is no entry");
}

#[test]
fn a_gateway_is_told_since_when_it_has_a_volume_without_a_break() {
    let mut group = Group::with_volume();
    let told = |group: &mut Group, gateway: &str| {
        let Reply::Attach(reply) = group.reply(attach(gateway)) else { panic!() };
        let attachment = reply.volume.unwrap().attachment.unwrap();
        (attachment.epoch, attachment.unbroken_since)
    };
    assert_eq!(told(&mut group, "gw-a"), (1, 1));
    assert_eq!(told(&mut group, "gw-a"), (2, 1), "it was killed, and is back");
    // What it waits for before a lossy attachment begins is in the view that it watches.
    let shown = |group: &Group| {
        let view = group.members[&1].gateway_view(&GatewayId("gw-a".to_owned()));
        let attachment = view.volumes[0].attachment.clone().unwrap();
        (attachment.lossy, attachment.unbroken_since)
    };
    assert_eq!(shown(&group), (false, 1));
    let before = group.members[&1].state().gateway_revision(&GatewayId("gw-a".to_owned()));
    group.reply(report("gw-a", vec![v1::AttachmentReport { lossy: true, ..clients(2, 0).remove(0) }]));
    assert_eq!(shown(&group), (true, 2));
    let after = group.members[&1].state().gateway_revision(&GatewayId("gw-a".to_owned()));
    assert!(after > before, "it is news");
    assert_eq!(told(&mut group, "gw-a"), (3, 2));
    group.reply(report("gw-a", clients(3, 0)));
    assert_eq!(told(&mut group, "gw-b"), (4, 4));
}

#[test]
fn a_node_that_stops_is_let_go_when_it_stands_in_the_state() {
    let mut group = Group::with_volume();
    let heartbeat = |leaving| {
        Request::NodeHeartbeat(v1::NodeHeartbeatRequest {
            node: 1,
            disk: vec![7; 16],
            start_count: 1,
            leaving,
            ..v1::NodeHeartbeatRequest::default()
        })
    };
    assert_eq!(
        group.reply(heartbeat(false)),
        Reply::Heartbeat(v1::HeartbeatReply { known: true, leader: String::new() })
    );
    let is_online = |group: &Group| group.members[&1].state().nodes()[&NodeId(1)].health.is_online();
    assert!(is_online(&group));
    assert_eq!(
        group.reply(heartbeat(true)),
        Reply::Heartbeat(v1::HeartbeatReply { known: true, leader: String::new() })
    );
    assert!(!is_online(&group), "in the same moment");
}
