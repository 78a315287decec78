//! Who the members of the manager are. Raft decides that by entries of its own; the state follows them, so that everybody
//! finds the members' addresses in it.

use crate::state::State;

/// A member was taken in, or is found elsewhere.
pub fn put_manager(state: &mut State, id: u64, address: &str) {
    state.revision += 1;
    state.managers.insert(id, address.to_owned());
}

/// A member is gone.
pub fn remove_manager(state: &mut State, id: u64) {
    state.revision += 1;
    state.managers.remove(&id);
}
