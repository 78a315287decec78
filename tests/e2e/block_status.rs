//! What is allocated and what has changed, as standard clients see it; read-only exports; requests of odd and of great size.

use crate::PATIENCE;
use quoin_e2e::{Dev, Nbd, program, run};
use serde_json::Value;
use std::fs;

const MIB: u64 = 1 << 20;
const EXTENT: u64 = 64 << 10;

/// A map as `nbdinfo` tells it: offset, length and flags, neighbours that are alike joined.
fn map(uri: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let ran = run(&mut program("nbdinfo", &[&format!("--map={context}"), "--json", uri]), PATIENCE);
    let mut joined: Vec<(u64, u64, u64)> = Vec::new();
    for part in ran.ok().json().as_array().expect("a map") {
        let number = |field: &str| part[field].as_u64().unwrap_or_else(|| panic!("{field} of {part}"));
        let (offset, length, flags) = (number("offset"), number("length"), number("type"));
        match joined.last_mut() {
            Some(last) if last.2 == flags && last.0 + last.1 == offset => last.1 += length,
            _ => joined.push((offset, length, flags)),
        }
    }
    joined
}

fn qemu_io(uri: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(uri);
    let ran = run(&mut program("qemu-io", &arguments), PATIENCE).ok();
    assert!(!ran.stdout.contains("failed"), "{}", ran.stdout);
}

#[test]
fn standard_clients_see_what_is_allocated() {
    let dev = Dev::start(&["--size", "256MiB"]);
    let uri = dev.uri();
    let empty = [(0, 256 * MIB, 3)];
    assert_eq!(map(&uri, "base:allocation"), empty);
    let mut nbd = dev.nbd();
    nbd.write(MIB, &vec![7; MIB as usize]).unwrap();
    nbd.write(100 * MIB, &[7; 4096]).unwrap();
    nbd.trim(MIB + 4 * EXTENT, EXTENT as u32).unwrap();
    let data = 0;
    let (hole, zeroes) = (3, 2);
    let expected = [
        (0, MIB, hole),
        (MIB, 4 * EXTENT, data),
        (MIB + 4 * EXTENT, EXTENT, hole),
        (MIB + 5 * EXTENT, 11 * EXTENT, data),
        (2 * MIB, 98 * MIB, hole),
        (100 * MIB, 4096, data),
        (100 * MIB + 4096, EXTENT - 4096, zeroes),
        (100 * MIB + EXTENT, 156 * MIB - EXTENT, hole),
    ];
    assert_eq!(map(&uri, "base:allocation"), expected);

    let qemu = run(&mut program("qemu-img", &["map", "--output=json", &uri]), PATIENCE).ok().json();
    let with_data = |part: &&Value| part["data"] == true && part["zero"] == false;
    let parts = qemu.as_array().expect("a map").iter().filter(with_data);
    let bytes: u64 = parts.map(|part| part["length"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 15 * EXTENT + 4096, "{qemu}");

    // Zeroes that must take space, and those that may not.
    qemu_io(&uri, &["write -z 200M 64k", "write -z -u 100M 64k"]);
    let told = map(&uri, "base:allocation");
    assert!(told.contains(&(200 * MIB, EXTENT, 0)), "written zeroes are data: {told:?}");
    assert!(!told.iter().any(|part| part.0 == 100 * MIB), "zeroes that may be trimmed are a hole: {told:?}");
}

#[test]
fn only_what_changed_since_a_snapshot_need_be_copied() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let uri = dev.uri();
    let mut nbd = dev.nbd();
    nbd.write(0, &vec![1; 4 * MIB as usize]).unwrap();
    dev.quoin(&["snapshot", "create", "vol1", "monday"]).ok();
    let context = "quoin:changed-since:monday";
    assert_eq!(map(&uri, context), [(0, 64 * MIB, 0)]);
    nbd.write(MIB + 100, &[2; 10]).unwrap();
    nbd.zero(32 * MIB, EXTENT as u32).unwrap();
    let changed: Vec<_> = map(&uri, context).into_iter().filter(|part| part.2 == 1).collect();
    assert_eq!(changed, [(MIB, EXTENT, 1), (32 * MIB, EXTENT, 1)]);

    let list = run(&mut program("nbdinfo", &["--json", &uri]), PATIENCE).ok().json();
    let contexts = list["exports"][0]["contexts"].as_array().expect("contexts").clone();
    for name in ["base:allocation", context] {
        assert!(contexts.iter().any(|context| context == name), "{name}: {list}");
    }
    // A context of no snapshot is not granted.
    let none = ["--map=quoin:changed-since:friday", &uri];
    assert_ne!(run(&mut program("nbdinfo", &none), PATIENCE).code, Some(0));
    // Nor is that of one that was deleted.
    dev.quoin(&["snapshot", "delete", "vol1", "monday"]).ok();
    assert_ne!(run(&mut program("nbdinfo", &[&format!("--map={context}"), &uri]), PATIENCE).code, Some(0));
}

