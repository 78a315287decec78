//! A guest with a kernel of its own, for what the machine's kernel may lack: the NBD client.
//!
//! Debian's kernel in QEMU, emulated, with an initramfs made here: busybox, the modules that are needed, the programs under
//! test and their libraries from this machine. It boots in some four seconds, reaches this machine's 127.0.0.1 as
//! [`HOST`], and runs one script. Script and test talk in lines over a serial port. `cargo xtask tools` fetches the kernel.

mod archive;
mod image;

use crate::clock::{now, pause};
use crate::command::program;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use tempfile::TempDir;

/// This machine, as the guest reaches it.
pub const HOST: &str = "10.0.2.2";
/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(60);

/// A running guest. Dropping it ends it.
pub struct Guest {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    transcript: Vec<String>,
    dir: TempDir,
}

impl Guest {
    /// Boots a guest that runs this script with `/bin/sh -e`, and waits until it does.
    ///
    /// # Panics
    /// If it cannot be booted; says what is missing.
    #[track_caller]
    pub fn boot(script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("quoin-guest-").tempdir().expect("a temporary directory");
        let initramfs = dir.path().join("initramfs");
        let kernel = image::build(&image::packages(), script, &initramfs);
        let mut command = qemu(&kernel, &initramfs, &dir.path().join("console.log"));
        let errors = File::create(dir.path().join("qemu.log")).expect("a log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}; `cargo xtask tools` installs it"));
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let texts = stdout.split(b'\n').map_while(Result::ok);
            let mut texts = texts.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
            // Without a receiver the test is over.
            texts.try_for_each(|line| sender.send(line))
        });
        let mut guest = Self { child, stdin, lines, transcript: Vec::new(), dir };
        guest.line("GUEST begins", BOOT);
        guest
    }

    /// Waits for the next line that begins so, and gives the rest of it.
    ///
    /// # Panics
    /// If it does not come in time, or the script ends before.
    #[track_caller]
    pub fn line(&mut self, beginning: &str, within: Duration) -> String {
        let deadline = now() + within;
        loop {
            let left = deadline.saturating_duration_since(now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.transcript.push(line);
                    let line = self.transcript.last().expect("just pushed");
                    if let Some(rest) = line.strip_prefix(beginning) {
                        return rest.trim().to_owned();
                    }
                    if line.starts_with("GUEST ends") {
                        panic!("the guest's script ended before it said `{beginning}`: {line}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no `{beginning}` from the guest within {within:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the guest ended before it said `{beginning}`"),
            }
        }
    }

    /// As [`Guest::line`], with the rest as JSON.
    #[track_caller]
    pub fn json(&mut self, beginning: &str, within: Duration) -> serde_json::Value {
        let text = self.line(beginning, within);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{beginning}: {error}: {text}"))
    }

    /// Says a line to the script.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).expect("the guest listens");
    }

    /// Waits until the script has ended well and the guest is off.
    ///
    /// # Panics
    /// If either does not happen.
    #[track_caller]
    pub fn finish(mut self, within: Duration) {
        let status = self.line("GUEST ends", within);
        assert_eq!(status, "0", "the guest's script failed");
        let deadline = now() + within;
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            assert!(now() < deadline, "the guest is not off within {within:?}");
            pause();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended already, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.transcript.extend(self.lines.try_iter());
            eprintln!("---- the guest said:\n{}", self.transcript.join("\n"));
            for log in ["console.log", "qemu.log"] {
                let bytes = fs::read(self.dir.path().join(log)).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let lines: Vec<_> = text.lines().collect();
                eprintln!(
                    "---- the end of its {log}:\n{}",
                    lines[lines.len().saturating_sub(40)..].join("\n")
                );
            }
        }
    }
}

fn qemu(kernel: &Path, initramfs: &Path, console: &Path) -> Command {
    let mut command = program("qemu-system-x86_64", &[]);
    // Two of QEMU's emulations are flaky in some versions and of no use here: la57, cx16.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off"]);
    command.args(["-M", "q35", "-smp", "4", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    command.args(["-append", "console=ttyS0 loglevel=6 panic=-1 nokaslr mitigations=off net.ifnames=0 audit=0 nowatchdog no_timer_check"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    command.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]);
    command.args(["-device", "virtio-rng-pci"]);
    command
}
