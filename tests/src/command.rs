//! Other programs, with a time limit and all that they said.

use crate::clock::{now, pause};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The command, for messages.
    pub line: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ran {
    /// # Panics
    /// If the program did not exit with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// # Panics
    /// If the program did not exit with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        let Self { line, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{line}\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.line, self.stdout))
    }
}

/// A program that runs beside the test. It is killed if it is dropped before it has ended.
pub struct Background {
    child: Child,
    line: String,
    begun: Instant,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Background {
    /// Starts it, without standard input. Its output is collected.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self::start_with_stderr(command, Stdio::piped())
    }

    /// As [`Background::start`], with its standard error elsewhere.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn start_with_stderr(command: &mut Command, stderr: impl Into<Stdio>) -> Self {
        let line = format!("{command:?}");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap_or_else(
                |error| panic!("cannot start {line}: {error}; `cargo xtask test` installs what is needed"),
            );
        let (stdout, stderr) = (child.stdout.take().map(collect), child.stderr.take().map(collect));
        Self { child, line, begun: now(), stdout, stderr }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within this time; it is killed.
    #[track_caller]
    pub fn finish(mut self, within: Duration) -> Ran {
        let deadline = now() + within;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if now() < deadline => pause(),
                None => {
                    let _ = self.child.kill();
                    let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
                    panic!("{} did not end within {within:?}\nstdout: {stdout}\nstderr: {stderr}", self.line);
                }
            }
        };
        let took = self.begun.elapsed();
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        Ran { line: std::mem::take(&mut self.line), code: status.code(), stdout, stderr, took }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is all there is.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn text(stream: &mut Option<JoinHandle<String>>) -> String {
    stream.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// Runs a program to its end.
///
/// # Panics
/// If it does not end within this time.
#[track_caller]
pub fn run(command: &mut Command, within: Duration) -> Ran {
    Background::start(command).finish(within)
}

/// A program by its name, with its arguments. Those that only root has on its path are found, too.
pub fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).args(arguments);
    command
}

/// The `quoin` binary, without the `QUOIN_…` variables of whoever runs the tests.
pub fn quoin(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"QUOIN_") {
            command.env_remove(variable);
        }
    }
    command.args(arguments);
    command
}

/// The binary under test: `QUOIN_BINARY`, or the release build beside the test's own.
///
/// # Panics
/// If it has not been built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUOIN_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a program knows its own path");
    // <target>/<profile>/deps/e2e-…
    let target = own.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let path = target.map(|target| target.join("release/quoin")).filter(|path| path.exists());
    path.expect("no release build of quoin: run `cargo build --release -p quoin`, or `cargo xtask test`")
}
