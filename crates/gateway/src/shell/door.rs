//! Who may come in: bounds on connections, in all and from one address, whatever strangers do.
//!
//! A connection that has not chosen an export costs its peer nothing. So when a bound is reached, the oldest of those makes room
//! for the newcomer, and only where there is none the newcomer is refused: neither half-open connections nor handshakes that
//! dribble can keep clients out, and clients that have their export are never put out for others.

use super::metrics::TurnedAway;
use quoin_types::collections::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use tokio_util::sync::CancellationToken;

/// The bounds, and who is inside.
pub(super) struct Door {
    connections_max: usize,
    per_address_max: usize,
    next: Cell<u64>,
    inside: Cell<usize>,
    from: RefCell<HashMap<IpAddr, usize>>,
    /// Those without an export whom nobody but their client keeps waiting, the oldest first.
    undecided: RefCell<BTreeMap<u64, Undecided>>,
}

struct Undecided {
    address: Option<IpAddr>,
    displaced: CancellationToken,
}

/// A connection that was let in. Dropping it leaves.
pub(super) struct Pass {
    door: Rc<Door>,
    number: u64,
    address: Option<IpAddr>,
    displaced: CancellationToken,
}

impl Door {
    pub(super) fn new(connections_max: usize, per_address_max: usize) -> Rc<Self> {
        Rc::new(Self {
            connections_max,
            per_address_max,
            next: Cell::new(0),
            inside: Cell::new(0),
            from: RefCell::default(),
            undecided: RefCell::default(),
        })
    }

    /// Lets a connection in, at the cost of the oldest undecided one if need be; or says why not.
    pub(super) fn enter(self: &Rc<Self>, address: Option<IpAddr>) -> Result<Pass, TurnedAway> {
        let number = self.next.get();
        self.next.set(number + 1);
        let from = |address| self.from.borrow().get(&address).copied().unwrap_or(0);
        if let Some(address) = address
            && from(address) >= self.per_address_max
            && !self.displace(|undecided| undecided.address == Some(address))
        {
            return Err(TurnedAway::AddressFull);
        }
        if self.inside.get() >= self.connections_max && !self.displace(|_| true) {
            return Err(TurnedAway::Full);
        }
        self.inside.set(self.inside.get() + 1);
        if let Some(address) = address {
            *self.from.borrow_mut().entry(address).or_default() += 1;
        }
        let pass = Pass { door: self.clone(), number, address, displaced: CancellationToken::new() };
        pass.set_undecided(true);
        Ok(pass)
    }

    /// Puts the oldest undecided connection that fits out. It no longer counts; its task ends by itself.
    fn displace(&self, fits: impl Fn(&Undecided) -> bool) -> bool {
        let mut undecided = self.undecided.borrow_mut();
        let Some(number) = undecided.iter().find(|(_, one)| fits(one)).map(|(number, _)| *number) else {
            return false;
        };
        if let Some(one) = undecided.remove(&number) {
            one.displaced.cancel();
            self.left(one.address);
        }
        true
    }

    fn left(&self, address: Option<IpAddr>) {
        self.inside.set(self.inside.get() - 1);
        if let Some(address) = address {
            let mut from = self.from.borrow_mut();
            if let Some(count) = from.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    from.remove(&address);
                }
            }
        }
    }
}

impl Pass {
    /// Says whether it may be put out for another one: while its client has not chosen, and while it is not the gateway that
    /// keeps it waiting.
    pub(super) fn set_undecided(&self, undecided: bool) {
        let mut list = self.door.undecided.borrow_mut();
        if !undecided {
            list.remove(&self.number);
        } else if !self.displaced.is_cancelled() {
            list.insert(self.number, Undecided { address: self.address, displaced: self.displaced.clone() });
        }
    }

    /// Waits until it is put out.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.displaced.is_cancelled() {
            self.door.undecided.borrow_mut().remove(&self.number);
            self.door.left(self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn the_oldest_undecided_one_makes_room_and_clients_never_do() {
        let door = Door::new(3, 3);
        let client = door.enter(address(1)).unwrap();
        client.set_undecided(false);
        let (first, second) = (door.enter(address(2)).unwrap(), door.enter(address(3)).unwrap());
        let third = door.enter(address(4)).unwrap();
        assert!(first.displaced.is_cancelled() && !second.displaced.is_cancelled());
        second.set_undecided(false);
        third.set_undecided(false);
        assert_eq!(door.enter(address(5)).err(), Some(TurnedAway::Full));
        drop(first);
        assert_eq!(door.enter(address(5)).err(), Some(TurnedAway::Full), "it had left already");
        drop(second);
        assert!(door.enter(address(5)).is_ok());
    }

    #[test]
    fn an_address_has_a_bound_of_its_own_and_unix_clients_have_none() {
        let door = Door::new(10, 2);
        let passes = [door.enter(address(1)).unwrap(), door.enter(address(1)).unwrap()];
        let elsewhere = door.enter(address(2)).unwrap();
        passes[1].set_undecided(false);
        let third = door.enter(address(1)).unwrap();
        assert!(passes[0].displaced.is_cancelled() && !elsewhere.displaced.is_cancelled());
        third.set_undecided(false);
        assert_eq!(door.enter(address(1)).err(), Some(TurnedAway::AddressFull));
        let local: Vec<_> = (0..3).map(|_| door.enter(None).unwrap()).collect();
        drop((local, passes, third, elsewhere));
        assert_eq!((door.inside.get(), door.from.borrow().len(), door.undecided.borrow().len()), (0, 0, 0));
    }

    #[test]
    fn one_that_was_put_out_does_not_come_back_by_choosing_late() {
        let door = Door::new(1, 1);
        let first = door.enter(None).unwrap();
        let second = door.enter(None).unwrap();
        first.set_undecided(true);
        first.set_undecided(false);
        drop(first);
        assert_eq!(door.inside.get(), 1);
        second.set_undecided(false);
        assert_eq!(door.enter(None).err(), Some(TurnedAway::Full));
    }
}
