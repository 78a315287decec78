//! Properties: any bytes are survived within bounds, pieces do not matter, and the session agrees with its dumb twin.

use crate::client::{Model, Outcome, RawRequest, negotiated, take_reply};
use crate::shell::{BAD_BYTE, End, SIZE_BYTES, Shell, pattern};
use proptest::collection::vec;
use proptest::prelude::*;
use quoin_nbd::{Limits, ProtocolError, ReplyStyle, fuzz};

/// Requests of every kind around every bound of the exports: about half of them are valid.
fn any_request() -> impl Strategy<Value = RawRequest> {
    let flags = prop_oneof![8 => Just(0), 2 => Just(1), 4 => 0u16..64, 1 => any::<u16>()];
    let command = prop_oneof![4 => Just(0), 4 => Just(1), 6 => 3u16..8, 1 => 8u16..=u16::MAX];
    let ids = vec(0u32..4, 0..4);
    let offset = prop_oneof![
        4 => 0u64..200,
        4 => (0u64..128).prop_map(|block| block * 512),
        2 => SIZE_BYTES - 300..SIZE_BYTES + 300,
        1 => u64::MAX - 300..=u64::MAX,
    ];
    let len = prop_oneof![
        4 => Just(512),
        4 => (0u32..20).prop_map(|blocks| blocks * 512),
        4 => 0u32..1000,
        1 => Just(65536),
    ];
    let fields = (flags, command, offset, len, ids, any::<bool>());
    fields.prop_map(|(flags, command, offset, len, ids, flush_is_bare)| {
        let (offset, len) = if command == 3 && flush_is_bare { (0, 0) } else { (offset, len) };
        RawRequest { flags, command, cookie: 0, offset, len, ids }
    })
}

fn any_requests() -> impl Strategy<Value = Vec<RawRequest>> {
    vec(any_request(), 1..40).prop_map(|mut requests| {
        requests.iter_mut().enumerate().for_each(|(at, request)| request.cookie = at as u64 + 1);
        requests
    })
}

fn stream(requests: &[RawRequest], style: ReplyStyle) -> Vec<u8> {
    requests.iter().flat_map(|request| request.bytes(style)).collect()
}

fn any_style() -> impl Strategy<Value = ReplyStyle> {
    prop_oneof![Just(ReplyStyle::Simple), Just(ReplyStyle::Structured), Just(ReplyStyle::Extended)]
}

/// A handshake that leads to the export, in a client's bytes.
fn opening(export: &str, style: ReplyStyle, with_go: bool) -> Vec<u8> {
    let option = |number: u32, data: &[u8]| {
        let (number, len) = (number.to_be_bytes(), (data.len() as u32).to_be_bytes());
        [b"IHAVEOPT", &number[..], &len, data].concat()
    };
    let name_len = (export.len() as u32).to_be_bytes();
    let go = option(7, &[&name_len[..], export.as_bytes(), &[0, 1, 0, 3]].concat());
    let mut bytes = vec![0, 0, 0, 3];
    if style != ReplyStyle::Simple {
        bytes.extend(option(if style == ReplyStyle::Structured { 8 } else { 11 }, &[]));
        let query = [&[0, 0, 0, 1, 0, 0, 0, 15][..], b"base:allocation"].concat();
        bytes.extend(option(10, &[&name_len[..], export.as_bytes(), &query].concat()));
    }
    bytes.extend(if with_go { go } else { option(1, export.as_bytes()) });
    bytes
}

/// Feeds the bytes in pieces of the given sizes, over and over.
fn feed(shell: &mut Shell, mut bytes: &[u8], pieces: &[usize]) {
    let mut sizes = pieces.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes.next().map_or(bytes.len(), |size| (*size).min(bytes.len()));
        shell.receive(&bytes[..size]);
        bytes = &bytes[size..];
    }
}