#[test]
fn a_read_only_export_takes_no_change() {
    let dev = Dev::start(&["--size", "64MiB"]);
    dev.nbd().write(0, b"kept").unwrap();
    let uri = dev.uri_of("vol1+ro");
    let info = run(&mut program("nbdinfo", &["--json", &uri]), PATIENCE).ok().json();
    let export = &info["exports"][0];
    assert_eq!(
        (&export["is_read_only"], &export["can_zero"]),
        (&Value::Bool(true), &Value::Bool(false)),
        "{info}"
    );
    let mut nbd = Nbd::open(dev.nbd_address(), "vol1+ro").unwrap();
    for refused in [nbd.write(0, b"lost"), nbd.trim(0, 4096), nbd.zero(0, 4096), nbd.write_fua(0, b"lost")] {
        assert_eq!(refused.unwrap_err().to_string(), "answered with error 1");
    }
    assert_eq!(nbd.read(0, 4).unwrap(), b"kept");
    nbd.flush().unwrap();
}

#[test]
fn requests_of_odd_sizes_change_nothing_else() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let uri = dev.uri();
    qemu_io(
        &uri,
        &[
            "write -P 0x11 0 64k",
            "write -P 0x22 512 512",
            "write -z 2560 1536",
            "write -P 0x33 65024 1024",
            "read -P 0x11 0 512",
            "read -P 0x22 512 512",
            "read -P 0x11 1024 1536",
            "read -P 0 2560 1536",
            "read -P 0x11 4096 60928",
            "read -P 0x33 65024 1024",
            "read -P 0 66048 512",
            "discard 4096 8192",
            "read -P 0x11 12288 512",
            "flush",
        ],
    );
}

#[test]
fn the_largest_request_is_taken_and_a_larger_one_refused() {
    let dev = Dev::start(&["--size", "256MiB"]);
    let mut nbd = dev.nbd();
    let length = 64 * MIB as u32;
    let content: Vec<u8> = (0..length).map(|at| (at >> 12) as u8 ^ at as u8).collect();
    nbd.write(MIB + 1, &content).unwrap();
    assert!(nbd.read(MIB + 1, length).unwrap() == content);
    assert_eq!(nbd.read(0, length + 1).unwrap_err().to_string(), "answered with error 75");
    assert_eq!(nbd.read(0, 1).unwrap(), [0], "the connection goes on");
}

#[test]
fn a_sparse_file_stays_sparse() {
    let dev = Dev::start(&["--size", "256MiB"]);
    let uri = dev.uri();
    let file = dev.beside("sparse").display().to_string();
    let sparse = fs::File::create(&file).unwrap();
    sparse.set_len(200 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &vec![5; MIB as usize], 64 * MIB).unwrap();
    run(&mut program("nbdcopy", &["--flush", &file, &uri]), PATIENCE).ok();
    let allocated = |uri: &str| -> u64 {
        map(uri, "base:allocation").iter().filter(|part| part.2 & 1 == 0).map(|part| part.1).sum()
    };
    assert_eq!(allocated(&uri), MIB);
    let back = dev.beside("back").display().to_string();
    run(&mut program("nbdcopy", &[&uri, &back]), PATIENCE).ok();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&back).unwrap());
    assert!(blocks * 512 <= 2 * MIB, "{blocks} blocks of 512 bytes for one MiB of data");
    assert!(fs::read(&back).unwrap()[64 * MIB as usize..65 * MIB as usize].iter().all(|byte| *byte == 5));
}
