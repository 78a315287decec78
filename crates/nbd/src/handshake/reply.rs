//! Writing what the server says before transmission (proto.md, "Fixed newstyle negotiation", "Option reply types").
//! Decides nothing.

use crate::export::{AttachmentInfo, BlockSizes, ExportInfo, ExportSummary, TransmissionFlags};
use crate::handshake::option::InfoRequests;
use crate::limits::{STRING_BYTES_MAX, sendable};
use crate::spec::{handshake_flag, info, magic, option_reply};
use bytes::{BufMut, BytesMut};

/// Zeroes after the answer to `NBD_OPT_EXPORT_NAME`, unless `NBD_FLAG_C_NO_ZEROES` was negotiated.
const RESERVED_BYTES: usize = 124;

/// The server's first words ("Newstyle negotiation").
pub(crate) fn greeting(out: &mut BytesMut) {
    out.put_u64(magic::INIT_PASSWD);
    out.put_u64(magic::IHAVEOPT);
    out.put_u16(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
}

/// `NBD_REP_ACK`.
pub(crate) fn ack(option: u32, out: &mut BytesMut) {
    header(option, option_reply::ACK, 0, out);
}

/// Any `NBD_REP_ERR_…`, with a message for the user.
pub(crate) fn error(option: u32, reply_type: u32, message: &str, out: &mut BytesMut) {
    let message = sendable(message);
    header(option, reply_type, message.len(), out);
    out.put_slice(message.as_bytes());
}

/// `NBD_REP_SERVER`. An entry whose name cannot be expressed is left out.
pub(crate) fn server(option: u32, entry: &ExportSummary, out: &mut BytesMut) {
    if !is_expressible(&entry.name) {
        return;
    }
    let description = sendable(&entry.description);
    header(option, option_reply::SERVER, 4 + entry.name.len() + description.len(), out);
    out.put_u32(entry.name.len() as u32);
    out.put_slice(entry.name.as_bytes());
    out.put_slice(description.as_bytes());
}

/// The `NBD_REP_INFO` replies for an export.
///
/// The block sizes are also sent unasked if they are not the ones that a client may assume ("Size constraints").
pub(crate) fn infos(
    option: u32,
    export: &ExportInfo,
    flags: TransmissionFlags,
    requests: InfoRequests,
    out: &mut BytesMut,
) {
    header(option, option_reply::INFO, 12, out);
    out.put_u16(info::EXPORT);
    out.put_u64(export.size_bytes);
    out.put_u16(flags.bits());
    if requests.name && is_expressible(&export.name) {
        text(option, info::NAME, &export.name, out);
    }
    let description = sendable(&export.description);
    if requests.description && !description.is_empty() {
        text(option, info::DESCRIPTION, description, out);
    }
    if requests.block_size || export.block_sizes != BlockSizes::default() {
        header(option, option_reply::INFO, 14, out);
        out.put_u16(info::BLOCK_SIZE);
        out.put_u32(export.block_sizes.min());
        out.put_u32(export.block_sizes.preferred());
        out.put_u32(export.block_sizes.max_payload());
    }
    if let Some(told) = export.attachment.filter(|_| requests.attachment) {
        attachment(option, told, out);
    }
}

/// The `NBD_REP_INFO` reply of Quoin's own.
pub(crate) fn attachment(option: u32, attachment: AttachmentInfo, out: &mut BytesMut) {
    header(option, option_reply::INFO, 42, out);
    out.put_u16(info::ATTACHMENT);
    out.put_slice(&attachment.cluster);
    out.put_u64(attachment.volume);
    out.put_u64(attachment.epoch);
    out.put_u64(attachment.unbroken_since);
}

/// `NBD_REP_META_CONTEXT`, whose name was found to be expressible.
pub(crate) fn context(option: u32, id: u32, name: &str, out: &mut BytesMut) {
    header(option, option_reply::META_CONTEXT, 4 + name.len(), out);
    out.put_u32(id);
    out.put_slice(name.as_bytes());
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which has no reply header.
pub(crate) fn export_name(size_bytes: u64, flags: TransmissionFlags, no_zeroes: bool, out: &mut BytesMut) {
    out.put_u64(size_bytes);
    out.put_u16(flags.bits());
    if !no_zeroes {
        out.put_bytes(0, RESERVED_BYTES);
    }
}

fn text(option: u32, info_type: u16, text: &str, out: &mut BytesMut) {
    header(option, option_reply::INFO, 2 + text.len(), out);
    out.put_u16(info_type);
    out.put_slice(text.as_bytes());
}

fn header(option: u32, reply_type: u32, data_bytes: usize, out: &mut BytesMut) {
    debug_assert!(data_bytes <= 4 + 2 * STRING_BYTES_MAX, "every reply holds at most two strings");
    out.put_u64(magic::OPTION_REPLY);
    out.put_u32(option);
    out.put_u32(reply_type);
    out.put_u32(data_bytes as u32);
}

fn is_expressible(name: &str) -> bool {
    sendable(name).len() == name.len()
}
