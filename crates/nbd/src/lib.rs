//! The NBD protocol's server side, as a pure state machine: bytes in, requests out; replies in, bytes out. And as much
//! of the client's side as `quoin attach` needs: [`client`].
//!
//! The source is the NBD project's `doc/proto.md`, whose sections are named where a rule comes from them. A session is
//! a [`Handshake`] followed by a [`Transmission`]; each documents the order of calls on its type. What a client can
//! make a session hold is bounded by [`Limits`] and by the export's [`BlockSizes`].
//!
//! This crate owns no socket, thread, clock or random source, and knows no volumes: the gateway's shell moves bytes,
//! looks exports up, carries requests out, bounds how many are in flight and ends sessions that take too long.
//!
//! TLS itself is the shell's: the session only agrees on it and says when to begin ([`Step::StartTls`]).
//!
//! Not spoken: oldstyle negotiation, and resizing, whose command is answered with `NBD_EINVAL`. `docs/nbd.md` lists what is.
//!
//! ```
//! use bytes::BytesMut;
//! use quoin_nbd::{CloseReason, Handshake, Limits, Step};
//!
//! let mut handshake = Handshake::new(Limits::default());
//! let mut input = BytesMut::from(&b"\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00"[..]);
//! let Step::Send(greeting) = handshake.advance(&mut input)? else { panic!() };
//! assert_eq!(&greeting[..], b"NBDMAGICIHAVEOPT\x00\x03");
//! let Step::Send(acknowledgement) = handshake.advance(&mut input)? else { panic!() };
//! assert_eq!(acknowledgement.len(), 20);
//! assert_eq!(handshake.advance(&mut input)?, Step::Close(CloseReason::Aborted));
//! # Ok::<(), quoin_nbd::ProtocolError>(())
//! ```

pub mod client;
mod connection;
mod error;
mod export;
pub mod fuzz;
mod handshake;
mod limits;
mod spec;
mod transmission;

pub use connection::ConnectionName;
pub use error::{Errno, ProtocolError};
pub use export::{
    AttachmentInfo, BlockSizes, BlockSizesError, ExportError, ExportErrorKind, ExportInfo, ExportSummary,
    TransmissionFlags,
};
pub use handshake::{
    CloseReason, Context, ContextKind, ExportSnapshot, Handshake, Negotiated, OpenKind, ReplyStyle, Step,
    TlsPolicy,
};
pub use limits::{Limits, PAYLOAD_BYTES_DEFAULT, PAYLOAD_BYTES_MAX, STRING_BYTES_MAX};
pub use transmission::{
    Answered, Cookie, Operation, Received, ReplyEncoder, Request, StatusExtent, Transmission, status_flag,
};
