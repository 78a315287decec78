//! Between the NBD session and the core: what a client's request asks of the volume, and the reply to it as bytes.
//!
//! No socket and no clock, so that the simulator answers as the shell does.

use crate::core::{ClientOperation, Reply, STATUS_BYTES, StatusExtent};
use bytes::{Bytes, BytesMut};
use quoin_nbd::{Context, ContextKind, Cookie, Errno, Operation, ReplyEncoder, status_flag};
use quoin_replication::writer::Failure;
use quoin_types::SnapshotId;
use quoin_types::block::BlockState;

/// The least piece of zeros that is worth a chunk of its own, instead of being sent.
const HOLE_BYTES_MIN: usize = 4096;

/// What a reply without data takes in memory, about.
pub const BYTES_MIN: usize = 64;

/// How much memory the reply to a request may take.
pub fn bytes(operation: &Operation) -> usize {
    BYTES_MIN
        + match operation {
            Operation::Read { len, .. } | Operation::Cache { len, .. } => *len as usize,
            Operation::BlockStatus { contexts, .. } => contexts.len() * STATUS_BYTES,
            _ => 0,
        }
}

/// Where a reply goes.
pub trait Sink {
    /// Appends what `put` writes.
    fn header(&mut self, put: impl FnOnce(&mut BytesMut));
    /// Appends bytes that are shared.
    fn data(&mut self, data: Bytes);
}

/// What a reply depends on, beside what the core says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Nothing: it says that the request was done, or was not.
    Change,
    /// The bytes that were to be read, and whether in one chunk.
    Read {
        /// How many.
        length: u32,
        /// `NBD_CMD_FLAG_DF`.
        dont_fragment: bool,
    },
    /// Nothing: what was read is of no interest, only that it was.
    Cache,
    /// The ids of the metadata contexts, in the order of the core's answers.
    Status {
        /// They.
        contexts: Vec<u32>,
        /// `NBD_CMD_FLAG_REQ_ONE`.
        one: bool,
    },
}

/// What a client's request asks of its volume, and what the reply will depend on.
pub fn begin(operation: Operation) -> (ClientOperation, Asked) {
    let change = |operation| (operation, Asked::Change);
    match operation {
        Operation::Read { offset, len, dont_fragment } => {
            (ClientOperation::Read { offset, length: len }, Asked::Read { length: len, dont_fragment })
        }
        Operation::Cache { offset, len } => (ClientOperation::Read { offset, length: len }, Asked::Cache),
        Operation::Write { offset, data, fua } => {
            change(ClientOperation::Write { offset, data, durable: fua })
        }
        Operation::Flush => change(ClientOperation::Flush),
        Operation::Trim { offset, len, fua } => {
            change(ClientOperation::Trim { offset, length: len, durable: fua })
        }
        Operation::WriteZeroes { offset, len, fua, may_trim } => {
            change(ClientOperation::Zero { offset, length: len, durable: fua, allocate: !may_trim })
        }
        Operation::BlockStatus { offset, len, one, contexts } => {
            let about = contexts.iter().map(|context| match context.kind {
                ContextKind::Allocation => None,
                ContextKind::ChangedSince(snapshot) => Some(SnapshotId(snapshot)),
            });
            let operation = ClientOperation::Status { offset, length: len, about: about.collect() };
            let contexts = contexts.iter().map(|Context { id, .. }| *id).collect();
            (operation, Asked::Status { contexts, one })
        }
    }
}

/// Writes the reply.
pub fn answer(
    encoder: ReplyEncoder,
    cookie: Cookie,
    asked: &Asked,
    reply: Result<Reply, Failure>,
    sink: &mut impl Sink,
) {
    match (reply, asked) {
        (Ok(Reply::Read(pieces)), Asked::Read { length, dont_fragment }) => {
            if encoder.in_chunks() && !dont_fragment && pieces.iter().any(is_hole) {
                return read_in_chunks(encoder, cookie, pieces, sink);
            }
            sink.header(|out| encoder.read_header(cookie, cookie.offset, *length, out));
            pieces.into_iter().for_each(|piece| sink.data(piece));
        }
        (Ok(Reply::Status(answers)), Asked::Status { contexts, one }) => {
            let most = if *one { 1 } else { usize::MAX };
            let told = contexts.iter().zip(answers).map(|(id, extents)| {
                (*id, extents.into_iter().take(most).map(in_the_protocols_words).collect())
            });
            let told: Vec<(u32, Vec<quoin_nbd::StatusExtent>)> = told.collect();
            sink.header(|out| encoder.block_status(cookie, &told, out));
        }
        (Ok(_), _) => sink.header(|out| encoder.ok(cookie, out)),
        (Err(failure), _) => {
            let (errno, message) = words(failure);
            sink.header(|out| encoder.error(cookie, errno, message, out));
        }
    }
}

