//! Read leases, as their granter remembers them (rule R2).

use quoin_types::{InstanceId, Moment};
use quoin_wire::LeaseHolder;
use std::time::Duration;

/// The leases that a replica has granted and that may still run, whatever it has promised since.
#[derive(Clone, Debug)]
pub struct Leases {
    /// `None` as the holder: assumed after a process start; nobody can void it.
    running: Vec<(Option<LeaseHolder>, Moment)>,
}

impl Leases {
    /// None was ever granted.
    pub fn none() -> Self {
        Self { running: Vec::new() }
    }

    /// A full lease to an unknown holder may run until `end`.
    pub fn assumed(end: Moment) -> Self {
        Self { running: vec![(None, end)] }
    }

    /// Grants (or extends) a lease.
    pub fn grant(&mut self, holder: LeaseHolder, now: Moment, end: Moment) {
        self.running.retain(|(other, until)| *until > now && *other != Some(holder));
        self.running.push((Some(holder), end));
    }

    /// The holder has given its lease back, or is proven gone. Voids that lease only.
    pub fn void(&mut self, holder: LeaseHolder) {
        self.running.retain(|(other, _)| *other != Some(holder));
    }

    /// How long leases of others than `instance` may still run. A process knows about its own.
    pub fn remainder(&self, now: Moment, instance: InstanceId) -> Duration {
        self.running
            .iter()
            .filter(|(holder, _)| holder.is_none_or(|holder| holder.instance != instance))
            .map(|(_, end)| end.since(now))
            .max()
            .unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_types::Epoch;

    fn holder(instance: u8, epoch: u64) -> LeaseHolder {
        LeaseHolder { instance: InstanceId([instance; 16]), epoch: Epoch(epoch) }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_latest_end_is_remembered_whoever_was_promised_since() {
        let mut leases = Leases::assumed(at(5));
        leases.grant(holder(1, 1), at(0), at(8));
        leases.grant(holder(2, 2), at(1), at(9));
        assert_eq!(leases.remainder(at(1), InstanceId([3; 16])), Duration::from_secs(8));
        assert_eq!(leases.remainder(at(1), InstanceId([2; 16])), Duration::from_secs(7));
        leases.void(holder(1, 1));
        assert_eq!(
            leases.remainder(at(1), InstanceId([2; 16])),
            Duration::from_secs(4),
            "the assumed one stays"
        );
    }

    #[test]
    fn a_void_names_one_lease() {
        let mut leases = Leases::none();
        leases.grant(holder(1, 1), at(0), at(8));
        leases.void(holder(1, 2));
        leases.void(holder(2, 1));
        assert_eq!(leases.remainder(at(0), InstanceId([9; 16])), Duration::from_secs(8));
        leases.void(holder(1, 1));
        assert_eq!(leases.remainder(at(0), InstanceId([9; 16])), Duration::ZERO);
    }
}
