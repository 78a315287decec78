//! Who is unreachable is known to every leader, and new replicas go to nodes that are there.

mod support;

use quoin_api::client::Managers;
use quoin_api::v1;
use std::time::Duration;
use support::{FakeNode, TestCluster, create, eventually, get, heartbeat, status};
use tonic::Code;

const SOON: Duration = Duration::from_secs(10);

async fn node(managers: &Managers, name: &str) -> v1::Node {
    let nodes = eventually("an answer", SOON, async || Some(status(managers).await.ok()?.nodes)).await;
    nodes.into_iter().find(|node| node.name == name).unwrap()
}

async fn until_health(managers: &Managers, name: &str, health: v1::NodeHealth) {
    eventually(&format!("{name} {health:?}"), SOON, async || {
        (node(managers, name).await.health() == health).then_some(())
    })
    .await;
}

fn nodes_of(volume: &v1::Volume) -> Vec<u64> {
    let replicas = volume.segments.iter().flat_map(|segment| &segment.replicas);
    let mut nodes: Vec<u64> = replicas.map(|replica| replica.node).collect();
    nodes.sort_unstable();
    nodes
}

/// The last entry applied at the leader.
async fn applied(managers: &Managers) -> u64 {
    let managers = status(managers).await.unwrap().managers;
    managers.iter().map(|manager| manager.applied_index).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_is_unreachable_for_the_next_leader_and_gets_nothing() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 3).await;
    let (gone, leader) = (nodes.pop().unwrap(), cluster.leader().await);
    // The next leader hears nothing of it, and has no time to find out.
    gone.leave(&managers).await;
    cluster.kill(leader).await;
    let found = node(&managers, "node-3").await;
    assert_eq!(found.health(), v1::NodeHealth::Unreachable, "{found:?}");
    assert!(found.detail.contains("was stopped"), "{}", found.detail);
    let volume = create(&managers, "vol1", 2).await.unwrap();
    assert_eq!((nodes_of(&volume), volume.state()), (vec![1, 2], v1::VolumeState::Ready));
    let refused = create(&managers, "vol2", 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("2 can take one"), "{}", refused.message());

    // Its next start registers, and that is all it takes.
    let _back = FakeNode::start_again(&managers, 3, 2).await;
    assert_eq!(node(&managers, "node-3").await.health(), v1::NodeHealth::Online);
    assert_eq!(create(&managers, "vol2", 3).await.unwrap().state(), v1::VolumeState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_stays_unreachable_until_it_is_heard_of() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 3).await;
    let gone = nodes.pop().unwrap().id;
    until_health(&managers, "node-3", v1::NodeHealth::Unreachable).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let found = node(&managers, "node-3").await;
    assert_eq!(found.health(), v1::NodeHealth::Unreachable, "{found:?}");
    let volume = create(&managers, "vol1", 2).await.unwrap();
    assert_eq!((nodes_of(&volume), volume.state()), (vec![1, 2], v1::VolumeState::Ready));

    // A heartbeat of the same start: the network was away, not the node.
    let beat = || heartbeat(gone, 3, 1);
    let reply =
        managers.agent(async |mut client| Ok(client.node_heartbeat(beat()).await?.into_inner())).await;
    assert!(reply.unwrap().known);
    until_health(&managers, "node-3", v1::NodeHealth::Online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_places_nothing_on_a_node_that_died_with_the_old_one() {
    let mut cluster = TestCluster::start(3);
    let managers = cluster.managers();
    let mut nodes = FakeNode::start_all(&managers, 4).await;
    let leader = cluster.leader().await;
    drop(nodes.pop());
    cluster.kill(leader).await;
    // The state calls it online, and nobody has missed it yet.
    let volume = eventually("an answer", SOON, async || match create(&managers, "vol1", 3).await {
        Err(status) if status.code() != Code::AlreadyExists => None,
        _ => get(&managers, "vol1").await.ok(),
    })
    .await;
    assert_eq!(nodes_of(&volume), [1, 2, 3]);
    until_health(&managers, "node-4", v1::NodeHealth::Unreachable).await;
    assert!(create(&managers, "vol2", 4).await.unwrap_err().message().contains("3 can take one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_hangs_keeps_no_heartbeat_from_the_others() {
    let cluster = TestCluster::start(1);
    let node = FakeNode::start(&cluster.managers(), 1).await;
    // Connections are taken, by the system, and nothing is ever answered.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [hung.local_addr().unwrap(), cluster.config(0).listen].map(|address| address.to_string());
    let managers = Managers::new(&addresses).unwrap();
    let began = tokio::time::Instant::now();
    let beat = || heartbeat(node.id, 1, 1);
    let sent = managers.heartbeat(Duration::from_millis(500), async |mut client| {
        Ok(client.node_heartbeat(beat()).await?.into_inner())
    });
    assert!(sent.await.unwrap().known);
    // The call alone would have waited for five seconds.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_to_the_leader_that_a_reply_has_named() {
    let mut cluster = TestCluster::start(3);
    let node = FakeNode::start(&cluster.managers(), 1).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let addresses = [follower, leader].map(|index| cluster.config(index).listen);
    let managers = Managers::new(&addresses.map(|address| address.to_string())).unwrap();
    let send = async || {
        managers
            .heartbeat(Duration::from_secs(1), async |mut client| {
                Ok(client.node_heartbeat(heartbeat(node.id, 1, 1)).await?.into_inner())
            })
            .await
            .unwrap()
    };
    assert_eq!(send().await.leader, addresses[1].to_string());
    // The follower would keep the next one waiting for a second.
    cluster.kill(follower).await;
    let hung = async || std::net::TcpListener::bind(addresses[0]).ok();
    let _hung = eventually("the follower's port", SOON, hung).await;
    let began = tokio::time::Instant::now();
    assert!(send().await.known);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_health_is_one_entry_and_silence_none() {
    // One of each: nobody else adds an entry, however slow the machine is.
    let cluster = TestCluster::start(1);
    let managers = cluster.managers();
    let only = FakeNode::start(&managers, 1).await;
    let before = applied(&managers).await;
    drop(only);
    until_health(&managers, "node-1", v1::NodeHealth::Unreachable).await;
    eventually("more than three intervals to pass", SOON, async || {
        (node(&managers, "node-1").await.last_heartbeat_age_ms > 4000).then_some(())
    })
    .await;
    assert_eq!(applied(&managers).await, before + 1);
    let _back = FakeNode::start_again(&managers, 1, 2).await;
    assert_eq!(node(&managers, "node-1").await.health(), v1::NodeHealth::Online);
    assert_eq!(applied(&managers).await, before + 2, "its registration, and nothing beside");
}
