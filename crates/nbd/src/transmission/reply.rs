//! Replies (proto.md, "Simple reply message", "Structured reply chunk message").
//!
//! Only headers are written; the data of a read is the shell's, to be sent right behind its header, as a slice of its
//! own.

use crate::error::Errno;
use crate::limits::sendable;
use crate::spec::{chunk, magic};
use crate::transmission::request::Cookie;
use bytes::{BufMut, BytesMut};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct SimpleReply {
    magic: U32,
    error: U32,
    cookie: U64,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ChunkHeader {
    magic: U32,
    flags: U16,
    chunk_type: U16,
    cookie: U64,
    len: U32,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct OffsetDataHeader {
    chunk: ChunkHeader,
    offset: U64,
}

#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ErrorHeader {
    chunk: ChunkHeader,
    error: U32,
    message_len: U16,
}

const _: () = assert!(size_of::<SimpleReply>() == 16);
const _: () = assert!(size_of::<ChunkHeader>() == 20);
const _: () = assert!(size_of::<OffsetDataHeader>() == 28);
const _: () = assert!(size_of::<ErrorHeader>() == 26);

/// Writes the replies of one session. A copy can go to whoever sends, while the
/// [`Transmission`](crate::Transmission) stays with whoever receives.
///
/// Every request gets exactly one reply: one call of [`ok`](Self::ok), [`error`](Self::error) or
/// [`read_header`](Self::read_header). Replies may come in any order ("Ordering of messages and writes").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyEncoder {
    structured: bool,
}

impl ReplyEncoder {
    /// The longest header that [`ok`](Self::ok) and [`read_header`](Self::read_header) append, in bytes.
    pub const HEADER_BYTES_MAX: usize = size_of::<OffsetDataHeader>();

    pub(super) fn new(structured: bool) -> Self {
        Self { structured }
    }

    /// Appends the reply to anything that succeeded and returns no data: writes, flush, trim.
    pub fn ok(self, cookie: Cookie, out: &mut BytesMut) {
        if self.structured {
            out.put_slice(chunk_header(chunk::NONE, cookie, 0).as_bytes());
        } else {
            simple(cookie, 0, out);
        }
    }

    /// Appends the reply to anything that failed.
    ///
    /// The message is for the client's user. At most 4,096 bytes of it are sent, and none to a client that did not
    /// negotiate structured replies.
    pub fn error(self, cookie: Cookie, errno: Errno, message: &str, out: &mut BytesMut) {
        if !self.structured {
            return simple(cookie, errno.code(), out);
        }
        let message = sendable(message);
        let fixed_bytes = size_of::<ErrorHeader>() - size_of::<ChunkHeader>();
        let header = ErrorHeader {
            chunk: chunk_header(chunk::ERROR, cookie, (fixed_bytes + message.len()) as u32),
            error: errno.code().into(),
            message_len: (message.len() as u16).into(),
        };
        out.put_slice(header.as_bytes());
        out.put_slice(message.as_bytes());
    }

    /// Appends the header of a successful read. Exactly `len` bytes of data must follow it on the wire, with nothing in
    /// between; so it is called only once all of the data is there and verified, because no error can be reported after.
    ///
    /// # Panics
    ///
    /// If `len` is 0 or more than 32 MiB, which no [`Operation::Read`](crate::Operation) is.
    pub fn read_header(self, cookie: Cookie, offset: u64, len: u32, out: &mut BytesMut) {
        assert!(len > 0 && len <= crate::PAYLOAD_BYTES_MAX, "a read of {len} bytes was never asked for");
        if !self.structured {
            return simple(cookie, 0, out);
        }
        let offset_bytes = (size_of::<OffsetDataHeader>() - size_of::<ChunkHeader>()) as u32;
        let chunk = chunk_header(chunk::OFFSET_DATA, cookie, offset_bytes + len);
        out.put_slice(OffsetDataHeader { chunk, offset: offset.into() }.as_bytes());
    }
}

fn simple(cookie: Cookie, error: u32, out: &mut BytesMut) {
    let reply =
        SimpleReply { magic: magic::SIMPLE_REPLY.into(), error: error.into(), cookie: cookie.0.into() };
    out.put_slice(reply.as_bytes());
}

/// The header of a chunk that is the last one of its reply; this server sends no others.
fn chunk_header(chunk_type: u16, cookie: Cookie, len: u32) -> ChunkHeader {
    ChunkHeader {
        magic: magic::STRUCTURED_REPLY.into(),
        flags: chunk::FLAG_DONE.into(),
        chunk_type: chunk_type.into(),
        cookie: cookie.0.into(),
        len: len.into(),
    }
}
