use super::gateway::GatewayOptions;
use super::manager::ManagerOptions;
use super::storage_node::StorageNodeOptions;
use super::{Options, RoleArgs};
use crate::failure::{Failure, Kind};
use clap::{Args, Command, FromArgMatches};
use std::path::PathBuf;

/// A role's settings from a command line and a file. The environment is whatever the test runs in, without `QUOIN_…`.
fn load<O: Options + Args>(file: &str, flags: &[&str]) -> Result<O::Merged, Failure> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let words = ["role", "--config", path].into_iter().chain(flags.iter().copied());
    let matches = RoleArgs::<O>::augment_args(Command::new("role")).try_get_matches_from(words).unwrap();
    RoleArgs::<O>::from_arg_matches(&matches).unwrap().load(&matches)
}

const MANAGER: &str = r#"
id = 2
data_dir = "/var/lib/quoin"
listen = "127.0.0.1:7500"
peers = ["1=a:1", "2=b:2", "3=c:3"]
tick = "20ms"
"#;

#[test]
fn a_flag_is_stronger_than_the_file_and_the_file_than_the_default() {
    let settings = load::<ManagerOptions>(MANAGER, &["--tick", "30ms", "--log-format", "json"]).unwrap();
    let (config, logging) = settings.resolve().unwrap();
    assert_eq!(config.id, 2);
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/quoin"));
    assert_eq!(config.listen.port(), 7500);
    assert_eq!(config.admin_listen.port(), 7401);
    assert_eq!(config.peers.len(), 3);
    assert_eq!(config.peers[2].address, "c:3");
    assert_eq!(config.tick.as_millis(), 30);
    assert_eq!(config.heartbeat_interval.as_millis(), 1000);
    assert_eq!(logging.format, quoin_service::logging::LogFormat::Json);
}

#[test]
fn a_bad_value_is_refused_with_its_name_and_its_source() {
    let from_file = MANAGER.replace("20ms", "fast");
    let failure = load::<ManagerOptions>(&from_file, &[]).unwrap().resolve().unwrap_err();
    assert_eq!(failure.kind, Kind::BadUsage);
    assert!(failure.message.contains("`tick` = \"fast\" (from the file /"), "{}", failure.message);
    assert_eq!(failure.hint.as_deref(), Some("write for example 500ms or 2s"));

    let failure = load::<ManagerOptions>(MANAGER, &["--listen", "here"]).unwrap().resolve().unwrap_err();
    assert!(failure.message.contains("`listen` = \"here\" (from the flag --listen)"), "{}", failure.message);

    let failure = load::<ManagerOptions>(MANAGER, &["--id", "7"]).unwrap().resolve().unwrap_err();
    assert!(failure.message.contains("`peers`") && failure.message.contains('7'), "{}", failure.message);

    let failure = load::<ManagerOptions>(MANAGER, &["--tick", "1h"]).unwrap().resolve().unwrap_err();
    assert!(failure.message.contains("--tick"), "{}", failure.message);
    assert_eq!(failure.hint.as_deref(), Some("a tick is 5ms to 5s"));
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let failure = load::<ManagerOptions>("id = 1", &[]).unwrap().resolve().unwrap_err();
    assert!(failure.message.contains("`peers` is required"), "{}", failure.message);
    let hint = failure.hint.unwrap();
    assert!(hint.contains("--peers") && hint.contains("QUOIN_PEERS"), "{hint}");

    let failure = load::<ManagerOptions>("ticks = 5", &[]).unwrap_err();
    assert_eq!(failure.kind, Kind::BadUsage);
    assert!(failure.message.contains("unknown field `ticks`"), "{}", failure.message);

    let failure = load::<ManagerOptions>("tick = { ms = 5 }", &[]).unwrap_err();
    assert!(failure.message.contains("a string, a number"), "{}", failure.message);
}

#[test]
fn a_node_that_listens_everywhere_must_say_where_it_is() {
    let file =
        "name = 'n'\ndata_dir = '/d'\nmanagers = 'a:1,b:2'\nlisten = '0.0.0.0:7410'\ncapacity = '4GiB'";
    let failure = load::<StorageNodeOptions>(file, &[]).unwrap().resolve().unwrap_err();
    assert!(failure.message.contains("`listen`"), "{}", failure.message);
    let settings = load::<StorageNodeOptions>(file, &["--advertise", "n.example:7410"]).unwrap();
    let (config, _) = settings.resolve().unwrap();
    assert_eq!(config.advertise.as_deref(), Some("n.example:7410"));
    assert_eq!(config.managers, ["a:1", "b:2"]);
    assert_eq!(config.capacity_bytes, Some(4 << 30));
    assert_eq!(config.limits.resync_bytes_per_second, None);
    assert_eq!(config.journal_file_bytes, 64 << 20);
}

