//! The machine's clock and boot id. The only place of the project that reads a clock.

use quoin_types::{BootId, Moment};
use rustix::time::{ClockId, clock_gettime};
use std::io;

/// This moment by `CLOCK_BOOTTIME`, which runs on through suspend and never jumps.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The id of the running kernel's boot: another one means that memory was lost since.
pub fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_clock_moves_forward_and_the_boot_is_the_same() {
        let first = super::now();
        assert!(super::now() >= first);
        assert_eq!(super::boot_id().unwrap(), super::boot_id().unwrap());
    }
}
