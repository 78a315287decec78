//! A dev cluster under test: `quoin dev` in a directory of its own.

use crate::command::{Background, Ran, quoin, run};
use crate::nbd::{Nbd, NbdError};
use crate::processes::{self, Signal};
use crate::{Turn, http, until};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long a start may take.
pub const START: Duration = Duration::from_secs(60);
/// How long anything may take that is not measured.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running (or just killed) dev cluster. Dropping it kills all its processes and removes its directory.
pub struct Dev {
    parent: TempDir,
    supervisor: Option<Background>,
    starts: u32,
    _turn: Turn,
}

impl Dev {
    /// Starts a cluster with three managers, three storage nodes and a gateway, and waits until it is ready.
    #[track_caller]
    pub fn start(options: &[&str]) -> Self {
        let turn = Turn::take();
        let parent = tempfile::Builder::new().prefix("quoin-e2e-").tempdir().expect("a temporary directory");
        let mut dev = Self { parent, supervisor: None, starts: 0, _turn: turn };
        dev.start_again(options);
        dev
    }

    /// Starts `quoin dev` in the same directory, where none runs, and waits until it is ready.
    #[track_caller]
    pub fn start_again(&mut self, options: &[&str]) {
        assert!(self.supervisor.is_none(), "it runs");
        self.starts += 1;
        let dir = self.dir().display().to_string();
        let mut arguments = vec!["dev", "--dir", &dir, "--nbd", "127.0.0.1:0"];
        arguments.extend(options);
        let output = self.output_file();
        // A shell's redirection, so that a supervisor that is killed leaves no reader behind.
        let mut command = program_with_output(&arguments, &output);
        let mut supervisor = Background::start(&mut command);
        until("the cluster to get ready", START, || match fs::read_to_string(&output) {
            _ if !supervisor.is_running() => Ok(()),
            Ok(text) if text.lines().any(|line| line.starts_with("ready nbd://")) => Ok(()),
            Ok(text) => Err(text),
            Err(error) => Err(error.to_string()),
        });
        assert!(supervisor.is_running(), "quoin dev ended: {}", self.output());
        self.supervisor = Some(supervisor);
    }

    /// The cluster's directory.
    pub fn dir(&self) -> PathBuf {
        // As `quoin dev` writes it into its processes' command lines.
        fs::canonicalize(self.parent.path()).expect("the directory exists").join("dev")
    }

