//! What conversations cannot show: copies, hints, errors that stay, the encoder's own bounds, and misuse by the shell.

use crate::shell;
use bytes::BytesMut;
use quoin_nbd::{
    BlockSizes, Cookie, Errno, ExportError, ExportErrorKind, Handshake, Limits, Negotiated, Operation,
    PAYLOAD_BYTES_MAX, ProtocolError, Received, ReplyEncoder, ReplyStyle, Request, STRING_BYTES_MAX, Step,
    TlsPolicy, Transmission,
};

fn negotiated(structured: bool) -> Negotiated {
    let replies = if structured { ReplyStyle::Structured } else { ReplyStyle::Simple };
    Negotiated { replies, ..Negotiated::default() }
}

fn cookie(number: u64) -> Cookie {
    Cookie { number, offset: 0 }
}

fn transmission(export: &str, structured: bool) -> Transmission {
    Transmission::new(&shell::open(export).unwrap(), negotiated(structured), Limits::default())
}

/// A handshake that has sent its greeting and taken the client's flags, with the given option as input.
fn haggling(option: &[u8]) -> (Handshake, BytesMut) {
    let mut handshake = Handshake::new(Limits::default());
    let mut input = BytesMut::from(&b"\0\0\0\x03IHAVEOPT"[..]);
    input.extend_from_slice(option);
    assert!(matches!(handshake.advance(&mut input), Ok(Step::Send(_))));
    (handshake, input)
}

