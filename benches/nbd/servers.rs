//! What fio is pointed at: our volumes, the two servers that export a file, and a raw file.

use crate::usage::Usage;
use crate::workload::{Mode, Workload};
use crate::{PATIENCE, SIZE};
use quoin_e2e::{Background, Dev, program, until};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Where fio finds it.
#[derive(Debug)]
pub(crate) enum Target {
    Nbd(String),
    /// A file on this machine, written with `O_DSYNC`.
    Raw(PathBuf),
}

/// Something to be measured.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    /// Whose CPU time counts.
    pub(crate) pids: Vec<u32>,
    /// Where its data lies.
    files: Vec<PathBuf>,
    /// Ends with this.
    _process: Option<Background>,
}

impl Server {
    /// A volume of the cluster.
    pub(crate) fn quoin(dev: &Dev, mode: Mode) -> Self {
        let target = Target::Nbd(dev.uri_of(mode.volume()));
        let files = (1..=3).map(|n| dev.dir().join(format!("data/storage-node-{n}/data"))).collect();
        Self { name: "quoin ×3", target, pids: Usage::pids(&dev.dir()), files, _process: None }
    }

    fn file(
        name: &'static str,
        dir: &Path,
        serve: impl FnOnce(&Path, u16) -> (&'static str, Vec<String>),
    ) -> Self {
        let file = image(dir, name);
        let port = free_port();
        let (server, arguments) = serve(&file, port);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = Background::start(&mut program(server, &arguments));
        until("a server to listen", PATIENCE, || match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => Ok(()),
            Err(error) if process.is_running() => Err(error.to_string()),
            Err(error) => panic!("{name} has ended: {error}"),
        });
        let target = Target::Nbd(format!("nbd://127.0.0.1:{port}"));
        Self { name, target, pids: vec![process.pid()], files: vec![file], _process: Some(process) }
    }

    fn raw(dir: &Path) -> Self {
        let file = image(dir, "raw O_DSYNC");
        let target = Target::Raw(file.clone());
        Self { name: "raw O_DSYNC", target, pids: Vec::new(), files: vec![file], _process: None }
    }

    /// Reads all of it into the page cache: reads are measured from there. Without readahead, whose large pages would make
    /// later writes dear for all.
    pub(crate) fn warm(&self) {
        for path in &self.files {
            read_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Writes what it left in the page cache, so that neither the next one nor its own next turn meets it at the disk.
    pub(crate) fn write_back(&self) {
        for path in &self.files {
            let synced = File::open(path).and_then(|file| file.sync_data());
            synced.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

fn read_all(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// What ours is measured beside.
pub(crate) struct Against {
    nbdkit: Server,
    qemu_nbd: Server,
    raw: Server,
}

impl Against {
    /// Makes the files in a directory, and starts the servers.
    pub(crate) fn start(dir: &Path) -> Self {
        fs::create_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Self {
            nbdkit: Server::file("nbdkit", dir, |file, port| {
                let (port, file) = (port.to_string(), file.display().to_string());
                ("nbdkit", words(&["-f", "-i", "127.0.0.1", "-p", &port, "file", &file]))
            }),
            qemu_nbd: Server::file("qemu-nbd", dir, |file, port| {
                let (port, file) = (port.to_string(), file.display().to_string());
                let share = ["--persistent", "--shared=0", "--format=raw", "--cache=writeback"];
                ("qemu-nbd", words(&[&share[..], &["-b", "127.0.0.1", "-p", &port, &file]].concat()))
            }),
            raw: Server::raw(dir),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Server> {
        [&self.nbdkit, &self.qemu_nbd, &self.raw].into_iter()
    }

    /// What a line is measured beside: the first is what its ratio is taken to.
    pub(crate) fn beside(&self, mode: Mode, workload: &Workload) -> Vec<&Server> {
        match mode {
            Mode::Flush => vec![&self.nbdkit, &self.qemu_nbd],
            Mode::WriteThrough if workload.raw => vec![&self.raw],
            Mode::WriteThrough => vec![&self.nbdkit],
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(format!("{}.img", name.replace(' ', "-")));
    let file = File::create(&path).and_then(|file| file.set_len(bytes()));
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// [`SIZE`] in bytes.
pub(crate) fn bytes() -> u64 {
    let gib: u64 = SIZE.strip_suffix("GiB").and_then(|number| number.parse().ok()).expect("a size in GiB");
    gib << 30
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.expect("a free port").port()
}
