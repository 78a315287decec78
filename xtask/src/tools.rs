//! The client tools of the end-to-end tests. A missing one is installed or named, never passed over.

use crate::workspace;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that the tests call, and Debian's package of it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const TOOLS: [Tool; 10] = [
    Tool { program: "qemu-img", package: "qemu-utils" },
    Tool { program: "qemu-storage-daemon", package: "qemu-utils" },
    Tool { program: "nbdcopy", package: "libnbd-bin" },
    Tool { program: "nbdinfo", package: "libnbd-bin" },
    Tool { program: "fio", package: "fio" },
    Tool { program: "mkfs.ext4", package: "e2fsprogs" },
    Tool { program: "e2fsck", package: "e2fsprogs" },
    Tool { program: "strace", package: "strace" },
    Tool { program: "certtool", package: "gnutls-bin" },
    Tool { program: "psktool", package: "gnutls-bin" },
];

/// Checks that all tools are there; installs what is missing where that is possible.
pub(crate) fn run() -> Result<(), String> {
    components()?;
    let missing = missing();
    if missing.is_empty() {
        return check_fio();
    }
    let packages = packages(&missing);
    println!("missing: {}; installing {}", names(&missing), packages.join(" "));
    if let Err(reason) = install(&packages) {
        return Err(refusal(&missing, &reason));
    }
    let still = self::missing();
    if still.is_empty() { check_fio() } else { Err(refusal(&still, "the packages do not hold them")) }
}

/// The parts of the Rust toolchain that its minimal profile lacks.
fn components() -> Result<(), String> {
    for component in ["fmt", "clippy"] {
        let mut version = workspace::cargo(&[component, "--version"]);
        if version.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            continue;
        }
        let name = if component == "fmt" { "rustfmt" } else { component };
        workspace::run(Command::new("rustup").args(["component", "add", name])).map_err(|reason| {
            format!("cargo {component} is missing: `rustup component add {name}` installs it ({reason})")
        })?;
    }
    Ok(())
}

fn names(tools: &[&Tool]) -> String {
    tools.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ")
}

fn packages(tools: &[&Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

fn refusal(missing: &[&Tool], reason: &str) -> String {
    let packages = packages(missing).join(" ");
    format!(
        "the end-to-end tests need programs that are not here: {}\n  {reason}\n  on Debian or Ubuntu: \
         sudo apt-get install {packages}\n  elsewhere: the packages that hold these programs (qemu, libnbd, fio with its \
         nbd engine, e2fsprogs, strace, GnuTLS's tools)",
        names(missing)
    )
}

fn missing() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !is_there(tool.program)).collect()
}

/// Whether a program is on the path, or where only root looks: filesystem tools are often there.
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).map(|dir| dir.join(program));
    let root_dirs = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    dirs.chain(root_dirs).any(|path| path.is_file())
}

fn install(packages: &[&str]) -> Result<(), String> {
    if !is_there("apt-get") {
        return Err("apt-get is not on this machine, so they cannot be installed by this chore".to_owned());
    }
    if !is_root() {
        return Err("only root can install them".to_owned());
    }
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        workspace::run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Some builds of fio lack the NBD engine.
fn check_fio() -> Result<(), String> {
    let output = Command::new("fio").arg("--enghelp").stdin(Stdio::null()).output();
    let engines = output.map_err(|error| format!("fio: {error}"))?.stdout;
    if String::from_utf8_lossy(&engines).lines().any(|line| line.trim() == "nbd") {
        return Ok(());
    }
    Err("this fio has no nbd engine: install one that is built with libnbd (Debian's is)".to_owned())
}
