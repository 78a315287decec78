//! A gateway that is cut off while another takes its volume: it acknowledges nothing any more, shows nothing old, and what
//! it still sends, however late it arrives, is nowhere to be seen.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::nbd::Command;
use quoin_e2e::network::Link;
use quoin_e2e::pattern::{self, BLOCK};
use quoin_e2e::record::{Clients, Plan};
use quoin_e2e::{Nbd, Record, Roles, until};
use quoin_history::{Operation, What};
use std::time::Duration;

const MIXED: Plan =
    Plan { clients: 2, first_block: 0, blocks: 64, reads_of_ten: 4, fua: false, think: Duration::ZERO };
/// The old gateway's, when it is cut off: a write that waits holds up the reads of its block (R1), and only those. So its readers
/// read elsewhere, and see as much as they are shown.
const WRITERS: Plan = Plan { blocks: 8, ..MIXED };
const READERS: Plan = Plan { first_block: 8, blocks: 56, reads_of_ten: 10, ..MIXED };
/// What only the old gateway's client writes to, after the other one has the volume.
const LATE_BLOCK: u64 = MIXED.blocks;
/// A value that no client of the record has.
const LATE: u64 = 1 << 60;

/// `gateway-a` loses these links while it has clients; `gateway-b`, which never had those others, takes its volume. Gives for how
/// long the first one still served reads.
fn take_over(what: &str, lost: &[&str], never: &[&str]) -> Duration {
    let mut roles = Roles::start_on_network();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let (old, new) = (roles.start_gateway("gateway-a"), roles.start_gateway("gateway-b"));
    for process in never {
        roles.network().set("gateway-b", process, Link::PARTITION);
    }
    let record = Record::default();
    let mut late = Nbd::open(old, "v").unwrap();
    let first = record.clients(old, "v", MIXED);
    first.until_more(500, PATIENCE);
    assert_eq!(first.stop().errors, [""; 0]);
    let (writers, readers) = (record.clients(old, "v", WRITERS), record.clients(old, "v", READERS));
    writers.until_more(200, PATIENCE);
    roles.until_healthy();

    let cut_off = now();
    for process in lost.iter().chain(&["manager-1", "manager-2", "manager-3"]) {
        roles.network().set("gateway-a", process, Link::PARTITION);
    }
    let mut nbd = until("the second gateway to get the volume", PATIENCE, || {
        Nbd::open(new, "v").map_err(|error| error.to_string())
    });
    let has_it = now();
    let theirs = record.clients(new, "v", MIXED);
    theirs.until_more(500, PATIENCE);
    println!("{what}: the second gateway had the volume {:?} after the first was cut off", has_it - cut_off);

    // The first one does not know yet, and is asked for more. (That its client is cut off would be an answer, too.)
    let block = pattern::block(LATE_BLOCK, LATE);
    let _ = late.send(Command::Write { fua: false }, LATE_BLOCK * BLOCK as u64, &block);
    let _ = late.send(Command::Read(BLOCK as u32), 0, &[]);
    // Silence, an error and the end of the connection are all right.
    if late.answers_within(Duration::from_secs(1)).unwrap_or(true) {
        assert!(!matches!(late.receive(), Ok((_, Ok(_)))), "a gateway that was replaced answers");
    }
    theirs.until_more(500, PATIENCE);

    // All that it has sent arrives after all, and it learns what has happened.
    roles.network().heal();
    until("the first gateway's clients to be told", PATIENCE, || {
        if writers.have_ended() && readers.have_ended() { Ok(()) } else { Err("they wait".to_owned()) }
    });
    assert!(!matches!(late.receive(), Ok((_, Ok(_)))), "a gateway that was replaced answers");
    theirs.until_more(500, PATIENCE);
    roles.until_healthy();
    assert!(Nbd::open(old, "v").is_err(), "the volume is the second gateway's");
    let span = (record.ns(cut_off), record.ns(has_it));
    judge(&record, &mut nbd, what, span, [writers, readers], theirs)
}

fn judge(
    record: &Record,
    nbd: &mut Nbd,
    what: &str,
    (cut_off, has_it): (u64, u64),
    ours: [Clients; 2],
    theirs: Clients,
) -> Duration {
    let ours: Vec<Operation> = ours.into_iter().flat_map(|clients| clients.stop().operations).collect();
    let theirs = theirs.stop();
    assert_eq!(theirs.errors, [""; 0], "no client of the second gateway may see an error");
    let is_write = |one: &&Operation| matches!(one.what, What::Write { .. });
    let first_ack = theirs.operations.iter().filter(is_write).filter_map(|write| write.end_ns).min().unwrap();
    let last_read = ours.iter().filter(|one| !is_write(one)).map(|read| read.start_ns).max().unwrap();
    let served = Duration::from_nanos(last_read.saturating_sub(cut_off));
    println!(
        "{what}: {} operations by the first gateway, {} by the second, one disk; the first one served reads for {served:?}, the \
         second one's first write was acknowledged after {:?}",
        ours.len(),
        theirs.operations.len(),
        Duration::from_nanos(first_ack.saturating_sub(cut_off)),
    );
    let values = record.judge(nbd, LATE_BLOCK + 1);
    assert!(last_read < first_ack, "R2: a replaced gateway served a read");
    let late = ours.iter().filter(is_write).find(|write| write.start_ns > has_it && write.end_ns.is_some());
    assert_eq!(late, None, "a replaced gateway acknowledged a write");
    assert_eq!(values[LATE_BLOCK as usize], 0, "a write of a replaced gateway is visible");
    served
}

#[test]
fn a_gateway_that_is_cut_off_from_everybody_is_replaced_without_a_trace() {
    take_over("cut off", &["node-1", "node-2", "node-3"], &[]);
}

/// The hard case for reads: the old gateway reaches a storage node that the new one does not, so nothing but its leases tells
/// it to stop.
#[test]
fn a_gateway_that_still_reaches_one_storage_node_stops_reading_from_it_in_time() {
    // It has leases for up to two seconds. If a hiccup keeps it from using them the test has shown nothing, and is repeated.
    let uses_its_leases = |_| {
        let served = take_over("one node left", &["node-2", "node-3"], &["node-1"]);
        served > Duration::from_millis(500)
    };
    assert!((0..3).any(uses_its_leases), "the old gateway never served a read after it was cut off");
}
