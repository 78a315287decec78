//! The roles as one would run them on separate machines: each by its own configuration file, without `quoin dev`.

use crate::clock::{now, pause};
use crate::command::{Background, Ran, binary, program, quoin, run};
use crate::dev::{PATIENCE, healths, show_logs};
use crate::network::Network;
use crate::processes::{self, Signal};
use crate::{Turn, http, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// A free address on this machine. It is free at this moment; below the range of outgoing connections it stays so.
pub fn free_address() -> SocketAddr {
    let start = u16::try_from(crate::pattern::mix(u64::from(std::process::id())) % 8000).expect("below 8000");
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
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
    /// What is between the processes, if anything.
    network: Option<Network>,
    /// The managers as gateways and storage nodes reach them.
    manager_proxies: String,
    /// Whose disk can be made slow.
    traced: Option<&'static str>,
    _turn: Turn,
}

impl Roles {
    /// Starts three cluster managers and three storage nodes.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(None, None)
    }

    /// As [`Roles::start`], with a network whose links can be made to fail, by the names of processes: from gateways and storage
    /// nodes to managers and to storage nodes.
    #[track_caller]
    pub fn start_on_network() -> Self {
        Self::start_with(Some(Network::start()), None)
    }

    /// As [`Roles::start`]; [`Roles::slow_disk`] can make the disk of this storage node slow.
    #[track_caller]
    pub fn start_with_disk(node: &'static str) -> Self {
        Self::start_with(None, Some(node))
    }

    #[track_caller]
    fn start_with(network: Option<Network>, traced: Option<&'static str>) -> Self {
        let turn = Turn::take();
        let dir = tempfile::Builder::new().prefix("quoin-e2e-").tempdir().expect("a temporary directory");
        let listen: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let managers = listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let manager_proxies = match &network {
            Some(network) => {
                let proxy =
                    |(id, address): (u32, &SocketAddr)| network.proxy(&format!("manager-{id}"), *address);
                (1..).zip(&listen).map(proxy).map(|address| address.to_string()).collect::<Vec<_>>().join(",")
            }
            None => managers.clone(),
        };
        let processes = BTreeMap::new();
        let mut roles = Self { dir, managers, processes, network, manager_proxies, traced, _turn: turn };
        let peers: Vec<String> =
            (1..).zip(&listen).map(|(id, address)| format!("\"{id}={address}\"")).collect();
        let peers = peers.join(", ");
        for (id, listen) in (1..).zip(&listen) {
            let config = format!("id = {id}\npeers = [{peers}]\nlisten = \"{listen}\"\n");
            roles.spawn("cluster-manager", &format!("manager-{id}"), &config);
        }
        for n in 1..=3 {
            let (name, listen, managers) = (format!("node-{n}"), free_address(), &roles.manager_proxies);
            let journal = "journal_file_size = \"16MiB\"\njournal_files = 4\n";
            let advertise = roles.network.as_ref().map_or(listen, |network| network.proxy(&name, listen));
            let config = format!(
                "name = \"{name}\"\nlisten = \"{listen}\"\nadvertise = \"{advertise}\"\nmanagers = \"{managers}\"\nzone = \"zone-{n}\"\n{journal}"
            );
            roles.spawn("storage-node", &name, &config);
        }
        roles.until_ready();
        roles
    }

    /// `kill -9`. [`Roles::start_again`] brings it back.
    #[track_caller]
    pub fn kill(&mut self, name: &str) {
        self.end(name, Signal::KILL);
    }

    /// Ends a process by this signal, and waits until it is gone. [`Roles::start_again`] brings it back.
    #[track_caller]
    pub fn end(&mut self, name: &str, signal: Signal) {
        let process = self.processes.get_mut(name).unwrap_or_else(|| panic!("no process {name}"));
        let pid = process.background.pid();
        processes::send(pid, signal);
        until(&format!("{name} to end"), PATIENCE, || {
            if process.background.is_running() { Err(format!("{pid} runs")) } else { Ok(()) }
        });
    }

    /// Starts a process that was ended again, with its configuration.
    #[track_caller]
    pub fn start_again(&mut self, role: &str, name: &str) {
        let process = self.processes.remove(name).unwrap_or_else(|| panic!("no process {name}"));
        self.launch(role, name, process.admin);
    }

    /// Starts a gateway with this name; gives where it serves NBD.
    #[track_caller]
    pub fn start_gateway(&mut self, name: &str) -> SocketAddr {
        self.start_gateway_with(name, "")
    }

    /// As [`Roles::start_gateway`], with more lines in its configuration.
    #[track_caller]
    pub fn start_gateway_with(&mut self, name: &str, more: &str) -> SocketAddr {
        let listen = free_address();
        self.start_gateway_at(name, &format!("[\"{listen}\"]"), more);
        listen
    }

    /// As [`Roles::start_gateway_with`], with this list for `listen`.
    #[track_caller]
    pub fn start_gateway_at(&mut self, name: &str, listen: &str, more: &str) {
        let managers = &self.manager_proxies;
        let config = format!("name = \"{name}\"\nlisten = {listen}\nmanagers = \"{managers}\"\n{more}\n");
        self.spawn("gateway", name, &config);
        self.until_ready();
    }

    /// The network between the processes.
    ///
    /// # Panics
    /// If they were started without.
    #[track_caller]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("started on a network")
    }

    /// Writes a configuration and starts a process with it.
    fn spawn(&mut self, role: &str, name: &str, config: &str) {
        let admin = free_address();
        let data = self.dir.path().join(format!("data/{name}"));
        let common =
            format!("data_dir = \"{}\"\nadmin_listen = \"{admin}\"\nlog_format = \"json\"\n", data.display());
        let path = self.dir.path().join(format!("{name}.toml"));
        fs::create_dir_all(self.log_dir()).expect("a log directory");
        fs::write(&path, format!("{config}{common}")).expect("a configuration");
        self.launch(role, name, admin);
    }

    /// Starts a process with the configuration that was written for it.
    fn launch(&mut self, role: &str, name: &str, admin: SocketAddr) {
        let log = self.log_dir().join(format!("{name}.log"));
        let log = fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = self.command(role, name);
        command.arg("--config").arg(self.dir.path().join(format!("{name}.toml")));
        let background = Background::start_with_stderr(&mut command, log);
        if let Some(network) = &self.network {
            network.call(name, background.pid());
        }
        self.processes.insert(name.to_owned(), Process { background, admin });
    }

    /// The command that starts a role. A node whose disk is to be slow has strace look at its syncs, and at nothing else;
    /// strace is not its parent, so that pid and signals are the node's own.
    fn command(&self, role: &str, name: &str) -> Command {
        if self.traced != Some(name) {
            return quoin(&[role]);
        }
        let output = self.log_dir().join(format!("{name}.strace")).display().to_string();
        let strace = ["-D", "-f", "-qq", "--seccomp-bpf", "--trace=fdatasync,fsync", "-o", &output];
        let mut command = program("strace", &strace);
        command.arg(binary()).arg(role);
        command
    }

    /// How many syncs of the node that was named at the start strace has seen.
    pub fn syncs(&self) -> usize {
        let seen =
            self.traced.map(|node| self.log_dir().join(format!("{node}.strace"))).map(fs::read_to_string);
        seen.and_then(Result::ok).map_or(0, |text| text.lines().count())
    }

    /// Makes the disk of the node that was named at the start slow, until this is dropped: a sync that begins takes as long as
    /// one of these turns.
    #[track_caller]
    pub fn slow_disk(&self, turn: Duration) -> SlowDisk {
        let node = self.traced.expect("started with such a disk");
        let pid = self.processes[node].background.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
        SlowDisk::start(
            tracer.filter(|pid| *pid != 0).expect("strace looks at it, if ptrace is allowed here"),
            turn,
        )
    }

    /// A file beside the processes' own, removed with them.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The pid of a process.
    pub fn pid(&self, name: &str) -> u32 {
        self.processes[name].background.pid()
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

    /// Waits until `quoin status` has nothing to complain of and every copy of every volume is in sync.
    #[track_caller]
    pub fn until_healthy(&self) {
        until("everything to be well", PATIENCE, || {
            let status = self.status();
            let healths = healths(&status);
            let well = !healths.is_empty() && healths.iter().all(|(_, _, health)| health == "in_sync");
            if status["healthy"] == true && well {
                Ok(())
            } else {
                Err(format!("{} {healths:?}", status["problems"]))
            }
        });
    }

    /// Waits until a gateway has said that it misses a storage node's copies: only then does a later "in sync" mean that
    /// it has come back.
    #[track_caller]
    pub fn until_missed(&self, node: &str) {
        until(&format!("{node} to be missed"), PATIENCE, || {
            let status = self.status();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let id = nodes.iter().find(|other| other["name"] == node).map(|node| node["id"].clone());
            let healths = healths(&status);
            let missed =
                |(_, on, health): &(String, u64, String)| id == Some((*on).into()) && health == "missing";
            if healths.iter().any(missed) { Ok(()) } else { Err(format!("{healths:?}")) }
        });
    }

    /// A figure of a process's `/metrics`, by its whole name.
    ///
    /// # Errors
    /// In words, if it does not answer.
    pub fn metric(&self, process: &str, name: &str) -> Result<f64, String> {
        http::metric(self.processes[process].admin, name)
    }
}

/// A disk that is slow. A thread whose sync strace is to look at waits for strace; and that is stopped most of the time.
pub struct SlowDisk {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowDisk {
    fn start(tracer: u32, turn: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                processes::send(tracer, Signal::STOP);
                let begun = now();
                while begun.elapsed() < turn && !told.load(Ordering::Relaxed) {
                    pause();
                }
                // Those that wait go on; the next ones do not.
                processes::send(tracer, Signal::CONT);
                pause();
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only sends signals.
            let _ = thread.join();
        }
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.log_dir());
        }
    }
}
