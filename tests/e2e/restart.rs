//! A gateway that is killed, or replaced by another version, under QEMU's client: I/O goes on without an error.

use crate::PATIENCE;
use quoin_e2e::clock::now;
use quoin_e2e::load::Plan;
use quoin_e2e::processes::Signal;
use quoin_e2e::roles::free_address;
use quoin_e2e::{Background, Dev, Load, Nbd, program, until};
use std::net::SocketAddr;
use std::time::Duration;

/// The promise: no request takes longer than this because the gateway was replaced.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// So often each. Every one must keep the promise.
const TIMES: usize = 3;

const PLAN: Plan = Plan { clients: 2, blocks: 2048, reads_of_ten: 3, flush_every: 100 };

/// QEMU's NBD client, as a virtual machine has it, on `vol1`; it serves what it finds there.
struct Qemu {
    _process: Background,
    address: SocketAddr,
}

impl Qemu {
    #[track_caller]
    fn start(server: &str) -> Self {
        let address = free_address();
        let disk =
            format!("driver=nbd,node-name=disk,{server},export=vol1,reconnect-delay=30,open-timeout=30");
        let serve = format!("addr.type=inet,addr.host={},addr.port={}", address.ip(), address.port());
        let export = "type=nbd,id=export,node-name=disk,name=vol1,writable=on";
        let arguments = ["--blockdev", &disk, "--nbd-server", &serve, "--export", export];
        let process = Background::start(&mut program("qemu-storage-daemon", &arguments));
        until("QEMU to serve the volume", PATIENCE, || {
            Nbd::open(address, "vol1").map(drop).map_err(|error| error.to_string())
        });
        Self { _process: process, address }
    }
}

/// Load through QEMU while the gateway is ended by each of these signals in turn; gives the longest request of each time.
fn replaced(dev: &Dev, server: &str, signal: Signal) -> Vec<Duration> {
    let qemu = Qemu::start(server);
    let load = Load::start(qemu.address, "vol1", PLAN);
    let mut moments = Vec::new();
    for _ in 0..TIMES {
        load.until_more(1000, PATIENCE);
        let former = dev.pid("gateway-1").expect("a gateway runs");
        moments.push(now());
        dev.signal("gateway-1", signal);
        until("another gateway", PATIENCE, || match dev.pid("gateway-1") {
            Some(pid) if pid != former => Ok(()),
            other => Err(format!("{other:?}")),
        });
        load.until_more(1000, PATIENCE);
    }
    moments.push(now());
    let work = load.stop();
    assert_eq!(work.errors, [""; 0], "no request may fail");
    work.verify(&mut Nbd::open(qemu.address, "vol1").unwrap()).unwrap();
    // From each signal to the next one.
    moments.windows(2).map(|span| work.worst(span[0], span[1])).collect()
}

fn over_tcp(dev: &Dev) -> String {
    let address = dev.nbd_address();
    format!("server.type=inet,server.host={},server.port={}", address.ip(), address.port())
}

#[test]
fn qemu_goes_on_within_a_second_when_the_gateway_is_killed() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let pauses = replaced(&dev, &over_tcp(&dev), Signal::KILL);
    println!("longest request around kill -9 of the gateway, through QEMU's client: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < PAUSE_MAX), "{pauses:?}");
}

#[test]
fn qemu_goes_on_within_a_second_when_the_gateway_is_upgraded() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let server = format!("server.type=unix,server.path={}", dev.dir().join("run/nbd.sock").display());
    let pauses = replaced(&dev, &server, Signal::TERM);
    println!("longest request around SIGTERM of the gateway, through QEMU's client: {pauses:?}");
    assert!(pauses.iter().all(|pause| *pause < PAUSE_MAX), "{pauses:?}");
}
