//! `kill -9` of any one process, and of all at once, under load that checks every byte it reads.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::load::Plan;
use quoin_e2e::{Background, Dev, Load, program, until};
use std::time::{Duration, Instant};

/// The promise: no request takes longer than this because a storage node or a manager died.
const WORST_MAX: Duration = Duration::from_millis(50);
/// How long the gateway may be away.
const GATEWAY_AWAY_MAX: Duration = Duration::from_secs(1);
/// The span around a kill that is looked at.
const AROUND: Duration = Duration::from_secs(2);
/// A small machine's own hiccups (one disk and two processors for the whole cluster and its clients) can exceed the bound
/// without any kill. Of so many kills one must keep it; no kill may cause an error.
const TRIES: u32 = 3;
/// No pause of this length is ever a hiccup.
const PAUSE_MAX: Duration = Duration::from_millis(1000);

const PLAN: Plan = Plan { clients: 2, blocks: 4096, reads_of_ten: 3, flush_every: 0 };
const WITH_FLUSHES: Plan = Plan { clients: 2, blocks: 2048, reads_of_ten: 2, flush_every: 50 };

/// A process that was killed, and when.
struct Kill {
    victim: String,
    at: Instant,
}

/// Runs load, kills each victim in turn and lets it come back. No request may fail, and what a kill costs is bounded.
fn kills(dev: &Dev, victims: impl Iterator<Item = String>) {
    let load = Load::start(dev.nbd_address(), "vol1", PLAN);
    load.until_more(200, PATIENCE);
    let begun = now();
    until("a quiet span", PATIENCE, || if begun.elapsed() >= AROUND { Ok(()) } else { Err(String::new()) });
    load.until_more(100, PATIENCE);
    let mut kills = Vec::new();
    for victim in victims {
        let at = now();
        dev.kill(&victim);
        until("the span after a kill", PATIENCE, || {
            if at.elapsed() >= AROUND { Ok(()) } else { Err(String::new()) }
        });
        load.until_more(100, PATIENCE);
        kills.push(Kill { victim: victim.clone(), at });
        if victim.starts_with("storage-node") {
            dev.control("start", &victim).ok();
        }
        dev.until_healthy(PATIENCE);
    }
    let work = load.stop();
    assert_eq!(work.errors, [""; 0], "no client may see an error");
    work.verify(&mut dev.nbd()).unwrap();

    println!(
        "{} requests; worst completion without a kill: {:?}",
        work.answered.len(),
        work.worst(begun, begun + AROUND)
    );
    let worst: Vec<Duration> = kills.iter().map(|kill| work.worst(kill.at, kill.at + AROUND)).collect();
    for (kill, worst) in kills.iter().zip(&worst) {
        println!("worst completion in the {AROUND:?} after kill -9 of {}: {worst:?}", kill.victim);
    }
    let best = worst.iter().min().unwrap();
    assert!(*best <= WORST_MAX, "no kill without a pause: {worst:?}");
    assert!(worst.iter().all(|worst| *worst <= PAUSE_MAX), "a pause that is no hiccup: {worst:?}");
}

#[test]
fn kill_9_of_any_storage_node_causes_no_error_and_no_pause() {
    let dev = Dev::start(&["--size", "64MiB"]);
    kills(&dev, (1..=TRIES).map(|n| format!("storage-node-{n}")));
}

#[test]
fn fio_finishes_and_verifies_while_each_storage_node_is_killed_in_turn() {
    let dev = Dev::start(&["--size", "128MiB"]);
    let uri = format!("--uri={}", dev.uri());
    let arguments = [
        "--name=kill",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bs=4k",
        "--size=96m",
        "--iodepth=8",
        // Every block is written once, then all are verified. The writing is bounded, so that it outlasts three kills, each
        // of which is noticed after a second and a half, on a slow machine, too.
        "--rate_iops=3000,1500",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
        "--output-format=json",
    ];
    let mut fio = Background::start(&mut program("fio", &arguments));
    for n in 1..=3 {
        let survivor = n % 3 + 1;
        let before = dev.node_metric(survivor, "writes_total").unwrap();
        until("fio to write", PATIENCE, || match dev.node_metric(survivor, "writes_total")? - before {
            writes if writes > 1000.0 => Ok(()),
            writes => Err(format!("{writes} writes")),
        });
        assert!(fio.is_running(), "the kill must fall into the work");
        dev.kill_node(n);
        dev.control("start", &format!("storage-node-{n}")).ok();
        dev.until_healthy(PATIENCE);
    }
    let ran = fio.finish(PATIENCE * 2).ok();
    let json = &ran.stdout[ran.stdout.find('{').expect("fio answers in JSON")..];
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let job = &json["jobs"][0];
    assert_eq!(job["error"], 0, "{job}");
    assert_eq!(job["read"]["total_ios"], (96 << 20) / 4096, "all was verified");
    println!("fio's worst write: {:.1} ms", job["write"]["clat_ns"]["max"].as_f64().unwrap_or(0.0) / 1e6);
}