    /// A file or directory beside the cluster's, removed with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.parent.path().join(name)
    }

    fn output_file(&self) -> PathBuf {
        self.beside(&format!("output-{}.txt", self.starts))
    }

    /// What `quoin dev` has printed since its last start.
    pub fn output(&self) -> String {
        fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    fn state(&self) -> Value {
        let text = fs::read_to_string(self.dir().join("cluster.json")).expect("cluster.json");
        serde_json::from_str(&text).expect("cluster.json is JSON")
    }

    /// The URI of the line `ready …`.
    #[track_caller]
    pub fn uri(&self) -> String {
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("ready "));
        line.expect("the cluster is ready").to_owned()
    }

    /// The URI of another volume.
    pub fn uri_of(&self, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.nbd_address())
    }

    /// Where NBD is served.
    #[track_caller]
    pub fn nbd_address(&self) -> SocketAddr {
        let uri = self.uri();
        let address = uri.strip_prefix("nbd://").and_then(|rest| rest.split('/').next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {uri}"))
    }

    /// A connection of our own to `vol1`.
    #[track_caller]
    pub fn nbd(&self) -> Nbd {
        self.try_nbd("vol1").unwrap_or_else(|error| panic!("vol1: {error}"))
    }

    /// Tries to open a volume.
    ///
    /// # Errors
    /// As [`Nbd::open`].
    pub fn try_nbd(&self, volume: &str) -> Result<Nbd, NbdError> {
        Nbd::open(self.nbd_address(), volume)
    }

    /// The cluster managers, as `--manager` takes them.
    pub fn managers(&self) -> String {
        let state = self.state();
        let addresses = state["managers"].as_array().expect("managers");
        addresses.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    }

    /// Runs `quoin …` against this cluster.
    #[track_caller]
    pub fn quoin(&self, arguments: &[&str]) -> Ran {
        let managers = self.managers();
        run(quoin(arguments).args(["--manager", &managers]), PATIENCE)
    }

    /// Runs `quoin … --output json` and gives what it says.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.quoin(&[arguments, &["--output", "json"]].concat()).ok().json()
    }

    /// `quoin status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// Runs `quoin dev start|stop|kill <process>`.
    #[track_caller]
    pub fn control(&self, action: &str, process: &str) -> Ran {
        let dir = self.dir().display().to_string();
        run(&mut quoin(&["dev", action, process, "--dir", &dir]), PATIENCE)
    }

    /// The pid of `<role>-<n>`, while it runs.
    pub fn pid(&self, process: &str) -> Option<u32> {
        let text = fs::read_to_string(self.dir().join(format!("run/{process}.pid"))).ok()?;
        text.trim().parse().ok()
    }

    /// Kills a process as a crash would: SIGKILL, by its pid, past the supervisor.
    #[track_caller]
    pub fn kill(&self, process: &str) {
        self.signal(process, Signal::KILL);
    }

    /// Kills a storage node and waits until the status says that its copies are missing: only then does a later
    /// "in sync" mean that it has come back.
    #[track_caller]
    pub fn kill_node(&self, n: u32) {
        self.kill(&format!("storage-node-{n}"));
        until("the loss of a node to be noticed", PATIENCE, || {
            let status = self.status();
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let node =
                nodes.iter().find(|node| node["name"] == format!("node-{n}")).cloned().unwrap_or_default();
            let healths = healths(&status);
            let missing = |(_, id, health): &(String, u64, String)| node["id"] == *id && health == "missing";
            if healths.iter().any(missing) { Ok(()) } else { Err(format!("{healths:?}")) }
        });
    }

    /// Sends a signal to a process of the cluster.
    #[track_caller]
    pub fn signal(&self, process: &str, signal: Signal) {
        let pid = self.pid(process).unwrap_or_else(|| panic!("{process} does not run"));
        processes::send(pid, signal);
    }

    /// The admin address of `<role>-<n>`.
    #[track_caller]
    pub fn admin(&self, process: &str) -> SocketAddr {
        let state = self.state();
        let name = |member: &Value| format!("{}-{}", member["role"].as_str().unwrap_or(""), member["n"]);
        let member =
            state["members"].as_array().expect("members").iter().find(|member| name(member) == process);
        let member = member.unwrap_or_else(|| panic!("no process {process}"));
        member["admin"].as_str().and_then(|admin| admin.parse().ok()).expect("an admin address")
    }

    /// A figure of a storage node, without its prefix.
    ///
    /// # Errors
    /// In words, if it does not answer.
    pub fn node_metric(&self, n: u32, name: &str) -> Result<f64, String> {
        http::metric(self.admin(&format!("storage-node-{n}")), &format!("quoin_storage_node_{name}"))
    }

    /// Waits until `quoin status` has nothing to complain of and every copy of every volume is in sync, as far as
    /// a gateway knows.
    #[track_caller]
    pub fn until_healthy(&self, within: Duration) {
        until("everything to be well", within, || {
            let status = self.status();
            let healths = healths(&status);
            let well = healths.iter().all(|(_, _, health)| health == "in_sync" || health == "unknown");
            let known = healths.iter().any(|(_, _, health)| health == "in_sync");
            let ok = status["healthy"] == true && well && known;
            if ok { Ok(()) } else { Err(format!("{} {healths:?}", status["problems"])) }
        });
    }

    /// SIGKILL for every process of the cluster at once, the supervisor first.
    pub fn kill_everything(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            processes::send(supervisor.pid(), Signal::KILL);
            processes::kill_all_of(&self.dir());
            drop(supervisor);
        }
        processes::kill_all_of(&self.dir());
    }

    /// Kills the supervisor alone.
    pub fn kill_supervisor(&mut self) {
        drop(self.supervisor.take());
    }

    /// Ctrl-C: waits until `quoin dev` has ended.
    #[track_caller]
    pub fn interrupt(&mut self) -> Ran {
        let supervisor = self.supervisor.take().expect("it runs");
        processes::send(supervisor.pid(), Signal::INT);
        supervisor.finish(PATIENCE)
    }
}

/// Volume, node and health of every replica in a `quoin status`.
pub fn healths(status: &Value) -> Vec<(String, u64, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for volume in list(&status["volumes"]) {
        for replica in list(&volume["segments"]).iter().flat_map(|segment| list(&segment["replicas"])) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            found.push((
                text(&volume["name"]),
                replica["node"].as_u64().unwrap_or(0),
                text(&replica["health"]),
            ));
        }
    }
    found
}

/// `quoin` with its output in a file. `exec` keeps the pid.
fn program_with_output(arguments: &[&str], output: &Path) -> std::process::Command {
    let command = quoin(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "out=$1; shift; exec \"$@\" >\"$out\" 2>&1", "sh"]).arg(output);
    shell.arg(command.get_program()).args(arguments);
    for (variable, _) in command.get_envs().filter(|(_, value)| value.is_none()) {
        shell.env_remove(variable);
    }
    shell
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- quoin dev said:\n{}", self.output());
            show_logs(&self.dir().join("log"));
        }
        self.kill_everything();
        if std::thread::panicking() && std::env::var_os("E2E_KEEP").is_some() {
            self.parent.disable_cleanup(true);
            eprintln!("---- kept: {}", self.parent.path().display());
        }
    }
}

/// Shows the end of every log in a directory.
pub fn show_logs(dir: &Path) {
    const LINES: usize = 25;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text =
            fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        eprintln!("---- the end of {}:\n{}", path.display(), tail.join("\n"));
    }
}
