//! Changes of copies, snapshots and stewards from a wish to its end, with gateways that are only said to do their part.

mod support;

use quoin_api::client::Managers;
use quoin_api::v1;
use std::time::Duration;
use support::{
    FakeGateway, FakeNode, TestCluster, attach, create, eventually, gateway_reports, get, instance,
    placement, status,
};
use tonic::{Code, Status};

const SOON: Duration = Duration::from_secs(10);

async fn move_replica(managers: &Managers, from: &str, to: &str) -> Result<v1::Volume, Status> {
    let request = v1::MoveReplicaRequest {
        volume: "vol1".to_owned(),
        segment: None,
        from: from.to_owned(),
        to: to.to_owned(),
    };
    managers.cluster(async |mut client| Ok(client.move_replica(request.clone()).await?.into_inner())).await
}

async fn set_replicas(managers: &Managers, replicas: u32) -> Result<v1::Volume, Status> {
    let request = v1::SetReplicasRequest { volume: "vol1".to_owned(), replicas };
    managers.cluster(async |mut client| Ok(client.set_replicas(request.clone()).await?.into_inner())).await
}

async fn abort_change(managers: &Managers) -> Result<v1::Volume, Status> {
    let request = v1::AbortChangeRequest { volume: "vol1".to_owned() };
    managers.cluster(async |mut client| Ok(client.abort_change(request.clone()).await?.into_inner())).await
}

async fn snapshot(managers: &Managers, name: &str) -> Result<v1::Snapshot, Status> {
    let request =
        v1::CreateSnapshotRequest { volume: "vol1".to_owned(), name: name.to_owned(), no_wait: false };
    managers.cluster(async |mut client| Ok(client.create_snapshot(request.clone()).await?.into_inner())).await
}

