//! How much memory clients can make the gateway hold: requests that have not come whole, answers to reads under way, and answers
//! that nobody fetches.
//!
//! Each client may hold a share, and all of them together a total. Nobody may come to hold more than half of what is left of that: however
//! many hold as much as they can, something is left for the small requests of others. And when half of the total is held, or
//! somebody has to wait for it, those that hold something and neither take nor send anything for a while are cut off.
//!
//! Writes under way are bounded elsewhere: they wait for storage nodes, not for clients.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A client that moves less than this between two looks, while it holds something and memory is short, is cut off.
const PROGRESS_BYTES_MIN: u64 = 64 * 1024;

/// All that is held for clients.
pub(super) struct Memory {
    share_bytes: usize,
    total_bytes: usize,
    held: Cell<usize>,
    /// How many clients wait for what others hold.
    squeezed: Cell<usize>,
    next: Cell<u64>,
    accounts: RefCell<BTreeMap<u64, Rc<State>>>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Answers to reads under way.
    promised: Cell<usize>,
    /// Answers that the socket has not taken.
    unsent: Cell<usize>,
    /// A request that has not come whole.
    unread: Cell<usize>,
    /// Bytes taken and sent, ever.
    moved: Cell<u64>,
    moved_at_last_look: Cell<u64>,
    cut: CancellationToken,
}

/// One client's part of it. Dropping it gives everything back.
pub(super) struct Account {
    memory: Rc<Memory>,
    number: u64,
    state: Rc<State>,
}

impl Memory {
    pub(super) fn new(share_bytes: usize, total_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            share_bytes,
            total_bytes,
            held: Cell::new(0),
            squeezed: Cell::new(0),
            next: Cell::new(0),
            accounts: RefCell::default(),
            freed: Notify::new(),
        })
    }

    pub(super) fn open(self: &Rc<Self>) -> Rc<Account> {
        let number = self.next.get();
        self.next.set(number + 1);
        let state = Rc::new(State::default());
        self.accounts.borrow_mut().insert(number, state.clone());
        Rc::new(Account { memory: self.clone(), number, state })
    }

    /// Bytes held for all clients.
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Looks at who has moved since the last look, and, if memory is short, cuts off those who have not. Gives their number.
    pub(super) fn cut_off_stalled(&self) -> usize {
        let is_short = self.held.get() > self.total_bytes / 2 || self.squeezed.get() > 0;
        let mut count = 0;
        for state in self.accounts.borrow().values() {
            let moved = state.moved.get();
            let progress = moved - state.moved_at_last_look.replace(moved);
            let waits_for_client = state.unsent.get() + state.unread.get() > 0;
            if is_short && waits_for_client && progress < PROGRESS_BYTES_MIN && !state.cut.is_cancelled() {
                state.cut.cancel();
                count += 1;
            }
        }
        count
    }
}

impl State {
    fn held(&self) -> usize {
        self.promised.get() + self.unsent.get() + self.unread.get()
    }
}

impl Account {
    /// Whether the client may make the gateway hold so much more. Where nobody holds anything, anything may be held: no request is
    /// too large to be ever served.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let left = self.memory.total_bytes.saturating_sub(self.memory.held.get());
        self.memory.held.get() == 0 || self.is_within_share(bytes) && self.state.held() + bytes <= left / 2
    }

    /// A client that holds nothing may go beyond its share with one request.
    fn is_within_share(&self, bytes: usize) -> bool {
        let held = self.state.held();
        held == 0 || held + bytes <= self.memory.share_bytes
    }

    /// Waits until somebody gives something back, perhaps. For a client that has no room for so much more.
    pub(super) async fn freed(&self, bytes: usize) {
        let _squeezed = self.is_within_share(bytes).then(|| Squeezed::new(&self.memory));
        self.memory.freed.notified().await;
    }

    /// An answer of this size is under way.
    pub(super) fn promise(&self, bytes: usize) {
        self.change(|state| &state.promised, self.state.promised.get() + bytes);
    }

    /// An answer of this size is no longer under way: it is in the queue, which has so many bytes now.
    pub(super) fn answered(&self, bytes: usize, unsent: usize) {
        self.change(|state| &state.promised, self.state.promised.get() - bytes);
        self.change(|state| &state.unsent, unsent);
    }

    /// So much is in the queue.
    pub(super) fn unsent(&self, bytes: usize) {
        let sent = self.state.unsent.get().saturating_sub(bytes);
        self.moved(sent);
        self.change(|state| &state.unsent, bytes);
    }

    /// A request of which so much is held has not come whole.
    pub(super) fn unread(&self, bytes: usize) {
        self.change(|state| &state.unread, bytes);
    }

    /// What is held of a request that has not come whole.
    pub(super) fn held_unread(&self) -> usize {
        self.state.unread.get()
    }

    /// The client has taken or sent so much.
    pub(super) fn moved(&self, bytes: usize) {
        self.state.moved.set(self.state.moved.get() + bytes as u64);
    }

    /// Waits until the client is cut off.
    pub(super) async fn cut_off(&self) {
        self.state.cut.cancelled().await;
    }

    fn change(&self, which: impl Fn(&State) -> &Cell<usize>, bytes: usize) {
        let before = which(&self.state).replace(bytes);
        self.memory.held.set(self.memory.held.get() - before + bytes);
        if bytes < before {
            self.memory.freed.notify_waiters();
        }
    }
}

