//! Processes that a former supervisor of the same directory left behind when it was killed.
//!
//! They are found by their command line, which names a configuration file in the directory: a pid alone proves nothing.

use super::layout::Layout;
use super::member::{Member, Role};
use super::say::Say;
use crate::failure::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long one may take to stop by itself, and then to be gone after it was killed.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Stops what a former supervisor left, and removes the files that spoke of it. The lock must be held.
pub(crate) async fn stop(layout: &Layout, say: &Say) -> Result<(), Failure> {
    let found = find(layout);
    for role in Role::ALL {
        let of_role: Vec<_> = found.iter().copied().filter(|(member, _)| member.role == role).collect();
        stop_all(layout, &of_role, say).await?;
    }
    for entry in fs::read_dir(layout.run_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        if matches!(path.extension().and_then(OsStr::to_str), Some("pid" | "sock")) {
            fs::remove_file(&path)
                .map_err(|error| Failure::io(format_args!("remove {}", path.display()), &error))?;
        }
    }
    Ok(())
}

async fn stop_all(layout: &Layout, processes: &[(Member, Pid)], say: &Say) -> Result<(), Failure> {
    for (member, pid) in processes {
        say.progress(&format!("stopping {member}, left by an earlier run (pid {pid})"));
        // Gone in between: fine.
        let _ = kill_process(*pid, Signal::TERM);
    }
    for (member, pid) in processes {
        if ends(layout, *member, *pid).await {
            continue;
        }
        say.progress(&format!("{member} does not stop: killing it"));
        let _ = kill_process(*pid, Signal::KILL);
        if !ends(layout, *member, *pid).await {
            let message = format!("{member}, left by an earlier run, cannot be stopped (pid {pid})");
            return Err(Failure::failed(message).hint("end it by hand, or choose another --dir"));
        }
    }
    Ok(())
}

async fn ends(layout: &Layout, member: Member, pid: Pid) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while is_member(layout, pid) == Some(member) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    true
}

/// Every process of this directory's cluster that runs now.
fn find(layout: &Layout) -> Vec<(Member, Pid)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter_map(|pid| is_member(layout, pid).map(|member| (member, pid))).collect()
}

/// Which member of this directory's cluster a process is. A zombie has no command line, and is none.
fn is_member(layout: &Layout, pid: Pid) -> Option<Member> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    member_of(layout, &cmdline)
}

/// The member that a command line starts: `EXE <role> --config <dir>/config/<member>.toml`.
fn member_of(layout: &Layout, cmdline: &[u8]) -> Option<Member> {
    let mut words = cmdline.split(|byte| *byte == 0).skip(1);
    let role: Role = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    words.find_map(|word| {
        let path = Path::new(OsStr::from_bytes(word));
        let member: Member = path.file_stem()?.to_str()?.parse().ok()?;
        (member.role == role && path == layout.config(member)).then_some(member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_processes_are_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(directory.path()).unwrap();
        let member = Member::new(Role::StorageNode, 2);
        let config = layout.config(member).display().to_string();
        let line = |words: &[&str]| words.join("\0").into_bytes();
        let ours = line(&["/old/quoin", "storage-node", "--config", &config]);
        assert_eq!(member_of(&layout, &ours), Some(member));
        for other in [
            line(&["/usr/bin/vi", &config]),
            line(&["/old/quoin", "gateway", "--config", &config]),
            line(&["/old/quoin", "storage-node", "--config", "/elsewhere/config/storage-node-2.toml"]),
            line(&["quoin", "storage-node"]),
            Vec::new(),
        ] {
            assert_eq!(member_of(&layout, &other), None);
        }
    }
}
