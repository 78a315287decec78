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