fn leader(dev: &Dev) -> u64 {
    until("a leader", Duration::from_secs(20), || {
        let answer = dev.quoin(&["status", "--output", "json"]);
        if answer.code != Some(0) {
            return Err(answer.stderr);
        }
        let status = answer.json();
        let managers = status["managers"].as_array().cloned().unwrap_or_default();
        let leader = managers
            .iter()
            .find(|manager| manager["leader"] == true)
            .and_then(|leader| leader["id"].as_u64());
        leader.ok_or_else(|| status.to_string())
    })
}

#[test]
fn kill_9_of_the_leading_manager_causes_no_error_and_no_pause_and_another_leads() {
    let dev = Dev::start(&["--size", "64MiB", "--respawn", "none"]);
    let load = Load::start(dev.nbd_address(), "vol1", PLAN);
    load.until_more(500, PATIENCE);
    let old = leader(&dev);
    let at = now();
    dev.kill(&format!("cluster-manager-{old}"));
    let created = dev.quoin(&["volume", "create", "after", "--size", "64MiB"]);
    println!("a volume was created {:?} after the kill of the leader", at.elapsed());
    created.ok();
    assert!(at.elapsed() < Duration::from_secs(20));
    let new = leader(&dev);
    assert_ne!(new, old);
    let status = dev.status();
    let problems = status["problems"].to_string();
    assert!(problems.contains(&format!("manager {old} ")), "{problems}");
    load.until_more(500, PATIENCE);
    dev.control("start", &format!("cluster-manager-{old}")).ok();
    dev.until_healthy(PATIENCE);
    let work = load.stop();
    assert_eq!(work.errors, [""; 0], "no client may see an error");
    work.verify(&mut dev.nbd()).unwrap();
    println!(
        "worst completion in the {AROUND:?} after kill -9 of the leader: {:?}",
        work.worst(at, at + AROUND)
    );
}

#[test]
fn kill_9_of_any_manager_is_repaired_by_the_supervisor_and_unnoticed_by_clients() {
    let dev = Dev::start(&["--size", "64MiB"]);
    kills(&dev, (1..=TRIES).map(|n| format!("cluster-manager-{n}")));
}

#[test]
fn kill_9_of_the_gateway_loses_nothing_acknowledged_and_it_is_back_within_a_second() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut away = Vec::new();
    for _ in 0..TRIES {
        let load = Load::start(dev.nbd_address(), "vol1", WITH_FLUSHES);
        load.until_more(2000, PATIENCE);
        let at = now();
        dev.kill("gateway-1");
        let mut nbd = until("the gateway to serve again", PATIENCE, || {
            let mut nbd = dev.try_nbd("vol1").map_err(|error| error.to_string())?;
            nbd.read(0, 4096).map_err(|error| error.to_string())?;
            Ok(nbd)
        });
        away.push(at.elapsed());
        load.until_ended(PATIENCE);
        let work = load.stop();
        assert!(!work.blocks.is_empty() && work.errors.len() == 2, "{:?}", work.errors);
        work.verify(&mut nbd).unwrap();
        // The next round begins with an empty volume, as its clients believe it to be.
        nbd.zero(0, 64 << 20).unwrap();
        drop(nbd);
        dev.until_healthy(PATIENCE);
    }
    println!("from kill -9 of the gateway to the first read of a new connection: {away:?}");
    assert!(away.iter().any(|away| *away <= GATEWAY_AWAY_MAX), "{away:?}");
}

#[test]
fn kill_9_of_everything_at_once_loses_nothing_acknowledged() {
    let mut dev = Dev::start(&["--size", "64MiB"]);
    for round in 0..2 {
        let load = Load::start(dev.nbd_address(), "vol1", WITH_FLUSHES);
        load.until_more(2000, PATIENCE);
        dev.kill_everything();
        load.until_ended(PATIENCE);
        let work = load.stop();
        let begun = now();
        dev.start_again(&[]);
        let flushed = work.blocks.iter().filter(|block| block.flushed > 0).count();
        println!("round {round}: {flushed} blocks flushed; ready again after {:?}", begun.elapsed());
        assert!(flushed > 0);
        let mut nbd = dev.nbd();
        work.verify(&mut nbd).unwrap();
        nbd.zero(0, 64 << 20).unwrap();
        dev.until_healthy(PATIENCE);
    }
    dev.interrupt().ok();
}

#[test]
fn a_killed_supervisor_s_processes_are_taken_over_by_the_next_start() {
    let mut dev = Dev::start(&["--size", "64MiB"]);
    dev.nbd().write_fua(4096, &[5; 4096]).unwrap();
    let old = dev.pid("storage-node-1").unwrap();
    dev.kill_supervisor();
    assert!(quoin_e2e::processes::runs(old), "the processes outlive their supervisor");
    dev.start_again(&[]);
    assert!(!quoin_e2e::processes::runs(old));
    assert_eq!(dev.nbd().read(4096, 4096).unwrap(), [5; 4096]);
    dev.interrupt().ok();
}