/// Whether a piece is all zeros. Data is known as such by its first bytes, nearly always.
fn is_hole(piece: &Bytes) -> bool {
    piece.len() >= HOLE_BYTES_MIN && piece[..16] == [0; 16] && piece.iter().all(|byte| *byte == 0)
}

/// `NBD_REPLY_TYPE_OFFSET_HOLE` for pieces of zeros: they are not sent.
fn read_in_chunks(encoder: ReplyEncoder, cookie: Cookie, pieces: Vec<Bytes>, sink: &mut impl Sink) {
    let (mut at, count) = (cookie.offset, pieces.len());
    for (index, piece) in pieces.into_iter().enumerate() {
        let (length, last) = (piece.len() as u32, index + 1 == count);
        if is_hole(&piece) {
            sink.header(|out| encoder.hole_chunk(cookie, at, length, last, out));
        } else {
            sink.header(|out| encoder.data_chunk(cookie, at, length, last, out));
            sink.data(piece);
        }
        at += u64::from(length);
    }
}

fn in_the_protocols_words(extent: StatusExtent) -> quoin_nbd::StatusExtent {
    let flags = match extent.state {
        BlockState::Data | BlockState::Unchanged => 0,
        BlockState::Zero => status_flag::ZERO,
        BlockState::Hole => status_flag::HOLE | status_flag::ZERO,
        BlockState::Changed => status_flag::CHANGED,
    };
    quoin_nbd::StatusExtent { len: extent.length, flags }
}

fn words(failure: Failure) -> (Errno, &'static str) {
    match failure {
        Failure::NoSpace => (Errno::NoSpace, "no majority of the storage nodes has space left"),
        Failure::Fenced => (Errno::Shutdown, "the volume is attached to another gateway now"),
        Failure::Damaged => (Errno::Io, "no replica has an undamaged copy"),
        Failure::DamagedInReach => {
            (Errno::Io, "every replica in reach is damaged here; one that is missing may have a good copy")
        }
        Failure::NoSnapshot => (Errno::Invalid, "the snapshot that the metadata context names is no more"),
    }
}

impl Sink for BytesMut {
    fn header(&mut self, put: impl FnOnce(&mut BytesMut)) {
        put(self);
    }

    fn data(&mut self, data: Bytes) {
        self.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quoin_nbd::{BlockSizes, ExportInfo, Limits, Negotiated, ReplyStyle, Transmission};

    fn encoder(replies: ReplyStyle) -> ReplyEncoder {
        let export = ExportInfo {
            name: String::new(),
            description: String::new(),
            size_bytes: 1 << 30,
            read_only: false,
            multi_conn: true,
            block_sizes: BlockSizes::default(),
            attachment: None,
        };
        Transmission::new(&export, Negotiated { replies, ..Negotiated::default() }, Limits::default())
            .replies()
    }

    /// The types of the chunks of a structured reply, with their lengths.
    fn chunks(mut bytes: &[u8]) -> Vec<(u16, usize)> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
            chunks.push((u16::from_be_bytes(bytes[6..8].try_into().unwrap()), length));
            assert_eq!(bytes[5] == 1, bytes.len() == 20 + length, "the last one says so");
            bytes = &bytes[20 + length..];
        }
        chunks
    }

    fn read(replies: ReplyStyle, dont_fragment: bool) -> BytesMut {
        let pieces = vec![Bytes::from(vec![0; 8192]), Bytes::from(vec![7; 4096]), Bytes::from(vec![0; 100])];
        let asked = Asked::Read { length: 12388, dont_fragment };
        let mut out = BytesMut::new();
        let cookie = Cookie { number: 1, offset: 4096 };
        answer(encoder(replies), cookie, &asked, Ok(Reply::Read(pieces)), &mut out);
        out
    }

    #[test]
    fn zeros_are_not_sent_where_the_client_understands_holes() {
        assert_eq!(chunks(&read(ReplyStyle::Structured, false)), [(2, 12), (1, 8 + 4096), (1, 8 + 100)]);
        assert_eq!(chunks(&read(ReplyStyle::Structured, true)), [(1, 8 + 12388)]);
        assert_eq!(read(ReplyStyle::Simple, false).len(), 16 + 12388);
        assert_eq!(read(ReplyStyle::Extended, false).len(), (32 + 12) + (40 + 4096) + (40 + 100));
    }

    #[test]
    fn a_cache_request_is_answered_without_what_was_read() {
        let mut out = BytesMut::new();
        let reply = Ok(Reply::Read(vec![Bytes::from(vec![7; 4096])]));
        answer(encoder(ReplyStyle::Simple), Cookie { number: 1, offset: 0 }, &Asked::Cache, reply, &mut out);
        assert_eq!(out.len(), 16);
    }
}
