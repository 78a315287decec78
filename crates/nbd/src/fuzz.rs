//! Entry points for fuzzers, and for the property tests: any bytes in, and the session's own promises checked.
//!
//! Each function plays a shell that answers every question and every request at once. It panics if the session does,
//! if it lets its input grow beyond its bounds, or if it stops making progress. Not used in production.

use crate::{
    AttachmentInfo, BlockSizes, Context, ContextKind, ExportError, ExportErrorKind, ExportInfo,
    ExportSnapshot, ExportSummary, Handshake, Limits, Negotiated, Operation, Received, ReplyStyle,
    StatusExtent, Step, TlsPolicy, Transmission,
};
use bytes::{Buf, BytesMut};

/// The exports' size: small enough that random offsets fall on both sides of the end.
const SIZE_BYTES: u64 = 1 << 16;
const REQUEST_HEADER_BYTES_MAX: usize = 32;

/// A whole session from the greeting on. The first byte of `data` says how large the pieces are in which the rest
/// arrives; its top bit, whether TLS is required rather than available.
pub fn session(data: &[u8]) {
    let mut pieces = Pieces::new(data);
    let limits = small_limits();
    let required = data.first().is_some_and(|first| first & 0x80 != 0);
    let policy = if required { TlsPolicy::Required } else { TlsPolicy::Available };
    let mut handshake = Handshake::with_tls(limits, policy);
    let mut encrypted = false;
    let mut input = BytesMut::new();
    loop {
        match handshake.advance(&mut input) {
            Ok(Step::NeedMore { missing }) => {
                assert!(missing > 0 && missing <= limits.option_discard_bytes_max as usize);
                assert!(
                    input.len() < limits.option_bytes_max as usize,
                    "the input holds more than one option"
                );
                if !pieces.feed(&mut input) {
                    return;
                }
            }
            Ok(Step::Send(bytes)) => assert!(!bytes.is_empty()),
            Ok(Step::StartTls) => {
                assert!(input.is_empty() && !encrypted, "plain text would be taken for what TLS protects");
                encrypted = true;
                handshake.tls_started();
            }
            Ok(Step::ListExports) => {
                assert!(encrypted || !required);
                let entry = ExportSummary { name: "disk".into(), description: String::new() };
                handshake.answer_list(Ok(&[entry]));
            }
            Ok(Step::MetaContexts { export, with_snapshots }) => {
                assert!(encrypted || !required);
                let snapshots = (0..20).map(|key| ExportSnapshot { name: format!("s{key}"), key });
                let snapshots: Vec<_> = snapshots.take(if with_snapshots { 20 } else { 0 }).collect();
                match export.len() % 4 {
                    3 => handshake.answer_contexts(Err(ExportError::new(ExportErrorKind::Unknown, export))),
                    _ => handshake.answer_contexts(Ok(&snapshots)),
                }
            }
            Ok(Step::OpenExport { name, .. }) if name.len() % 4 == 3 => {
                handshake.answer_open(Err(ExportError::new(ExportErrorKind::Unknown, name)));
            }
            Ok(Step::OpenExport { name, .. }) => handshake.answer_open(Ok(export(name))),
            Ok(Step::Transmission { export, negotiated }) => {
                assert!(encrypted || !required);
                return transmit(&mut Transmission::new(&export, negotiated, limits), input, pieces);
            }
            Ok(Step::Close(_)) | Err(_) => return,
        }
    }
}

/// Transmission only. The first byte of `data` says how large the pieces are in which the rest arrives; its two top bits,
/// how replies look.
pub fn transmission(data: &[u8]) {
    let replies = match data.first().map_or(0, |first| first >> 6) {
        0 => ReplyStyle::Simple,
        1 => ReplyStyle::Structured,
        _ => ReplyStyle::Extended,
    };
    let contexts = vec![
        Context { id: 1, kind: ContextKind::Allocation },
        Context { id: 2, kind: ContextKind::ChangedSince(7) },
    ];
    let negotiated = Negotiated { replies, contexts, knows_attachment: false, connection: None };
    let mut session = Transmission::new(&export("disk".into()), negotiated, small_limits());
    transmit(&mut session, BytesMut::new(), Pieces::new(data));
}

fn transmit(session: &mut Transmission, mut input: BytesMut, mut pieces: Pieces<'_>) {
    let mut output = BytesMut::new();
    let max_payload_bytes = block_sizes().max_payload() as usize;
    loop {
        output.clear();
        let before_bytes = input.len();
        match session.next_request(&mut input) {
            Ok(Some(Received::Request(request))) => {
                assert!(input.len() < before_bytes, "a request out of nothing");
                carry_out(session, &request, &mut output);
            }
            Ok(Some(Received::Answered(answered))) => assert!(!answered.reply.is_empty()),
            Ok(None) => {
                let missing = session.missing(&input);
                assert!(missing > 0 && missing <= max_payload_bytes, "{missing} bytes missing");
                assert!(
                    input.len() < max_payload_bytes.max(REQUEST_HEADER_BYTES_MAX),
                    "the input holds too much"
                );
                if !pieces.feed(&mut input) {
                    return;
                }
            }
            Ok(Some(Received::Disconnect)) | Err(_) => return,
        }
    }
}

fn carry_out(session: &Transmission, request: &crate::Request, output: &mut BytesMut) {
    let within = |offset: u64, len: u64| {
        assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= SIZE_BYTES));
    };
    match &request.operation {
        &Operation::Read { offset, len, .. } => {
            within(offset, u64::from(len));
            assert!(len <= block_sizes().max_payload());
            return session.replies().read_header(request.cookie, offset, len, output);
        }
        Operation::Write { offset, data, .. } => within(*offset, data.len() as u64),
        &Operation::Cache { offset, len } => within(offset, u64::from(len)),
        Operation::BlockStatus { offset, len, contexts, .. } => {
            within(*offset, *len);
            let of = |context: &Context| (context.id, vec![StatusExtent { len: *len, flags: 0 }]);
            let contexts: Vec<_> = contexts.iter().map(of).collect();
            return session.replies().block_status(request.cookie, &contexts, output);
        }
        Operation::Flush => {}
        Operation::Trim { offset, len, .. } | Operation::WriteZeroes { offset, len, .. } => {
            within(*offset, *len);
        }
    }
    session.replies().ok(request.cookie, output);
}

fn block_sizes() -> BlockSizes {
    BlockSizes::new(1, 512, 1 << 12).expect("valid sizes")
}

fn small_limits() -> Limits {
    Limits {
        option_bytes_max: 64,
        option_discard_bytes_max: 256,
        options_max: 64,
        payload_discard_bytes_max: 1 << 13,
    }
}

fn export(name: String) -> ExportInfo {
    ExportInfo {
        name,
        description: "fuzzed".into(),
        size_bytes: SIZE_BYTES,
        read_only: false,
        multi_conn: true,
        block_sizes: block_sizes(),
        attachment: Some(AttachmentInfo { cluster: [7; 16], volume: 1, epoch: 3, unbroken_since: 2 }),
    }
}

/// The bytes of a fuzzer, in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    piece_bytes: usize,
}

impl<'a> Pieces<'a> {
    fn new(mut data: &'a [u8]) -> Self {
        let piece_bytes = if data.is_empty() { 1 } else { usize::from(data.get_u8() & 0x3f) + 1 };
        Self { rest: data, piece_bytes }
    }

    fn feed(&mut self, input: &mut BytesMut) -> bool {
        let (piece, rest) = self.rest.split_at(self.piece_bytes.min(self.rest.len()));
        input.extend_from_slice(piece);
        self.rest = rest;
        !piece.is_empty()
    }
}
