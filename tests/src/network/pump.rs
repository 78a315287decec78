//! One direction of one connection.

use super::{Rules, Way};
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The most that is taken in ahead of what was passed on.
const QUEUED_BYTES_MAX: usize = 16 << 20;
const CHUNK_BYTES: usize = 128 << 10;

/// Bytes on their way, in order.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// When the last of them is due.
    last_due: Option<Instant>,
}

impl Queue {
    fn push(&mut self, chunk: Vec<u8>, way: Way) {
        let now = Instant::now();
        let after_last = self.last_due.map_or(now, |last| last.max(now));
        let due = match way {
            Way::Pass | Way::Hold => after_last,
            Way::Delay(time) => after_last.max(now + time),
            Way::Rate(rate) => {
                after_last + Duration::from_secs_f64(chunk.len() as f64 / f64::from(rate.max(1)))
            }
        };
        self.last_due = Some(due);
        self.bytes += chunk.len();
        self.chunks.push_back((due, chunk));
    }

    fn due(&self) -> Option<Instant> {
        self.chunks.front().map(|(due, _)| *due)
    }

    fn pop(&mut self) -> Vec<u8> {
        let chunk = self.chunks.pop_front().map(|(_, chunk)| chunk).unwrap_or_default();
        self.bytes -= chunk.len();
        chunk
    }
}

/// Carries bytes until the end of them, and passes that on.
///
/// # Errors
/// When one of the connections is broken.
pub(super) async fn run(
    from: &TcpStream,
    to: &TcpStream,
    mut rules: watch::Receiver<Rules>,
    way: impl Fn(&Rules) -> Way,
) -> io::Result<()> {
    let mut queue = Queue::default();
    let mut ended = false;
    loop {
        let now = way(&rules.borrow_and_update());
        if ended && queue.due().is_none() {
            return Ok(shutdown(to, Shutdown::Write)?);
        }
        let due = queue.due();
        // At once: a timer would round up to its next millisecond.
        if now != Way::Hold && due.is_some_and(|due| due <= Instant::now()) {
            write(to, &queue.pop()).await?;
            continue;
        }
        let may_read = !ended && queue.bytes < QUEUED_BYTES_MAX;
        tokio::select! {
            // Nothing moves, not even an end, until this changes.
            changed = rules.changed() => changed.map_err(io::Error::other)?,
            readable = from.readable(), if may_read && now != Way::Hold => {
                readable?;
                let mut chunk = vec![0; CHUNK_BYTES];
                match from.try_read(&mut chunk) {
                    Ok(0) => ended = true,
                    Ok(length) => {
                        chunk.truncate(length);
                        // As it is now: a change may be as fresh as these bytes.
                        queue.push(chunk, way(&rules.borrow()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && now != Way::Hold => {}
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
