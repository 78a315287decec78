//! Requests (proto.md, "Request message", "Request types", "Error values"): the header, and what is to be thought of it.
//!
//! Pure judgement over one header, and over the payload of a block status; that of a write is the business of the session.

use crate::error::Errno;
use crate::export::ExportInfo;
use crate::handshake::{Context, Negotiated, ReplyStyle};
use crate::spec::{command, command_flag as flag, magic};
use bytes::{Buf, Bytes, BytesMut};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The most that one request may trim or zero, in bytes: 1 TiB, four thousand pieces for the replicas. Compact headers
/// cannot even ask for more than 4 GiB.
const EFFECT_BYTES_MAX: u64 = 1 << 40;
/// The most that one request may zero without making holes, in bytes: the zeroes are written.
const WRITTEN_ZEROES_BYTES_MAX: u64 = 1 << 32;

/// What both kinds of headers begin with, as it is on the wire.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Start {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CompactHeader {
    start: Start,
    len: U32,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtendedHeader {
    start: Start,
    len: U64,
}

const COMPACT_HEADER_BYTES: usize = size_of::<CompactHeader>();
const EXTENDED_HEADER_BYTES: usize = size_of::<ExtendedHeader>();
const _: () = assert!(COMPACT_HEADER_BYTES == 28);
const _: () = assert!(EXTENDED_HEADER_BYTES == 32);

/// The client's name for a request, opaque to the server and repeated in the reply ("Transmission"; once "handle"); with
/// the request's offset, which extended replies repeat, too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie {
    /// The name.
    pub number: u64,
    /// The offset that the request named.
    pub offset: u64,
}

/// The header of a request, of either kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestHeader {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: Cookie,
    pub(super) len: u64,
}

/// How long the header of a request is.
pub(super) fn header_bytes(style: ReplyStyle) -> usize {
    if style == ReplyStyle::Extended { EXTENDED_HEADER_BYTES } else { COMPACT_HEADER_BYTES }
}

/// Takes a header off the input; `None` if it is not complete, an error with its magic if that is wrong.
pub(super) fn take_header(input: &mut BytesMut, style: ReplyStyle) -> Result<Option<RequestHeader>, u32> {
    let (start, len, right_magic) = if style == ReplyStyle::Extended {
        let Ok((header, _)) = ExtendedHeader::ref_from_prefix(input) else { return Ok(None) };
        (header.start, header.len.get(), magic::EXTENDED_REQUEST)
    } else {
        let Ok((header, _)) = CompactHeader::ref_from_prefix(input) else { return Ok(None) };
        (header.start, u64::from(header.len.get()), magic::REQUEST)
    };
    if start.magic.get() != right_magic {
        return Err(start.magic.get());
    }
    input.advance(header_bytes(style));
    Ok(Some(RequestHeader {
        flags: start.flags.get(),
        command: start.command.get(),
        cookie: Cookie { number: start.cookie.get(), offset: start.offset.get() },
        len,
    }))
}

/// A valid request: within the export, aligned, permitted, with known flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// To be given back in the reply.
    pub cookie: Cookie,
    /// What to do.
    pub operation: Operation,
}

/// What a request asks for. Offsets and lengths are in bytes; lengths and data are never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `NBD_CMD_READ`. At most [`BlockSizes::max_payload`](crate::BlockSizes::max_payload) bytes.
    Read {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u32,
        /// `NBD_CMD_FLAG_DF`: answer in one chunk, as
        /// [`ReplyEncoder::read_header`](crate::ReplyEncoder::read_header) always does.
        dont_fragment: bool,
    },
    /// `NBD_CMD_WRITE`.
    Write {
        /// The first byte.
        offset: u64,
        /// The payload, cut out of the input without a copy: it keeps the input's whole allocation alive.
        data: Bytes,
        /// `NBD_CMD_FLAG_FUA`: answer only once it is durable.
        fua: bool,
    },
    /// `NBD_CMD_FLUSH`: answer once every write answered before is durable.
    Flush,
    /// `NBD_CMD_TRIM`: the bytes are no longer needed. May be longer than the maximum payload; at most 1 TiB.
    Trim {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
        /// `NBD_CMD_FLAG_FUA`: answer only once it is durable.
        fua: bool,
    },
    /// `NBD_CMD_CACHE`: the bytes will be needed soon. At most
    /// [`BlockSizes::max_payload`](crate::BlockSizes::max_payload) of them.
    Cache {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// `NBD_CMD_WRITE_ZEROES`: the bytes read back as zeroes. May be longer than the maximum payload; at most 1 TiB, and
    /// 4 GiB unless `may_trim`. `NBD_CMD_FLAG_FAST_ZERO` needs no care: it is refused where this would not be fast, which
    /// is unless `may_trim` and aligned to the preferred block size.
    WriteZeroes {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
        /// `NBD_CMD_FLAG_FUA`: answer only once it is durable.
        fua: bool,
        /// Without `NBD_CMD_FLAG_NO_HOLE`: the space may be given back.
        may_trim: bool,
    },
    /// `NBD_CMD_BLOCK_STATUS`: answer for each of the contexts with
    /// [`ReplyEncoder::block_status`](crate::ReplyEncoder::block_status).
    BlockStatus {
        /// The first byte.
        offset: u64,
        /// How many. A hint: the answer may cover less, and never more.
        len: u64,
        /// `NBD_CMD_FLAG_REQ_ONE`: only the first extent of each.
        one: bool,
        /// Those that the client wants to know about; at least one.
        contexts: Vec<Context>,
    },
}

