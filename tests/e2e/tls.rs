//! TLS with the clients that people use: libnbd's and QEMU's, by certificates and by shared keys.

use crate::PATIENCE;
use quoin_e2e::certificates::{Authority, share_key};
use quoin_e2e::{Nbd, Ran, Roles, pattern, program, run};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn start() -> Roles {
    let roles = Roles::start();
    roles.quoin(&["volume", "create", "v", "--size", "128MiB"]).ok();
    roles
}

fn nbdinfo(uri: &str) -> Ran {
    run(&mut program("nbdinfo", &["--json", uri]), PATIENCE)
}

fn qemu_img_info(credentials: &str, address: SocketAddr) -> Ran {
    let (host, port) = (address.ip(), address.port());
    let image =
        format!("driver=nbd,server.type=inet,server.host={host},server.port={port},export=v,tls-creds=t");
    let arguments = ["info", "--output", "json", "--object", credentials, "--image-opts", &image];
    run(&mut program("qemu-img", &arguments), PATIENCE)
}

/// A file there and back; gives MB/s.
fn copy(roles: &Roles, uri: &str) -> [f64; 2] {
    let (file, back) = (roles.beside("file"), roles.beside("back"));
    let content: Vec<u8> = (0..64 * MIB / 4096).flat_map(|n| pattern::block(n, 3)).collect();
    fs::write(&file, &content).unwrap();
    let there = run(&mut program("nbdcopy", &["--flush", &file.display().to_string(), uri]), PATIENCE).ok();
    let here = run(&mut program("nbdcopy", &[uri, &back.display().to_string()]), PATIENCE).ok();
    assert!(
        fs::read(&back).unwrap()[..content.len()] == content[..],
        "nbdcopy read something else than it wrote"
    );
    [there, here].map(|ran| 64.0 * 1.048_576 / ran.took.as_secs_f64())
}

fn refusals(roles: &Roles, reason: &str) -> f64 {
    let name = format!("quoin_gateway_turned_away_connections_total{{reason=\"{reason}\"}}");
    roles.metric("gateway-a", &name).unwrap()
}

#[test]
fn clients_with_certificates_are_served_and_no_others() {
    let mut roles = start();
    let authority = Authority::new(&roles.beside("ca"));
    let (certificate, key) = authority.gateway();
    let (client, stranger) = (authority.client("alice", true), authority.client("nobody", false));
    let address = roles.start_gateway_with(
        "gateway-a",
        &format!(
            "tls = \"required\"\ntls_certificate = \"{}\"\ntls_key = \"{}\"\ntls_client_ca = \"{}\"\n",
            certificate.display(),
            key.display(),
            authority.ca().display()
        ),
    );
    let uri = |dir: &Path| format!("nbds://{address}/v?tls-certificates={}", dir.display());

    let info = nbdinfo(&uri(&client)).ok().json();
    assert_eq!(
        (&info["TLS"], &info["exports"][0]["export-size"]),
        (&true.into(), &(128 * MIB).into()),
        "{info}"
    );
    let credentials = format!("tls-creds-x509,id=t,endpoint=client,dir={}", client.display());
    assert_eq!(qemu_img_info(&credentials, address).ok().json()["virtual-size"], 128 * MIB);
    println!("nbdcopy over TLS with certificates, there and back: {:?} MB/s", copy(&roles, &uri(&client)));

    nbdinfo(&format!("nbd://{address}/v")).code(1);
    let refused = Nbd::open(address, "v").err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("TLS"), "{refused}");
    assert_eq!(refusals(&roles, "Tls"), 0.0);
    nbdinfo(&uri(&stranger)).code(1);
    let other = Authority::new(&roles.beside("other-ca"));
    fs::copy(authority.ca(), other.client("mallory", true).join("ca-cert.pem")).unwrap();
    nbdinfo(&uri(&roles.beside("other-ca/mallory"))).code(1);
    assert!(refusals(&roles, "Tls") >= 2.0);
}

