//! The sending half.

use crate::{Socket, Stream};
use bytes::{Buf, Bytes, BytesMut};
use quoin_wire::Message;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;
use tokio::sync::Notify;

/// Slices per system call.
const SLICES_MAX: usize = 128;
/// Payloads up to this size are copied beside their header rather than sent as a slice of their own.
const COPY_BYTES_MAX: usize = 256;

/// Bytes to be sent, in order. Payloads are shared, not copied.
#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Queue {
    /// Queues a frame, with its data unless that is lent.
    fn push_message(&mut self, message: &Message, lend: impl FnOnce(&Bytes) -> Option<u64>) {
        let before = self.tail.len();
        let data = quoin_wire::encode_lending(message, &mut self.tail, lend);
        self.bytes += self.tail.len() - before;
        self.push_payload(data);
    }

    /// The buffer that headers are appended to; follow with [`Queue::push_payload`], which may be given no bytes.
    pub fn append(&mut self, header: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        header(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    /// Queues bytes that are shared.
    pub fn push_payload(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(&data);
        } else {
            if !self.tail.is_empty() {
                self.ready.push_back(self.tail.split().freeze());
            }
            self.ready.push_back(data);
        }
    }

    /// Bytes queued.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Writes as much as the socket takes now. `Ok(true)`: everything.
    ///
    /// # Errors
    /// The socket failed.
    pub fn write_to(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        while self.bytes > 0 {
            if !self.tail.is_empty() {
                self.ready.push_back(self.tail.split().freeze());
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.ready.len().min(SLICES_MAX);
            for (slice, bytes) in slices.iter_mut().zip(&self.ready) {
                *slice = IoSlice::new(bytes);
            }
            match write(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends everything queued, waiting for the socket. What is not sent when the caller gives up stays queued.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn send_all(&mut self, socket: &impl Socket) -> io::Result<()> {
        while !(self.write_to(|slices| socket.try_write_vectored(slices))? && socket.try_flush()?) {
            socket.writable().await?;
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let front = self.ready.front_mut().expect("as many bytes were written as were queued at most");
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.ready.pop_front();
        }
    }
}

/// A connection's queue with its socket. Cheap to clone; for one thread.
#[derive(Debug)]
pub struct Outbox<S = Stream> {
    stream: Rc<S>,
    queue: Rc<RefCell<Queue>>,
    /// Whether the last write left something: the writer task has work.
    behind: Rc<Cell<bool>>,
    blocked: Rc<Notify>,
}

impl<S> Clone for Outbox<S> {
    fn clone(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            queue: self.queue.clone(),
            behind: self.behind.clone(),
            blocked: self.blocked.clone(),
        }
    }
}

impl Outbox {
    /// Queues a frame. It leaves with the next flush.
    pub fn push(&self, message: &Message) {
        let lend = |data: &Bytes| self.stream.sharing()?.lend(data);
        self.queue.borrow_mut().push_message(message, lend);
    }
}

impl<S: Socket> Outbox<S> {
    /// The sending half of a connection. Its [`Outbox::run`] must be awaited beside the reading.
    pub fn new(stream: Rc<S>) -> Self {
        Self { stream, queue: Rc::default(), behind: Rc::default(), blocked: Rc::default() }
    }

    /// Changes the queue.
    pub fn with<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        change(&mut self.queue.borrow_mut())
    }

    /// Bytes queued.
    pub fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Writes what the socket takes now; the writer task does the rest. A failed socket shows at its reader.
    pub fn flush(&self) {
        if !matches!(self.write(), Ok(true)) {
            self.blocked.notify_one();
        }
    }

    /// Writes what the socket takes now. `Ok(true)`: everything, and the socket holds nothing back.
    fn write(&self) -> io::Result<bool> {
        self.behind.set(true);
        let mut queue = self.queue.borrow_mut();
        self.stream.before_write(&mut queue);
        let emptied = queue.write_to(|slices| self.stream.try_write_vectored(slices))?;
        self.behind.set(!emptied || !self.stream.try_flush()?);
        Ok(!self.behind.get())
    }

    /// The writer task: sends what a full socket left in the queue. Ends with the socket.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn run(&self) -> io::Result<()> {
        loop {
            self.send_some().await?;
        }
    }

    /// One step of the writer task: waits until a full socket has left something and takes more, and sends what it takes.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn send_some(&self) -> io::Result<()> {
        while !self.behind.get() {
            self.blocked.notified().await;
        }
        self.stream.writable().await?;
        self.write().map(drop)
    }

    /// Sends everything queued, waiting for the socket.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn drain(&self) -> io::Result<()> {
        while !self.write()? {
            self.stream.writable().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_whatever_the_socket_takes() {
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        for round in 0..200_usize {
            let header = vec![round as u8; 1 + round % 40];
            let payload = vec![!(round as u8); round * 7 % 900];
            queue.append(|out| out.extend_from_slice(&header));
            queue.push_payload(Bytes::from(payload.clone()));
            expected.extend(header);
            expected.extend(payload);
        }
        assert_eq!(queue.len(), expected.len());
        let mut sent = Vec::new();
        let mut step = 0;
        while !queue.is_empty() {
            step += 1;
            let mut budget = step * 13 % 700;
            let emptied = queue.write_to(|slices| {
                let mut written = 0;
                for slice in slices {
                    let take = slice.len().min(budget);
                    sent.extend_from_slice(&slice[..take]);
                    written += take;
                    budget -= take;
                }
                if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
            });
            assert_eq!(emptied.unwrap(), queue.is_empty());
        }
        assert_eq!(sent, expected);
    }
}
