//! Requests (proto.md, "Request message", "Request types", "Error values"): the header, and what is to be thought of it.
//!
//! Pure judgement over one header; the payload is the business of the session.

use crate::error::Errno;
use crate::export::ExportInfo;
use crate::spec::{command, command_flag as flag};
use bytes::Bytes;
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The header of every request, as it is on the wire.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RequestHeader {
    pub(super) magic: U32,
    pub(super) flags: U16,
    pub(super) command: U16,
    pub(super) cookie: U64,
    pub(super) offset: U64,
    pub(super) len: U32,
}

pub(super) const REQUEST_HEADER_BYTES: usize = size_of::<RequestHeader>();
const _: () = assert!(REQUEST_HEADER_BYTES == 28);

/// The client's name for a request, opaque to the server and repeated in the reply ("Transmission"; once "handle").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cookie(pub u64);

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
    /// `NBD_CMD_TRIM`: the bytes are no longer needed. May be longer than the maximum payload.
    Trim {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u32,
        /// `NBD_CMD_FLAG_FUA`: answer only once it is durable.
        fua: bool,
    },
    /// `NBD_CMD_WRITE_ZEROES`: the bytes read back as zeroes. May be longer than the maximum payload.
    WriteZeroes {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u32,
        /// `NBD_CMD_FLAG_FUA`: answer only once it is durable.
        fua: bool,
        /// Without `NBD_CMD_FLAG_NO_HOLE`: the space may be given back.
        may_trim: bool,
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
    /// Wait for the payload of a valid, non-empty write.
    AwaitPayload { offset: u64, len: u32, fua: bool },
    /// Nothing to do: say that it succeeded.
    Nothing,
    /// Say that it failed.
    Refuse(Refusal),
    /// `NBD_CMD_DISC`.
    Disconnect,
}

/// What the session was told about its export, as needed to judge requests.
#[derive(Debug)]
pub(super) struct Rules {
    size_bytes: u64,
    read_only: bool,
    structured: bool,
    min_block_bytes: u32,
    max_payload_bytes: u32,
}

impl Rules {
    pub(super) fn new(export: &ExportInfo, structured: bool) -> Self {
        Self {
            size_bytes: export.size_bytes,
            read_only: export.read_only,
            structured,
            min_block_bytes: export.block_sizes.min(),
            max_payload_bytes: export.block_sizes.max_payload(),
        }
    }

    pub(super) fn max_payload_bytes(&self) -> u32 {
        self.max_payload_bytes
    }

    /// Judges one header. The checks come in this order: command, flags, permission, size, alignment, range, emptiness.
    pub(super) fn judge(&self, header: &RequestHeader) -> Verdict {
        if header.command.get() == command::DISC {
            return Verdict::Disconnect;
        }
        if let Err(refusal) = self.check(header) {
            return Verdict::Refuse(refusal);
        }
        let (offset, len) = (header.offset.get(), header.len.get());
        let flags = header.flags.get();
        let fua = flags & flag::FUA != 0;
        match header.command.get() {
            command::FLUSH => Verdict::Accept(Operation::Flush),
            _ if len == 0 => Verdict::Nothing,
            command::READ => {
                Verdict::Accept(Operation::Read { offset, len, dont_fragment: flags & flag::DF != 0 })
            }
            command::WRITE => Verdict::AwaitPayload { offset, len, fua },
            command::TRIM => Verdict::Accept(Operation::Trim { offset, len, fua }),
            command::WRITE_ZEROES => {
                let may_trim = flags & flag::NO_HOLE == 0;
                Verdict::Accept(Operation::WriteZeroes { offset, len, fua, may_trim })
            }
            _ => unreachable!("`check` refuses every other command"),
        }
    }

    fn check(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let command = header.command.get();
        let (offset, len) = (header.offset.get(), header.len.get());
        let valid_flags = match command {
            command::READ if self.structured => flag::FUA | flag::DF,
            command::READ | command::WRITE | command::FLUSH | command::TRIM => flag::FUA,
            command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE,
            _ => return refuse(Errno::Invalid, "unknown command"),
        };
        if header.flags.get() & !valid_flags != 0 {
            return refuse(Errno::Invalid, "a flag that this command does not take, or that was not offered");
        }
        if command == command::FLUSH {
            return if offset == 0 && len == 0 {
                Ok(())
            } else {
                refuse(Errno::Invalid, "a flush has neither offset nor length")
            };
        }
        if self.read_only && command != command::READ {
            return refuse(Errno::NotPermitted, "the export is read-only");
        }
        if len > self.max_payload_bytes {
            match command {
                command::READ if self.structured => {
                    return refuse(Errno::Overflow, "the read is longer than the maximum payload");
                }
                command::READ | command::WRITE => {
                    return refuse(Errno::Invalid, "longer than the maximum payload");
                }
                _ => {}
            }
        }
        let unit = self.min_block_bytes;
        if !offset.is_multiple_of(u64::from(unit)) || !len.is_multiple_of(unit) {
            return refuse(Errno::Invalid, "not aligned to the minimum block size");
        }
        let within = offset.checked_add(u64::from(len)).is_some_and(|end| end <= self.size_bytes);
        match command {
            _ if within => Ok(()),
            command::READ | command::TRIM => refuse(Errno::Invalid, "beyond the end of the export"),
            _ => refuse(Errno::NoSpace, "beyond the end of the export"),
        }
    }
}

fn refuse<T>(errno: Errno, message: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, message })
}
