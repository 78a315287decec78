//! Copies come, move and go while clients work; and what nobody uses is repaired.

use crate::PATIENCE;
use quoin_e2e::load::{Load, Plan};
use quoin_e2e::{Dev, clock, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const PLAN: Plan = Plan { clients: 3, blocks: 1024, reads_of_ten: 3, flush_every: 50 };
/// A change must not stall anybody: far above what a loaded machine takes, far below any time-out.
const STALL_MAX: Duration = Duration::from_secs(1);

fn volume(dev: &Dev) -> Value {
    dev.json(&["volume", "show", "vol1"])
}

/// The names of the nodes that hold a volume, without those that are only to drop what they have of it.
fn holders_of(dev: &Dev, volume: &str) -> BTreeSet<String> {
    let nodes = dev.json(&["node", "list"]);
    let nodes = nodes.as_array().or_else(|| nodes["nodes"].as_array()).cloned().expect("nodes");
    let name = |id: &Value| {
        let node = nodes.iter().find(|node| node["id"] == *id).unwrap_or_else(|| panic!("no node {id}"));
        node["name"].as_str().expect("a name").to_owned()
    };
    let volume = dev.json(&["volume", "show", volume]);
    let replicas = volume["segments"][0]["replicas"].as_array().cloned().expect("replicas");
    let members = replicas.iter().filter(|replica| replica["role"] != "none");
    members.map(|replica| name(&replica["node"])).collect()
}

fn holders(dev: &Dev) -> BTreeSet<String> {
    holders_of(dev, "vol1")
}

fn number(node: &str) -> u32 {
    node.trim_start_matches("node-").parse().expect("node-<n>")
}

#[test]
fn copies_move_and_change_in_number_while_clients_write_and_nodes_die() {
    let dev = Dev::start(&["--nodes", "5", "--size", "64MiB"]);
    let load = Load::start(dev.nbd_address(), "vol1", PLAN);
    load.until_more(2000, PATIENCE);
    let begun = clock::now();
    dev.quoin(&["snapshot", "create", "vol1", "before"]).ok();

    // Every copy that there is at first moves to a node that has none.
    let first = holders(&dev);
    assert_eq!(first.len(), 3);
    for node in &first {
        let before = holders(&dev);
        dev.quoin(&["volume", "move", "vol1", "--from", node]).ok();
        let after = holders(&dev);
        assert!(!after.contains(node) && after.len() == 3, "{before:?} then {after:?}");
    }
    // Up, down to one, and back, with the loss of a node in mid-change.
    dev.quoin(&["volume", "set-replicas", "vol1", "5"]).ok();
    assert_eq!(holders(&dev).len(), 5);
    dev.quoin(&["volume", "set-replicas", "vol1", "1"]).ok();
    let alone = holders(&dev);
    assert_eq!(alone.len(), 1);
    dev.quoin(&["volume", "set-replicas", "vol1", "3"]).ok();
    load.until_more(2000, PATIENCE);
    let leaving = holders(&dev).into_iter().next().expect("three");
    dev.quoin(&["volume", "move", "vol1", "--from", &leaving, "--no-wait"]).ok();
    dev.kill(&format!("storage-node-{}", number(&leaving)));
    until("the dead node's copy to be replaced", PATIENCE, || {
        let holders = holders(&dev);
        if !holders.contains(&leaving) && holders.len() == 3 { Ok(()) } else { Err(volume(&dev).to_string()) }
    });
    load.until_more(1000, PATIENCE);
    let ended = clock::now();
    let work = load.stop();
    assert_eq!(work.errors, Vec::<String>::new());
    work.verify(&mut dev.nbd()).unwrap();
    let worst = work.worst(begun, ended);
    println!("{} requests while every copy moved; the worst took {worst:?}", work.answered.len());
    assert!(worst < STALL_MAX, "{worst:?}");
    let snapshots = volume(&dev)["snapshots"].clone();
    assert_eq!(
        (snapshots[0]["name"].as_str(), snapshots[0]["state"].as_str()),
        (Some("before"), Some("ready"))
    );
    dev.quoin(&["snapshot", "delete", "vol1", "before"]).ok();
    dev.control("start", &format!("storage-node-{}", number(&leaving))).ok();
    dev.until_healthy(PATIENCE);
}

#[test]
fn of_two_copies_one_goes_on_alone_where_that_is_allowed_and_is_joined_by_another() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let create = ["volume", "create", "pair", "--size", "64MiB", "--replicas", "2", "--min-replicas", "1"];
    dev.quoin(&create).ok();
    let mut nbd = dev.try_nbd("pair").unwrap();
    nbd.write_fua(0, &[1; 4096]).unwrap();
    let lost = number(holders_of(&dev, "pair").first().expect("two"));
    dev.kill(&format!("storage-node-{lost}"));
    // Both copies are the majority of two: this waits until the manager lets the survivor go on alone.
    nbd.write_fua(4096, &[2; 4096]).unwrap();
    until("the lost copy to be let go", PATIENCE, || {
        let holders = holders_of(&dev, "pair");
        if holders.len() == 1 { Ok(()) } else { Err(format!("{holders:?}")) }
    });
    dev.quoin(&["volume", "set-replicas", "pair", "2"]).ok();
    assert_eq!(holders_of(&dev, "pair").len(), 2);
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);
    assert_eq!(nbd.read(4096, 4096).unwrap(), [2; 4096]);
    dev.control("start", &format!("storage-node-{lost}")).ok();
    dev.until_healthy(PATIENCE);
}

/// Rule C4. The gateway process that missed a copy is gone, and with it all that it remembered: the copy is pulled from
/// another, though no client has come back.
#[test]
fn a_volume_that_nobody_uses_is_repaired_by_a_steward() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut nbd = dev.nbd();
    nbd.write_fua(0, &[1; 65_536]).unwrap();
    dev.kill_node(2);
    nbd.write_fua(0, &vec![2; 1 << 20]).unwrap();
    drop(nbd);
    dev.control("stop", "gateway-1").ok();
    dev.control("start", "storage-node-2").ok();
    let epoch = volume(&dev)["epoch"].as_u64().expect("an epoch");
    dev.control("start", "gateway-1").ok();
    until("the copy to be pulled by a steward", PATIENCE, || {
        let pulled = dev.node_metric(2, "resync_pulled_bytes_total")?;
        let volume = volume(&dev);
        let is_over = volume["attachment"].is_null() && volume["epoch"].as_u64() > Some(epoch);
        if pulled >= 1e6 && is_over { Ok(()) } else { Err(format!("{pulled} bytes; {volume}")) }
    });
    // It has everything: without it there would be no majority.
    dev.kill("storage-node-3");
    let mut nbd = dev.nbd();
    assert_eq!(nbd.read(0, 1 << 20).unwrap(), vec![2; 1 << 20]);
    dev.control("start", "storage-node-3").ok();
    dev.until_healthy(PATIENCE);
}
