//! The receiving half.

use crate::sharing::Sharing;
use crate::{LARGE_BYTES_MIN, Stream};
use bytes::BytesMut;
use quoin_disk::landing::{CHUNK_BYTES_MAX, Chunk, Landing};
use quoin_wire::{DATA_BYTES_MAX, Decoder, Frame, FrameError, Head, Message};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// What is read at once where no more is known to come.
const READ_BYTES: usize = 64 * 1024;
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
    /// Where data is that does not come.
    sharing: Option<Rc<Sharing>>,
    arriving: Option<Arriving>,
}

/// A frame whose head has been taken, and whose data arrives in memory of its own. None of it is in the buffer.
#[derive(Debug)]
struct Arriving {
    head: Head,
    data: Chunk,
}

impl Inbox {
    /// That of a connection.
    pub fn new(stream: &Stream) -> Self {
        Self { sharing: stream.sharing().cloned(), ..Self::default() }
    }

    /// From the next frame on, large data arrives in this memory, read from the socket straight to there.
    pub fn land_in(&mut self, landing: Arc<Landing>) {
        self.landing = Some(landing);
    }

    /// Waits for bytes and reads what is there. Messages are then taken with [`Inbox::next_message`] until it gives none.
    ///
    /// # Errors
    /// [`ReadError`]: the connection has ended.
    pub async fn fill(&mut self, stream: &Stream) -> Result<(), ReadError> {
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

    fn try_fill(&mut self, stream: &Stream) -> io::Result<usize> {
        if let Some(Arriving { data, .. }) = &mut self.arriving {
            let read = stream.try_read_into(data.unfilled())?;
            data.advance(read);
            return Ok(read);
        }
        let missing = self.decoder.needed().saturating_sub(self.buffer.len());
        self.buffer.reserve(missing.max(READ_BYTES));
        stream.try_read(&mut self.buffer)
    }

    /// The next whole message.
    ///
    /// # Errors
    /// What came is no frame.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        // From which size on data is received to memory of its own.
        let large_bytes = if self.landing.is_some() { LARGE_BYTES_MIN } else { usize::MAX };
        while self.arriving.is_none() {
            match self.decoder.next_or_head(&mut self.buffer, large_bytes)? {
                Some(Frame::Whole(message)) => return Ok(Some(message)),
                Some(Frame::Returned(offsets)) => self.sharing()?.returned(&offsets)?,
                Some(Frame::Head(head)) => match (head.lent(), &self.landing) {
                    (Some(offset), _) => {
                        let data = self.sharing()?.borrow(offset, head.data_bytes())?;
                        return head.with_data(data).map(Some);
                    }
                    (None, Some(landing)) => {
                        self.arriving = Some(Arriving::begin(head, landing, &mut self.buffer));
                    }
                    (None, None) => unreachable!("no data is that large"),
                },
                None => return Ok(None),
            }
        }
        let Some(whole) = self.arriving.take_if(|arriving| arriving.data.is_full()) else { return Ok(None) };
        whole.head.with_data(whole.data.freeze()).map(Some)
    }

    /// For frames that come only where memory is shared.
    fn sharing(&self) -> Result<&Sharing, FrameError> {
        self.sharing.as_deref().ok_or(FrameError::Lent)
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// [`ReadError`]: the connection has ended.
    pub async fn receive(&mut self, stream: &Stream) -> Result<Message, ReadError> {
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
        data.fill_from(buffer);
        Self { head, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pairs, write_all};
    use bytes::Bytes;
    use quoin_types::{Epoch, ReplicaId, Seq};
    use quoin_wire::{HEADER_BYTES, encode};

    fn landing_in(landing: Arc<Landing>) -> Inbox {
        let mut inbox = Inbox::default();
        inbox.land_in(landing);
        inbox
    }

    /// A write's frame in the bytes of the document: its meta, and data of whole blocks that differ.
    fn frame(seq: u64, data_bytes: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..data_bytes).map(|at| (at / 100 + at + seq as usize) as u8).collect();
        let message = Message::Write(quoin_wire::Write {
            replica: ReplicaId(1),
            epoch: Epoch(2),
            seq: Seq(seq),
            offset: 0,
            checksums: quoin_wire::block_checksums(&data),
            data: Bytes::from(data),
        });
        let mut bytes = BytesMut::new();
        let data = encode(&message, &mut bytes);
        bytes.extend_from_slice(&data);
        bytes.to_vec()
    }

    /// Sends the stream in pieces, and gives what the inbox makes of it until the end of the connection.
    async fn received(mut inbox: Inbox, stream: Vec<u8>, piece_bytes: usize) -> (Vec<Message>, ReadError) {
        let [(writer, reader), _] = pairs().await;
        let send = async move {
            for piece in stream.chunks(piece_bytes) {
                write_all(&writer, piece).await;
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let mut messages = Vec::new();
            loop {
                match inbox.receive(&reader).await {
                    Ok(message) => messages.push(message),
                    Err(error) => return (messages, error),
                }
            }
        };
        tokio::join!(send, receive).1
    }

    #[tokio::test]
    async fn large_data_lands_at_pages_and_nothing_is_mixed_up() {
        let lengths = [4096, 65_536, 8192, 1 << 20, 1 << 20, 61_440, 69_632, 4096, 4096, 65_536];
        let stream: Vec<u8> = (1..).zip(lengths).flat_map(|(seq, length)| frame(seq, length)).collect();
        for piece_bytes in [1000, 65_000, 70_000, 900_000, stream.len()] {
            let landing = Arc::new(Landing::default());
            let (landed, end) = received(landing_in(landing), stream.clone(), piece_bytes).await;
            assert!(matches!(end, ReadError::Closed));
            let (usual, _) = received(Inbox::default(), stream.clone(), piece_bytes).await;
            assert_eq!(landed.len(), lengths.len());
            assert!(landed == usual);
            for (message, length) in landed.iter().zip(lengths) {
                let Message::Write(write) = message else { panic!("another message") };
                assert_eq!(write.data.len(), length);
                assert_eq!(quoin_wire::first_mismatch(&write.data, &write.checksums), None);
                if length >= LARGE_BYTES_MIN {
                    assert!(write.data.as_ptr().addr().is_multiple_of(4096));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_may_end_within_large_data() {
        let mut stream = [frame(1, 65_536), frame(2, 1 << 20)].concat();
        stream.truncate(stream.len() - 1);
        let (messages, end) = received(landing_in(Arc::default()), stream, 50_000).await;
        assert_eq!(messages.len(), 1);
        assert!(matches!(end, ReadError::Closed));
    }

    #[tokio::test]
    async fn a_head_is_checked_before_its_data_lands() {
        let changed = |at: usize, value: u8| {
            let mut stream = frame(1, 65_536);
            stream[at] ^= value;
            // Without its data: nobody waits for that.
            stream.truncate(HEADER_BYTES + 200);
            stream
        };
        for (stream, expected) in [
            (changed(14, 0x70), FrameError::TooLarge),
            (changed(16, 1), FrameError::Checksum),
            (changed(40, 1), FrameError::Checksum),
        ] {
            let (messages, end) = received(landing_in(Arc::default()), stream, 4096).await;
            assert!(messages.is_empty());
            assert!(matches!(end, ReadError::Frame(error) if error == expected), "{end}");
        }
    }
}
