//! Members come and go; what was answered stays.

mod support;

use quoin_api::v1;
use std::time::Duration;
use support::{FakeNode, TestCluster, create, delete, eventually, get, status};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_and_nothing_answered_is_lost() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    let volume = create(&managers, "vol1", 3).await.unwrap();
    assert_eq!(volume.state(), v1::VolumeState::Ready);
    let before = status(&managers).await.unwrap();

    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    let died = Instant::now();
    // Most often one call: the client goes to the next member, which waits for the election. Only a call that the dying
    // connection takes along is made again.
    let found = eventually("an answer", SOON, async || get(&managers, "vol1").await.ok()).await;
    let took = died.elapsed();
    println!("first answer {took:?} after the leader's death");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!((found.id, found.state()), (volume.id, v1::VolumeState::Ready));
    let after = status(&managers).await.unwrap();
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(after.raft_term > before.raft_term);
    eventually("the dead member is told of", SOON, async || {
        let problems = status(&managers).await.ok()?.problems;
        problems.iter().any(|problem| problem.contains("does not answer")).then_some(())
    })
    .await;
    create(&managers, "vol2", 3).await.unwrap();

    // Back again, it catches up and answers too.
    cluster.start_member(leader);
    let member = cluster.member(leader);
    eventually("the member is back", SOON, async || get(&member, "vol2").await.ok()).await;
    eventually("all members answer", SOON, async || status(&managers).await.ok().filter(|s| s.healthy)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_when_the_leader_dies_is_carried_out_once() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    let leader = cluster.leader().await;
    let follower = cluster.member(cluster.follower().await);
    // Through a follower, while the leader is being killed: whatever happened to the first proposal, the follower's retry
    // has the same request id.
    let (created, ()) = tokio::join!(create(&follower, "vol1", 3), cluster.kill(leader));
    created.unwrap();
    let volumes = status(&managers).await.unwrap().volumes;
    assert_eq!(volumes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_hands_over_without_an_election_timeout() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 3).await;
    create(&managers, "vol1", 3).await.unwrap();
    let leader = cluster.leader().await;
    let before = Instant::now();
    cluster.stop(leader).await;
    get(&managers, "vol1").await.unwrap();
    println!("stopped and answered by the next leader in {:?}", before.elapsed());
    assert_ne!(cluster.leader().await, leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_remembers_after_a_restart() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let nodes = FakeNode::start_all(&managers, 3).await;
    let volume = create(&managers, "vol1", 3).await.unwrap();
    let cluster_id = status(&managers).await.unwrap().cluster_id;
    drop(nodes);
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        cluster.start_member(index);
    }
    let found = eventually("an answer", SOON, async || get(&managers, "vol1").await.ok()).await;
    assert_eq!(found.segments[0].replicas.len(), 3);
    assert_eq!(found.id, volume.id);
    assert_eq!(status(&managers).await.unwrap().cluster_id, cluster_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_far_behind_catches_up_by_a_snapshot() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let _nodes = FakeNode::start_all(&managers, 1).await;
    create(&managers, "vol1", 1).await.unwrap();
    let behind = cluster.follower().await;
    cluster.kill(behind).await;
    // More entries than are kept, in a few rounds, so that the member's place in the log is gone.
    let client = cluster.client(cluster.leader().await).await;
    for round in 0..30_u64 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let mut client = client.clone();
            let request =
                v1::ResizeVolumeRequest { name: "vol1".to_owned(), size_bytes: (1 << 20) + round * 4096 };
            calls.spawn(async move { client.resize_volume(request).await });
        }
        while let Some(result) = calls.join_next().await {
            // Of two sizes under way the smaller one may come second; that is refused, and an entry all the same.
            if let Err(status) = result.unwrap() {
                assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
            }
        }
    }
    delete(&managers, "vol1", false).await.unwrap();
    create(&managers, "vol2", 1).await.unwrap();
    cluster.start_member(behind);
    let member = cluster.member(behind);
    eventually("the member is back", SOON, async || get(&member, "vol2").await.ok()).await;
    // With it and one other alone, the state must be whole: stop the leader.
    let leader = cluster.leader().await;
    if leader != behind {
        cluster.stop(leader).await;
    }
    assert!(get(&member, "vol2").await.is_ok());
    assert_eq!(get(&member, "vol1").await.unwrap_err().code(), tonic::Code::NotFound);
    let metrics =
        eventually("metrics", SOON, async || fetch(cluster.config(behind).admin_listen, "/metrics").await)
            .await;
    assert!(metrics.contains("quoin_manager_snapshots_received_total 1\n"), "{metrics}");
    let applied = metrics.lines().find_map(|line| line.strip_prefix("quoin_manager_raft_applied_index "));
    assert!(applied.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > 3000), "{applied:?}");
    eventually("ready", SOON, async || {
        fetch(cluster.config(behind).admin_listen, "/readyz").await.filter(|text| text.contains("200 OK"))
    })
    .await;
}

/// A plain HTTP GET.
async fn fetch(address: std::net::SocketAddr, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: quoin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}
