//! One slow storage node of three: a majority is as fast as ever, and so are the clients.
//!
//! As fast *as a majority*: of three nodes the faster two hide it when one of them is late for a moment, of the two that are left
//! none does. So one request in a hundred shows what the machine itself does to each node, and is compared where that is little: with
//! clients that leave the machine time, and in the default mode. Writes that wait for disks are compared by their median, and
//! none of them may wait for the slow one.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::network::Link;
use quoin_e2e::record::{Clients, Plan};
use quoin_e2e::roles::SlowDisk;
use quoin_e2e::{Nbd, Record, Roles};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

/// How much longer one in a hundred operations may take than without the fault.
const RATIO_MAX: f64 = 1.5;
/// Healthy and faulty spans take turns, so that whatever else the machine does meets both.
const SPAN: Duration = Duration::from_secs(1);
const TURNS: u32 = 3;
/// A small machine's hiccups can exceed any bound; a slow storage node that is waited for does so each time.
const TRIES: usize = 5;
/// How late a slow storage node is.
const LATE: Duration = Duration::from_millis(200);

const PLAN: Plan = Plan {
    clients: 3,
    first_block: 0,
    blocks: 128,
    reads_of_ten: 4,
    fua: false,
    think: Duration::from_millis(2),
};
const DURABLE: Plan = Plan { clients: 1, reads_of_ten: 0, fua: true, ..PLAN };

/// How long operations took, the shortest first.
struct Pair {
    healthy: Vec<Duration>,
    faulty: Vec<Duration>,
}

impl Pair {
    fn at(&self, permille: usize) -> (Duration, Duration) {
        let at = |sorted: &[Duration]| sorted[sorted.len() * permille / 1000];
        (at(&self.healthy), at(&self.faulty))
    }

    fn ratio(&self, permille: usize) -> f64 {
        let (healthy, faulty) = self.at(permille);
        faulty.as_secs_f64() / healthy.as_secs_f64()
    }

    fn show(&self, what: &str) {
        println!(
            "{what}: {} healthy, {} faulty; half took {:?}, {:?}; 99 of 100 {:?}, {:?} ({:.2} ×); 999 of 1000 {:?}, {:?}",
            self.healthy.len(),
            self.faulty.len(),
            self.at(500).0,
            self.at(500).1,
            self.at(990).0,
            self.at(990).1,
            self.ratio(990),
            self.at(999).0,
            self.at(999).1,
        );
    }
}

/// Clients with these plans at work while a fault, which lasts as long as what `begin` gives, comes and goes.
fn compare<'a, F>(
    roles: &'a Roles,
    (record, address): (&Record, SocketAddr),
    plans: &[Plan],
    begin: impl Fn(&'a Roles) -> F,
) -> Vec<Pair> {
    let clients: Vec<Clients> = plans.iter().map(|plan| record.clients(address, "v", *plan)).collect();
    clients.iter().for_each(|clients| clients.until_more(50, PATIENCE));
    let span = || {
        let begun = now();
        clients[0].until_after(begun, SPAN);
        (record.ns(begun), record.ns(now()))
    };
    let (mut healthy, mut faulty) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        roles.until_healthy();
        healthy.push(span());
        let fault = begin(roles);
        faulty.push(span());
        drop(fault);
    }
    roles.until_healthy();
    let told = clients.into_iter().map(|clients| {
        let told = clients.stop();
        assert_eq!(told.errors, [""; 0], "no client may see an error");
        Pair { healthy: told.latencies(&healthy), faulty: told.latencies(&faulty) }
    });
    told.collect()
}

fn volume(roles: &mut Roles) -> SocketAddr {
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    roles.start_gateway("gateway-a")
}

/// Heals the network when it is dropped.
struct Far<'a>(&'a Roles);

impl Drop for Far<'_> {
    fn drop(&mut self) {
        self.0.network().heal();
    }
}

/// Counts the syncs while the disk is slow.
struct Slow<'a> {
    roles: &'a Roles,
    before: usize,
    syncs: &'a Cell<usize>,
    _disk: SlowDisk,
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        self.syncs.set(self.syncs.get() + self.roles.syncs() - self.before);
    }
}

#[test]
fn a_storage_node_that_is_200_ms_away_costs_clients_no_time() {
    let mut roles = Roles::start_on_network();
    let address = volume(&mut roles);
    let record = Record::default();
    let far = |roles| {
        Roles::network(roles).set("gateway-a", "node-2", Link::round_trip(LATE));
        Far(roles)
    };
    let kept = (0..TRIES).any(|_| {
        let pair = &compare(&roles, (&record, address), &[PLAN], far)[0];
        pair.show("200 ms away");
        pair.ratio(990) <= RATIO_MAX
    });
    record.judge(&mut Nbd::open(address, "v").unwrap(), PLAN.blocks);
    assert!(kept, "clients wait for the node that is far away");
}

#[test]
fn a_storage_node_with_a_slow_disk_costs_clients_no_time() {
    let mut roles = Roles::start_with_disk("node-2");
    let address = volume(&mut roles);
    let record = Record::default();
    let syncs = Cell::new(0);
    let slow = |roles| Slow {
        before: Roles::syncs(roles),
        _disk: Roles::slow_disk(roles, LATE),
        roles,
        syncs: &syncs,
    };
    let kept = (0..TRIES).any(|_| {
        let pairs = compare(&roles, (&record, address), &[PLAN, DURABLE], slow);
        let [pair, durable] = &pairs[..] else { panic!("two plans") };
        pair.show("slow disk");
        durable.show("slow disk, durable writes");
        pair.ratio(990) <= RATIO_MAX && durable.ratio(500) <= RATIO_MAX && durable.at(990).1 < LATE / 2
    });
    record.judge(&mut Nbd::open(address, "v").unwrap(), PLAN.blocks);
    println!("slow disk: {} of its {} syncs while it was slow", syncs.get(), roles.syncs());
    assert!(syncs.get() * 4 < roles.syncs(), "the disk was hardly slow");
    assert!(kept, "clients wait for the slow disk");
}