/// A refusal that the session answers by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) message: &'static str,
}

/// What the session does about a header.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Give it to the shell.
    Accept(Operation),
    /// Wait for the payload of a valid request, which is not empty.
    AwaitPayload(Awaited),
    /// Nothing to do: say that it succeeded.
    Nothing,
    /// Say that it failed.
    Refuse(Refusal),
    /// `NBD_CMD_DISC`.
    Disconnect,
}

/// A request whose payload is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Awaited {
    Write { len: u32, fua: bool },
    Status { len: u32, one: bool },
}

impl Awaited {
    pub(super) fn payload_bytes(self) -> usize {
        match self {
            Awaited::Write { len, .. } | Awaited::Status { len, .. } => len as usize,
        }
    }
}

/// What the session was told about its export, as needed to judge requests.
#[derive(Debug)]
pub(super) struct Rules {
    size_bytes: u64,
    read_only: bool,
    style: ReplyStyle,
    contexts: Vec<Context>,
    min_block_bytes: u32,
    preferred_block_bytes: u32,
    max_payload_bytes: u32,
}

impl Rules {
    pub(super) fn new(export: &ExportInfo, negotiated: Negotiated) -> Self {
        Self {
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            style: negotiated.replies,
            // A simple reply cannot carry a status.
            contexts: if negotiated.replies == ReplyStyle::Simple { Vec::new() } else { negotiated.contexts },
            min_block_bytes: export.block_sizes.min(),
            preferred_block_bytes: export.block_sizes.preferred(),
            max_payload_bytes: export.block_sizes.max_payload(),
        }
    }

    pub(super) fn style(&self) -> ReplyStyle {
        self.style
    }

    pub(super) fn max_payload_bytes(&self) -> u32 {
        self.max_payload_bytes
    }

    /// How much data follows the header: that of a write, and with extended headers of whatever says so. A write should
    /// say so, too; QEMU's do not.
    pub(super) fn payload_bytes(&self, header: &RequestHeader) -> u64 {
        let says_so = self.style == ReplyStyle::Extended && header.flags & flag::PAYLOAD_LEN != 0;
        let has_payload = header.command == command::WRITE || says_so;
        if has_payload { header.len } else { 0 }
    }

    /// Judges one header. The checks come in this order: command, flags, permission, size, alignment, range, emptiness,
    /// cost of the effect.
    pub(super) fn judge(&self, header: &RequestHeader) -> Verdict {
        if header.command == command::DISC {
            return Verdict::Disconnect;
        }
        self.check(header).unwrap_or_else(Verdict::Refuse)
    }

    fn check(&self, header: &RequestHeader) -> Result<Verdict, Refusal> {
        self.check_flags(header)?;
        let RequestHeader { flags, command, cookie: Cookie { offset, .. }, len } = *header;
        let fua = flags & flag::FUA != 0;
        match command {
            command::FLUSH if offset == 0 && len == 0 => return Ok(Verdict::Accept(Operation::Flush)),
            command::FLUSH => return refuse(Errno::Invalid, "a flush has neither offset nor length"),
            command::BLOCK_STATUS => return self.check_status(header),
            _ => {}
        }
        if self.read_only && !matches!(command, command::READ | command::CACHE) {
            return refuse(Errno::NotPermitted, "the export is read-only");
        }
        let payload_len = self.check_payload(command, len)?;
        self.check_range(command, offset, len)?;
        Ok(match command {
            _ if len == 0 => Verdict::Nothing,
            command::READ => {
                let dont_fragment = flags & flag::DF != 0;
                Verdict::Accept(Operation::Read { offset, len: payload_len, dont_fragment })
            }
            command::WRITE => Verdict::AwaitPayload(Awaited::Write { len: payload_len, fua }),
            command::CACHE => Verdict::Accept(Operation::Cache { offset, len: payload_len }),
            command::TRIM if len > EFFECT_BYTES_MAX => {
                return refuse(Errno::Overflow, "longer than one request may trim");
            }
            command::TRIM => Verdict::Accept(Operation::Trim { offset, len, fua }),
            _ => Verdict::Accept(self.check_zeroes(flags, offset, len)?),
        })
    }

