//! What the shell tells a session about an export, and why it refuses one.
//!
//! Nothing here finds exports: the shell looks them up and answers the questions of [`Handshake`](crate::Handshake).

use crate::handshake::{Negotiated, ReplyStyle};
use crate::limits::{PAYLOAD_BYTES_DEFAULT, PAYLOAD_BYTES_MAX};
use crate::spec::{option_reply, transmission_flag as flag};

/// An export, as a client is told about it when it opens it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// The canonical name, sent as `NBD_INFO_NAME`; it may differ from the name the client asked for (the empty name
    /// means "the default export").
    pub name: String,
    /// A description for people, sent as `NBD_INFO_DESCRIPTION` unless empty.
    pub description: String,
    /// The size, in bytes. It should be a multiple of the minimum block size: a rest cannot be reached.
    pub size_bytes: u64,
    /// Whether writes, trims and zeroing are refused with `NBD_EPERM`.
    pub read_only: bool,
    /// Whether a flush or FUA on one connection covers what was answered on any other: `NBD_FLAG_CAN_MULTI_CONN`.
    pub multi_conn: bool,
    /// The size constraints.
    pub block_sizes: BlockSizes,
    /// Under which attachment it is served; sent to clients that ask for it.
    pub attachment: Option<AttachmentInfo>,
}

/// Under which attachment an export is served, and since when nobody else had it.
///
/// A client that opens an export again, and has kept what it read before, may go on with that only if it is the same volume
/// and the attachment that it began with is not before `unbroken_since`. Sent with `NBD_INFO_EXPORT` as an information of
/// Quoin's own (type 0x5155): the option that opens the export is the only question whose answer cannot be out of date when
/// transmission begins, and the kernel's client rules out metadata contexts, which need structured replies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AttachmentInfo {
    /// The cluster's identity.
    pub cluster: [u8; 16],
    /// The volume's number in it, never reused.
    pub volume: u64,
    /// The number of the attachment.
    pub epoch: u64,
    /// The first of the attachments, up to this one, between which no other gateway had the volume for clients and none of
    /// which has lost what was accepted.
    pub unbroken_since: u64,
}

impl ExportInfo {
    /// "Transmission flags": what the session will accept, given what was negotiated.
    ///
    /// A read-only export does not offer trim and write-zeroes. FUA is always offered: it is then valid on every command.
    pub fn transmission_flags(&self, negotiated: &Negotiated) -> TransmissionFlags {
        let mut bits = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        bits |= if self.read_only {
            flag::READ_ONLY
        } else {
            flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO
        };
        if negotiated.replies != ReplyStyle::Simple {
            bits |= flag::SEND_DF;
        }
        if negotiated.replies == ReplyStyle::Extended && !negotiated.contexts.is_empty() {
            bits |= flag::BLOCK_STATUS_PAYLOAD;
        }
        if self.multi_conn {
            bits |= flag::CAN_MULTI_CONN;
        }
        TransmissionFlags(bits)
    }
}

/// "Transmission flags" of an export, as sent with `NBD_INFO_EXPORT` and after `NBD_OPT_EXPORT_NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    /// The bits on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// "Size constraints" of an export, in bytes: checked when made, so that a session can trust them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    min: u32,
    preferred: u32,
    max_payload: u32,
}

/// The sizes break a rule of proto.md, "Size constraints", or the maximum is above [`PAYLOAD_BYTES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "block sizes must be powers of two with minimum <= 64 KiB, 512 <= preferred <= maximum payload <= 64 MiB"
)]
pub struct BlockSizesError;

impl BlockSizes {
    /// Checks and makes size constraints.
    ///
    /// # Errors
    ///
    /// [`BlockSizesError`] unless `min` is a power of two up to 64 KiB, `preferred` a power of two not below `min` and
    /// 512, and `max_payload` between `preferred` and [`PAYLOAD_BYTES_MAX`].
    pub const fn new(min: u32, preferred: u32, max_payload: u32) -> Result<Self, BlockSizesError> {
        let min_fits = min.is_power_of_two() && min <= 1 << 16;
        let preferred_fits = preferred.is_power_of_two() && preferred >= min && preferred >= 512;
        if min_fits && preferred_fits && preferred <= max_payload && max_payload <= PAYLOAD_BYTES_MAX {
            Ok(Self { min, preferred, max_payload })
        } else {
            Err(BlockSizesError)
        }
    }

    /// The unit that offsets and lengths must be multiples of.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// The least size at which aligned requests are efficient.
    pub const fn preferred(self) -> u32 {
        self.preferred
    }

    /// The most data that one read or write may carry.
    pub const fn max_payload(self) -> u32 {
        self.max_payload
    }
}

impl Default for BlockSizes {
    /// The sizes a client may assume when it was told none: 1, 4 KiB, 32 MiB.
    fn default() -> Self {
        Self { min: 1, preferred: 4096, max_payload: PAYLOAD_BYTES_DEFAULT }
    }
}

/// An entry of the answer to `NBD_OPT_LIST`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportSummary {
    /// The name by which the export can be opened. An entry whose name is longer than
    /// [`STRING_BYTES_MAX`](crate::STRING_BYTES_MAX) or holds NUL cannot be expressed and is left out.
    pub name: String,
    /// A description for people, or nothing.
    pub description: String,
}

/// Why the shell refuses to open, or to list, exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportError {
    /// The kind, which the client's program acts on.
    pub kind: ExportErrorKind,
    /// The message, which its user reads. At most 4,096 bytes of it are sent.
    pub message: String,
    /// The attachment under which another server has it, if that is the reason. Told to those who ask for attachments.
    pub elsewhere: Option<AttachmentInfo>,
}

impl ExportError {
    /// Makes a refusal.
    pub fn new(kind: ExportErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), elsewhere: None }
    }
}

/// The kinds of [`ExportError`] ("Option reply types").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExportErrorKind {
    /// `NBD_REP_ERR_UNKNOWN`: the export does not exist, or is not available here.
    Unknown,
    /// `NBD_REP_ERR_SHUTDOWN`: the server, or its access to the export, is going away. The client must disconnect.
    Shutdown,
    /// `NBD_REP_ERR_POLICY`: it exists, but this client may not have it (now).
    Policy,
}

impl ExportErrorKind {
    pub(crate) const fn reply_type(self) -> u32 {
        match self {
            ExportErrorKind::Unknown => option_reply::ERR_UNKNOWN,
            ExportErrorKind::Shutdown => option_reply::ERR_SHUTDOWN,
            ExportErrorKind::Policy => option_reply::ERR_POLICY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_keep_the_rules_of_the_specification() {
        assert_eq!(BlockSizes::new(1, 4096, PAYLOAD_BYTES_DEFAULT), Ok(BlockSizes::default()));
        assert!(BlockSizes::new(1, 4096, PAYLOAD_BYTES_MAX).is_ok());
        assert!(BlockSizes::new(65536, 65536, 65536).is_ok());
        for (min, preferred, max) in [
            (0, 4096, 1 << 20),
            (3, 4096, 1 << 20),
            (1 << 17, 1 << 17, 1 << 20),
            (4096, 512, 1 << 20),
            (1, 256, 1 << 20),
            (1, 4096, 4095),
            (1, 4096, PAYLOAD_BYTES_MAX + 1),
        ] {
            assert_eq!(BlockSizes::new(min, preferred, max), Err(BlockSizesError), "{min} {preferred} {max}");
        }
    }
}