/// The volume, once nothing of it is being changed, and what left it is dropped.
async fn settled(managers: &Managers) -> v1::Volume {
    eventually("the change is done", SOON, async || {
        let volume = get(managers, "vol1").await.ok()?;
        let mut replicas = volume.segments.iter().flat_map(|segment| &segment.replicas);
        let changing = volume.segments.iter().any(|segment| segment.change.is_some());
        (!changing && replicas.all(|replica| replica.state() == v1::ReplicaState::Ready)).then_some(volume)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_an_attached_volume_are_moved_and_added_and_removed() {
    let cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let nodes = FakeNode::start_all(&managers, 5).await;
    let _gateway = FakeGateway::start(&managers, "gw-a");
    create(&managers, "vol1", 3).await.unwrap();
    let attached = attach(&managers, "vol1", "gw-a", false).await.unwrap().volume.unwrap();
    let before = placement(&attached);
    let from = before[0][0];
    let to = nodes.iter().map(|node| node.id).find(|id| !before[0].contains(id)).unwrap();
    move_replica(&managers, &from.to_string(), &format!("node-{to}")).await.unwrap();
    let after = placement(&settled(&managers).await);
    assert!(after[0].contains(&to) && !after[0].contains(&from) && after[0].len() == 3, "{after:?}");

    set_replicas(&managers, 5).await.unwrap();
    let volume = settled(&managers).await;
    assert_eq!((volume.replicas, placement(&volume)[0].len()), (5, 5));
    set_replicas(&managers, 1).await.unwrap();
    let volume = settled(&managers).await;
    assert_eq!((volume.replicas, placement(&volume)[0].len()), (1, 1));
    assert_eq!(volume.epoch, attached.epoch, "one attachment all the time");
    // Asked for what is so already.
    assert_eq!(
        set_replicas(&managers, 1).await.unwrap().segments[0].generation,
        volume.segments[0].generation
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_its_gateway_and_can_be_given_up_until_then() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 4).await;
    create(&managers, "vol1", 3).await.unwrap();
    attach(&managers, "vol1", "gw-a", false).await.unwrap();
    let volume = get(&managers, "vol1").await.unwrap();
    let from = placement(&volume)[0][0].to_string();
    let begun = move_replica(&managers, &from, "").await.unwrap();
    assert!(!begun.segments[0].change.as_ref().unwrap().joint);
    let learner = begun.segments[0].replicas.iter().find(|r| r.role() == v1::ReplicaRole::Learner);
    assert!(learner.is_some(), "{begun:?}");
    let refused = move_replica(&managers, &from, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("abort-change"), "{}", refused.message());
    // A gateway that says nothing of the configuration lets nothing go on.
    let silent = v1::AttachmentReport { volume: volume.id, epoch: 1, available: true, ..Default::default() };
    gateway_reports(&managers, "gw-a", vec![silent]).await;
    abort_change(&managers).await.unwrap();
    let given_up = settled(&managers).await;
    assert_eq!((placement(&given_up), given_up.segments[0].generation), (placement(&volume), 3));
    assert_eq!(abort_change(&managers).await.unwrap().revision, given_up.revision, "nothing to give up");
    assert_eq!(move_replica(&managers, "node-9", "").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(set_replicas(&managers, 0).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(set_replicas(&managers, 7).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_asked_for_again_under_its_id_is_begun_once() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 1).await.unwrap();
    let request = || {
        let mut request =
            tonic::Request::new(v1::SetReplicasRequest { volume: "vol1".to_owned(), replicas: 3 });
        request
            .metadata_mut()
            .insert("quoin-request-id", "00112233445566778899aabbccddeeff".parse().unwrap());
        request
    };
    for _ in 0..2 {
        let volume = cluster.client(0).await.set_replicas(request()).await.unwrap().into_inner();
        assert_eq!(volume.segments[0].generation, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_volume_is_looked_after_by_a_steward_that_leaves_again() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 4).await;
    let _gateway = FakeGateway::start(&managers, "gw-a");
    let volume = create(&managers, "vol1", 3).await.unwrap();
    let from = placement(&volume)[0][0];
    move_replica(&managers, &from.to_string(), "").await.unwrap();
    let moved = settled(&managers).await;
    assert!(!placement(&moved)[0].contains(&from) && moved.epoch >= 1);
    let detached = async || get(&managers, "vol1").await.ok().filter(|volume| volume.attachment.is_none());
    eventually("the steward has left", SOON, detached).await;

    let taken = snapshot(&managers, "monday").await.unwrap();
    assert_eq!((taken.state(), taken.size_bytes), (v1::SnapshotState::Ready, 1 << 20));
    assert_eq!(snapshot(&managers, "monday").await.unwrap_err().code(), Code::AlreadyExists);
    eventually("the steward has left", SOON, detached).await;
    let shown = get(&managers, "vol1").await.unwrap();
    assert_eq!(shown.snapshots, [taken]);
    let delete = v1::DeleteSnapshotRequest { volume: "vol1".to_owned(), name: "monday".to_owned() };
    managers.cluster(async |mut client| client.delete_snapshot(delete.clone()).await).await.unwrap();
    assert!(get(&managers, "vol1").await.unwrap().snapshots.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_is_in_nobodys_way() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 3).await.unwrap();
    let epoch = attach(&managers, "vol1", "gw-a", false).await.unwrap().volume.unwrap().epoch;
    let detach =
        v1::DetachRequest { volume: "vol1".to_owned(), epoch, gateway: "gw-a".to_owned(), clean: false };
    gateway_reports(&managers, "gw-a", Vec::new()).await;
    managers.agent(async |mut client| client.detach(detach.clone()).await).await.unwrap();
    let stewarded = eventually("somebody looks after it", SOON, async || {
        gateway_reports(&managers, "gw-a", Vec::new()).await;
        let volume = get(&managers, "vol1").await.ok()?;
        volume.attachment.as_ref()?.steward.then_some(volume)
    })
    .await;
    let problems = status(&managers).await.unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
    // Whatever it says, another gateway gets the volume at once.
    let report = v1::AttachmentReport { clients: 7, ..support::all_well(&stewarded) };
    gateway_reports(&managers, "gw-a", vec![report]).await;
    let attached = attach(&managers, "vol1", "gw-b", false).await.unwrap();
    assert_eq!(attached.previous_instance, instance("gw-a"));
    assert!(!attached.volume.unwrap().attachment.unwrap().steward);
}

/// The first problem that tells of copies of the volume.
async fn problem(managers: &Managers) -> Option<String> {
    let problems = status(managers).await.ok()?.problems;
    problems.into_iter().find(|problem| problem.starts_with("volume vol1: ") && problem.contains("replica"))
}

async fn is_unreachable(managers: &Managers, node: u64) -> Option<()> {
    let nodes = status(managers).await.ok()?.nodes;
    nodes.iter().find(|known| known.id == node && known.health() == v1::NodeHealth::Unreachable).map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_to_come_is_missed_once_it_counts() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 2).await;
    let volume = create(&managers, "vol1", 1).await.unwrap();
    let from = placement(&volume)[0][0];
    attach(&managers, "vol1", "gw-a", false).await.unwrap();
    let begun = move_replica(&managers, &from.to_string(), "").await.unwrap();
    let to = begun.segments[0].replicas.iter().find(|replica| replica.node != from).unwrap().node;
    let joint = eventually("it counts", SOON, async || {
        let volume = get(&managers, "vol1").await.ok()?;
        let mut report = support::all_well(&volume);
        report.segments[0].settled = false;
        gateway_reports(&managers, "gw-a", vec![report]).await;
        volume.segments[0].change.as_ref()?.joint.then_some(volume)
    })
    .await;
    assert_eq!(joint.segments[0].generation, 3);
    assert_eq!(problem(&managers).await, None);
    nodes.retain(|node| node.id != to);
    eventually("its node is missed", SOON, async || is_unreachable(&managers, to).await).await;
    let told = problem(&managers).await.unwrap();
    assert!(told.contains("1 of 1 replica is missing") && told.contains("writes wait"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_count_yet_is_not_missed() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 2).await;
    let volume = create(&managers, "vol1", 1).await.unwrap();
    let from = placement(&volume)[0][0];
    move_replica(&managers, &from.to_string(), "").await.unwrap();
    let to = nodes.iter().map(|node| node.id).find(|id| *id != from).unwrap();
    eventually("it exists", SOON, async || {
        let volume = get(&managers, "vol1").await.ok()?;
        let ready = |replica: &v1::Replica| replica.state() == v1::ReplicaState::Ready;
        volume.segments[0].replicas.iter().all(ready).then_some(())
    })
    .await;
    nodes.retain(|node| node.id == from);
    eventually("its node is missed", SOON, async || is_unreachable(&managers, to).await).await;
    assert_eq!(problem(&managers).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_goes_on_and_the_other_is_asked_for() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 2).await;
    let request = v1::CreateVolumeRequest {
        name: "vol1".to_owned(),
        size_bytes: 1 << 20,
        replicas: 2,
        min_replicas: 1,
        ..v1::CreateVolumeRequest::default()
    };
    managers.cluster(async |mut client| client.create_volume(request.clone()).await).await.unwrap();
    attach(&managers, "vol1", "gw-a", false).await.unwrap();
    let lost = nodes.remove(0).id;
    eventually("it goes on with one", SOON, async || {
        let volume = get(&managers, "vol1").await.ok()?;
        let mut report = support::all_well(&volume);
        for (replica, told) in volume.segments[0].replicas.iter().zip(&mut report.replicas) {
            told.whole = replica.node != lost;
            if replica.node == lost {
                told.set_health(v1::ReplicaHealth::Missing);
            }
        }
        gateway_reports(&managers, "gw-a", vec![report]).await;
        (placement(&volume)[0].len() == 1).then_some(())
    })
    .await;
    assert!(!placement(&get(&managers, "vol1").await.unwrap())[0].contains(&lost));
    let told = problem(&managers).await.unwrap();
    assert!(told.contains("1 of 2 replicas; `quoin volume set-replicas vol1 2`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_nodes_are_told_which_snapshots_are_kept() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let nodes = FakeNode::start_all(&managers, 1).await;
    let _gateway = FakeGateway::start(&managers, "gw-a");
    create(&managers, "vol1", 1).await.unwrap();
    for name in ["one", "two"] {
        snapshot(&managers, name).await.unwrap();
    }
    let delete = v1::DeleteSnapshotRequest { volume: "vol1".to_owned(), name: "one".to_owned() };
    managers.cluster(async |mut client| client.delete_snapshot(delete.clone()).await).await.unwrap();
    let request = v1::WatchReplicasRequest { node: nodes[0].id, disk: vec![1; 16] };
    let mut stream = managers
        .agent_stream(async |mut client| Ok(client.watch_replicas(request.clone()).await?.into_inner()))
        .await
        .unwrap();
    let told = stream.message().await.unwrap().unwrap();
    assert_eq!((&told.replicas[0].snapshots[..], told.replicas[0].snapshots_to), (&[2][..], 2));
}
