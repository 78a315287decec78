//! The receiving half.

use bytes::{Buf, BytesMut};
use quoin_disk::landing::{CHUNK_BYTES_MAX, Chunk, Landing};
use quoin_wire::{DATA_BYTES_MAX, Decoder, Frame, FrameError, Head, Message};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;

/// What is read at once where no more is known to come.
const READ_BYTES: usize = 64 * 1024;
/// From this size on, data gets memory of its own, where the inbox has some for it. Of smaller frames many come with one read.
const LANDING_BYTES_MIN: usize = 64 * 1024;
const _: () = assert!(DATA_BYTES_MAX <= CHUNK_BYTES_MAX);

/// Why a connection cannot be read any more.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The other side has closed it.
    #[error("the other side has closed the connection")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The bytes received and not yet decoded.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
    decoder: Decoder,
    /// Where large data goes; without one it stays in the buffer.
    landing: Option<Arc<Landing>>,
    arriving: Option<Arriving>,
}

/// A frame whose head has been taken, and whose data arrives in memory of its own. None of it is in the buffer.
#[derive(Debug)]
struct Arriving {
    head: Head,
    data: Chunk,
}

impl Inbox {
    /// One whose large data arrives in this memory, read from the socket straight to there.
    pub fn with_landing(landing: Arc<Landing>) -> Self {
        Self { landing: Some(landing), ..Self::default() }
    }

    /// Waits for bytes and reads what is there. Messages are then taken with [`Inbox::next_message`] until it gives none.
    ///
    /// # Errors
    /// [`ReadError`]: the connection has ended.
    pub async fn fill(&mut self, stream: &TcpStream) -> Result<(), ReadError> {
        loop {
            stream.readable().await?;
            match self.try_fill(stream) {
                Ok(0) => return Err(ReadError::Closed),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn try_fill(&mut self, stream: &TcpStream) -> io::Result<usize> {
        if let Some(Arriving { data, .. }) = &mut self.arriving {
            let read = crate::try_read_into(stream, data.unfilled())?;
            data.advance(read);
            return Ok(read);
        }
        let missing = self.decoder.needed().saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.max(READ_BYTES));
        crate::try_read(stream, &mut self.buffer)
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came is no frame.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(landing) = &self.landing else { return self.decoder.next(&mut self.buffer) };
        if self.arriving.is_none() {
            match self.decoder.next_or_head(&mut self.buffer, LANDING_BYTES_MIN)? {
                Some(Frame::Head(head)) => {
                    self.arriving = Some(Arriving::begin(head, landing, &mut self.buffer));
                }
                Some(Frame::Whole(message)) => return Ok(Some(message)),
                None => return Ok(None),
            }
        }
        let Some(whole) = self.arriving.take_if(|arriving| arriving.data.is_full()) else { return Ok(None) };
        whole.head.with_data(whole.data.freeze()).map(Some)
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// [`ReadError`]: the connection has ended.
    pub async fn receive(&mut self, stream: &TcpStream) -> Result<Message, ReadError> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(message);
            }
            self.fill(stream).await?;
        }
    }
}

impl Arriving {
    /// Takes what the buffer has of the data.
    fn begin(head: Head, landing: &Landing, buffer: &mut BytesMut) -> Self {
        let mut data = landing.take(head.data_bytes());
        let there = buffer.len().min(head.data_bytes());
        buffer.copy_to_slice(&mut data.unfilled()[..there]);
        data.advance(there);
        Self { head, data }
    }
}
