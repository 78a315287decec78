//! The directory of a dev cluster: what lies where, who may use it, and how it is emptied.

use super::member::Member;
use crate::failure::Failure;
use quoin_gateway::ListenAddress;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What `--reset` removes, the state file last: while it is there, the directory is known to be a dev cluster's.
const RESET: [&str; 5] = ["data", "config", "log", "run/local", "cluster.json"];

/// Where the files of a dev cluster are. Paths are absolute, so that a process can be recognised by its command line.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The directory as it is; it must exist.
    pub(crate) fn existing(dir: &Path) -> Result<Self, Failure> {
        let dir = fs::canonicalize(dir).map_err(|error| {
            let failure = match error.kind() {
                io::ErrorKind::NotFound => {
                    Failure::unavailable(format!("there is no dev cluster in {}", dir.display()))
                }
                _ => Failure::io(format_args!("open {}", dir.display()), &error),
            };
            failure.hint("start one with `quoin dev`, or name its directory with --dir")
        })?;
        Ok(Self { dir })
    }

    /// The directory, made if need be. Refused if it holds something else than a dev cluster.
    pub(crate) fn prepare(dir: &Path) -> Result<Self, Failure> {
        make_dir(dir)?;
        let layout = Self::existing(dir)?;
        let is_ours = layout.state().exists() || layout.lock().exists();
        if !is_ours && !is_empty(&layout.dir)? {
            return Err(Failure::failed(format!("{} is not empty and holds no dev cluster", dir.display()))
                .hint("choose another directory with --dir; this one is left as it is"));
        }
        make_dir(&layout.dir.join("run"))?;
        Ok(layout)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("run/dev.lock")
    }

    /// The gateway's Unix socket; none if the directory's path is too long for one.
    pub(crate) fn nbd_socket(&self) -> Option<PathBuf> {
        let path = self.dir.join("run/nbd.sock");
        let address: Result<ListenAddress, _> = format!("unix://{}", path.display()).parse();
        // A list of options is cut at commas.
        (address.is_ok() && !path.as_os_str().as_encoded_bytes().contains(&b',')).then_some(path)
    }

    /// Where storage nodes leave sockets for the gateway and each other.
    pub(crate) fn local_sockets(&self) -> PathBuf {
        self.dir.join("run/local")
    }

    pub(crate) fn config(&self, member: Member) -> PathBuf {
        self.dir.join(format!("config/{member}.toml"))
    }

    pub(crate) fn pid(&self, member: Member) -> PathBuf {
        self.dir.join(format!("run/{member}.pid"))
    }

    pub(crate) fn log(&self, member: Member) -> PathBuf {
        self.dir.join(format!("log/{member}.log"))
    }

    pub(crate) fn data(&self, member: Member) -> PathBuf {
        self.dir.join(format!("data/{member}"))
    }

    /// Makes the directories for configuration, data and logs.
    pub(crate) fn make_dirs(&self) -> Result<(), Failure> {
        ["config", "data", "log"].iter().try_for_each(|name| make_dir(&self.dir.join(name)))
    }

    /// Takes the directory for this process alone, for as long as the file is held.
    pub(crate) fn take(&self) -> Result<File, Failure> {
        let path = self.lock();
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| Failure::io(format_args!("open {}", path.display()), &error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let dir = self.dir.display();
                Err(Failure::failed(format!("another `quoin dev` runs in {dir}"))
                    .hint("stop it with Ctrl-C, or choose another directory with --dir"))
            }
            Err(error) => Err(Failure::io(format_args!("lock {}", path.display()), &error.into())),
        }
    }

    /// Removes the cluster's data. The lock must be held, and stays: removing it would let a second supervisor in.
    pub(crate) fn reset(&self) -> Result<(), Failure> {
        for name in RESET {
            let path = self.dir.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::io(format_args!("remove {}", path.display()), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes a file whole or not at all: a reader never sees half of it.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<(), Failure> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::io(format_args!("write {}", path.display()), &error))
}

pub(crate) fn is_empty(dir: &Path) -> Result<bool, Failure> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::io(format_args!("read {}", dir.display()), &error)),
    }
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::io(format_args!("make {}", dir.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dev_directory_is_used_and_reset() {
        let parent = tempfile::tempdir().unwrap();
        let foreign = parent.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
        assert!(Layout::prepare(&foreign).is_err());
        assert!(foreign.join("thesis.txt").exists());

        let layout = Layout::prepare(&parent.path().join("a/b")).unwrap();
        let _lock = layout.take().unwrap();
        layout.make_dirs().unwrap();
        fs::write(layout.state(), "{}").unwrap();
        fs::write(layout.dir().join("notes.txt"), "mine").unwrap();
        let layout = Layout::prepare(&parent.path().join("a/b")).unwrap();
        layout.reset().unwrap();
        assert!(!layout.state().exists() && !layout.data_dir().exists());
        assert!(layout.dir().join("notes.txt").exists() && layout.lock().exists());
        layout.reset().unwrap();
    }

    #[test]
    fn one_supervisor_to_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(directory.path()).unwrap();
        let lock = layout.take().unwrap();
        let refusal = layout.take().unwrap_err();
        assert!(refusal.message.contains("another `quoin dev`"), "{}", refusal.message);
        drop(lock);
        layout.take().unwrap();
    }
}