    fn check_flags(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let in_chunks = self.style != ReplyStyle::Simple;
        let extended = self.style == ReplyStyle::Extended;
        let own_flags = match header.command {
            command::READ if in_chunks => flag::DF,
            command::WRITE | command::BLOCK_STATUS if extended => flag::REQ_ONE | flag::PAYLOAD_LEN,
            command::BLOCK_STATUS => flag::REQ_ONE,
            command::READ | command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            _ => return refuse(Errno::Invalid, "unknown command"),
        };
        let only_for_status = header.command == command::WRITE && header.flags & flag::REQ_ONE != 0;
        // "NBD_CMD_FLAG_FUA": valid for all commands.
        if header.flags & !(own_flags | flag::FUA) != 0 || only_for_status {
            return refuse(Errno::Invalid, "a flag that this command does not take, or that was not offered");
        }
        Ok(())
    }

    /// What is carried, or gathered in memory, is bounded. Gives that length.
    fn check_payload(&self, command: u16, len: u64) -> Result<u32, Refusal> {
        let fits = u32::try_from(len).ok().filter(|len| *len <= self.max_payload_bytes);
        match (command, fits) {
            (_, Some(len)) => Ok(len),
            (command::READ, None) if self.style != ReplyStyle::Simple => {
                refuse(Errno::Overflow, "the read is longer than the maximum payload")
            }
            (command::CACHE, None) => refuse(Errno::Overflow, "longer than the maximum payload"),
            (command::READ | command::WRITE, None) => {
                refuse(Errno::Invalid, "longer than the maximum payload")
            }
            (_, None) => Ok(0),
        }
    }

    fn check_range(&self, command: u16, offset: u64, len: u64) -> Result<(), Refusal> {
        let unit = u64::from(self.min_block_bytes);
        if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            return refuse(Errno::Invalid, "not aligned to the minimum block size");
        }
        let within = offset.checked_add(len).is_some_and(|end| end <= self.size_bytes);
        match command {
            _ if within => Ok(()),
            command::WRITE | command::WRITE_ZEROES => refuse(Errno::NoSpace, "beyond the end of the export"),
            _ => refuse(Errno::Invalid, "beyond the end of the export"),
        }
    }

    fn check_zeroes(&self, flags: u16, offset: u64, len: u64) -> Result<Operation, Refusal> {
        let may_trim = flags & flag::NO_HOLE == 0;
        let unit = u64::from(self.preferred_block_bytes);
        let is_aligned = offset.is_multiple_of(unit) && len.is_multiple_of(unit);
        if flags & flag::FAST_ZERO != 0 && !(may_trim && is_aligned && len <= EFFECT_BYTES_MAX) {
            return refuse(Errno::NotSupported, "this would not be faster than writing");
        }
        if len > if may_trim { EFFECT_BYTES_MAX } else { WRITTEN_ZEROES_BYTES_MAX } {
            return refuse(Errno::Overflow, "longer than one request may zero");
        }
        Ok(Operation::WriteZeroes { offset, len, fua: flags & flag::FUA != 0, may_trim })
    }

    fn check_status(&self, header: &RequestHeader) -> Result<Verdict, Refusal> {
        const PAYLOAD: &str = "a payload is an effect length and some of the metadata contexts, each once";
        if self.contexts.is_empty() {
            return refuse(Errno::Invalid, "no metadata context was selected for this export");
        }
        let one = header.flags & flag::REQ_ONE != 0;
        if header.flags & flag::PAYLOAD_LEN == 0 {
            let contexts = self.contexts.clone();
            return Ok(Verdict::Accept(self.status(header.cookie.offset, header.len, one, contexts)?));
        }
        // 8 bytes, and 4 for each context.
        let longest = 8 + 4 * self.contexts.len() as u64;
        if header.len < 12 || header.len > longest || !header.len.is_multiple_of(4) {
            return refuse(Errno::Invalid, PAYLOAD);
        }
        Ok(Verdict::AwaitPayload(Awaited::Status { len: header.len as u32, one }))
    }

    /// Judges the payload of a block status: its effect length, and the ids of the contexts that are asked about.
    pub(super) fn judge_status(
        &self,
        offset: u64,
        one: bool,
        mut payload: &[u8],
    ) -> Result<Operation, Refusal> {
        let len = payload.get_u64();
        let mut contexts: Vec<Context> = Vec::new();
        while payload.has_remaining() {
            let id = payload.get_u32();
            let known = self.contexts.iter().find(|context| context.id == id);
            match known.filter(|context| !contexts.contains(context)) {
                Some(context) => contexts.push(*context),
                None => return refuse(Errno::Invalid, "a metadata context that is unknown, or named twice"),
            }
        }
        self.status(offset, len, one, contexts)
    }

    fn status(&self, offset: u64, len: u64, one: bool, contexts: Vec<Context>) -> Result<Operation, Refusal> {
        self.check_range(command::BLOCK_STATUS, offset, len)?;
        if len == 0 {
            // There is no way to say so little: each extent of the reply has a length.
            return refuse(Errno::Invalid, "the status of nothing");
        }
        Ok(Operation::BlockStatus { offset, len, one, contexts })
    }
}

fn refuse<T>(errno: Errno, message: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, message })
}
