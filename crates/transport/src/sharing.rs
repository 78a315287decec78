//! Large data that stays where it is: processes of one machine share memory, and lend each other what they would send.
//!
//! Each side of a connection hands the other its memory ([`Landing::share`]) and one end of a pipe, before the first frame. A frame whose
//! data lies in that memory then only says where. The receiver uses it there, and gives it back when its last slice is gone; until
//! then the sender keeps it. A receiver that is cut off, or hangs, may read it still: what it has not given back is kept until
//! nothing of the connection is left in it, which closes its end of the pipe; beyond the end of this process, if need be. So nobody
//! ever reads what has been used again.

use crate::LARGE_BYTES_MIN;
use crate::outbox::Queue;
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use quoin_disk::landing::Landing;
use quoin_disk::shared::PeerMemory;
use quoin_types::collections::HashMap;
use quoin_wire::FrameError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What the two sides say to each other first; the descriptors come with it.
const GREETING: [u8; 4] = *b"QUM\x01";
/// How much memory is shared at most: it is used as it is needed.
const SHARED_BYTES: usize = 256 << 20;
/// The most that one connection may have been lent: a receiver that hangs keeps it, and the blocks that it lies in, from being
/// used again.
const LENT_BYTES_MAX: usize = 64 << 20;

/// Who has opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// This process.
    Connected,
    /// The peer.
    Accepted,
}

/// This process's memory that others can map, and what became of connections that it was lent on. For one thread.
#[derive(Debug)]
pub struct SharedMemory {
    landing: Arc<Landing>,
    unreturned: RefCell<Vec<Unreturned>>,
    loans: Loans,
}

/// How much is lent, for metrics.
#[derive(Clone, Default, Debug)]
pub struct Loans {
    lent: Counter,
    on_loan: Gauge,
}

impl Loans {
    /// Adds it to a role's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "lent_data_bytes",
            "Bytes of data that processes of this machine read where they were, instead of being sent them",
            self.lent.clone(),
        );
        registry.register(
            "data_on_loan_bytes",
            "Bytes of data that processes of this machine have not given back",
            self.on_loan.clone(),
        );
    }
}

/// What a receiver had not given back when its connection ended.
#[derive(Debug)]
struct Unreturned {
    lent: Vec<Bytes>,
    lifeline: OwnedFd,
}

/// One connection's part: what it was lent, and what it lends.
#[derive(Debug)]
pub(crate) struct Sharing {
    memory: Rc<SharedMemory>,
    lent: RefCell<HashMap<u64, Vec<Bytes>>>,
    lent_bytes: Cell<usize>,
    /// Ends when the peer has neither the connection nor anything that was lent on it. `None` once that is somebody else's business.
    lifeline: Option<OwnedFd>,
    borrowing: Option<Arc<Borrowing>>,
}

/// The peer's memory, and what is to be given back.
#[derive(Debug)]
pub(crate) struct Borrowing {
    memory: PeerMemory,
    to_return: Mutex<Vec<u64>>,
    has_to_return: AtomicBool,
    /// The peer's pipe: it ends with the last that holds this.
    _lifeline: OwnedFd,
}

/// A piece of the peer's memory. Dropping it gives it back.
struct Borrowed {
    from: Arc<Borrowing>,
    offset: u64,
    length: usize,
}

impl SharedMemory {
    /// A landing and, if others on this machine are to read from it, their way to do so. If the system does not let them, this
    /// process only borrows.
    pub fn new(landing: Arc<Landing>, is_offered: bool, loans: Loans) -> Rc<Self> {
        if is_offered && let Err(error) = landing.share(SHARED_BYTES) {
            tracing::warn!(%error, "no memory can be shared with processes of this machine: large data is sent to them");
        }
        Rc::new(Self { landing, unreturned: RefCell::default(), loans })
    }

    /// Where data should arrive that will be sent on.
    pub fn landing(&self) -> &Arc<Landing> {
        &self.landing
    }

