//! The sockets at which the gateway listens. The supervisor keeps them, as systemd would, so that they outlive a gateway.

use crate::failure::Failure;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Opens them. A socket that a former supervisor has left in the directory is removed: the directory is locked by this one.
pub(crate) fn open(tcp: SocketAddr, unix: Option<&Path>) -> Result<Vec<OwnedFd>, Failure> {
    let listener =
        TcpListener::bind(tcp).map_err(|error| Failure::io(format_args!("serve NBD at {tcp}"), &error))?;
    let mut doors = vec![OwnedFd::from(listener)];
    if let Some(path) = unix {
        let bound = remove(path).and_then(|()| UnixListener::bind(path));
        let listener =
            bound.map_err(|error| Failure::io(format_args!("serve NBD at {}", path.display()), &error))?;
        doors.push(listener.into());
    }
    Ok(doors)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_former_supervisor_left_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let address = "127.0.0.1:0".parse().unwrap();
        drop(open(address, Some(&path)).unwrap());
        assert!(path.exists());
        assert_eq!(open(address, Some(&path)).unwrap().len(), 2);
        assert_eq!(open(address, None).unwrap().len(), 1);
    }
}
