//! Replies (proto.md, "Simple reply message", "Structured reply chunk message", "Extended reply chunk message").
//!
//! Of reads only headers are written; the data is the shell's, to be sent right behind its header, as a slice of its own.

use crate::error::Errno;
use crate::handshake::ReplyStyle;
use crate::limits::sendable;
use crate::spec::{chunk, magic};
use crate::transmission::request::Cookie;
use bytes::{BufMut, BytesMut};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// What the flags of a block status say of an extent.
pub mod status_flag {
    /// `NBD_STATE_HOLE` of `base:allocation`: it takes no space.
    pub const HOLE: u32 = 1 << 0;
    /// `NBD_STATE_ZERO` of `base:allocation`: it reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
    /// Of `quoin:changed-since:…`: it may have changed since the snapshot.
    pub const CHANGED: u32 = 1 << 0;
}

/// An extent of a block status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// Its length, in bytes; never 0.
    pub len: u64,
    /// What is said of it: see [`status_flag`].
    pub flags: u32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SimpleReply {
    magic: U32,
    error: U32,
    cookie: U64,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct StructuredHeader {
    magic: U32,
    flags: U16,
    chunk_type: U16,
    cookie: U64,
    len: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ExtendedHeader {
    magic: U32,
    flags: U16,
    chunk_type: U16,
    cookie: U64,
    offset: U64,
    len: U64,
}

const _: () = assert!(size_of::<SimpleReply>() == 16);
const _: () = assert!(size_of::<StructuredHeader>() == 20);
const _: () = assert!(size_of::<ExtendedHeader>() == 32);

/// Of a chunk of data: before the data.
const DATA_OFFSET_BYTES: u32 = 8;

/// Writes the replies of one session. A copy can go to whoever sends, while the
/// [`Transmission`](crate::Transmission) stays with whoever receives.
///
/// Every request gets exactly one reply: one call of [`ok`](Self::ok), [`error`](Self::error),
/// [`read_header`](Self::read_header) or [`block_status`](Self::block_status); or, if [`in_chunks`](Self::in_chunks), as
/// many of [`data_chunk`](Self::data_chunk) and [`hole_chunk`](Self::hole_chunk) as cover the read. Replies may come in any
/// order ("Ordering of messages and writes").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyEncoder {
    style: ReplyStyle,
}

impl ReplyEncoder {
    /// The longest header that [`ok`](Self::ok) and [`read_header`](Self::read_header) append, in bytes.
    pub const HEADER_BYTES_MAX: usize = size_of::<ExtendedHeader>() + DATA_OFFSET_BYTES as usize;

    pub(super) fn new(style: ReplyStyle) -> Self {
        Self { style }
    }

    /// Whether a read may be answered in several chunks, of data and of holes, unless `NBD_CMD_FLAG_DF` asks for one.
    pub fn in_chunks(self) -> bool {
        self.style != ReplyStyle::Simple
    }

    /// Appends the reply to anything that succeeded and returns no data: writes, flush, trim.
    pub fn ok(self, cookie: Cookie, out: &mut BytesMut) {
        self.header(cookie, chunk::NONE, 0, true, out);
    }

    /// Appends the reply to anything that failed.
    ///
    /// The message is for the client's user. At most 4,096 bytes of it are sent, and none to a client whose replies are
    /// simple.
    pub fn error(self, cookie: Cookie, errno: Errno, message: &str, out: &mut BytesMut) {
        if self.style == ReplyStyle::Simple {
            return simple(cookie, errno.code(), out);
        }
        let message = sendable(message);
        self.header(cookie, chunk::ERROR, 6 + message.len() as u32, true, out);
        out.put_u32(errno.code());
        out.put_u16(message.len() as u16);
        out.put_slice(message.as_bytes());
    }

    /// Appends the header of a successful read. Exactly `len` bytes of data must follow it on the wire, with nothing in
    /// between; so it is called only once all of the data is there and verified, because no error can be reported after.
    ///
    /// # Panics
    ///
    /// If `len` is 0 or more than the greatest maximum payload, which no [`Operation::Read`](crate::Operation) is.
    pub fn read_header(self, cookie: Cookie, offset: u64, len: u32, out: &mut BytesMut) {
        assert!(len > 0 && len <= crate::PAYLOAD_BYTES_MAX, "a read of {len} bytes was never asked for");
        if self.style == ReplyStyle::Simple {
            return simple(cookie, 0, out);
        }
        self.data_chunk(cookie, offset, len, true, out);
    }

    /// Appends the header of a part of a successful read; its data must follow. `last`: no other part does. All parts of
    /// the read are there and verified before the first is sent.
    ///
    /// # Panics
    ///
    /// If replies are not in chunks, or `len` is 0.
    pub fn data_chunk(self, cookie: Cookie, offset: u64, len: u32, last: bool, out: &mut BytesMut) {
        assert!(self.in_chunks() && len > 0, "a chunk of {len} bytes for {:?}", self.style);
        self.header(cookie, chunk::OFFSET_DATA, DATA_OFFSET_BYTES + len, last, out);
        out.put_u64(offset);
    }

    /// Appends a part of a successful read that is all zeroes, instead of its header and data.
    ///
    /// # Panics
    ///
    /// If replies are not in chunks, or `len` is 0.
    pub fn hole_chunk(self, cookie: Cookie, offset: u64, len: u32, last: bool, out: &mut BytesMut) {
        assert!(self.in_chunks() && len > 0, "a hole of {len} bytes for {:?}", self.style);
        self.header(cookie, chunk::OFFSET_HOLE, 12, last, out);
        out.put_u64(offset);
        out.put_u32(len);
    }

    /// Appends the reply to a block status: for each context, its id and the extents from the request's offset on. They
    /// may end before what was asked for does, and do not go beyond it.
    ///
    /// # Panics
    ///
    /// If replies are not in chunks, there is no context, or one has no extent.
    pub fn block_status(self, cookie: Cookie, contexts: &[(u32, Vec<StatusExtent>)], out: &mut BytesMut) {
        assert!(self.in_chunks() && !contexts.is_empty(), "a block status was never asked for");
        for (index, (id, extents)) in contexts.iter().enumerate() {
            assert!(extents.iter().all(|extent| extent.len > 0) && !extents.is_empty(), "an empty extent");
            let (count, last) = (extents.len() as u32, index + 1 == contexts.len());
            if self.style == ReplyStyle::Extended {
                self.header(cookie, chunk::BLOCK_STATUS_EXT, 8 + 16 * count, last, out);
                out.put_u32(*id);
                out.put_u32(count);
                for extent in extents {
                    out.put_u64(extent.len);
                    out.put_u64(u64::from(extent.flags));
                }
            } else {
                self.header(cookie, chunk::BLOCK_STATUS, 4 + 8 * count, last, out);
                out.put_u32(*id);
                for extent in extents {
                    // A compact request asks for less than 4 GiB, and gets no more.
                    out.put_u32(extent.len as u32);
                    out.put_u32(extent.flags);
                }
            }
        }
    }

    /// The header of a chunk, or of the whole reply where it is simple.
    fn header(self, cookie: Cookie, chunk_type: u16, len: u32, last: bool, out: &mut BytesMut) {
        let (flags, chunk_type) = (if last { chunk::FLAG_DONE } else { 0 }.into(), chunk_type.into());
        match self.style {
            ReplyStyle::Simple => simple(cookie, 0, out),
            ReplyStyle::Structured => {
                let magic = magic::STRUCTURED_REPLY.into();
                let header = StructuredHeader {
                    magic,
                    flags,
                    chunk_type,
                    cookie: cookie.number.into(),
                    len: len.into(),
                };
                out.put_slice(header.as_bytes());
            }
            ReplyStyle::Extended => {
                let header = ExtendedHeader {
                    magic: magic::EXTENDED_REPLY.into(),
                    flags,
                    chunk_type,
                    cookie: cookie.number.into(),
                    offset: cookie.offset.into(),
                    len: u64::from(len).into(),
                };
                out.put_slice(header.as_bytes());
            }
        }
    }
}

fn simple(cookie: Cookie, error: u32, out: &mut BytesMut) {
    let (magic, cookie) = (magic::SIMPLE_REPLY.into(), cookie.number.into());
    out.put_slice(SimpleReply { magic, error: error.into(), cookie }.as_bytes());
}
