//! What strangers and rude clients can do to a gateway, with real sockets: a good client does not notice, and memory stays bounded.

use crate::PATIENCE;
use quoin_e2e::clock::{now, pause};
use quoin_e2e::load::Plan;
use quoin_e2e::nbd::Command;
use quoin_e2e::pattern::mix;
use quoin_e2e::{Load, Nbd, Roles, until};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// A span in which a good client is measured.
const SPAN: Duration = Duration::from_secs(4);
const PLAN: Plan = Plan { clients: 1, blocks: 1024, reads_of_ten: 5, flush_every: 0 };

/// The bounds of the gateway under test.
const CONNECTIONS_MAX: usize = 600;
const CLIENTS_MEMORY: u64 = 128 * MIB;
/// Beside what is held for clients: buffers of 128 KiB for each that has an export, what the allocator keeps, and what a large
/// answer takes on its way through.
const BESIDE: u64 = 192 * MIB;

const HALF_OPEN: usize = 1000;
const GARBAGE: u64 = 200;
const DRIBBLING: u64 = 100;
const RUDE: usize = 40;
const READ: u32 = 16 << 20;

/// Resident memory of a process, in bytes: now, and at its highest.
fn memory(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a figure");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    (figure("VmRSS:"), figure("VmHWM:"))
}

fn turned_away(roles: &Roles, reason: &str) -> f64 {
    let name = format!("quoin_gateway_turned_away_connections_total{{reason=\"{reason}\"}}");
    roles.metric("gateway-a", &name).unwrap()
}

/// 99th percentile and worst of a good client's requests within a span.
fn measure(address: SocketAddr, export: &str) -> (Duration, Duration) {
    let load = Load::start(address, export, PLAN);
    let begun = now();
    until("the span", PATIENCE, || if begun.elapsed() > SPAN { Ok(()) } else { Err(String::new()) });
    let work = load.stop();
    assert_eq!(work.errors, [""; 0]);
    let mut took: Vec<Duration> = work.answered.iter().map(|one| one.took).collect();
    took.sort_unstable();
    assert!(took.len() > 500, "{} requests", took.len());
    (took[took.len() * 99 / 100], took[took.len() - 1])
}

/// Connects, and says nothing.
fn half_open(address: SocketAddr) -> Vec<TcpStream> {
    (0..HALF_OPEN).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Takes the greeting, then sends what is no NBD.
fn garbage(address: SocketAddr) {
    for seed in 0..GARBAGE {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        let noise: Vec<u8> = (0..64).flat_map(|n| mix(seed * 64 + n).to_le_bytes()).collect();
        // Every other one begins well.
        let head: &[u8] = if seed % 2 == 0 { &[0, 0, 0, 3] } else { &[] };
        // It may be cut off meanwhile: that is what is wanted.
        let _ = stream.write_all(&[head, &noise].concat());
    }
}

/// Handshakes that never end, one byte at a time.
fn dribble(address: SocketAddr, over: &AtomicBool) {
    let handshake = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &[0, 0, 0, 7, 0, 0, 16, 0]].concat();
    let bytes = handshake.iter().copied().chain(std::iter::repeat(b'x'));
    let mut streams: Vec<TcpStream> = (0..DRIBBLING).map(|_| TcpStream::connect(address).unwrap()).collect();
    for byte in bytes {
        if over.load(Ordering::Relaxed) {
            return;
        }
        streams.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
        pause();
    }
}

/// Clients that ask for much and fetch nothing.
fn rude(address: SocketAddr) -> Vec<Nbd> {
    let mut clients: Vec<Nbd> = (0..RUDE).map(|_| Nbd::open(address, "w").unwrap()).collect();
    for _ in 0..6 {
        for client in &mut clients {
            client.send(Command::Read(READ), 0, &[]).unwrap();
        }
    }
    clients
}

