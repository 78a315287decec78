//! `quoin dev` itself: stopping, starting again, acting on it from another terminal.

use crate::PATIENCE;
use quoin_e2e::{Dev, processes, quoin, run, until};

#[test]
fn ctrl_c_stops_everything_with_0_and_the_next_start_brings_the_same_data_until_reset() {
    let mut dev = Dev::start(&["--size", "64MiB"]);
    let content: Vec<u8> = (0..65_536u32).map(|n| n.to_le_bytes()[1]).collect();
    dev.nbd().write(123_456, &content).unwrap();
    let uri = dev.uri();
    let ran = dev.interrupt().ok();
    println!("stopped after {:?}", ran.took);
    assert_eq!(processes::of_dir(&dev.dir()), [0; 0], "nothing is left running");
    assert!(dev.output().ends_with("stopped\n"), "{}", dev.output());

    dev.start_again(&[]);
    assert_eq!(dev.uri(), uri);
    assert!(dev.nbd().read(123_456, 65_536).unwrap() == content);
    let before = dev.status()["cluster_id"].clone();
    dev.interrupt().ok();

    dev.start_again(&["--reset", "--size", "128MiB"]);
    assert_ne!(dev.status()["cluster_id"], before);
    let mut nbd = dev.nbd();
    assert_eq!(nbd.size, 128 << 20);
    assert!(nbd.read(123_456, 65_536).unwrap().iter().all(|byte| *byte == 0));
    drop(nbd);
    dev.interrupt().ok();
}

#[test]
fn start_stop_and_kill_act_from_another_terminal() {
    let dev = Dev::start(&["--size", "64MiB"]);
    let pid = dev.pid("storage-node-2").unwrap();
    dev.control("kill", "storage-node-2").ok();
    assert!(!processes::runs(pid));
    assert_eq!(dev.pid("storage-node-2"), None, "a storage node stays down");
    assert_eq!(dev.control("kill", "storage-node-2").code, Some(1));
    dev.nbd().write(0, &[1; 4096]).unwrap();
    dev.control("start", "storage-node-2").ok();
    assert_ne!(dev.pid("storage-node-2").unwrap(), pid);
    assert_eq!(dev.control("start", "storage-node-2").code, Some(1), "it runs already");
    dev.until_healthy(PATIENCE);

    let pid = dev.pid("cluster-manager-1").unwrap();
    dev.control("kill", "cluster-manager-1").ok();
    until("the manager to be started again", PATIENCE, || match dev.pid("cluster-manager-1") {
        Some(new) if new != pid => Ok(()),
        other => Err(format!("{other:?}")),
    });
    dev.control("stop", "gateway-1").ok();
    assert!(dev.try_nbd("vol1").is_err());
    dev.control("start", "gateway-1").ok();
    let mut nbd = until("the export", PATIENCE, || dev.try_nbd("vol1").map_err(|error| error.to_string()));
    assert_eq!(nbd.read(0, 4096).unwrap(), [1; 4096]);

    assert_eq!(dev.control("stop", "storage-node-9").code, Some(3));
    let dir = dev.dir().display().to_string();
    let second = run(&mut quoin(&["dev", "--dir", &dir, "--nbd", "127.0.0.1:0"]), PATIENCE).code(1);
    assert!(second.stderr.contains("hint: "), "{}", second.stderr);
    let json =
        run(&mut quoin(&["dev", "stop", "storage-node-1", "--dir", &dir, "--output", "json"]), PATIENCE);
    let json = json.ok().json();
    assert_eq!(
        (&json["process"], &json["action"], &json["pid"]),
        (&"storage-node-1".into(), &"stop".into(), &serde_json::Value::Null)
    );
}

#[test]
fn the_dev_cluster_in_the_working_directory_is_found_by_itself() {
    let dev = Dev::start(&["--size", "64MiB"]);
    // `quoin` looks for ./quoin-dev.
    let here = dev.beside("elsewhere");
    std::fs::create_dir(&here).unwrap();
    std::os::unix::fs::symlink(dev.dir(), here.join("quoin-dev")).unwrap();
    let ran = run(quoin(&["volume", "list", "--output", "json"]).current_dir(&here), PATIENCE).ok();
    assert_eq!(ran.json()["volumes"][0]["name"], "vol1");
    until("the status to be healthy", PATIENCE, || {
        let mut status = quoin(&["status", "--output", "json"]);
        let ran = run(status.env("QUOIN_MANAGER", dev.managers()), PATIENCE).ok();
        if ran.json()["healthy"] == true { Ok(()) } else { Err(ran.stdout) }
    });
    assert_eq!(run(&mut quoin(&["status", "--manager", "127.0.0.1:1"]), PATIENCE).code, Some(4));
}