#[test]
fn scrub_is_on_unless_it_is_turned_off() {
    let file = "name = 'n'\ndata_dir = '/d'\nmanagers = 'a:1'";
    let limits = |arguments: &[&str]| {
        load::<StorageNodeOptions>(file, arguments).unwrap().resolve().map(|(config, _)| config.limits)
    };
    assert_eq!(limits(&[]).unwrap().scrub_bytes_per_second, Some(32 << 20));
    assert_eq!(limits(&[]).unwrap().scrub_interval, std::time::Duration::from_secs(86_400));
    assert_eq!(limits(&["--scrub-rate", "0"]).unwrap().scrub_bytes_per_second, None);
    assert_eq!(limits(&["--scrub-rate", "1MB"]).unwrap().scrub_bytes_per_second, Some(1_000_000));
    assert!(limits(&["--scrub-rate", "4KiB"]).unwrap_err().message.contains("`scrub_rate`"));
}

#[test]
fn a_gateway_listens_where_it_is_told_and_bounds_its_clients() {
    let file = "name = 'g'\ndata_dir = '/d'\nmanagers = 'a:1'\n";
    let read = |more: &str| load::<GatewayOptions>(&format!("{file}{more}"), &[]).unwrap().resolve();
    let (config, _) = read("").unwrap();
    assert_eq!(config.listen, ["127.0.0.1:10809".parse().unwrap()]);
    assert_eq!((config.limits.connections_max, config.limits.connections_per_address_max), (1024, 1024));
    let (config, _) = read(
        "listen = ['tcp://[::1]:10809', 'unix:///run/q.sock']\nsocket_mode = '600'\nconnections_max = 9",
    )
    .unwrap();
    assert_eq!(config.listen[1].to_string(), "unix:///run/q.sock");
    assert_eq!((config.socket_mode, config.limits.connections_per_address_max), (0o600, 9));
    for (bad, why) in [
        ("listen = 'here'", "`listen`"),
        ("listen = 'unix://q.sock'", "absolute"),
        ("socket_mode = '9'", "`socket_mode`"),
        ("connections_per_address_max = 0", "`connections_per_address_max`"),
        ("handshake_timeout = '0s'", "`handshake_timeout`"),
        ("clients_memory_max = '4MiB'", "`clients_memory_max`"),
        ("client_memory_max = '2GiB'", "less than `client_memory_max`"),
    ] {
        let failure = read(bad).unwrap_err();
        assert_eq!(failure.kind, Kind::BadUsage);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}

#[test]
fn tls_has_one_kind_of_credentials_and_a_ca_means_that_it_is_used() {
    use quoin_gateway::{ClientCertificates, TlsCredentials};
    let file = "name = 'g'\ndata_dir = '/d'\nmanagers = 'a:1'\n";
    let read = |more: &str| {
        load::<GatewayOptions>(&format!("{file}{more}"), &[]).unwrap().resolve().map(|(config, _)| config.tls)
    };
    let clients = |more: &str| match read(more).unwrap().unwrap().credentials {
        TlsCredentials::Certificate { clients, .. } => clients,
        TlsCredentials::Keys(_) => panic!("certificates were given"),
    };
    assert!(read("tls_certificate = '/c'").unwrap().is_none(), "off is off");
    let pair = "tls = 'required'\ntls_certificate = '/c'\ntls_key = '/k'\n";
    assert!(read(pair).unwrap().unwrap().required);
    assert_eq!(clients(pair), ClientCertificates::Off);
    assert_eq!(clients(&format!("{pair}tls_client_ca = '/a'")), ClientCertificates::Required);
    let optional = format!("{pair}tls_client_ca = '/a'\ntls_client_certificates = 'optional'");
    assert_eq!(clients(&optional), ClientCertificates::Optional);
    let keys = read("tls = 'available'\ntls_psk_file = '/p'").unwrap().unwrap();
    assert!(!keys.required && matches!(keys.credentials, TlsCredentials::Keys(_)));
    for (bad, why) in [
        ("tls = 'on'".to_owned(), "`tls`"),
        ("tls = 'required'".to_owned(), "credentials"),
        ("tls = 'required'\ntls_certificate = '/c'".to_owned(), "`tls_key` is required"),
        (format!("{pair}tls_psk_file = '/p'"), "`tls_psk_file`"),
        (format!("{pair}tls_client_certificates = 'required'"), "`tls_client_certificates`"),
    ] {
        let failure = read(&bad).unwrap_err();
        assert!(failure.message.contains(why), "{}", failure.message);
    }
}