#[test]
fn strangers_and_rude_clients_cost_a_good_one_nothing_and_memory_is_bounded() {
    let mut roles = Roles::start();
    for volume in ["quiet", "attacked", "w"] {
        roles.quoin(&["volume", "create", volume, "--size", "64MiB"]).ok();
    }
    let address = roles.start_gateway_with(
        "gateway-a",
        &format!(
            "connections_max = {CONNECTIONS_MAX}\nhandshake_timeout = \"5s\"\nclient_memory_max = \"32MiB\"\n\
             clients_memory_max = \"{CLIENTS_MEMORY}\"\n"
        ),
    );
    let mut writer = Nbd::open(address, "w").unwrap();
    (0..u64::from(READ) / MIB).for_each(|n| writer.write(n * MIB, &[7; MIB as usize]).unwrap());
    let pid = roles.pid("gateway-a");
    let quiet = measure(address, "quiet");
    let before = memory(pid).0;

    let over = Arc::new(AtomicBool::new(false));
    let crowd = half_open(address);
    garbage(address);
    let dribbling = std::thread::spawn({
        let over = over.clone();
        move || dribble(address, &over)
    });
    let hogs = rude(address);
    let attacked = measure(address, "attacked");
    let (during, highest) = memory(pid);
    println!(
        "99th percentile and worst of a good client: {quiet:?} without, {attacked:?} with the attack; gateway's memory: {} MiB \
         before, {} MiB during, {} MiB at its highest",
        before / MIB,
        during / MIB,
        highest / MIB
    );
    assert!(highest < before + CLIENTS_MEMORY + u64::from(READ) + BESIDE, "{highest} bytes");
    assert!(attacked.0 < quiet.0 * 10 + Duration::from_millis(50), "{quiet:?} {attacked:?}");
    assert!(turned_away(&roles, "Displaced") >= (HALF_OPEN - CONNECTIONS_MAX) as f64);
    assert!(turned_away(&roles, "Protocol") >= (GARBAGE / 2) as f64);
    until("the undecided ones to be sent away", PATIENCE, || match turned_away(&roles, "Handshake") {
        count if count >= DRIBBLING as f64 => Ok(()),
        count => Err(format!("{count}")),
    });
    until("those that hold memory and do not move to be cut off", PATIENCE, || {
        match turned_away(&roles, "Stalled") {
            count if count > 0.0 => Ok(()),
            count => Err(format!("{count}")),
        }
    });
    over.store(true, Ordering::Relaxed);
    dribbling.join().unwrap();
    drop((hogs, crowd));
    until("what was held to be given back", PATIENCE, || {
        match roles.metric("gateway-a", "quoin_gateway_client_memory_bytes")? {
            0.0 => Ok(()),
            bytes => Err(format!("{bytes}")),
        }
    });
    writer.write(0, &[8; 4096]).unwrap();
}

/// Without it they would count as clients for ever, and nobody else could have the volume.
#[test]
fn a_client_whose_machine_is_gone_is_ended_and_one_that_is_only_quiet_is_not() {
    let mut roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let address = roles.start_gateway_with("gateway-a", "peer_timeout = \"2s\"");
    let open = || Nbd::open(address, "v").unwrap();
    let (mut quiet, idle, mut asking) = (open(), open(), open());
    let clients = |expected: f64| {
        until("the clients to be counted", PATIENCE, || {
            match roles.metric("gateway-a", "quoin_gateway_clients")? {
                count if count == expected => Ok(()),
                count => Err(format!("{count}")),
            }
        });
    };
    clients(3.0);
    // One with nothing under way, which takes a probe, and one that does not acknowledge an answer.
    idle.vanish().unwrap();
    asking.vanish().unwrap();
    asking.send(Command::Read(4096), 0, &[]).unwrap();
    let begun = now();
    clients(1.0);
    println!("those whose machine was gone were ended after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    until("some time to pass", PATIENCE, || {
        if begun.elapsed() > Duration::from_secs(8) { Ok(()) } else { Err(String::new()) }
    });
    quiet.write(0, &[1; 4096]).unwrap();
}
