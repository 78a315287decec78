//! The client tools of the end-to-end tests. A missing one is installed or named, never passed over.

use crate::{guest, workspace};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that the tests call, and Debian's package of it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const TOOLS: [Tool; 14] = [
    Tool { program: "qemu-img", package: "qemu-utils" },
    Tool { program: "qemu-storage-daemon", package: "qemu-utils" },
    Tool { program: "nbdcopy", package: "libnbd-bin" },
    Tool { program: "nbdinfo", package: "libnbd-bin" },
    Tool { program: "fio", package: "fio" },
    Tool { program: "mkfs.ext4", package: "e2fsprogs" },
    Tool { program: "e2fsck", package: "e2fsprogs" },
    Tool { program: "strace", package: "strace" },
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Tool { program: "blkid", package: "util-linux" },
    Tool { program: "mount", package: "mount" },
    Tool { program: "xz", package: "xz-utils" },
    Tool { program: "certtool", package: "gnutls-bin" },
    Tool { program: "psktool", package: "gnutls-bin" },
];

/// What the benchmarks measure beside.
const BENCH_TOOLS: [Tool; 3] = [
    Tool { program: "fio", package: "fio" },
    Tool { program: "nbdkit", package: "nbdkit" },
    Tool { program: "qemu-nbd", package: "qemu-utils" },
];

/// Checks that all tools of the tests are there; installs what is missing where that is possible.
pub(crate) fn run() -> Result<(), String> {
    components()?;
    provide(&TOOLS, "the end-to-end tests need")?;
    guest::fetch()
}

/// As [`run`], for what `cargo xtask bench nbd` runs.
pub(crate) fn run_for_bench() -> Result<(), String> {
    provide(&BENCH_TOOLS, "the benchmark needs")
}

fn provide(tools: &'static [Tool], who: &str) -> Result<(), String> {
    let missing = missing(tools);
    if missing.is_empty() {
        return check_fio();
    }
    let packages = packages(&missing);
    println!("missing: {}; installing {}", names(&missing), packages.join(" "));
    if let Err(reason) = install(&packages) {
        return Err(refusal(who, &missing, &reason));
    }
    let still = self::missing(tools);
    if still.is_empty() { check_fio() } else { Err(refusal(who, &still, "the packages do not hold them")) }
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

fn refusal(who: &str, missing: &[&Tool], reason: &str) -> String {
    let packages = packages(missing).join(" ");
    format!(
        "{who} programs that are not here: {}\n  {reason}\n  on Debian or Ubuntu: sudo apt-get install {packages}\n  \
         elsewhere: the packages that hold these programs (qemu, libnbd, nbdkit, fio with its nbd engine, e2fsprogs, \
         strace, util-linux, xz, GnuTLS's tools)",
        names(missing)
    )
}

fn missing(tools: &'static [Tool]) -> Vec<&'static Tool> {
    tools.iter().filter(|tool| !is_there(tool.program)).collect()
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
    let install = ["install", "-y", "-qq", "--no-install-recommends", "--no-remove"];
    apt_get(&[&install[..], packages].concat()).or_else(|reason| {
        // Parts of QEMU are of one version: where those that are here came from backports, so must the others.
        let backports = format!("{}-backports", codename().ok_or(reason)?);
        apt_get(&[&install[..], &["-t", &backports], packages].concat())
    })
}

/// The name of the system's release, as its own configuration has it.
fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"').to_owned())
}

pub(crate) fn is_root() -> bool {
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