fn request(command: u16, offset: u64, len: u32) -> BytesMut {
    let mut bytes = BytesMut::from(&b"\x25\x60\x95\x13\0\0"[..]);
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&7u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// The shell ends the sessions of those who rely on it when it does not hold any more.
#[test]
fn who_was_told_of_the_attachment_is_known() {
    let asked_of = |export: &str, info: &[u8]| {
        let name = export.as_bytes();
        let lengths = [&[0, 0, 0, (name.len() + 8) as u8, 0, 0, 0, name.len() as u8][..], name].concat();
        let (mut handshake, mut input) = haggling(&[&[0, 0, 0, 7][..], &lengths, &[0, 1], info].concat());
        assert!(matches!(handshake.advance(&mut input), Ok(Step::OpenExport { .. })));
        handshake.answer_open(shell::open(export));
        assert!(matches!(handshake.advance(&mut input), Ok(Step::Send(_))));
        match handshake.advance(&mut input) {
            Ok(Step::Transmission { negotiated, .. }) => negotiated.knows_attachment,
            other => panic!("{other:?}"),
        }
    };
    assert!(asked_of("disk", b"QU"));
    assert!(!asked_of("disk", b"\0\x03"));
    assert!(!asked_of("coarse", b"QU"), "it has none");
}

#[test]
fn a_write_is_cut_out_of_the_input_without_a_copy() {
    let mut session = transmission("disk", false);
    let mut input = BytesMut::with_capacity(64 << 10);
    input.extend_from_slice(&request(1, 0, 4096));
    input.extend_from_slice(&[9; 4096]);
    let payload_at = input[28..].as_ptr();
    let Some(Received::Request(Request { operation: Operation::Write { data, .. }, cookie: own })) =
        session.next_request(&mut input).unwrap()
    else {
        panic!("a write");
    };
    assert_eq!((data.as_ptr(), data.len(), own), (payload_at, 4096, cookie(7)));
    assert!(input.is_empty());
}

#[test]
fn the_hint_leads_from_header_to_payload_to_header() {
    let mut session = transmission("disk", false);
    let mut input = BytesMut::new();
    assert_eq!(session.missing(&input), 28);
    input.extend_from_slice(&request(1, 0, 100)[..20]);
    assert_eq!(session.next_request(&mut input), Ok(None));
    assert_eq!(session.missing(&input), 8);
    input.extend_from_slice(&request(1, 0, 100)[20..]);
    assert_eq!(session.missing(&input), 0, "call next_request first");
    assert_eq!(session.next_request(&mut input), Ok(None));
    assert_eq!(session.missing(&input), 100);
    input.extend_from_slice(&[0; 100]);
    assert!(matches!(session.next_request(&mut input), Ok(Some(Received::Request(_)))));
    assert_eq!(session.next_request(&mut input), Ok(None));
    assert_eq!(session.missing(&input), 28);
}

#[test]
fn a_refused_payload_asks_for_no_more_than_a_piece() {
    let mut session = transmission("read-only", false);
    let mut input = request(1, 0, PAYLOAD_BYTES_MAX);
    let Ok(Some(Received::Answered(answered))) = session.next_request(&mut input) else {
        panic!("a refusal")
    };
    assert_eq!((answered.cookie, answered.errno), (cookie(7), Some(Errno::NotPermitted)));
    for _ in 0..PAYLOAD_BYTES_MAX / (64 << 10) {
        assert_eq!(session.next_request(&mut input), Ok(None));
        assert_eq!(session.missing(&input), 64 << 10);
        assert!(input.is_empty());
        input.resize(64 << 10, 0);
    }
    assert_eq!(session.next_request(&mut input), Ok(None));
    assert_eq!(session.missing(&input), 28);
}

#[test]
fn the_greatest_payload_is_taken_and_one_byte_more_refused() {
    let mut export = shell::open("disk").unwrap();
    export.size_bytes = 1 << 40;
    export.block_sizes = BlockSizes::new(1, 4096, PAYLOAD_BYTES_MAX - 1).expect("valid sizes");
    for (len, taken) in [(PAYLOAD_BYTES_MAX - 1, true), (PAYLOAD_BYTES_MAX, false)] {
        let mut session = Transmission::new(&export, negotiated(false), Limits::default());
        let mut input = request(1, 0, len);
        let first = session.next_request(&mut input).unwrap();
        assert_eq!(first.is_none(), taken);
        assert!(!taken || session.missing(&input) == len as usize);
    }
}

#[test]
fn a_payload_may_arrive_outside_of_the_input() {
    let mut session = transmission("disk", false);
    let mut input = request(1, 512, 2048);
    assert_eq!(session.awaited_write(), None);
    assert_eq!(session.next_request(&mut input), Ok(None));
    assert_eq!(session.awaited_write(), Some(2048));
    // A part has come with the header, the rest is received elsewhere, and behind it comes the next request.
    input.extend_from_slice(&[1; 100]);
    assert_eq!(session.next_request(&mut input), Ok(None));
    let mut payload = input.split();
    payload.resize(2048, 2);
    let payload = payload.freeze();
    let Received::Request(Request { operation, .. }) = session.payload_arrived(payload.clone()) else {
        panic!("it is a valid write")
    };
    assert_eq!(operation, Operation::Write { offset: 512, data: payload, fua: false });
    assert_eq!(session.awaited_write(), None);
    assert_eq!(session.next_request(&mut request(2, 0, 0)), Ok(Some(Received::Disconnect)));
}

#[test]
#[should_panic(expected = "not waited for")]
fn a_payload_of_another_length_is_the_shells_mistake() {
    let mut session = transmission("disk", false);
    assert_eq!(session.next_request(&mut request(1, 0, 2048)), Ok(None));
    session.payload_arrived(bytes::Bytes::from_static(&[0; 2047]));
}

#[test]
fn errors_and_disconnects_stay() {
    let mut session = transmission("disk", false);
    let mut input = BytesMut::from(&[0xee; 28][..]);
    let error = Err(ProtocolError::RequestMagic(0xeeee_eeee));
    assert_eq!(session.next_request(&mut input), error);
    assert_eq!(session.next_request(&mut request(3, 0, 0)), error);

    let mut session = transmission("disk", false);
    assert_eq!(session.next_request(&mut request(2, 0, 0)), Ok(Some(Received::Disconnect)));
    assert_eq!(session.next_request(&mut request(3, 0, 0)), Ok(Some(Received::Disconnect)));

    let (mut handshake, mut input) = haggling(b"\0\0\0\x03\xff\xff\xff\xff");
    let error = Err(ProtocolError::OptionTooLong { option: 3, len_bytes: u32::MAX });
    assert_eq!(handshake.advance(&mut input), error);
    assert_eq!(handshake.advance(&mut BytesMut::from(&b"IHAVEOPT\0\0\0\x03\0\0\0\0"[..])), error);
}

#[test]
fn shutdown_spares_a_write_that_was_taken_and_refuses_the_next() {
    let mut session = transmission("disk", false);
    let mut input = request(1, 0, 2);
    assert_eq!(session.next_request(&mut input), Ok(None));
    session.begin_shutdown();
    input.extend_from_slice(b"ab");
    input.extend_from_slice(&request(3, 0, 0));
    assert!(matches!(session.next_request(&mut input), Ok(Some(Received::Request(_)))));
    let Ok(Some(Received::Answered(answered))) = session.next_request(&mut input) else {
        panic!("a refusal")
    };
    assert_eq!(answered.errno, Some(Errno::Shutdown));
}

#[test]
fn messages_are_cut_to_what_the_protocol_allows() {
    let long = "x".repeat(STRING_BYTES_MAX + 10);
    let mut out = BytesMut::new();
    transmission("disk", true).replies().error(cookie(1), Errno::NoSpace, &long, &mut out);
    assert_eq!(out.len(), 26 + STRING_BYTES_MAX);
    out.clear();
    transmission("disk", false).replies().error(cookie(1), Errno::NoSpace, &long, &mut out);
    assert_eq!(out.len(), 16);

    let (mut handshake, mut input) = haggling(b"\0\0\0\x03\0\0\0\0");
    assert_eq!(handshake.advance(&mut input), Ok(Step::ListExports));
    handshake.answer_list(Err(ExportError::new(ExportErrorKind::Policy, long)));
    let Ok(Step::Send(reply)) = handshake.advance(&mut input) else { panic!("a reply") };
    assert_eq!(reply.len(), 20 + STRING_BYTES_MAX);
}

#[test]
fn every_error_has_the_number_of_the_specification() {
    let numbers = [
        (Errno::NotPermitted, 1, "NBD_EPERM"),
        (Errno::Io, 5, "NBD_EIO"),
        (Errno::NoMemory, 12, "NBD_ENOMEM"),
        (Errno::Invalid, 22, "NBD_EINVAL"),
        (Errno::NoSpace, 28, "NBD_ENOSPC"),
        (Errno::Overflow, 75, "NBD_EOVERFLOW"),
        (Errno::NotSupported, 95, "NBD_ENOTSUP"),
        (Errno::Shutdown, 108, "NBD_ESHUTDOWN"),
    ];
    for (errno, code, name) in numbers {
        assert_eq!((errno.code(), errno.to_string().as_str()), (code, name));
        let mut out = BytesMut::new();
        transmission("disk", false).replies().error(cookie(0), errno, "", &mut out);
        assert_eq!(out[4..8], code.to_be_bytes());
    }
}

#[test]
fn headers_keep_within_their_stated_size() {
    for structured in [false, true] {
        let replies = transmission("disk", structured).replies();
        let mut out = BytesMut::new();
        replies.read_header(cookie(1), 0, PAYLOAD_BYTES_MAX, &mut out);
        assert!(out.len() <= ReplyEncoder::HEADER_BYTES_MAX);
        out.clear();
        replies.ok(cookie(1), &mut out);
        assert!(out.len() <= ReplyEncoder::HEADER_BYTES_MAX);
    }
}

/// A handshake that may be encrypted, with the given bytes behind the client's flags.
fn offering_tls(bytes: &[u8]) -> (Handshake, BytesMut) {
    let mut handshake = Handshake::with_tls(Limits::default(), TlsPolicy::Available);
    let mut input = BytesMut::from(&b"\0\0\0\x03"[..]);
    input.extend_from_slice(bytes);
    assert!(matches!(handshake.advance(&mut input), Ok(Step::Send(_))), "the greeting");
    (handshake, input)
}

#[test]
fn plain_text_behind_starttls_is_never_taken_for_what_tls_protects() {
    let abort = b"IHAVEOPT\0\0\0\x02\0\0\0\0";
    let (mut handshake, mut input) = offering_tls(&[b"IHAVEOPT\0\0\0\x05\0\0\0\0", &abort[..]].concat());
    assert!(matches!(handshake.advance(&mut input), Ok(Step::Send(_))), "the acknowledgement");
    assert_eq!(handshake.advance(&mut input), Err(ProtocolError::PlainTextBeforeTls(16)));
    assert_eq!(handshake.advance(&mut BytesMut::new()), Err(ProtocolError::PlainTextBeforeTls(16)));
}

#[test]
fn tls_starts_when_its_acknowledgement_was_sent() {
    let (mut handshake, mut input) = offering_tls(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
    let Ok(Step::Send(acknowledgement)) = handshake.advance(&mut input) else { panic!("an answer") };
    assert_eq!(acknowledgement[12..16], [0, 0, 0, 1]);
    assert_eq!(handshake.advance(&mut input), Ok(Step::StartTls));
    handshake.tls_started();
    assert_eq!(handshake.advance(&mut input), Ok(Step::NeedMore { missing: 16 }));
}

#[test]
#[should_panic(expected = "Step::StartTls was not done")]
fn going_on_without_the_tls_agreed_on_is_the_shells_bug() {
    let (mut handshake, mut input) = offering_tls(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
    assert!(handshake.advance(&mut input).is_ok());
    assert_eq!(handshake.advance(&mut input), Ok(Step::StartTls));
    let _ = handshake.advance(&mut input);
}

#[test]
#[should_panic(expected = "Step::ListExports was not answered")]
fn an_unanswered_question_is_the_shells_bug() {
    let (mut handshake, mut input) = haggling(b"\0\0\0\x03\0\0\0\0");
    assert_eq!(handshake.advance(&mut input), Ok(Step::ListExports));
    let _ = handshake.advance(&mut input);
}

#[test]
#[should_panic(expected = "answer_open without Step::OpenExport")]
fn an_answer_without_a_question_is_the_shells_bug() {
    Handshake::new(Limits::default()).answer_open(shell::open("disk"));
}

#[test]
#[should_panic(expected = "was never asked for")]
fn an_empty_read_has_no_header() {
    transmission("disk", true).replies().read_header(cookie(1), 0, 0, &mut BytesMut::new());
}
