//! The command line's contract, against a cluster: answers, JSON, exit codes.

use crate::PATIENCE;
use quoin_e2e::{Dev, Nbd, processes::Signal, until};
use serde_json::Value;

fn error(ran: &quoin_e2e::Ran) -> Value {
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    let error: Value =
        serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    assert_eq!(error["error"]["exit_code"].as_i64(), ran.code.map(i64::from), "{error}");
    error["error"].clone()
}

#[test]
fn volumes_are_created_listed_shown_grown_and_deleted() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let volume = dev.json(&["volume", "create", "data", "--size", "128MiB"]);
    for (key, value) in [
        ("name", Value::from("data")),
        ("size_bytes", (128u64 << 20).into()),
        ("replicas", 3.into()),
        ("durability", "flush".into()),
        ("state", "ready".into()),
    ] {
        assert_eq!(volume[key], value, "{volume}");
    }
    let mut nbd = dev.try_nbd("data").unwrap();
    nbd.write_fua((128 << 20) - 4096, &[3; 4096]).unwrap();

    let names: Vec<Value> = dev.json(&["volume", "list"])["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].clone())
        .collect();
    assert_eq!(names, ["data", "vol1"]);
    let shown = until("the attachment to be known", PATIENCE, || {
        let shown = dev.json(&["volume", "show", "data"]);
        if shown["attachment"]["clients"] == 1 { Ok(shown) } else { Err(shown.to_string()) }
    });
    assert_eq!(shown["attachment"]["gateway"], "gateway-1");
    assert_eq!(shown["segments"][0]["replicas"].as_array().unwrap().len(), 3);

    // Growing, while it is in use.
    let grown = dev.json(&["volume", "resize", "data", "--size", "192MiB"]);
    assert_eq!(grown["size_bytes"], 192u64 << 20);
    let mut larger = until("the export to grow", PATIENCE, || match dev.try_nbd("data") {
        Ok(nbd) if nbd.size == 192 << 20 => Ok(nbd),
        Ok(nbd) => Err(format!("{} bytes", nbd.size)),
        Err(error) => Err(error.to_string()),
    });
    assert_eq!(larger.read((128 << 20) - 4096, 4096).unwrap(), [3; 4096]);
    larger.write_fua((192 << 20) - 4096, &[4; 4096]).unwrap();
    nbd.write(0, &[5; 4096]).unwrap();
    assert_eq!(larger.read(0, 4096).unwrap(), [5; 4096]);
    let smaller = dev.quoin(&["volume", "resize", "data", "--size", "64MiB", "--output", "json"]);
    assert!(smaller.code == Some(1) || smaller.code == Some(2), "{smaller:?}");
    error(&smaller);

    // In use: refused. Not in use: gone, and the name is free.
    let refused = dev.quoin(&["volume", "delete", "data", "--yes", "--output", "json"]).code(1);
    assert!(error(&refused)["hint"].is_string(), "{}", refused.stderr);
    drop((nbd, larger));
    until("the volume to be deleted", PATIENCE, || {
        let ran = dev.quoin(&["volume", "delete", "data", "--yes", "--output", "json"]);
        if ran.code == Some(0) { Ok(ran) } else { Err(ran.stderr) }
    });
    assert!(dev.try_nbd("data").is_err());
    let volume = dev.json(&["volume", "create", "data", "--size", "64MiB", "--replicas", "2"]);
    assert_eq!(volume["replicas"], 2, "{volume}");
    let mut nbd = dev.try_nbd("data").unwrap();
    assert_eq!(nbd.size, 64 << 20);
    assert!(
        nbd.read(0, 4096).unwrap().iter().all(|byte| *byte == 0),
        "the old data is gone with the old volume"
    );
}

#[test]
fn what_goes_wrong_is_told_by_kind_hint_and_exit_code() {
    let dev = Dev::start(&["--size", "64MiB"]);
    for arguments in [["volume", "show", "vol9"], ["volume", "delete", "vol9"], ["node", "show", "node-9"]] {
        let ran = dev.quoin(&[&arguments[..], &["--output", "json"]].concat()).code(3);
        assert_eq!(error(&ran)["kind"], "not_found");
    }
    let ran = dev.quoin(&["volume", "create", "vol1", "--size", "64MiB"]).code(1);
    assert!(ran.stderr.starts_with("error: failed: ") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    dev.quoin(&["volume", "create", "x", "--size", "5000"]).code(2);
    dev.quoin(&["volume", "create", "-bad", "--size", "64MiB"]).code(2);
    dev.quoin(&["volume", "create", "a b", "--size", "64MiB"]).code(2);
    dev.quoin(&["volume", "create", "x"]).code(2);
    dev.quoin(&["frobnicate"]).code(2);

    let node = until("node-2 to be online", PATIENCE, || {
        let node = dev.json(&["node", "show", "node-2"]);
        if node["health"] == "online" { Ok(node) } else { Err(node.to_string()) }
    });
    assert_eq!(node["replicas"], 1, "{node}");
    assert_eq!(node["placements"][0]["volume"], "vol1");
    assert_eq!(dev.json(&["node", "list"])["nodes"].as_array().unwrap().len(), 3);

    // A majority of the managers gone: unavailable, and I/O goes on.
    let mut nbd = dev.nbd();
    for manager in ["cluster-manager-1", "cluster-manager-2"] {
        dev.signal(manager, Signal::STOP);
    }
    let ran = dev.quoin(&["volume", "create", "y", "--size", "64MiB", "--output", "json"]);
    nbd.write_fua(0, &[1; 4096]).unwrap();
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);
    for manager in ["cluster-manager-1", "cluster-manager-2"] {
        dev.signal(manager, Signal::CONT);
    }
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert_eq!(error(&ran)["kind"], "unavailable");
    dev.until_healthy(PATIENCE);
}

#[test]
fn a_write_through_volume_works() {
    let dev = Dev::start(&["--size", "64MiB", "--durability", "write-through"]);
    assert_eq!(dev.json(&["volume", "show", "vol1"])["durability"], "write-through");
    dev.json(&["volume", "create", "wt", "--size", "64MiB", "--durability", "write-through"]);
    for export in ["vol1", "wt"] {
        let mut nbd = Nbd::open(dev.nbd_address(), export).unwrap();
        for n in 0..50u64 {
            nbd.write(n * 4096, &[n as u8; 4096]).unwrap();
        }
        nbd.flush().unwrap();
        assert_eq!(nbd.read(49 * 4096, 4096).unwrap(), [49; 4096]);
    }
}
