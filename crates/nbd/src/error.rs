//! What ends a session, and the error numbers of replies.

use std::fmt;

/// A breach by the client after which nothing more can be understood, or which would cost too much to answer. The
/// shell closes the connection (a "hard disconnect", proto.md) without sending anything more.
///
/// The state machine that returned it returns it again on every later call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// "Client flags": a flag this server did not offer.
    #[error("the client set unknown handshake flags {0:#010x}")]
    UnknownClientFlags(u32),
    /// "Newstyle negotiation": an option does not start with `IHAVEOPT`.
    #[error("an option starts with {0:#018x}, not with IHAVEOPT")]
    OptionMagic(u64),
    /// "Option types": a client without `NBD_FLAG_C_FIXED_NEWSTYLE` can send nothing but `NBD_OPT_EXPORT_NAME`.
    #[error("option {0} needs fixed newstyle negotiation, which the client did not ask for")]
    OptionNeedsFixedNewstyle(u32),
    /// The option is longer than [`Limits::option_discard_bytes_max`](crate::Limits), or is a name that is too long
    /// in `NBD_OPT_EXPORT_NAME`, which cannot be answered with an error.
    #[error("option {option} is {len_bytes} bytes long")]
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// The length it claims.
        len_bytes: u32,
    },
    /// More options than [`Limits::options_max`](crate::Limits): it will not come to an end.
    #[error("more than {0} options")]
    TooManyOptions(u32),
    /// "NBD_OPT_EXTENDED_HEADERS": a client that has negotiated them must not use `NBD_OPT_EXPORT_NAME`, which cannot be
    /// answered with an error.
    #[error("EXPORT_NAME after extended headers were negotiated")]
    ExportNameWithExtendedHeaders,
    /// "Conventions": a name in `NBD_OPT_EXPORT_NAME`, which cannot be answered with an error, is no UTF-8 or holds NUL.
    #[error("the export's name is not a valid string")]
    ExportName,
    /// "TLS": bytes came in plain text behind `NBD_OPT_STARTTLS`, before its acknowledgement. Taking them for part of the
    /// encrypted session would let anyone on the path put words into the client's mouth.
    #[error("{0} bytes in plain text follow STARTTLS")]
    PlainTextBeforeTls(usize),
    /// "Request message": a request does not start with `NBD_REQUEST_MAGIC`.
    #[error("a request starts with {0:#010x}, not with the request magic")]
    RequestMagic(u32),
    /// "Size constraints": the payload is longer than [`Limits::payload_discard_bytes_max`](crate::Limits); with extended
    /// headers, longer than the maximum payload.
    #[error("a request carries {0} bytes")]
    PayloadTooLong(u64),
}

/// "Error values": why a request failed, with the protocol's number.
///
/// `NotSupported` and `Overflow` have narrow uses in the specification; a shell that looks for an answer to its own
/// failures takes `Io`, `NoSpace` or `Shutdown`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: a write or trim on a read-only export.
    NotPermitted = 1,
    /// `NBD_EIO`: the data could not be read or written.
    Io = 5,
    /// `NBD_ENOMEM`: not to be used if at all possible.
    NoMemory = 12,
    /// `NBD_EINVAL`: unknown command or flag, not aligned, a read or trim beyond the end.
    Invalid = 22,
    /// `NBD_ENOSPC`: a write beyond the end, or no space left.
    NoSpace = 28,
    /// `NBD_EOVERFLOW`: a read longer than the maximum payload, when replies come in chunks; or an effect that is too long.
    Overflow = 75,
    /// `NBD_ENOTSUP`: zeroing would not be faster than writing.
    NotSupported = 95,
    /// `NBD_ESHUTDOWN`: the server is shutting down; the client must disconnect.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            Errno::NotPermitted => "NBD_EPERM",
            Errno::Io => "NBD_EIO",
            Errno::NoMemory => "NBD_ENOMEM",
            Errno::Invalid => "NBD_EINVAL",
            Errno::NoSpace => "NBD_ENOSPC",
            Errno::Overflow => "NBD_EOVERFLOW",
            Errno::NotSupported => "NBD_ENOTSUP",
            Errno::Shutdown => "NBD_ESHUTDOWN",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
