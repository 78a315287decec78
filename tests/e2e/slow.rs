//! One slow storage node of three: a majority is as fast as ever, and so are the clients.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::network::Link;
use quoin_e2e::record::{Clients, Plan};
use quoin_e2e::{Nbd, Record, Roles};
use std::net::SocketAddr;
use std::time::Duration;

/// How much longer one in a hundred operations may take than without the fault.
const RATIO_MAX: f64 = 1.5;
/// Healthy and faulty spans take turns, so that whatever else the machine does meets both.
const SPAN: Duration = Duration::from_secs(1);
const TURNS: u32 = 3;
/// A small machine's hiccups can exceed any bound; a slow storage node that is waited for does so each time.
const TRIES: u32 = 3;

/// Clients at work while a fault, which lasts as long as what `begin` gives, comes and goes; at 99 of 100 operations.
fn compare<'a, F>(
    roles: &'a Roles,
    address: SocketAddr,
    what: &str,
    fua: bool,
    begin: impl Fn(&'a Roles) -> F,
) {
    let plan = Plan { clients: 3, blocks: 128, reads_of_ten: 4, fua };
    let record = Record::default();
    let clients = record.clients(address, "v", plan);
    clients.until_more(200, PATIENCE);
    let mut tries = Vec::new();
    while tries.len() < TRIES as usize {
        let (mut healthy, mut faulty) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            roles.until_healthy();
            healthy.push(span(&record, &clients));
            let fault = begin(roles);
            faulty.push(span(&record, &clients));
            drop(fault);
        }
        tries.push((healthy, faulty));
    }
    roles.until_healthy();
    let told = clients.stop();
    assert_eq!(told.errors, [""; 0], "no client may see an error");
    record.judge(&mut Nbd::open(address, "v").unwrap(), plan.blocks);
    let mut ratios = Vec::new();
    for (healthy, faulty) in tries {
        let (healthy, faulty) = (told.latencies(&healthy), told.latencies(&faulty));
        let at = |sorted: &[Duration], permille: usize| sorted[sorted.len() * permille / 1000];
        println!(
            "{what}: of {} and {} operations, half took {:?} and {:?}, 1 in 100 more than {:?} and {:?}, the worst {:?} and {:?}",
            healthy.len(),
            faulty.len(),
            at(&healthy, 500),
            at(&faulty, 500),
            at(&healthy, 990),
            at(&faulty, 990),
            at(&healthy, 999),
            at(&faulty, 999),
        );
        ratios.push(at(&faulty, 990).as_secs_f64() / at(&healthy, 990).as_secs_f64());
    }
    println!("{what}: {ratios:.2?} of the healthy latency");
    assert!(ratios.iter().any(|ratio| *ratio <= RATIO_MAX), "clients wait for the slow node: {ratios:?}");
}

fn volume(roles: &mut Roles) -> SocketAddr {
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    roles.start_gateway("gateway-a")
}

/// A span of work, in the record's time.
fn span(record: &Record, clients: &Clients) -> (u64, u64) {
    let begun = now();
    clients.until_after(begun, SPAN);
    (record.ns(begun), record.ns(now()))
}

/// Heals the network when it is dropped.
struct Far<'a>(&'a Roles);

impl Drop for Far<'_> {
    fn drop(&mut self) {
        self.0.network().heal();
    }
}

#[test]
fn a_storage_node_that_is_200_ms_away_costs_clients_no_time() {
    let mut roles = Roles::start_on_network();
    let address = volume(&mut roles);
    compare(&roles, address, "200 ms away", false, |roles| {
        roles.network().set("gateway-a", "node-2", Link::round_trip(Duration::from_millis(200)));
        Far(roles)
    });
}

#[test]
fn a_storage_node_with_a_slow_disk_costs_clients_no_time() {
    let mut roles = Roles::start_with_disk("node-2");
    let address = volume(&mut roles);
    compare(&roles, address, "slow disk", true, |roles| roles.slow_disk(Duration::from_millis(200)));
}
