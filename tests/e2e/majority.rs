//! Without a majority writes wait: no error, no lie.

use crate::PATIENCE;
use quoin_e2e::nbd::{Command, NbdError};
use quoin_e2e::processes::Signal;
use quoin_e2e::{Dev, Nbd, Roles, until};
use std::time::Duration;

#[test]
fn with_two_nodes_gone_writes_wait_the_status_says_why_and_they_go_on_when_one_is_back() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut nbd = dev.nbd();
    nbd.write_fua(0, &[1; 4096]).unwrap();
    dev.kill("storage-node-2");
    dev.kill("storage-node-3");
    until("both to be gone", PATIENCE, || match (dev.pid("storage-node-2"), dev.pid("storage-node-3")) {
        (None, None) => Ok(()),
        pids => Err(format!("{pids:?}")),
    });
    let write = nbd.send(Command::Write { fua: false }, 4096, &[2; 4096]).unwrap();
    let flush = nbd.send(Command::Flush, 0, &[]).unwrap();
    // The gateway tells at once that it cannot reach them, the managers miss them a little later, each by itself.
    let status = until("the status to say what is missing", PATIENCE, || {
        let status = dev.status();
        let worst = status["problems"][0].as_str().unwrap_or_default();
        let both = worst.contains("node-2") && worst.contains("node-3") && worst.contains(" unreachable)");
        let told = both && worst.contains("writes wait");
        let known = status["volumes"][0]["attachment"]["available"] == false;
        if told && known { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["healthy"], false);
    let problems = status["problems"].as_array().unwrap();
    let worst = problems[0].as_str().unwrap();
    println!("{}", problems.iter().filter_map(|problem| problem.as_str()).collect::<Vec<_>>().join("\n"));
    assert!(worst.contains("vol1") && worst.contains("2 of 3"), "{worst}");
    let words = dev.quoin(&["status"]).ok().stdout;
    assert!(words.contains(worst), "{words}");
    // Longer than a lease: nothing may be answered, neither well nor badly.
    assert!(!nbd.answers_within(Duration::from_secs(3)).unwrap(), "a write was answered without a majority");

    dev.control("start", "storage-node-2").ok();
    let mut answered = Vec::new();
    for _ in 0..2 {
        let (cookie, answer) = nbd.receive().unwrap();
        answer.unwrap();
        answered.push(cookie);
    }
    answered.sort_unstable();
    assert_eq!(answered, [write, flush]);
    assert_eq!(nbd.read(4096, 4096).unwrap(), [2; 4096]);
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);
    dev.control("start", "storage-node-3").ok();
    dev.until_healthy(PATIENCE);
}

/// A client that takes its connection for broken sends again, on another one, what was unanswered there.
#[test]
fn what_a_connection_still_holds_is_not_carried_out_once_another_has_taken_its_place() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let gateway = roles.start_gateway_with("gateway-a", "client_requests_max = 2");
    let of_another = Nbd::open_named(gateway, "v", b"another client, connection 0").unwrap();
    let of_another_export = Nbd::open_named(gateway, "v+ro", b"one client, its connection 0").unwrap();
    let mut former = Nbd::open_named(gateway, "v", b"one client, its connection 0").unwrap();
    former.write(0, &[9; 4096]).unwrap();
    let hung = ["node-1", "node-2"];
    hung.iter().for_each(|node| roles.signal(node, Signal::STOP));
    // The third is one too many: it stays in the socket.
    for _ in 0..3 {
        former.send(Command::Write { fua: false }, 0, &[1; 4096]).unwrap();
    }
    let mut again = Nbd::open_named(gateway, "v", b"one client, its connection 0").unwrap();
    let write = again.send(Command::Write { fua: false }, 0, &[2; 4096]).unwrap();
    hung.iter().for_each(|node| roles.signal(node, Signal::CONT));
    let (cookie, answer) = again.receive().unwrap();
    answer.unwrap();
    assert_eq!(cookie, write);
    let answered = std::iter::from_fn(|| former.receive().ok()).take(3).count();
    assert!(answered < 3, "the write that was in the socket was carried out");
    assert_eq!(again.read(0, 4096).unwrap(), [2; 4096]);
    for mut other in [of_another, of_another_export] {
        assert_eq!(other.read(0, 4096).unwrap(), [2; 4096], "one that was not meant");
    }
}

/// An error would be wrong: what the client waits for may have happened, and its disk is as well as it was.
#[test]
fn a_gateway_that_stops_without_a_majority_breaks_the_connection_and_answers_nothing() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let gateway = roles.start_gateway("gateway-a");
    let mut nbd = Nbd::open(gateway, "v").unwrap();
    nbd.write(0, &[1; 4096]).unwrap();
    let hung = ["node-1", "node-2"];
    hung.iter().for_each(|node| roles.signal(node, Signal::STOP));
    nbd.send(Command::Write { fua: false }, 4096, &[2; 4096]).unwrap();
    let flush = nbd.send(Command::Flush, 0, &[]).unwrap();
    roles.end("gateway-a", Signal::TERM);
    loop {
        match nbd.receive() {
            // It is for the write that was answered before, which may be durable already.
            Ok((cookie, Ok(_))) if cookie == flush => {}
            Err(NbdError::Io(error)) => break println!("{error}"),
            Err(error) => panic!("{error}"),
            Ok(answered) => panic!("answered: {answered:?}"),
        }
    }
    hung.iter().for_each(|node| roles.signal(node, Signal::CONT));
    roles.start_again("gateway", "gateway-a");
    let mut nbd = until("the volume to be served again", PATIENCE, || {
        Nbd::open(gateway, "v").map_err(|error| error.to_string())
    });
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);
    nbd.write(4096, &[3; 4096]).unwrap();
    assert_eq!(nbd.read(4096, 4096).unwrap(), [3; 4096]);
}

#[test]
fn a_hung_storage_node_costs_no_error_and_is_caught_up_when_it_goes_on() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut nbd = dev.nbd();
    nbd.write(0, &[1; 65_536]).unwrap();
    dev.signal("storage-node-1", Signal::STOP);
    let begun = quoin_e2e::clock::now();
    let mut worst = Duration::ZERO;
    let mut n = 0u64;
    while begun.elapsed() < Duration::from_secs(4) {
        let one = quoin_e2e::clock::now();
        nbd.write((n % 1024) * 4096, &[2; 4096]).unwrap();
        nbd.read((n % 1024) * 4096, 4096).unwrap();
        worst = worst.max(one.elapsed());
        n += 1;
    }
    println!("{n} writes and reads while one node hung; the worst pair took {worst:?}");
    dev.signal("storage-node-1", Signal::CONT);
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    dev.until_healthy(PATIENCE);
}
