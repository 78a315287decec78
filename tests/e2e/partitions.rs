//! A storage node that cannot be reached, in whatever way, costs clients nothing; and what they see is one disk.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::network::Link;
use quoin_e2e::processes::Signal;
use quoin_e2e::record::Plan;
use quoin_e2e::{Nbd, Record, Roles, until};
use std::time::Duration;

/// The promise, and how it is judged: as for kills (`crashes.rs`).
const WORST_MAX: Duration = Duration::from_millis(50);
/// The span after a fault that is looked at. A node that does not answer is missed after a second.
const AROUND: Duration = Duration::from_secs(2);
/// No pause of this length is ever a hiccup.
const PAUSE_MAX: Duration = Duration::from_millis(1000);

const PLAN: Plan = Plan {
    clients: 3,
    first_block: 0,
    blocks: 128,
    reads_of_ten: 4,
    fua: false,
    think: Duration::from_millis(1),
};
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Clients at work while each storage node in turn has a fault and gets over it.
fn each_in_turn(roles: &mut Roles, what: &str, begin: impl Fn(&Roles, &str), end: impl Fn(&Roles, &str)) {
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let address = roles.start_gateway("gateway-a");
    let record = Record::default();
    let clients = record.clients(address, "v", PLAN);
    clients.until_more(200, PATIENCE);
    roles.until_healthy();
    let quiet = now();
    clients.until_after(quiet, AROUND);
    let mut begun = Vec::new();
    for node in NODES {
        begun.push(now());
        begin(roles, node);
        clients.until_after(begun[begun.len() - 1], AROUND);
        roles.until_missed(node);
        clients.until_more(100, PATIENCE);
        end(roles, node);
        roles.until_healthy();
    }
    clients.until_more(100, PATIENCE);
    let told = clients.stop();
    assert_eq!(told.errors, [""; 0], "no client may see an error");
    record.judge(&mut Nbd::open(address, "v").unwrap(), PLAN.blocks);

    let worst = |at| told.worst(record.ns(at), record.ns(at + AROUND));
    let worsts: Vec<Duration> = begun.into_iter().map(worst).collect();
    println!(
        "{what}: {} operations, one disk; worst completion in the {AROUND:?} after: {worsts:?}; without: {:?}",
        told.operations.len(),
        worst(quiet)
    );
    assert!(worsts.iter().min().is_some_and(|best| *best <= WORST_MAX), "none without a pause: {worsts:?}");
    assert!(worsts.iter().all(|worst| *worst <= PAUSE_MAX), "a pause that is no hiccup: {worsts:?}");
}

fn links(what: &str, link: Link) {
    let break_it = |roles: &Roles, node: &str| roles.network().set("gateway-a", node, link);
    each_in_turn(&mut Roles::start_on_network(), what, break_it, |roles, _| roles.network().heal());
}

#[test]
fn a_storage_node_partitioned_from_the_gateway_causes_no_error_and_no_pause() {
    links("partition", Link::PARTITION);
}

#[test]
fn a_storage_node_whose_answers_vanish_causes_no_error_and_no_pause() {
    links("answers vanish", Link::NO_ANSWERS);
}

#[test]
fn a_storage_node_that_hears_nothing_causes_no_error_and_no_pause() {
    links("requests vanish", Link::NO_REQUESTS);
}

#[test]
fn a_stopped_storage_node_causes_no_error_and_no_pause_and_comes_back() {
    let stop = |roles: &Roles, node: &str| roles.signal(node, Signal::STOP);
    let go_on = |roles: &Roles, node: &str| roles.signal(node, Signal::CONT);
    each_in_turn(&mut Roles::start(), "SIGSTOP", stop, go_on);
}

#[test]
fn attached_volumes_go_on_while_nobody_can_reach_a_manager() {
    let mut roles = Roles::start_on_network();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let address = roles.start_gateway("gateway-a");
    let record = Record::default();
    let clients = record.clients(address, "v", PLAN);
    clients.until_more(200, PATIENCE);
    roles.until_healthy();
    let at = now();
    for process in NODES.into_iter().chain(["gateway-a"]) {
        for manager in ["manager-1", "manager-2", "manager-3"] {
            roles.network().set(process, manager, Link::PARTITION);
        }
    }
    until("the managers to miss everybody", PATIENCE, || {
        let status = roles.status();
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        let missed = nodes.len() == 3 && nodes.iter().all(|node| node["health"] == "unreachable");
        if missed { Ok(()) } else { Err(status["nodes"].to_string()) }
    });
    println!("the managers missed everybody after {:?}", at.elapsed());
    clients.until_after(now(), AROUND);
    clients.until_more(200, PATIENCE);
    // New clients of a volume that is attached need no manager.
    Nbd::open(address, "v").unwrap().read(0, 4096).unwrap();
    let healed = now();
    roles.network().heal();
    roles.until_healthy();
    let told = clients.stop();
    assert_eq!(told.errors, [""; 0], "no client may see an error");
    record.judge(&mut Nbd::open(address, "v").unwrap(), PLAN.blocks);
    let worst = told.worst(record.ns(at), record.ns(healed));
    println!("{} operations, one disk; the worst without managers took {worst:?}", told.operations.len());
    assert!(worst <= PAUSE_MAX, "{worst:?}");
}
