//! Large data is lent between processes of one machine, and is right whatever becomes of the borrower, or of the lender.

use crate::PATIENCE;
use quoin_e2e::nbd::Command;
use quoin_e2e::pattern::{self, BLOCK};
use quoin_e2e::processes::Signal;
use quoin_e2e::{Dev, Nbd, http, quoin, run, until};

const MIB: u64 = 1 << 20;
const BLOCKS: u64 = MIB / BLOCK as u64;
/// What may be on loan to one process.
const ON_LOAN_MAX: f64 = (64 * MIB) as f64;

fn megabyte(number: u64, version: u64) -> Vec<u8> {
    (number * BLOCKS..(number + 1) * BLOCKS).flat_map(|block| pattern::block(block, version)).collect()
}

/// Writes so many megabytes, eight of them under way at any time.
fn write_all(nbd: &mut Nbd, version: u64, count: u64) {
    for number in 0..count {
        nbd.send(Command::Write { fua: false }, number * MIB, &megabyte(number, version)).unwrap();
        if number >= 7 {
            nbd.receive().unwrap().1.unwrap();
        }
    }
    for _ in 0..count.min(7) {
        nbd.receive().unwrap().1.unwrap();
    }
}

fn verify(nbd: &mut Nbd, version: u64, count: u64) {
    for number in 0..count {
        assert!(
            nbd.read(number * MIB, MIB as u32).unwrap() == megabyte(number, version),
            "megabyte {number}"
        );
    }
}

fn gateway_metric(dev: &Dev, name: &str) -> f64 {
    http::metric(dev.admin("gateway-1"), &format!("quoin_gateway_{name}")).unwrap()
}

/// Opens the volume when the gateway is there.
fn open(dev: &Dev) -> Nbd {
    until("the gateway to be there", PATIENCE, || dev.try_nbd("vol1").map_err(|error| error.to_string()))
}

/// Every block of every copy matches the checksum that the gateway gave it.
fn check_disks(dev: &Dev) {
    for n in 1..=3 {
        let node = format!("storage-node-{n}");
        dev.control("stop", &node).ok();
        let dir = dev.dir().join("data").join(&node).display().to_string();
        run(&mut quoin(&["disk", "check", &dir]), PATIENCE).ok();
        dev.control("start", &node).ok();
        dev.until_healthy(PATIENCE);
    }
}

#[test]
fn large_data_is_lent_and_a_node_that_hangs_stores_what_it_was_lent() {
    let dev = Dev::start(&["--size", "512MiB"]);
    let mut nbd = dev.nbd();
    write_all(&mut nbd, 1, 32);
    verify(&mut nbd, 1, 32);
    assert!(gateway_metric(&dev, "lent_data_bytes_total") >= (64 * MIB) as f64, "to a majority at least");
    let lent_by_nodes: f64 = (1..=3).map(|n| dev.node_metric(n, "lent_data_bytes_total").unwrap()).sum();
    assert!(lent_by_nodes >= (32 * MIB) as f64);

    // With writes on their way to it, it hangs, while more is written than there is memory to lend.
    for number in 0..8 {
        nbd.send(Command::Write { fua: false }, number * MIB, &megabyte(number, 2)).unwrap();
    }
    dev.signal("storage-node-2", Signal::STOP);
    for _ in 0..8 {
        nbd.receive().unwrap().1.unwrap();
    }
    write_all(&mut nbd, 3, 300);
    nbd.flush().unwrap();
    // No node has been lent more than it may.
    assert!(gateway_metric(&dev, "data_on_loan_bytes") <= 3.0 * ON_LOAN_MAX);
    dev.signal("storage-node-2", Signal::CONT);
    dev.until_healthy(PATIENCE);
    verify(&mut nbd, 3, 300);
    check_disks(&dev);
}

#[test]
fn a_gateway_that_ends_takes_nothing_with_it_that_was_acknowledged() {
    let dev = Dev::start(&["--size", "128MiB"]);
    for version in 1..=4 {
        let mut nbd = open(&dev);
        write_all(&mut nbd, version, 64);
        // Whether these are carried out is open; what was lent for them goes with the process that lent it.
        for number in 64..72 {
            nbd.send(Command::Write { fua: false }, number * MIB, &megabyte(number, version)).unwrap();
        }
        // By turns it crashes, and comes back by itself, and ends in order.
        if version % 2 == 1 {
            dev.control("kill", "gateway-1").ok();
        } else {
            dev.control("stop", "gateway-1").ok();
            dev.control("start", "gateway-1").ok();
        }
        verify(&mut open(&dev), version, 64);
    }
    let _nbd = open(&dev);
    check_disks(&dev);
}
