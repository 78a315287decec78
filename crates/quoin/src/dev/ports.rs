//! Ports on this machine that are free now and will probably be free again.

use crate::failure::Failure;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range from which the kernel gives ports to outgoing connections (32768 to 60999): a port written down today
/// must not be some client's tomorrow.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// Hands out ports, each once. What it has handed out stays bound until it is dropped, so that two supervisors that start
/// at the same moment do not choose alike.
pub(crate) struct Ports {
    next: u16,
    tried: u16,
    held: Vec<TcpListener>,
}

impl Ports {
    /// Starts to search at a random place.
    pub(crate) fn new() -> Self {
        let offset = RandomState::new().build_hasher().finish() % u64::from(RANGE.end - RANGE.start);
        let next = RANGE.start + u16::try_from(offset).unwrap_or(0);
        Self { next, tried: 0, held: Vec::new() }
    }

    /// A free address on 127.0.0.1.
    pub(crate) fn free(&mut self) -> Result<SocketAddr, Failure> {
        while self.tried < RANGE.end - RANGE.start {
            let port = self.next;
            self.tried += 1;
            self.next = if port + 1 == RANGE.end { RANGE.start } else { port + 1 };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if self.take(address) {
                return Ok(address);
            }
        }
        Err(Failure::failed(format!("no port between {} and {} is free", RANGE.start, RANGE.end)))
    }

    /// Whether this very address is free; if so it is held too.
    pub(crate) fn take(&mut self, address: SocketAddr) -> bool {
        match TcpListener::bind(address) {
            Ok(listener) => {
                self.held.push(listener);
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_held() {
        let mut ports = Ports::new();
        let [a, b] = [ports.free().unwrap(), ports.free().unwrap()];
        assert_ne!(a, b);
        assert!(!Ports::new().take(a));
        drop(ports);
        assert!(Ports::new().take(a));
    }
}
