//! Takes frames from a connection's bytes.

use crate::fields::Fields;
use crate::frame::{
    DATA_BYTES_MAX, FLAG_LENT, FrameError, HEADER_BYTES, MAGIC, META_BYTES_MAX, get_message, kind,
};
use crate::message::Message;
use bytes::{Buf, Bytes, BytesMut};

/// Data up to this size is copied out of the read buffer.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// Takes frames from a connection's bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    needed: usize,
}

/// What a [`Decoder`] takes off the front of the bytes.
#[derive(Debug)]
pub enum Frame {
    /// All of a frame.
    Whole(Message),
    /// A frame without its data.
    Head(Head),
    /// The receiver of lent data gives it back: where each piece was said to be.
    Returned(Vec<u64>),
}

/// A frame's header and meta, which match their checksum. Its data follows, or is lent.
#[derive(Debug)]
pub struct Head {
    kind: u8,
    meta: Bytes,
    data_bytes: usize,
    lent: Option<u64>,
}

/// What a header says of what follows.
struct Lengths {
    meta_bytes: usize,
    data_bytes: usize,
    lent: Option<u64>,
}

impl Decoder {
    /// How many bytes the input must hold before the next call can give something: a hint for reading.
    pub fn needed(&self) -> usize {
        self.needed.max(HEADER_BYTES)
    }

    /// Takes the next frame off the front of `input`; `None` when it is not all there yet. For connections that share no memory.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is of no more use.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Message>, FrameError> {
        match self.lengths(input)? {
            Some(Lengths { lent: Some(_), .. }) => Err(FrameError::Lent),
            Some(lengths) => self.whole(&lengths, input),
            None => Ok(None),
        }
    }

    /// As [`Decoder::next`]; but of a frame with at least `large_bytes` of data (and with any) only the head is taken, as soon as that
    /// is there. The caller then takes the data from the same bytes, to where it wants it; or, if it is lent, from where the head says.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is of no more use.
    pub fn next_or_head(
        &mut self,
        input: &mut BytesMut,
        large_bytes: usize,
    ) -> Result<Option<Frame>, FrameError> {
        match self.lengths(input)? {
            Some(lengths) if lengths.lent.is_some() || lengths.data_bytes >= large_bytes.max(1) => {
                Ok(self.head(&lengths, 0, input)?.map(Frame::Head))
            }
            Some(lengths) if input[4] == kind::RETURNED => {
                let head = self.head(&lengths, lengths.data_bytes, input)?;
                head.map(|head| head.returned().map(Frame::Returned)).transpose()
            }
            Some(lengths) => Ok(self.whole(&lengths, input)?.map(Frame::Whole)),
            None => Ok(None),
        }
    }

    /// What the header says, once it and what was last waited for are there.
    fn lengths(&self, input: &BytesMut) -> Result<Option<Lengths>, FrameError> {
        if input.len() < self.needed() {
            return Ok(None);
        }
        if input[0..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        let field = |at: usize| u32::from_le_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
        let (meta_bytes, data_bytes) = (field(8) as usize, field(12) as usize);
        if meta_bytes > META_BYTES_MAX || data_bytes > DATA_BYTES_MAX {
            return Err(FrameError::TooLarge);
        }
        let lent = match input[5] {
            0 => None,
            FLAG_LENT => Some(input[20..28].try_into().map(u64::from_le_bytes).expect("eight bytes")),
            _ => return Err(FrameError::Value("flag")),
        };
        Ok(Some(Lengths { meta_bytes, data_bytes, lent }))
    }

    fn whole(&mut self, lengths: &Lengths, input: &mut BytesMut) -> Result<Option<Message>, FrameError> {
        let Some(head) = self.head(lengths, lengths.data_bytes, input)? else { return Ok(None) };
        let data = take_data(input, head.data_bytes);
        head.with_data(data).map(Some)
    }

    /// Takes the head, when that and so many bytes behind it are there.
    fn head(
        &mut self,
        lengths: &Lengths,
        behind: usize,
        input: &mut BytesMut,
    ) -> Result<Option<Head>, FrameError> {
        let head_bytes = HEADER_BYTES + lengths.meta_bytes;
        self.needed = head_bytes + behind;
        if input.len() < self.needed {
            return Ok(None);
        }
        self.needed = 0;
        let mut head = input.split_to(head_bytes);
        let checksum = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
        head[16..20].fill(0);
        if crc32fast::hash(&head) != checksum {
            return Err(FrameError::Checksum);
        }
        let kind = head[4];
        head.advance(HEADER_BYTES);
        let Lengths { data_bytes, lent, .. } = *lengths;
        Ok(Some(Head { kind, meta: head.freeze(), data_bytes, lent }))
    }
}

impl Head {
    /// The length of the frame's data.
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Where the data is in the memory that the sender shares; `None` if it follows.
    pub fn lent(&self) -> Option<u64> {
        self.lent
    }

    /// What is given back.
    fn returned(self) -> Result<Vec<u64>, FrameError> {
        if self.data_bytes > 0 {
            return Err(FrameError::Value("amount of data"));
        }
        Fields::new(self.meta).list(8, Fields::u64)
    }

    /// The message, with its data. Panics unless that has the length stated.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is of no more use.
    pub fn with_data(self, data: Bytes) -> Result<Message, FrameError> {
        assert_eq!(data.len(), self.data_bytes, "a frame's data");
        get_message(self.kind, Fields::new(self.meta), data)
    }
}

/// Small data is copied out, so that the read buffer can be used again at once; large data is shared with it.
fn take_data(input: &mut BytesMut, bytes: usize) -> Bytes {
    if bytes <= COPY_BYTES_MAX {
        let data = Bytes::copy_from_slice(&input[..bytes]);
        input.advance(bytes);
        data
    } else {
        input.split_to(bytes).freeze()
    }
}
