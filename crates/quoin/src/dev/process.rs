//! One child process: started, signalled, waited for.

use super::layout::Layout;
use super::member::Member;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A log that has grown beyond this is put aside at the next start of its process.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// How much of a log a message quotes.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 16 << 10;

/// A child that runs, or has just ended. Signals go through the task that waits for it, so they can never reach another
/// process that was given the same pid.
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// How long its log was when it was started.
    pub(crate) log_start: u64,
    signals: mpsc::UnboundedSender<Signal>,
    gone: CancellationToken,
}

impl Process {
    /// Starts this very executable in the member's role, and hands it these listening sockets. `on_exit` is called once, when it
    /// has ended.
    ///
    /// The child gets a process group of its own, so that Ctrl-C reaches the supervisor alone, and none of the `QUOIN_…`
    /// variables, which would be stronger than its configuration file.
    pub(crate) fn spawn(
        layout: &Layout,
        member: Member,
        sockets: &[OwnedFd],
        on_exit: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<Self> {
        let log = open_log(&layout.log(member))?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(member.role.name()).arg("--config").arg(layout.config(member));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"QUOIN_") {
                command.env_remove(variable);
            }
        }
        if !sockets.is_empty() {
            quoin_disk::inherited::pass_listening_sockets(command.as_std_mut(), sockets)?;
        }
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the child has no pid"))?;
        let (signals, received) = mpsc::unbounded_channel();
        let gone = CancellationToken::new();
        let ended = gone.clone();
        tokio::spawn(async move {
            let status = wait(child, received).await;
            on_exit(status);
            ended.cancel();
        });
        Ok(Self { pid, log_start, signals, gone })
    }

    /// Sends a signal, if the process still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        // A closed channel means that it has ended: just what a signal would be for.
        let _ = self.signals.send(signal);
    }

    /// Cancelled when the process has ended.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }
}

async fn wait(mut child: Child, mut signals: mpsc::UnboundedReceiver<Signal>) -> ExitStatus {
    loop {
        tokio::select! {
            status = child.wait() => return status.unwrap_or_else(|_| ExitStatus::from_raw(0)),
            Some(signal) = signals.recv() => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                if let Some(pid) = pid {
                    // ESRCH cannot be: a child that was not waited for keeps its pid.
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(9)) => "was killed (signal 9)".to_owned(),
        (None, Some(signal)) => format!("died of signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options().create(true).append(true).open(path)
}

/// The last lines that were logged after the first `start` bytes, indented, for a message.
pub(crate) fn log_tail(path: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(start)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    let indented: Vec<String> = last.iter().map(|line| format!("    {line}")).collect();
    format!("the end of {}:\n{}", path.display(), indented.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, text).unwrap();
        let tail = log_tail(&path, 0);
        assert_eq!(tail.lines().count(), 1 + TAIL_LINES);
        assert!(tail.ends_with("    line 4999"), "{tail}");
        let last_run = fs::metadata(&path).unwrap().len() - 10;
        assert!(log_tail(&path, last_run).ends_with(":\n    line 4999"));
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "was killed (signal 9)");
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exited with code 1");
    }
}
