//! The kernel of the guest in which the end-to-end tests attach volumes: Debian's packages, fetched with apt from where
//! this machine has its own, and only unpacked, never installed.

use crate::{tools, workspace};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The newest kernel for virtual machines depends on one of a certain version.
const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";

/// Fetches what is not there yet.
pub(crate) fn fetch() -> Result<(), String> {
    let dir = workspace::target().join("quoin-guest");
    if has(&dir, "linux-image-") && has(&dir, "busybox-static_") {
        return Ok(());
    }
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    println!("fetching the guest's kernel into {}", dir.display());
    let fetched = kernel().and_then(|kernel| {
        let mut download = Command::new("apt-get");
        workspace::run(download.args(["download", "-qq", &kernel, BUSYBOX]).current_dir(&dir))
    });
    fetched.map_err(|reason| {
        format!(
            "the end-to-end tests need a kernel with an NBD client for their guest: {reason}\n  on Debian: `apt-get update` as \
             root, then again\n  elsewhere: put Debian's packages linux-image-*-cloud-amd64 and {BUSYBOX} for amd64 into {}",
            dir.display()
        )
    })
}

/// Whether a file is there whose name begins so.
fn has(dir: &Path, beginning: &str) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
}

/// The package of the kernel itself. As root, apt's lists are brought up to date if they do not know it.
fn kernel() -> Result<String, String> {
    if let Some(package) = look_up()? {
        return Ok(package);
    }
    if tools::is_root() {
        workspace::run(Command::new("apt-get").args(["update", "-qq"]))?;
    }
    look_up()?.ok_or_else(|| format!("apt knows no package {KERNEL}"))
}

fn look_up() -> Result<Option<String>, String> {
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", KERNEL]).stderr(Stdio::null());
    let output = depends.output().map_err(|error| format!("apt-cache cannot be started: {error}"))?;
    Ok(dependency(&String::from_utf8_lossy(&output.stdout)))
}

/// The first package that it depends on, of `apt-cache depends`.
fn dependency(text: &str) -> Option<String> {
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::to_owned).find(|name| name.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_its_package_depends_on() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n  Suggests: x\n";
        assert_eq!(dependency(text).as_deref(), Some("linux-image-6.1.0-1-cloud-amd64"));
        assert_eq!(dependency("N: Unable to locate package\n"), None);
    }
}
