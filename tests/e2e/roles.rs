//! Each role by itself, as systemd or Kubernetes would run it.

use crate::PATIENCE;
use quoin_e2e::{Nbd, Roles, http, quoin, run, until};
use std::time::Duration;

#[test]
fn roles_run_by_their_configuration_files_and_sigterm_ends_them_with_0() {
    let mut roles = Roles::start();
    let nbd_address = roles.start_gateway("gateway-a");
    let metrics = [
        ("manager-1", "quoin_manager_raft_term"),
        ("node-1", "quoin_storage_node_capacity_bytes"),
        ("gateway-a", "quoin_gateway_clients"),
    ];
    for (name, admin) in roles.admins() {
        assert_eq!(http::get(admin, "/healthz"), Ok((200, "ok\n".to_owned())), "{name}");
        // They were, and a manager may be without a leader for a moment, on a machine that has no time for it.
        until("everybody to be ready", PATIENCE, || match http::get(admin, "/readyz")? {
            (200, words) if words == "ok\n" => Ok(()),
            answer => Err(format!("{name}: {answer:?}")),
        });
        let (code, body) = http::get(admin, "/metrics").unwrap();
        assert!(
            code == 200 && body.contains("quoin_build_info") && body.ends_with("# EOF\n"),
            "{name}: {body}"
        );
        if let Some((_, figure)) = metrics.iter().find(|(role, _)| *role == name) {
            assert!(http::metric(admin, figure).is_ok(), "{name}: {body}");
        }
    }
    roles.quoin(&["volume", "create", "v", "--size", "64MiB"]).ok();
    let mut nbd = Nbd::open(nbd_address, "v").unwrap();
    nbd.write(0, &[1; 4096]).unwrap();

    // A node is drained; the managers hold together without one of them.
    let ran = roles.terminate("node-3", Duration::from_secs(15)).ok();
    println!("a storage node ended {:?} after its start", ran.took);
    nbd.write(4096, &[2; 4096]).unwrap();
    // It said good-bye. If that was not heard, it is missed after three heartbeats.
    until("the managers to miss node-3", PATIENCE, || {
        let node = roles.quoin(&["node", "show", "node-3", "--output", "json"]).ok().json();
        if node["health"] == "unreachable" { Ok(()) } else { Err(node.to_string()) }
    });
    // Whoever leads next has never heard of it, knows that it is gone, and gives it nothing.
    roles.terminate("manager-1", Duration::from_secs(15)).ok();
    let node = roles.quoin(&["node", "show", "node-3", "--output", "json"]).ok().json();
    assert_eq!(node["health"], "unreachable", "{node}");
    let volume = ["volume", "create", "w", "--size", "64MiB", "--replicas", "2", "--output", "json"];
    let volume = roles.quoin(&volume).ok().json();
    let replicas = volume["segments"][0]["replicas"].as_array().cloned().unwrap_or_default();
    assert!(replicas.len() == 2 && replicas.iter().all(|replica| replica["node"] != node["id"]), "{volume}");
    nbd.flush().unwrap();
    assert_eq!(nbd.read(4096, 4096).unwrap(), [2; 4096]);
    // Its client still there: the gateway answers what is under way and goes.
    roles.terminate("gateway-a", Duration::from_secs(15)).ok();
    until("the volume to be given back", PATIENCE, || {
        let status = roles.status();
        let volume = status["volumes"]
            .as_array()
            .and_then(|volumes| volumes.iter().find(|volume| volume["name"] == "v"))
            .cloned();
        let attachment = volume.map(|volume| volume["attachment"].clone()).unwrap_or_default();
        if attachment.is_null() { Ok(()) } else { Err(attachment.to_string()) }
    });
    for name in ["node-1", "node-2", "manager-2", "manager-3"] {
        roles.terminate(name, Duration::from_secs(15)).ok();
    }
    // Logs are structured.
    let log = std::fs::read_to_string(roles.log_dir().join("node-1.log")).unwrap();
    assert!(!log.is_empty());
    for line in log.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn a_bad_option_is_refused_by_name_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").display().to_string();
    let config = dir.path().join("node.toml");
    let good = format!("name = \"n\"\ndata_dir = \"{data}\"\nmanagers = [\"127.0.0.1:1\"]\n");
    for (line, name) in [
        ("listen = \"nonsense\"", "listen"),
        ("capacity = \"12 parsecs\"", "capacity"),
        ("heartbeat_interval = \"0s\"", "heartbeat_interval"),
        ("journal_files = 1", "journal_files"),
        ("jurnal_files = 8", "jurnal_files"),
    ] {
        std::fs::write(&config, format!("{good}{line}\n")).unwrap();
        let ran = run(quoin(&["storage-node", "--config"]).arg(&config), PATIENCE).code(2);
        assert!(
            ran.stderr.starts_with("error: bad usage: ") && ran.stderr.contains(name),
            "{line}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains("hint: "), "{line}: {}", ran.stderr);
    }
    std::fs::write(&config, &good).unwrap();
    let ran = run(quoin(&["storage-node", "--config"]).arg(&config).env("QUOIN_CAPACITY", "much"), PATIENCE)
        .code(2);
    assert!(ran.stderr.contains("capacity") && ran.stderr.contains("QUOIN_CAPACITY"), "{}", ran.stderr);
    let ran = run(&mut quoin(&["gateway", "--name", "g", "--data-dir", &data]), PATIENCE).code(2);
    assert!(ran.stderr.contains("managers"), "{}", ran.stderr);
}
