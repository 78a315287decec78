//! Listening sockets that outlive a process: handed over by whoever starts it, and keeps them.
//!
//! The protocol is systemd's (`sd_listen_fds(3)`): descriptors from 3 on, `LISTEN_FDS` says how many, and `LISTEN_PID` for whom. While
//! one process ends and the next one starts, connections wait in the socket's queue, and none is refused.

use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{Errno, FdFlags};
use rustix::net::sockopt::socket_acceptconn;
use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// More are no list of sockets.
const COUNT_MAX: RawFd = 64;

/// The listening sockets that this process was started with; none if it was started without. Gives them once.
///
/// # Errors
/// The variables are there, but what they promise is not.
pub fn listening_sockets() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).ok();
    let count = promised(variable("LISTEN_FDS"), variable("LISTEN_PID"), std::process::id())?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    (FIRST..FIRST + count).map(take).collect()
}

/// How many sockets are promised to this process. Without `LISTEN_PID`, which only a process about to become this one can set, the
/// number alone counts: `quoin dev` does that.
fn promised(count: Option<String>, pid: Option<String>, own_pid: u32) -> io::Result<RawFd> {
    let Some(count) = count else { return Ok(0) };
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return Ok(0);
    }
    match count.parse() {
        Ok(count) if (0..=COUNT_MAX).contains(&count) => Ok(count),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("LISTEN_FDS={count} is no number of sockets"),
        )),
    }
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    let none = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("LISTEN_FDS promises a listening socket as descriptor {number}, and there is none"),
        )
    };
    // SAFETY: the descriptor is only asked what it is, and only for as long as this call takes; a closed one is an error.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    match socket_acceptconn(borrowed) {
        Ok(true) => {}
        Ok(false) | Err(Errno::BADF | Errno::NOTSOCK) => return Err(none()),
        Err(error) => return Err(error.into()),
    }
    // SAFETY: whoever started this process gave it this descriptor, which is open and a listening socket; nothing in this program
    // listens before it has asked here, and each is given out once.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Hands sockets over to the process that this command will start.
///
/// # Errors
/// No descriptors are left.
pub fn pass_listening_sockets(command: &mut Command, sockets: &[impl AsFd]) -> io::Result<()> {
    let count = RawFd::try_from(sockets.len()).map_err(io::Error::other)?;
    assert!(count <= COUNT_MAX, "more sockets than a gateway listens at");
    // Out of the way of the numbers that they are to have.
    let copies: Result<Vec<OwnedFd>, Errno> =
        sockets.iter().map(|socket| rustix::io::fcntl_dupfd_cloexec(socket, FIRST + count)).collect();
    let copies = copies?;
    command.env("LISTEN_FDS", count.to_string()).env_remove("LISTEN_PID").env_remove("LISTEN_FDNAMES");
    let place = move || {
        for (number, copy) in (FIRST..).zip(&copies) {
            // SAFETY: in the child, before it becomes the other program, this number is either closed or something that the
            // program has no use for; the handle is never dropped, so what it becomes stays open.
            let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
            rustix::io::dup2(copy, &mut target)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls that are safe between `fork` and `exec`, allocates nothing and takes no lock.
    unsafe { command.pre_exec(place) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_variables_count_only_for_whom_they_are() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(promised(None, text("7"), 7).unwrap(), 0);
        assert_eq!(promised(text("2"), text("7"), 7).unwrap(), 2);
        assert_eq!(promised(text("2"), None, 7).unwrap(), 2);
        assert_eq!(promised(text("2"), text("8"), 7).unwrap(), 0, "they are the parent's");
        for bad in ["", "-1", "65", "two"] {
            assert!(promised(text(bad), text("7"), 7).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_child_gets_the_sockets_in_order() {
        let sockets: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        // The inodes of descriptors 3 to 5, as the child has them.
        let mut command = Command::new("sh");
        command.args(["-c", "echo $LISTEN_FDS; for n in 3 4 5; do readlink /proc/self/fd/$n; done"]);
        pass_listening_sockets(&mut command, &sockets).unwrap();
        let output = command.output().unwrap();
        let expected: Vec<String> = sockets
            .iter()
            .map(|socket| format!("socket:[{}]", rustix::fs::fstat(socket).unwrap().st_ino))
            .collect();
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            told,
            format!("3\n{}\n", expected.join("\n")),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn a_descriptor_that_is_no_listening_socket_is_not_taken() {
        let file = tempfile::tempfile().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        assert!(take(number).unwrap_err().to_string().contains(&number.to_string()));
        assert!(take(100_000).is_err());
        file.set_len(1).unwrap();
    }
}
