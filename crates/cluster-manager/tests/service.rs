//! What the services promise: one view from every member, epochs that rise, refusals that say why.

mod support;

use quoin_api::v1;
use std::time::Duration;
use support::{
    FakeNode, TestCluster, attach, create, delete, eventually, gateway_reports, get, instance, register,
    registration, resize, status,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn every_member_answers_and_shows_what_was_written_through_any() {
    let cluster = TestCluster::start(3);
    let _nodes = FakeNode::start_all(&cluster.managers(), 3).await;
    for index in 0..3 {
        let name = format!("vol{index}");
        let volume = create(&cluster.member(index), &name, 3).await.unwrap();
        assert_eq!(volume.state(), v1::VolumeState::Ready);
        for other in 0..3 {
            assert_eq!(get(&cluster.member(other), &name).await.unwrap().id, volume.id);
        }
    }
    let status = status(&cluster.managers()).await.unwrap();
    assert_eq!(status.managers.len(), 3);
    assert_eq!(status.managers.iter().filter(|manager| manager.leader).count(), 1);
    assert_eq!((status.nodes.len(), status.volumes.len()), (3, 3));
    assert_eq!(status.cluster_id.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_are_refused_with_a_hint() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let nodes = FakeNode::start_all(&managers, 2).await;
    let refused = create(&managers, "vol1", 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("\nhint: "), "{}", refused.message());
    assert_eq!(create(&managers, "-vol", 1).await.unwrap_err().code(), Code::InvalidArgument);
    let volume = create(&managers, "vol1", 2).await.unwrap();
    assert_eq!(create(&managers, "vol1", 2).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(get(&managers, "vol2").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(resize(&managers, "vol1", 4096).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(resize(&managers, "vol1", 8 << 20).await.unwrap().size_bytes, 8 << 20);

    // The name is free at once; the tombstone goes when every replica is confirmed dropped.
    drop(nodes);
    delete(&managers, "vol1", false).await.unwrap();
    assert_eq!(get(&managers, "vol1").await.unwrap_err().code(), Code::NotFound);
    let left = status(&managers).await.unwrap().volumes;
    assert_eq!(
        left.iter().map(|v| (v.id, v.state())).collect::<Vec<_>>(),
        [(volume.id, v1::VolumeState::Deleting)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_volume_is_forgotten_when_its_replicas_are_dropped() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 3).await.unwrap();
    delete(&managers, "vol1", false).await.unwrap();
    eventually("the tombstone goes", SOON, async || {
        status(&managers).await.ok().filter(|status| status.volumes.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_repeated_under_its_id_is_carried_out_once() {
    let cluster = TestCluster::start(3);
    let _nodes = FakeNode::start_all(&cluster.managers(), 3).await;
    let request = || {
        let asked = v1::CreateVolumeRequest {
            name: "vol1".to_owned(),
            size_bytes: 4096,
            ..v1::CreateVolumeRequest::default()
        };
        let mut request = tonic::Request::new(asked);
        request
            .metadata_mut()
            .insert("quoin-request-id", "00112233445566778899aabbccddeeff".parse().unwrap());
        request
    };
    // Through different members, the second time as a client does that never got its answer.
    let mut ids = Vec::new();
    for index in 0..3 {
        ids.push(cluster.client(index).await.create_volume(request()).await.unwrap().into_inner().id);
    }
    assert_eq!(ids, [ids[0]; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_call_is_not_forwarded_again() {
    let cluster = TestCluster::start(3);
    let follower = cluster.follower().await;
    let mut request = tonic::Request::new(v1::GetStatusRequest {});
    request.metadata_mut().insert("quoin-forwarded-budget-ms", "1000".parse().unwrap());
    let refused = cluster.client(follower).await.get_status(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_rise_and_a_volume_in_use_is_kept() {
    let cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    let volume = create(&managers, "vol1", 3).await.unwrap();
    let first = attach(&managers, "vol1", "gw-a", false).await.unwrap();
    assert_eq!(first.nodes.len(), 3);
    assert_eq!((first.volume.unwrap().epoch, first.previous_epoch), (1, 0));
    // The same gateway always gets a new epoch.
    let second = attach(&managers, "vol1", "gw-a", false).await.unwrap();
    assert_eq!((second.volume.unwrap().epoch, second.previous_epoch), (2, 1));
    assert_eq!(second.previous_instance, instance("gw-a"));

    let report = v1::AttachmentReport {
        volume: volume.id,
        epoch: 2,
        clients: 1,
        available: true,
        ..v1::AttachmentReport::default()
    };
    gateway_reports(&managers, "gw-a", vec![report]).await;
    let shown = get(&managers, "vol1").await.unwrap().attachment.unwrap();
    assert!(shown.available && shown.clients == 1, "{shown:?}");
    let refused = attach(&managers, "vol1", "gw-b", false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(delete(&managers, "vol1", false).await.unwrap_err().code(), Code::FailedPrecondition);
    let third = attach(&managers, "vol1", "gw-b", true).await.unwrap();
    assert_eq!((third.volume.unwrap().epoch, third.previous_epoch), (3, 2));
    // A gateway that has stopped reporting is no obstacle.
    gateway_reports(
        &managers,
        "gw-b",
        vec![v1::AttachmentReport { volume: volume.id, epoch: 3, clients: 1, ..Default::default() }],
    )
    .await;
    let fourth =
        eventually("gw-b is given up", SOON, async || attach(&managers, "vol1", "gw-c", false).await.ok())
            .await;
    assert_eq!(fourth.volume.unwrap().epoch, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_watches_its_volumes_come_and_go() {
    let cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 3).await.unwrap();
    let request = v1::WatchGatewayRequest { gateway: "gw-a".to_owned(), instance: instance("gw-a") };
    let follower = cluster.member(cluster.follower().await);
    let mut stream = follower
        .agent_stream(async |mut client| Ok(client.watch_gateway(request.clone()).await?.into_inner()))
        .await
        .unwrap();
    assert!(stream.message().await.unwrap().unwrap().volumes.is_empty());
    let epoch = attach(&managers, "vol1", "gw-a", false).await.unwrap().volume.unwrap().epoch;
    let view = stream.message().await.unwrap().unwrap();
    assert_eq!((view.volumes.len(), view.nodes.len()), (1, 3));
    assert_eq!(view.volumes[0].attachment.as_ref().unwrap().epoch, epoch);
    attach(&managers, "vol1", "gw-b", true).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().volumes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_their_member_stops() {
    let mut cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let nodes = FakeNode::start_all(&managers, 1).await;
    let request = v1::WatchReplicasRequest { node: nodes[0].id, disk: vec![1; 16] };
    let mut stream = managers
        .agent_stream(async |mut client| Ok(client.watch_replicas(request.clone()).await?.into_inner()))
        .await
        .unwrap();
    stream.message().await.unwrap().unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(3), cluster.stop(0));
    let (stopped, ended) = tokio::join!(stopped, stream.message());
    stopped.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_lost_or_repeat_their_past_are_refused() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 1).await;
    create(&managers, "vol1", 1).await.unwrap();
    let cluster_id = status(&managers).await.unwrap().cluster_id;
    // A lost answer is asked for again by the same process; a clone of the disk is another process.
    let again = registration(&cluster_id, "node-1", 1, 1);
    register(&managers, &again).await.unwrap();
    let clone = v1::RegisterNodeRequest { instance: vec![99; 16], ..again };
    assert_eq!(register(&managers, &clone).await.unwrap_err().code(), Code::FailedPrecondition);
    // Whoever asks before its start is told the same, and asking changes nothing.
    let mine = vec![1; 8];
    let asks = |start_count, last_mark: &[u8]| v1::RegisterNodeRequest {
        asks: true,
        last_mark: last_mark.to_vec(),
        ..registration(&cluster_id, "node-1", 1, start_count)
    };
    for _ in 0..2 {
        register(&managers, &asks(2, &mine)).await.unwrap();
        let rolled_back = register(&managers, &asks(1, &mine)).await.unwrap_err();
        assert!(rolled_back.message().contains("rolled back or cloned"), "{}", rolled_back.message());
        let cloned = register(&managers, &asks(2, &[99; 8])).await.unwrap_err();
        assert!(cloned.message().contains("by another copy of it"), "{}", cloned.message());
    }
    assert_eq!(register(&managers, &asks(2, &[1])).await.unwrap_err().code(), Code::InvalidArgument);
    let wiped = registration(&cluster_id, "node-1", 7, 1);
    let refused = register(&managers, &wiped).await.unwrap_err();
    assert!(refused.message().contains("hint: bring the old disk back"), "{}", refused.message());
    let unformatted = v1::RegisterNodeRequest { disk: Vec::new(), ..wiped };
    assert_eq!(register(&managers, &unformatted).await.unwrap_err().code(), Code::FailedPrecondition);
    let stranger = registration(&[5; 16], "node-9", 9, 1);
    assert_eq!(register(&managers, &stranger).await.unwrap_err().code(), Code::FailedPrecondition);
    let problems = status(&managers).await.unwrap().problems;
    assert!(problems.iter().any(|problem| problem.contains("node-9")), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_replicas_are_told_in_plain_words() {
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 3).await.unwrap();
    nodes.truncate(1);
    let problems = eventually("two nodes are unreachable", SOON, async || {
        let problems = status(&managers).await.ok()?.problems;
        problems.first()?.contains("writes wait").then_some(problems)
    })
    .await;
    assert_eq!(
        problems[0],
        "volume vol1: 2 of 3 replicas are missing (node-2, node-3 unreachable): writes wait until one is back"
    );
}
