//! Any standard client works, and the protocol does what it says, request by request.

use crate::PATIENCE;
use quoin_e2e::nbd::{CAN_MULTI_CONN, Command};
use quoin_e2e::{Dev, Nbd, pattern, program, run};
use std::collections::BTreeSet;
use std::fs;

const MIB: u64 = 1 << 20;

#[test]
fn a_fresh_cluster_tells_its_uri_and_three_commands_that_work() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let output = dev.output();
    let ready: Vec<&str> = output.lines().filter(|line| line.starts_with("ready ")).collect();
    assert_eq!(ready, [format!("ready {}", dev.uri())], "{output}");
    let (_, after) = output.split_once("try, in another terminal:").expect("commands to try");
    let commands: Vec<&str> = after
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(commands.len(), 3, "{output}");
    for command in commands {
        let command = command.trim();
        run(&mut program("sh", &["-c", command]), PATIENCE).ok();
    }
    for process in [
        "cluster-manager-1",
        "cluster-manager-2",
        "cluster-manager-3",
        "storage-node-1",
        "storage-node-2",
        "gateway-1",
    ] {
        let pid = dev.pid(process).unwrap_or_else(|| panic!("{process} has no pid"));
        assert!(quoin_e2e::processes::runs(pid), "{process}");
        assert!(dev.dir().join(format!("log/{process}.log")).exists());
    }
    assert_eq!(dev.pid("storage-node-3"), None, "the second command has killed it");
}

#[test]
fn qemu_img_nbdinfo_nbdcopy_and_fio_work() {
    let dev = Dev::start(&["--size", "256MiB"]);
    let uri = dev.uri();

    dev.quoin(&["volume", "create", "unused", "--size", "8MiB"]).ok();
    assert_eq!(Nbd::size_of(dev.nbd_address(), "unused").unwrap(), 8 * MIB);
    let shown = dev.quoin(&["volume", "show", "unused", "--output", "json"]).ok().json();
    assert!(shown["attachment"].is_null(), "to be told about a volume is not to use it: {shown}");

    let info = run(&mut program("qemu-img", &["info", "--output", "json", &uri]), PATIENCE).ok().json();
    assert_eq!(info["virtual-size"], 256 * MIB);

    let info = run(&mut program("nbdinfo", &["--json", &uri]), PATIENCE).ok().json();
    assert_eq!(info["structured"], true, "{info}");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 256 * MIB, "{info}");
    for ability in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"] {
        assert_eq!(export[ability], true, "{ability}: {info}");
    }
    assert_eq!(export["is_read_only"], false, "{info}");

    let list = run(
        &mut program("nbdinfo", &["--list", "--json", &format!("nbd://{}", dev.nbd_address())]),
        PATIENCE,
    );
    let list = list.ok().json();
    let exports = list["exports"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = exports.filter_map(|export| export["export-name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["unused", "vol1"]), "{list}");

    // A file there and back, over several connections.
    let (file, back) = (dev.beside("file"), dev.beside("back"));
    let content: Vec<u8> = (0..64 * MIB / 4096).flat_map(|n| pattern::block(n, 1 + n % 7)).collect();
    fs::write(&file, &content).unwrap();
    run(&mut program("nbdcopy", &["--flush", &file.display().to_string(), &uri]), PATIENCE).ok();
    run(&mut program("nbdcopy", &[&uri, &back.display().to_string()]), PATIENCE).ok();
    let read = fs::read(&back).unwrap();
    assert!(read[..content.len()] == content[..], "nbdcopy read something else than it wrote");
    assert!(read[content.len()..].iter().all(|byte| *byte == 0), "what was never written is zero");

    let fio = [
        "--name=verify",
        "--ioengine=nbd",
        &format!("--uri={uri}"),
        "--rw=randwrite",
        "--bs=4k",
        "--size=48m",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
        "--fsync=256",
        "--output-format=json",
    ];
    let fio = run(&mut program("fio", &fio), PATIENCE * 2).ok();
    let json = &fio.stdout[fio.stdout.find('{').expect("fio answers in JSON")..];
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["jobs"][0]["error"], 0, "{json}");
    assert_eq!(json["jobs"][0]["read"]["total_ios"], 48 * MIB / 4096, "all was verified");
    println!(
        "fio: {:.0} random 4 KiB writes per second, {:.0} verifying reads per second",
        json["jobs"][0]["write"]["iops"].as_f64().unwrap_or(0.0),
        json["jobs"][0]["read"]["iops"].as_f64().unwrap_or(0.0)
    );
}

#[test]
fn every_request_does_what_the_protocol_says() {
    let dev = Dev::start(&["--size", "256MiB"]);
    for structured in [true, false] {
        let mut nbd = Nbd::open_as(dev.nbd_address(), "vol1", structured).unwrap();
        assert_eq!((nbd.size, nbd.structured), (256 * MIB, structured));
        assert!(nbd.flags & CAN_MULTI_CONN != 0);
        let mut expected = vec![0u8; 256 * 1024];
        nbd.zero(0, 256 * 1024).unwrap();
        // Across blocks and extents, at odd places.
        for (offset, length, fill) in
            [(0usize, 4096usize, 1u8), (5, 1, 2), (4000, 200, 3), (65_530, 12, 4), (100_000, 70_001, 5)]
        {
            expected[offset..offset + length].fill(fill);
            nbd.write(offset as u64, &vec![fill; length]).unwrap();
        }
        assert!(nbd.read(0, 256 * 1024).unwrap() == expected);
        nbd.write_fua(8192, &[6; 4096]).unwrap();
        expected[8192..12_288].fill(6);
        nbd.zero(8000, 1000).unwrap();
        expected[8000..9000].fill(0);
        nbd.flush().unwrap();
        assert!(nbd.read(0, 256 * 1024).unwrap() == expected);
        assert_eq!(nbd.read(99_999, 3).unwrap(), expected[99_999..100_002]);
        nbd.trim(65_536, 65_536).unwrap();
        assert!(
            nbd.read(65_536, 65_536).unwrap().iter().all(|byte| *byte == 0),
            "a whole extent trimmed reads as zero"
        );
        // Beyond the end: an error for this request, and the connection goes on.
        assert!(nbd.write(256 * MIB - 2048, &[7; 4096]).is_err());
        assert!(nbd.read(256 * MIB, 1).is_err());
        assert_eq!(nbd.read(256 * MIB - 1, 1).unwrap(), [0]);
    }
}

#[test]
fn connections_to_one_volume_see_each_other() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let mut clients: Vec<Nbd> = (0..4).map(|_| dev.nbd()).collect();
    for version in 1..=8u64 {
        let writer = version as usize % clients.len();
        // Many at once on one connection, answered in any order.
        for number in 0..64 {
            let data = pattern::block(number, version);
            clients[writer].send(Command::Write { fua: false }, number * 4096, &data).unwrap();
        }
        for _ in 0..64 {
            clients[writer].receive().unwrap().1.unwrap();
        }
        clients[(writer + 1) % 4].flush().unwrap();
        let data = clients[(writer + 2) % 4].read(0, 64 * 4096).unwrap();
        for (number, content) in (0..).zip(data.chunks(4096)) {
            assert_eq!(pattern::version(number, content), Ok(version));
        }
    }
    let refusal = dev.try_nbd("vol9").err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.contains("vol9"), "an unknown export is refused by name: {refusal}");
}
