//! Signals, and the processes that belong to a directory.

use crate::clock::until;
use rustix::process::{Pid, kill_process};
use std::fs;
use std::path::Path;
use std::time::Duration;

pub use rustix::process::Signal;

/// Sends a signal; a process that is gone already is no error.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process with this pid runs. A zombie does not.
pub fn runs(pid: u32) -> bool {
    command_line(pid).is_some_and(|line| !line.is_empty())
}

/// Waits until a process does not run any more.
///
/// # Panics
/// If it still does after this time.
#[track_caller]
pub fn until_gone(pid: u32, within: Duration) {
    until("a process to end", within, || if runs(pid) { Err(format!("{pid} runs")) } else { Ok(()) });
}

/// The pids of all processes whose command line names a file or directory in `dir`.
///
/// A test's directory has a random name, so these are the test's own processes and nobody else's.
pub fn of_dir(dir: &Path) -> Vec<u32> {
    let prefix = format!("{}/", dir.display()).into_bytes();
    let names = |line: Vec<u8>| line.split(|byte| *byte == 0).any(|word| word.starts_with(&prefix));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && command_line(*pid).is_some_and(names))
        .collect()
}

/// Kills all processes of a directory and waits until they are gone.
///
/// # Panics
/// If one of them cannot be killed.
pub fn kill_all_of(dir: &Path) {
    let pids = of_dir(dir);
    pids.iter().for_each(|pid| send(*pid, Signal::KILL));
    pids.iter().for_each(|pid| until_gone(*pid, Duration::from_secs(20)));
}

fn command_line(pid: u32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}
