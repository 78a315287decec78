//! The receiving half.

use bytes::BytesMut;
use quoin_wire::{Decoder, FrameError, Message};
use std::io;
use tokio::net::TcpStream;

/// What is read at once where no more is known to come.
const READ_BYTES: usize = 64 * 1024;

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
}

impl Inbox {
    /// Waits for bytes and reads what is there. Messages are then taken with [`Inbox::next_message`] until it gives none.
    ///
    /// # Errors
    /// [`ReadError`]: the connection has ended.
    pub async fn fill(&mut self, stream: &TcpStream) -> Result<(), ReadError> {
        loop {
            stream.readable().await?;
            let missing = self.decoder.needed().saturating_sub(self.buffer.len());
            self.buffer.reserve(missing.max(READ_BYTES));
            match crate::try_read(stream, &mut self.buffer) {
                Ok(0) => return Err(ReadError::Closed),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came is no frame.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        self.decoder.next(&mut self.buffer)
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