#[test]
fn a_renewed_certificate_is_used_by_the_next_client_and_a_bad_one_by_none() {
    let mut roles = start();
    let (former, next) = (Authority::new(&roles.beside("former")), Authority::new(&roles.beside("next")));
    let ((certificate, key), (renewed, its_key)) = (former.gateway(), next.gateway());
    let address = roles.start_gateway_with(
        "gateway-a",
        &format!(
            "tls = \"available\"\ntls_certificate = \"{}\"\ntls_key = \"{}\"\n",
            certificate.display(),
            key.display()
        ),
    );
    let uri = |dir: &Path| format!("nbds://{address}/v?tls-certificates={}", dir.display());
    let (with_former, with_next) = (uri(&former.client("c", false)), uri(&next.client("c", false)));
    nbdinfo(&with_former).ok();
    nbdinfo(&with_next).code(1);
    let info = nbdinfo(&format!("nbd://{address}/v")).ok().json();
    assert_eq!(info["TLS"], false, "available is not required: {info}");

    // Half of it replaced: certificate and key do not fit each other.
    fs::copy(&renewed, &certificate).unwrap();
    nbdinfo(&with_former).ok();
    assert!(roles.metric("gateway-a", "quoin_gateway_tls_reloads_failed_total").unwrap() >= 1.0);
    fs::copy(&its_key, &key).unwrap();
    nbdinfo(&with_next).ok();
    nbdinfo(&with_former).code(1);
    assert_eq!(roles.metric("gateway-a", "quoin_gateway_tls_reloads_total"), Ok(1.0));
}

#[test]
fn clients_that_share_a_key_are_served_and_no_others() {
    let mut roles = start();
    let keys = roles.beside("keys.psk");
    ["alice", "bob"].iter().for_each(|client| share_key(&keys, client));
    let (unix, address) = (roles.beside("nbd.sock"), quoin_e2e::roles::free_address());
    roles.start_gateway_at(
        "gateway-a",
        &format!("[\"tcp://{address}\", \"unix://{}\"]", unix.display()),
        &format!("tls = \"required\"\ntls_psk_file = \"{}\"\nsocket_mode = \"0600\"\n", keys.display()),
    );
    let uri =
        |client: &str, keys: &Path| format!("nbds://{client}@{address}/v?tls-psk-file={}", keys.display());

    let info = nbdinfo(&uri("bob", &keys)).ok().json();
    assert_eq!(
        (&info["TLS"], &info["exports"][0]["export-size"]),
        (&true.into(), &(128 * MIB).into()),
        "{info}"
    );
    let dir = keys.parent().unwrap().display();
    let credentials = format!("tls-creds-psk,id=t,endpoint=client,username=alice,dir={dir}");
    assert_eq!(qemu_img_info(&credentials, address).ok().json()["virtual-size"], 128 * MIB);
    println!(
        "nbdcopy over TLS with a shared key, there and back: {:?} MB/s",
        copy(&roles, &uri("alice", &keys))
    );

    // Another key under a known name, and a name that is not known.
    let others = roles.beside("others.psk");
    ["alice", "mallory"].iter().for_each(|client| share_key(&others, client));
    nbdinfo(&uri("alice", &others)).code(1);
    nbdinfo(&uri("mallory", &others)).code(1);
    assert!(refusals(&roles, "Tls") >= 2.0);
    nbdinfo(&format!("nbd://{address}/v")).code(1);
    // A new key counts at once.
    share_key(&keys, "carol");
    nbdinfo(&uri("carol", &keys)).ok();

    // The Unix socket is for whom its permissions let in: TLS is possible there, and not required.
    let local = format!("nbd+unix:///v?socket={}", unix.display());
    assert_eq!(nbdinfo(&local).ok().json()["TLS"], false);
    println!("nbdcopy over a Unix socket, there and back: {:?} MB/s", copy(&roles, &local));
    let local = format!("nbds+unix://alice@/v?socket={}&tls-psk-file={}", unix.display(), keys.display());
    assert_eq!(nbdinfo(&local).ok().json()["TLS"], true);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&unix).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    roles.terminate("gateway-a", PATIENCE).ok();
    assert!(!unix.exists(), "it takes its socket along");
}