/// The tests' export of that name, as the twin knows it.
fn model(export: &str, style: ReplyStyle) -> Model {
    let disk = (0..SIZE_BYTES).map(pattern).collect();
    let (min, max) = if export == "coarse" { (512, 8192) } else { (1, 32 << 20) };
    let contexts = if style == ReplyStyle::Simple { Vec::new() } else { vec![1, 2] };
    Model { disk, read_only: export == "read-only", min, max, style, contexts }
}

fn any_export() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("disk"), 3 => Just("coarse"), 1 => Just("read-only")]
}

/// Reads of the bad byte fail in the shell, not in the session.
fn touches_bad_byte(request: &RawRequest) -> bool {
    let end = request.offset.saturating_add(u64::from(request.len));
    request.command == 0 && (request.offset..end).contains(&BAD_BYTE)
}

/// Failures print the whole minimal input; no file of seeds is kept beside the source.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn garbage_is_survived_within_bounds(data in vec(any::<u8>(), 0..2000)) {
        fuzz::session(&data);
        fuzz::transmission(&data);
    }

    #[test]
    fn options_with_garbage_are_survived_within_bounds(
        piece in any::<u8>(),
        options in vec((prop_oneof![0u32..13, any::<u32>()], vec(any::<u8>(), 0..80), 0u32..4), 0..20),
    ) {
        let mut data = vec![piece, 0, 0, 0, 3];
        for (option, bytes, lie) in options {
            data.extend(b"IHAVEOPT");
            data.extend(option.to_be_bytes());
            data.extend((bytes.len() as u32 + lie / 3).to_be_bytes());
            data.extend(bytes);
        }
        fuzz::session(&data);
    }

    #[test]
    fn spoilt_streams_are_survived_within_bounds(
        piece in any::<u8>(),
        style in any_style(),
        requests in any_requests(),
        spoilt in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut data = vec![piece];
        data.extend(opening("disk", style, true));
        data.extend(stream(&requests, style));
        for (at, byte) in spoilt {
            let at = at.index(data.len());
            data[at] = byte;
        }
        fuzz::session(&data);
        let mut data = stream(&requests, style);
        data.insert(0, piece);
        fuzz::transmission(&data);
    }

    #[test]
    fn pieces_do_not_matter(
        export in any_export(),
        style in any_style(),
        with_go in any::<bool>(),
        requests in any_requests(),
        pieces in vec(1usize..5000, 1..10),
    ) {
        let with_go = with_go || style == ReplyStyle::Extended;
        let mut bytes = opening(export, style, with_go);
        bytes.extend(stream(&requests, style));
        let mut whole = Shell::new(Limits::default());
        whole.receive(&bytes);
        let mut pieced = Shell::new(Limits::default());
        feed(&mut pieced, &bytes, &pieces);
        prop_assert_eq!(whole.asked, pieced.asked);
        prop_assert_eq!(whole.output, pieced.output);
        prop_assert_eq!(whole.end, pieced.end);
        prop_assert!(whole.disk == pieced.disk);
    }

    #[test]
    fn the_session_agrees_with_its_dumb_twin(
        export in any_export(),
        style in any_style(),
        requests in any_requests(),
        pieces in vec(1usize..5000, 1..10),
    ) {
        let mut shell = Shell::transmitting(export, negotiated(style), Limits::default());
        feed(&mut shell, &stream(&requests, style), &pieces);
        let mut twin = model(export, style);
        let mut sent = &shell.output[..];
        let mut ended = false;
        for request in &requests {
            let mut expected = twin.apply(request);
            if expected == Outcome::End {
                ended = true;
                break;
            }
            let (cookie, outcome) = take_reply(&mut sent, style, request);
            prop_assert_eq!(cookie, request.cookie);
            if matches!(expected, Outcome::Data(_)) && touches_bad_byte(request) {
                expected = Outcome::Error(5);
            }
            prop_assert_eq!(outcome, expected, "{:?}", request);
        }
        match shell.end {
            Some(End::Broken(ProtocolError::PayloadTooLong(_))) => prop_assert!(ended),
            end => prop_assert!(end.is_none() && !ended, "{:?}", end),
        }
        prop_assert!(sent.is_empty());
        prop_assert!(shell.disk == twin.disk);
    }
}
