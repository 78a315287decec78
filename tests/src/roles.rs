//! The roles as one would run them on separate machines: each by its own configuration file, without `quoin dev`.

use crate::command::{Background, Ran, quoin, run};
use crate::dev::{PATIENCE, show_logs};
use crate::processes::{self, Signal};
use crate::{Turn, http, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A free address on this machine. It is free at this moment; below the range of outgoing connections it stays so.
pub fn free_address() -> SocketAddr {
    let start = u16::try_from(crate::pattern::mix(u64::from(std::process::id())) % 8000).expect("below 8000");
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_900 + (start + n) % 8000));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A process of one role.
struct Process {
    background: Background,
    admin: SocketAddr,
}

/// Processes of all roles. Dropping them kills them and removes their directory.
pub struct Roles {
    dir: TempDir,
    /// What `--manager` takes.
    pub managers: String,
    processes: BTreeMap<String, Process>,
    _turn: Turn,
}

impl Roles {
    /// Starts three cluster managers and three storage nodes.
    #[track_caller]
    pub fn start() -> Self {
        let turn = Turn::take();
        let dir = tempfile::Builder::new().prefix("quoin-e2e-").tempdir().expect("a temporary directory");
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let managers = listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let mut roles = Self { dir, managers, processes: BTreeMap::new(), _turn: turn };
        let peers: Vec<String> =
            (1..).zip(&listen).map(|(id, address)| format!("\"{id}={address}\"")).collect();
        let peers = peers.join(", ");
        for (id, listen) in (1..).zip(&listen) {
            let config = format!("id = {id}\npeers = [{peers}]\nlisten = \"{listen}\"\n");
            roles.spawn("cluster-manager", &format!("manager-{id}"), &config);
        }
        for n in 1..=3 {
            let (name, listen, managers) = (format!("node-{n}"), free_address(), &roles.managers);
            let journal = "journal_file_size = \"16MiB\"\njournal_files = 4\n";
            let config = format!(
                "name = \"{name}\"\nlisten = \"{listen}\"\nmanagers = \"{managers}\"\nzone = \"zone-{n}\"\n{journal}"
            );
            roles.spawn("storage-node", &name, &config);
        }
        roles.until_ready();
        roles
    }

    /// Starts a gateway with this name; gives where it serves NBD.
    #[track_caller]
    pub fn start_gateway(&mut self, name: &str) -> SocketAddr {
        let (listen, managers) = (free_address(), &self.managers);
        let config = format!("name = \"{name}\"\nnbd_listen = \"{listen}\"\nmanagers = \"{managers}\"\n");
        self.spawn("gateway", name, &config);
        self.until_ready();
        listen
    }

    /// Writes a configuration and starts a process with it.
    fn spawn(&mut self, role: &str, name: &str, config: &str) {
        let admin = free_address();
        let (data, log) =
            (self.dir.path().join(format!("data/{name}")), self.log_dir().join(format!("{name}.log")));
        let common =
            format!("data_dir = \"{}\"\nadmin_listen = \"{admin}\"\nlog_format = \"json\"\n", data.display());
        let path = self.dir.path().join(format!("{name}.toml"));
        fs::create_dir_all(self.log_dir()).expect("a log directory");
        fs::write(&path, format!("{config}{common}")).expect("a configuration");
        let log = fs::File::create(log).expect("a log");
        let mut command = quoin(&[role, "--config"]);
        command.arg(path);
        let background = Background::start_with_stderr(&mut command, log);
        self.processes.insert(name.to_owned(), Process { background, admin });
    }

    /// Where the processes log.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Waits until `/readyz` of every process says yes.
    #[track_caller]
    pub fn until_ready(&mut self) {
        for (name, process) in &mut self.processes {
            until(&format!("{name} to be ready"), PATIENCE, || {
                assert!(process.background.is_running(), "{name} ended");
                match http::get(process.admin, "/readyz")? {
                    (200, _) => Ok(()),
                    (code, why) => Err(format!("{code} {why}")),
                }
            });
        }
    }

    /// The names and admin addresses of all processes.
    pub fn admins(&self) -> Vec<(String, SocketAddr)> {
        self.processes.iter().map(|(name, process)| (name.clone(), process.admin)).collect()
    }

    /// Sends a signal to a process.
    #[track_caller]
    pub fn signal(&self, name: &str, signal: Signal) {
        processes::send(self.processes[name].background.pid(), signal);
    }

    /// SIGTERM: waits for the end, which takes at most this time.
    #[track_caller]
    pub fn terminate(&mut self, name: &str, within: Duration) -> Ran {
        let process = self.processes.remove(name).unwrap_or_else(|| panic!("no process {name}"));
        processes::send(process.background.pid(), Signal::TERM);
        process.background.finish(within)
    }

    /// Runs `quoin …` against these managers.
    #[track_caller]
    pub fn quoin(&self, arguments: &[&str]) -> Ran {
        run(quoin(arguments).args(["--manager", &self.managers]), PATIENCE)
    }

    /// `quoin status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.quoin(&["status", "--output", "json"]).ok().json()
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.log_dir());
        }
    }
}