/// A client that waits for what others hold.
struct Squeezed<'a>(&'a Memory);

impl<'a> Squeezed<'a> {
    fn new(memory: &'a Memory) -> Self {
        memory.squeezed.set(memory.squeezed.get() + 1);
        Self(memory)
    }
}

impl Drop for Squeezed<'_> {
    fn drop(&mut self) {
        self.0.squeezed.set(self.0.squeezed.get() - 1);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.memory.accounts.borrow_mut().remove(&self.number);
        self.memory.held.set(self.memory.held.get() - self.state.held());
        self.memory.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::Poll;

    #[test]
    fn something_is_left_however_many_hold_what_they_can() {
        for size in [10, 300, 5000] {
            let memory = Memory::new(40_000, 100_000);
            let hogs: Vec<_> = (0..20).map(|_| memory.open()).collect();
            for _ in 0..10_000 {
                for hog in hogs.iter().filter(|hog| hog.has_room(size)) {
                    hog.promise(size);
                }
            }
            assert!(memory.held() > 40_000, "{}", memory.held());
            assert!(memory.open().has_room(1000), "a newcomer has room: {}", memory.held());
        }
        let alone = Memory::new(400, 1000);
        let hog = alone.open();
        for _ in 0..1000 {
            if hog.has_room(10) {
                hog.promise(10);
            }
        }
        assert_eq!(alone.held(), 330, "half of what is left");
        drop(hog);
        assert_eq!(alone.held(), 0);
    }

    #[test]
    fn a_share_bounds_what_is_beyond_one_request() {
        let memory = Memory::new(100, 1_000_000);
        let (client, _other) = (memory.open(), memory.open());
        assert!(client.has_room(5000));
        client.promise(5000);
        assert!(!client.has_room(1));
        client.answered(5000, 5000);
        client.unsent(90);
        assert!(client.has_room(10) && !client.has_room(11));
    }

    #[test]
    fn no_request_is_too_large_where_nobody_holds_anything() {
        let memory = Memory::new(100, 100);
        let (first, second) = (memory.open(), memory.open());
        assert!(first.has_room(5000));
        first.promise(5000);
        assert!(!second.has_room(1));
        first.answered(5000, 0);
        assert!(second.has_room(5000));
    }

    #[test]
    fn who_holds_and_does_not_move_is_cut_off_when_memory_is_short() {
        let memory = Memory::new(1000, 1000);
        let (stalled, slow, waiting) = (memory.open(), memory.open(), memory.open());
        stalled.unread(100);
        waiting.promise(100);
        slow.answered(0, 200);
        memory.cut_off_stalled();
        assert!(!stalled.state.cut.is_cancelled(), "memory is not short");
        slow.moved(PROGRESS_BYTES_MIN as usize);
        waiting.promise(300);
        assert_eq!(memory.cut_off_stalled(), 1);
        assert!(stalled.state.cut.is_cancelled());
        assert!(!slow.state.cut.is_cancelled() && !waiting.state.cut.is_cancelled());
        assert_eq!(memory.cut_off_stalled(), 1, "now the slow one has not moved");
    }

    #[tokio::test]
    async fn memory_is_short_when_somebody_has_to_wait_for_others() {
        let memory = Memory::new(1000, 1000);
        let (stalled, newcomer) = (memory.open(), memory.open());
        stalled.unread(100);
        assert!(!newcomer.has_room(800));
        assert_eq!(memory.cut_off_stalled(), 0);
        let mut waiting = Box::pin(newcomer.freed(800));
        assert!(
            std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await
        );
        assert_eq!(memory.cut_off_stalled(), 1);
        drop(stalled);
        waiting.await;
        assert!(newcomer.has_room(800));
        assert_eq!(memory.squeezed.get(), 0);
    }
}
