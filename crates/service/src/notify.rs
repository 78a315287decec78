//! Telling the service manager that a process is ready (sd_notify(3)), where there is one that wants to know.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the process is ready. Without a service manager, or one that cannot be told, nothing happens: it has time-outs
/// of its own.
pub fn ready() {
    if let Some(socket) = env::var_os("NOTIFY_SOCKET")
        && let Err(error) = tell(socket.as_bytes())
    {
        tracing::warn!(%error, "the service manager cannot be told that this process is ready");
    }
}

fn tell(socket: &[u8]) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        tell(path.as_os_str().as_bytes()).unwrap();
        let mut word = [0; 16];
        let length = manager.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"READY=1");
        assert!(tell(b"/nonexistent/notify").is_err());
    }
}
