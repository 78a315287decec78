//! The guest's kernel and its first and only filesystem.

use super::archive::Archive;
use crate::command::{binary, program, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The modules that a test needs, with all that they depend on: the network card, the NBD client.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "virtio-rng", "nbd"];
/// Programs of this machine that go into the guest. What else it needs, busybox has.
const PROGRAMS: [&str; 8] = ["mkfs.ext4", "e2fsck", "blkid", "mount", "umount", "fstrim", "dd", "setpriv"];
/// Anything that is called here ends sooner.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first program: makes the system usable and runs the script.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /mnt /usr/sbin /usr/bin /sbin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
while read -r module; do [ $module = nbd ] || insmod /modules/$module.ko; done </modules/order
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo
echo "GUEST begins"
sh -e /script
echo "GUEST ends $?"
sync
poweroff -f
"#;

/// Where `cargo xtask tools` puts Debian's packages.
///
/// # Panics
/// If they are not there.
pub(super) fn packages() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    let target = own.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists());
    let dir = target.map(|target| target.join("quoin-guest")).unwrap_or_default();
    assert!(
        find(&dir, "linux-image-").is_some() && find(&dir, "busybox-static_").is_some(),
        "no kernel for the guest in {}: `cargo xtask tools` fetches it",
        dir.display()
    );
    dir
}

/// Unpacks what is needed of the packages and writes the filesystem; gives the kernel.
///
/// # Panics
/// If something is missing.
pub(super) fn build(packages: &Path, script: &str, initramfs: &Path) -> PathBuf {
    let unpacked = initramfs.with_extension("unpacked");
    for name in ["linux-image-", "busybox-static_"] {
        let package = find(packages, name).expect("it was there a moment ago");
        let (package, into) = (package.display().to_string(), unpacked.display().to_string());
        run(&mut program("dpkg-deb", &["-x", &package, &into]), PATIENCE).ok();
    }
    let out = BufWriter::new(File::create(initramfs).expect("an image"));
    let mut archive = Archive::new(out);
    let written = (|| {
        archive.file("bin/busybox", &read(&unpacked.join("bin/busybox")))?;
        archive.file("init", INIT.as_bytes())?;
        archive.file("script", script.as_bytes())?;
        let mut order = Vec::new();
        MODULES.iter().for_each(|module| modules(&unpacked.join("lib/modules"), module, &mut order));
        for (name, content) in &order {
            archive.file(&format!("modules/{name}.ko"), content)?;
        }
        let names: Vec<_> = order.iter().map(|(name, _)| format!("{name}\n")).collect();
        archive.file("modules/order", names.concat().as_bytes())?;
        let mut libraries = BTreeSet::new();
        for name in PROGRAMS {
            let path = which(name);
            let real = path.canonicalize().expect("a program that was found");
            archive.file(&format!("usr/sbin/{name}"), &read(&real))?;
            libraries.extend(libraries_of(&real));
        }
        archive.file("usr/bin/quoin", &read(&binary()))?;
        libraries.extend(libraries_of(&binary()));
        for library in libraries {
            archive.file(library.trim_start_matches('/'), &read(Path::new(&library)))?;
        }
        archive.link("etc/mtab", "/proc/self/mounts")?;
        archive.finish()
    })();
    written.unwrap_or_else(|error: std::io::Error| panic!("{}: {error}", initramfs.display()));
    find(&unpacked.join("boot"), "vmlinuz-").expect("a kernel in its package")
}

/// The entry of a directory whose name begins so.
fn find(dir: &Path, beginning: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(beginning))
    })
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A module after those that it depends on, each once. One that is built into the kernel has no file.
fn modules(root: &Path, name: &str, order: &mut Vec<(String, Vec<u8>)>) {
    let Some(path) = module(root, name) else { return };
    let content = if path.extension().is_some_and(|end| end == "xz") {
        let path = path.display().to_string();
        let plain = root.with_file_name("module.ko");
        let shell = format!("xz -dc '{path}' >'{}'", plain.display());
        run(&mut program("sh", &["-c", &shell]), PATIENCE).ok();
        read(&plain)
    } else {
        read(&path)
    };
    let depends = information(&content, "depends=");
    depends.split(',').filter(|name| !name.is_empty()).for_each(|name| modules(root, name, order));
    if order.iter().all(|(there, _)| there != name) {
        order.push((name.to_owned(), content));
    }
}

/// The file of a module. In names `-` and `_` are the same.
fn module(dir: &Path, name: &str) -> Option<PathBuf> {
    let wanted = name.replace('-', "_");
    fs::read_dir(dir).into_iter().flatten().flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return module(&path, name);
        }
        let file = path.file_name()?.to_str()?.replace('-', "_");
        let is_it = [".ko", ".ko.xz"].iter().any(|end| file.strip_suffix(end) == Some(&wanted));
        is_it.then_some(path)
    })
}

/// A value of a module's `.modinfo`: NUL-terminated `key=value`.
fn information(module: &[u8], key: &str) -> String {
    let entry = module.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(key.as_bytes()));
    String::from_utf8_lossy(entry.unwrap_or_default()).into_owned()
}

fn which(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("the program {name} is not here: `cargo xtask tools` installs it"))
}

/// The shared libraries of a program, the loader among them, as `ldd` says.
fn libraries_of(program_path: &Path) -> Vec<String> {
    let said = run(&mut program("ldd", &[&program_path.display().to_string()]), PATIENCE).ok().stdout;
    said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}