    /// Takes back what receivers that are gone had not given back. To be called now and then: nobody tells that they are gone.
    pub fn bury(&self) {
        self.unreturned.borrow_mut().retain(|unreturned| {
            let is_kept = !has_ended(&unreturned.lifeline);
            if !is_kept {
                self.is_back(unreturned.lent.iter().map(Bytes::len).sum());
            }
            is_kept
        });
    }

    fn is_lent(&self, bytes: usize) {
        self.loans.lent.inc_by(bytes as u64);
        self.loans.on_loan.inc_by(bytes as i64);
    }

    fn is_back(&self, bytes: usize) {
        self.loans.on_loan.dec_by(bytes as i64);
    }
}

impl Drop for SharedMemory {
    /// What is on loan when this process ends in order stays as it is: to use it again would be to give its pages back, and whoever has
    /// borrowed it would read zeros. They are free when the last process that maps them has ended.
    fn drop(&mut self) {
        self.bury();
        std::mem::forget(self.unreturned.take());
    }
}

/// Whether nobody has the other end of a pipe any more.
fn has_ended(pipe: &OwnedFd) -> bool {
    matches!(rustix::io::read(pipe, &mut [0_u8; 1]), Ok(0))
}

impl Sharing {
    /// Shares memory with the peer of a new connection, which does the same.
    ///
    /// # Errors
    /// The peer does not, or the socket failed.
    pub(crate) async fn begin(
        stream: &UnixStream,
        memory: &Rc<SharedMemory>,
        side: Side,
    ) -> io::Result<Self> {
        memory.bury();
        let (lifeline, peers_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let file = memory.landing.shared();
        // Who has connected waits: what is sent to a process that hangs, and never accepts, keeps its descriptors open.
        let greeting = match side {
            Side::Accepted => {
                send(stream, file, &peers_end).await?;
                receive(stream).await?
            }
            Side::Connected => {
                let greeting = receive(stream).await?;
                send(stream, file, &peers_end).await?;
                greeting
            }
        };
        drop(peers_end);
        let borrowing = match greeting {
            None => None,
            Some((file, lifeline)) => Some(Arc::new(Borrowing {
                memory: PeerMemory::map(&file)?,
                to_return: Mutex::default(),
                has_to_return: AtomicBool::new(false),
                _lifeline: lifeline,
            })),
        };
        Ok(Self {
            memory: memory.clone(),
            lent: RefCell::default(),
            lent_bytes: Cell::new(0),
            lifeline: Some(lifeline),
            borrowing,
        })
    }

    /// Lends data if it can be: gives where the peer finds it.
    pub(crate) fn lend(&self, data: &Bytes) -> Option<u64> {
        let lent_bytes = self.lent_bytes.get() + data.len();
        if data.len() < LARGE_BYTES_MIN || lent_bytes > LENT_BYTES_MAX {
            return None;
        }
        let offset = self.memory.landing.offset_of(data)?;
        self.lent.borrow_mut().entry(offset).or_default().push(data.clone());
        self.lent_bytes.set(lent_bytes);
        self.memory.is_lent(data.len());
        Some(offset)
    }

    /// The peer gives back what is there.
    pub(crate) fn returned(&self, offsets: &[u64]) -> Result<(), FrameError> {
        let mut lent = self.lent.borrow_mut();
        for offset in offsets {
            let pieces = lent.get_mut(offset).ok_or(FrameError::Value("piece of memory"))?;
            // Pieces that begin at the same place are of the same chunk: which one goes does not matter.
            let piece = pieces.pop().expect("those that are empty are removed");
            self.lent_bytes.set(self.lent_bytes.get() - piece.len());
            self.memory.is_back(piece.len());
            if pieces.is_empty() {
                lent.remove(offset);
            }
        }
        Ok(())
    }

    /// Data that the peer has lent.
    pub(crate) fn borrow(&self, offset: u64, length: usize) -> Result<Bytes, FrameError> {
        let from = self.borrowing.as_ref().ok_or(FrameError::Lent)?;
        from.memory.get(offset, length).ok_or(FrameError::Value("piece of memory"))?;
        Ok(Bytes::from_owner(Borrowed { from: from.clone(), offset, length }))
    }

    /// Queues what is to be given back.
    pub(crate) fn return_with(&self, queue: &mut Queue) {
        let Some(borrowing) = &self.borrowing else { return };
        if borrowing.has_to_return.swap(false, Ordering::Acquire) {
            let offsets = std::mem::take(&mut *lock(&borrowing.to_return));
            // One that came in between has rung for what went with the last frame.
            if !offsets.is_empty() {
                queue.append(|out| quoin_wire::encode_returned(&offsets, out));
            }
        }
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        let lent: Vec<Bytes> = self.lent.take().into_values().flatten().collect();
        let lifeline = self.lifeline.take().expect("taken only here");
        if !lent.is_empty() {
            self.memory.unreturned.borrow_mut().push(Unreturned { lent, lifeline });
        }
        // Perhaps with this one, whose peer may be gone.
        self.memory.bury();
    }
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.from.memory.get(self.offset, self.length).expect("it was looked at before")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        lock(&self.from.to_return).push(self.offset);
        self.from.has_to_return.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the greeting, with the memory, if there is some, and the pipe.
async fn send(stream: &UnixStream, file: Option<BorrowedFd<'_>>, lifeline: &OwnedFd) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> =
        file.into_iter().flat_map(|file| [file, lifeline.as_fd()]).collect();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for two");
            }
            Ok(sendmsg(stream, &[IoSlice::new(&GREETING)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    if sent == GREETING.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives the peer's greeting: its memory, if it has some, and its pipe.
async fn receive(stream: &UnixStream) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidData, "the peer does not greet as one of this machine");
    let mut greeting = [0; GREETING.len()];
    let (received, descriptors) = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut greeting)];
            let received = recvmsg(stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(io::Error::other("no file descriptor is left for the peer's memory"));
            }
            Ok((received.bytes, descriptors))
        })
        .await?;
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received != GREETING.len() || greeting != GREETING {
        return Err(wrong());
    }
    let mut descriptors = descriptors.into_iter();
    match (descriptors.next(), descriptors.next()) {
        (Some(file), Some(lifeline)) => Ok(Some((file, lifeline))),
        (None, None) => Ok(None),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write_all;
    use crate::{Inbox, Outbox, Stream};
    use quoin_types::{Epoch, ReplicaId, Seq};
    use quoin_wire::{Message, Write, encode_lending};

    const MIB: usize = 1 << 20;

    /// One end of a connection, as a role has it.
    struct End {
        memory: Rc<SharedMemory>,
        stream: Rc<Stream>,
        outbox: Outbox,
        inbox: Inbox,
    }

    impl End {
        fn new(memory: &Rc<SharedMemory>, stream: Stream) -> Self {
            let stream = Rc::new(stream);
            let (outbox, inbox) = (Outbox::new(stream.clone()), Inbox::new(&stream));
            Self { memory: memory.clone(), stream, outbox, inbox }
        }

        /// Data of one value in memory that can be lent.
        fn data(&self, length: usize, with: u8) -> Bytes {
            let mut chunk = self.memory.landing.take_shared(length).expect("there is a block");
            chunk.unfilled().fill(with);
            chunk.advance(length);
            chunk.freeze()
        }

        /// The data of the one message that comes.
        async fn receive(&mut self) -> Bytes {
            let message = self.inbox.receive(&self.stream).await.unwrap();
            // What is given back stands behind it.
            assert_eq!(self.inbox.next_message(), Ok(None));
            match message {
                Message::Write(write) => write.data,
                message => panic!("{message:?}"),
            }
        }

        fn lent_bytes(&self) -> usize {
            self.stream.sharing().unwrap().lent_bytes.get()
        }
    }

    fn write(data: Bytes) -> Message {
        let checksums = quoin_wire::block_checksums(&data);
        let (replica, epoch, seq) = (ReplicaId(1), Epoch(1), Seq(1));
        Message::Write(Write { replica, epoch, seq, offset: 0, checksums, data })
    }

    fn memory(is_offered: bool) -> Rc<SharedMemory> {
        SharedMemory::new(Arc::default(), is_offered, Loans::default())
    }

    async fn connect(one: &Rc<SharedMemory>, other: &Rc<SharedMemory>) -> (End, End) {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Stream::from(left), Stream::from(right));
        let (shared, too) =
            tokio::join!(left.share(one, Side::Connected), right.share(other, Side::Accepted));
        shared.and(too).unwrap();
        (End::new(one, left), End::new(other, right))
    }

    async fn pair() -> (End, End) {
        connect(&memory(true), &memory(true)).await
    }

    #[tokio::test]
    async fn large_data_stays_where_it_is_and_comes_back() {
        let (mut one, mut other) = pair().await;
        for round in 0..100 {
            one.outbox.push(&write(one.data(MIB, round)));
            assert!(one.outbox.len() < 8192, "the megabyte is not sent");
            one.outbox.flush();
            assert_eq!(other.receive().await, vec![round; MIB]);
            assert_eq!(one.lent_bytes(), MIB);
            // With the next frame it comes back.
            other.outbox.push(&write(other.data(64 * 1024, 3)));
            other.outbox.flush();
            assert_eq!(one.receive().await, vec![3; 64 * 1024]);
            assert_eq!((one.lent_bytes(), other.lent_bytes()), (0, 64 * 1024));
            assert_eq!(one.memory.loans.lent.get(), (u64::from(round) + 1) * MIB as u64);
            assert_eq!(one.memory.loans.on_loan.get(), 0);
        }
        assert!(one.memory.landing.offset_of(&one.data(4096, 0)).unwrap() < 2 << 20, "one block was enough");
    }

    #[tokio::test]
    async fn what_is_lent_is_not_used_for_anything_else() {
        let (one, mut other) = pair().await;
        one.outbox.push(&write(one.data(MIB, 1)));
        one.outbox.flush();
        let borrowed = other.receive().await;
        let slice = borrowed.slice(4096..8192);
        drop(borrowed);
        // All there is, and all of it is written.
        let others: Vec<Bytes> =
            std::iter::from_fn(|| one.memory.landing.take_shared(MIB)).map(filled).collect();
        assert!(others.len() > 200);
        assert_eq!(slice, vec![1; 4096]);
    }

    fn filled(mut chunk: quoin_disk::landing::Chunk) -> Bytes {
        let length = chunk.unfilled().len();
        chunk.unfilled().fill(9);
        chunk.advance(length);
        chunk.freeze()
    }

    #[tokio::test]
    async fn what_a_peer_holds_when_its_connection_ends_is_kept_until_it_lets_go() {
        let (one, mut other) = pair().await;
        let (ones, others) = (one.memory.clone(), other.memory.clone());
        one.outbox.push(&write(one.data(MIB, 1)));
        one.outbox.flush();
        let borrowed = other.receive().await;
        drop(one);
        assert_eq!(ones.unreturned.borrow().len(), 1, "it may still be read");
        assert_eq!(ones.loans.on_loan.get(), MIB as i64);
        let (again, _too) = connect(&ones, &others).await;
        assert_eq!(filled(ones.landing.take_shared(MIB).unwrap()), vec![9; MIB]);
        assert_eq!(borrowed, vec![1; MIB]);
        // The peer's end of the connection alone is no reason to keep it, …
        drop(other);
        assert_eq!(ones.unreturned.borrow().len(), 1);
        // … and what it has lent is.
        drop(borrowed);
        drop(again);
        assert!(ones.unreturned.borrow().is_empty());
        assert_eq!(ones.loans.on_loan.get(), 0);
    }

    #[tokio::test]
    async fn what_came_back_when_a_connection_ends_is_not_kept() {
        let (one, mut other) = pair().await;
        let memory = one.memory.clone();
        one.outbox.push(&write(one.data(MIB, 1)));
        one.outbox.flush();
        drop(other.receive().await);
        drop(other);
        drop(one);
        assert!(memory.unreturned.borrow().is_empty());
        assert_eq!(memory.loans.on_loan.get(), 0);
    }

    #[tokio::test]
    async fn small_data_and_what_lies_elsewhere_is_sent() {
        let (one, mut other) = pair().await;
        for data in [one.data(LARGE_BYTES_MIN - 4096, 5), Bytes::from(vec![6; MIB])] {
            one.outbox.push(&write(data.clone()));
            assert!(one.outbox.len() > data.len());
            let (sent, received) = tokio::join!(one.outbox.drain(), other.receive());
            sent.unwrap();
            assert_eq!((received, one.lent_bytes()), (data, 0));
        }
    }

    #[tokio::test]
    async fn a_peer_that_gives_nothing_back_is_lent_no_more_than_a_bound() {
        let (one, mut other) = pair().await;
        let mut held = Vec::new();
        for _ in 0..LENT_BYTES_MAX / MIB + 3 {
            one.outbox.push(&write(one.data(MIB, 7)));
            let (sent, received) = tokio::join!(one.outbox.drain(), other.receive());
            sent.unwrap();
            held.push(received);
        }
        assert_eq!(one.lent_bytes(), LENT_BYTES_MAX);
        assert!(held.iter().all(|data| *data == vec![7; MIB]));
    }

    #[tokio::test]
    async fn without_memory_of_its_own_a_process_borrows() {
        let (mut one, mut other) = connect(&memory(false), &memory(true)).await;
        other.outbox.push(&write(other.data(MIB, 1)));
        other.outbox.flush();
        assert_eq!(one.receive().await, vec![1; MIB]);
        assert_eq!(other.lent_bytes(), MIB);
        one.outbox.push(&write(Bytes::from(vec![2; 4096])));
        one.outbox.flush();
        assert_eq!(other.receive().await, vec![2; 4096]);
        assert_eq!(other.lent_bytes(), 0);
    }

    #[tokio::test]
    async fn memory_that_nobody_shares_or_lent_ends_the_connection() {
        let lent = |offset| {
            let mut bytes = bytes::BytesMut::new();
            encode_lending(&write(Bytes::from(vec![1; MIB])), &mut bytes, |_| Some(offset));
            bytes
        };
        let mut returned = bytes::BytesMut::new();
        quoin_wire::encode_returned(&[0], &mut returned);
        let wrong_piece = FrameError::Value("piece of memory");
        for (frame, expected) in [(lent(u64::MAX), wrong_piece), (returned.clone(), wrong_piece)] {
            let (one, mut other) = pair().await;
            write_all(&one.stream, &frame).await;
            let error = other.inbox.receive(&other.stream).await.unwrap_err();
            assert!(matches!(error, crate::ReadError::Frame(error) if error == expected), "{error}");
        }
        for frame in [lent(0), returned] {
            let [(writer, reader), _] = crate::testing::pairs().await;
            write_all(&writer, &frame).await;
            let error = Inbox::new(&reader).receive(&reader).await.unwrap_err();
            assert!(matches!(error, crate::ReadError::Frame(FrameError::Lent)), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_on_loan_when_its_process_ends_in_order_stays() {
        let (one, mut other) = pair().await;
        one.outbox.push(&write(one.data(MIB, 1)));
        one.outbox.flush();
        let borrowed = other.receive().await;
        drop(one);
        assert_eq!(borrowed, vec![1; MIB]);
    }

    #[tokio::test]
    async fn who_does_not_greet_shares_nothing() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        for (side, greeting, expected) in [
            (Side::Connected, &b"QUO\x02"[..], InvalidData),
            (Side::Accepted, b"QUO\x02", InvalidData),
            (Side::Accepted, b"QU", InvalidData),
            (Side::Connected, b"", UnexpectedEof),
        ] {
            let (left, right) = UnixStream::pair().unwrap();
            let mut right = Stream::from(right);
            if greeting.is_empty() {
                rustix::net::shutdown(&left, rustix::net::Shutdown::Write).unwrap();
            } else {
                left.try_write(greeting).unwrap();
            }
            let refusal = right.share(&memory(true), side).await.unwrap_err();
            assert_eq!(refusal.kind(), expected, "{refusal}");
        }
    }
}
