//! Unix sockets as files, and those by which the processes of a machine reach each other.

use crate::{SharedMemory, Side, Stream};
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// The permissions of a local socket: for processes of the same user, and root's.
const LOCAL_MODE: u32 = 0o600;

/// How long a process of this machine may take to accept a connection and greet.
const CONNECT_MAX: Duration = Duration::from_millis(250);

/// The file of a Unix socket. Dropping it removes it, if it is still the same one: drop it before the listener, for until that is
/// closed no other file can have its identity.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at a path, with these permissions from the first moment on. A socket that nobody listens at any more is replaced. To be
    /// called while no other thread makes files.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`]: somebody listens there. [`io::ErrorKind::AlreadyExists`]: something else is there.
    pub fn bind(path: &Path, mode: u32) -> io::Result<(Self, UnixListener)> {
        remove_stale(path)?;
        let (_dir, short) = short_socket_path(path)?;
        let former = rustix::process::umask(Mode::from_raw_mode(!mode & 0o777));
        let bound = UnixListener::bind(short);
        rustix::process::umask(former);
        let listener = bound?;
        Ok((Self { path: path.to_owned(), identity: identity(path)? }, listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Left behind it would be taken for stale at the next start, which is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Removes a socket that nobody listens at any more. Anything else is left, and is in the way.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Ok(_) => {}
    }
    let (_dir, short) = short_socket_path(path)?;
    match net::UnixStream::connect(short) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// A path to a socket that is short enough wherever it lies: `sun_path` has room for 107 bytes (unix(7)), so the way leads through an
/// open directory, which must be kept open as long as the path is used.
///
/// # Errors
/// The directory cannot be opened.
pub fn short_socket_path(path: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no path of a file"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
    let dir = File::options().read(true).custom_flags(flags).open(parent)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, short))
}

/// A directory in which storage nodes leave Unix sockets for the gateways and nodes of the same machine, each named by the
/// address at which the cluster reaches it.
#[derive(Clone, Debug)]
pub struct LocalSockets {
    dir: PathBuf,
}

impl LocalSockets {
    /// Those in this directory.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Listens for those on this machine who look for this address. The directory is made, for this user alone, if it is missing.
    ///
    /// # Errors
    /// As [`SocketFile::bind`].
    pub fn listen(&self, address: &str) -> io::Result<(SocketFile, UnixListener)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        SocketFile::bind(&self.path(address), LOCAL_MODE)
    }

    /// Connects to the process of this machine that has this address, and shares memory with it.
    ///
    /// # Errors
    /// None does, or it has no socket here, or not for this user. [`io::ErrorKind::TimedOut`]: it hangs, perhaps because it has moved to
    /// another machine, and is there for those who come through the network.
    pub(crate) async fn connect(&self, address: &str, memory: &Rc<SharedMemory>) -> io::Result<Stream> {
        let (_dir, short) = short_socket_path(&self.path(address))?;
        let connect = async {
            let mut stream = Stream::from(UnixStream::connect(short).await?);
            stream.share(memory, Side::Connected).await?;
            Ok(stream)
        };
        tokio::time::timeout(CONNECT_MAX, connect).await?
    }

    fn path(&self, address: &str) -> PathBuf {
        self.dir.join(format!("{address}.sock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_all;
    use bytes::BytesMut;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else_and_only_the_own_one_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nbd.sock");
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "it is stale");
        let (file, listener) = SocketFile::bind(&path, 0o620).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(SocketFile::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((file, listener));
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(SocketFile::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");

        // In the same test: what a process may do to files is the same for all its threads.
        let path = dir.path().join("other.sock");
        let former = SocketFile::bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _listener = SocketFile::bind(&path, 0o600).unwrap();
        drop(former);
        assert!(path.exists(), "it is the successor's");

        // A longer path than an address of a socket holds, in a directory that is not there yet.
        let sockets = LocalSockets::new(dir.path().join("long".repeat(40)).join("sockets"));
        let address = "node-1.quoin:7410";
        let memory = SharedMemory::new(Arc::default(), false, crate::Loans::default());
        assert!(sockets.connect(address, &memory).await.is_err());
        let (_file, listener) = sockets.listen(address).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sockets.dir), mode(&sockets.path(address))), (0o700, 0o600));
        let accept = async {
            let mut accepted = Stream::from(listener.accept().await.unwrap().0);
            accepted.share(&memory, Side::Accepted).await.unwrap();
            accepted
        };
        let (connected, accepted) = tokio::join!(sockets.connect(address, &memory), accept);
        write_all(&connected.unwrap(), b"here").await;
        let mut buffer = BytesMut::with_capacity(9);
        accepted.readable().await.unwrap();
        assert_eq!(accepted.try_read(&mut buffer).unwrap(), 4);
        assert!(sockets.connect("node-2.quoin:7410", &memory).await.is_err());
        // One that hangs: the kernel accepts for it.
        let hung = sockets.connect(address, &memory).await.unwrap_err();
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
    }
}
