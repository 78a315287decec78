//! The numbers of the NBD protocol (proto.md, section "Values"; those of extended headers, in the branch
//! `extension-ext-header`), under the specification's own names.
//!
//! Only what this server sends, accepts or refuses by name is listed; anything else is refused as unknown. One number is
//! Quoin's own, and says so. No behaviour lives here.

/// Magic numbers of both phases.
pub(crate) mod magic {
    /// First word of the greeting: `NBDMAGIC`.
    pub(crate) const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
    /// Second word of the greeting, and first of every option: `IHAVEOPT`.
    pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
    /// First word of every reply to an option.
    pub(crate) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    /// First word of every request.
    pub(crate) const REQUEST: u32 = 0x2560_9513;
    /// First word of a simple reply.
    pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
    /// First word of each chunk of a structured reply.
    pub(crate) const STRUCTURED_REPLY: u32 = 0x668e_33ef;
    /// First word of every request with extended headers.
    pub(crate) const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
    /// First word of each chunk of a reply with extended headers.
    pub(crate) const EXTENDED_REPLY: u32 = 0x6e8a_278c;
}

/// "Handshake flags" (16 bits, server) and "Client flags" (32 bits, client). The bits have the same meaning in both.
pub(crate) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

/// "Transmission flags".
pub(crate) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
    pub(crate) const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// "Option types".
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
    pub(crate) const EXTENDED_HEADERS: u32 = 11;
    /// Not in proto.md, whose numbers are small: Quoin's own (`QU`). A server that does not know it answers `ERR_UNSUP`.
    pub(crate) const CONNECTION: u32 = 0x5155_0001;
}

/// "Option reply types".
pub(crate) mod option_reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR + 1;
    pub(crate) const ERR_POLICY: u32 = ERROR + 2;
    pub(crate) const ERR_INVALID: u32 = ERROR + 3;
    pub(crate) const ERR_TLS_REQD: u32 = ERROR + 5;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR + 6;
    pub(crate) const ERR_SHUTDOWN: u32 = ERROR + 7;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR + 9;
    pub(crate) const ERR_EXT_HEADER_REQD: u32 = ERROR + 10;
}

/// Information types of `NBD_REP_INFO`.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
    /// Not in proto.md, whose numbers are small: Quoin's own (`QU`), sent to nobody who does not ask for it.
    pub(crate) const ATTACHMENT: u16 = 0x5155;
}

/// "Request types".
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// "Command flags".
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
    pub(crate) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// "Structured reply flags" and "Structured reply types".
pub(crate) mod chunk {
    pub(crate) const FLAG_DONE: u16 = 1 << 0;
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const BLOCK_STATUS_EXT: u16 = 6;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
}
