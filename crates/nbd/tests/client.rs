//! The client's side of the handshake against this crate's own server.

use bytes::BytesMut;
use proptest::prelude::*;
use quoin_nbd::client::{ClientHandshake, ClientStep, OpenError, OpenedExport, Relay};
use quoin_nbd::{
    AttachmentInfo, BlockSizes, ConnectionName, ExportError, ExportErrorKind, ExportInfo, Handshake, Limits,
    Step,
};
use std::time::Duration;

/// Lets the two talk until the client is done.
fn open(answer: &Result<ExportInfo, ExportError>) -> Result<OpenedExport, OpenError> {
    let mut server = Handshake::new(Limits::default());
    let mut client = ClientHandshake::new("vol1");
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    loop {
        match client.advance(&mut to_client)? {
            ClientStep::Opened(export) => return Ok(export),
            ClientStep::Send(bytes) => to_server.extend_from_slice(&bytes),
            ClientStep::NeedMore { .. } => match server.advance(&mut to_server).unwrap() {
                Step::Send(bytes) => to_client.extend_from_slice(&bytes),
                Step::OpenExport { name, .. } => {
                    assert_eq!(name, "vol1");
                    server.answer_open(answer.clone());
                }
                other => panic!("{other:?}"),
            },
        }
    }
}

fn info() -> ExportInfo {
    ExportInfo {
        name: "vol1".into(),
        description: "told to those who ask".into(),
        size_bytes: 12345 * 512,
        read_only: false,
        multi_conn: true,
        block_sizes: BlockSizes::new(512, 4096, 1 << 20).unwrap(),
        attachment: None,
    }
}

#[test]
fn our_server_opens_an_export_for_our_client() {
    let info = info();
    let opened = open(&Ok(info.clone())).unwrap();
    assert_eq!((opened.size_bytes, opened.block_bytes_min), (info.size_bytes, 512));
    assert_eq!(opened.payload_bytes_max, 1 << 20);
    assert!(opened.can_multi_conn() && !opened.is_read_only());
    assert_eq!(opened.attachment, None);
    let attachment = Some(AttachmentInfo {
        cluster: [0xab; 16],
        volume: u64::MAX,
        epoch: 1 << 40,
        unbroken_since: 0x0102_0304_0506_0708,
    });
    assert_eq!(open(&Ok(ExportInfo { attachment, ..info.clone() })).unwrap().attachment, attachment);
    let single = ExportInfo { multi_conn: false, read_only: true, ..info };
    let opened = open(&Ok(single)).unwrap();
    assert!(!opened.can_multi_conn() && opened.is_read_only());
}

#[test]
fn our_server_hears_which_connection_it_is_and_another_may_not_know_what_to_do_about_it() {
    let name = ConnectionName { client: *b"0123456789abcdef", process: 1 << 40, number: 3 };
    let mut client = ClientHandshake::new("vol1").named(name);
    let mut server = Handshake::new(Limits::default());
    let (mut to_client, mut to_server) = (BytesMut::new(), BytesMut::new());
    let negotiated = loop {
        match server.advance(&mut to_server).unwrap() {
            Step::Send(bytes) => to_client.extend_from_slice(&bytes),
            Step::OpenExport { .. } => server.answer_open(Ok(info())),
            Step::NeedMore { .. } => match client.advance(&mut to_client).unwrap() {
                ClientStep::Send(bytes) => to_server.extend_from_slice(&bytes),
                ClientStep::NeedMore { missing } => panic!("{missing} bytes too few"),
                ClientStep::Opened(_) => panic!("before the server knew"),
            },
            Step::Transmission { negotiated, .. } => break negotiated,
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(negotiated.connection, Some(name));
    assert!(matches!(client.advance(&mut to_client), Ok(ClientStep::Opened(_))));

    let mut client = ClientHandshake::new("vol1").named(name);
    let mut input = BytesMut::from(&b"NBDMAGICIHAVEOPT\0\x03"[..]);
    assert!(matches!(client.advance(&mut input), Ok(ClientStep::Send(_))));
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let head = [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes()];
        [&head.concat(), &(data.len() as u32).to_be_bytes()[..], data].concat()
    };
    input.extend_from_slice(&reply(0x5155_0001, (1 << 31) + 1, b"what?"));
    input.extend_from_slice(&reply(7, 3, &[&[0; 10][..], &[0, 1]].concat()));
    input.extend_from_slice(&reply(7, 1, b""));
    assert!(matches!(client.advance(&mut input), Ok(ClientStep::Opened(_))));
    // It asks once: a second answer is none.
    let mut client = ClientHandshake::new("vol1").named(name);
    let mut input = BytesMut::from(&b"NBDMAGICIHAVEOPT\0\x03"[..]);
    assert!(matches!(client.advance(&mut input), Ok(ClientStep::Send(_))));
    input.extend_from_slice(&reply(0x5155_0001, 1, b"").repeat(2));
    assert!(client.advance(&mut input).is_err());
}

#[test]
fn our_server_s_refusals_reach_our_client() {
    let refused = |kind| open(&Err(ExportError::new(kind, "because"))).unwrap_err();
    assert_eq!(refused(ExportErrorKind::Unknown), OpenError::Unknown("because".into()));
    assert_eq!(refused(ExportErrorKind::Policy), OpenError::Refused("because".into()));
    assert_eq!(refused(ExportErrorKind::Shutdown), OpenError::Unavailable("because".into()));
    let elsewhere = AttachmentInfo { cluster: [9; 16], volume: 2, epoch: 4, unbroken_since: 3 };
    let refusal = ExportError::new(ExportErrorKind::Policy, "because");
    let refused = open(&Err(ExportError { elsewhere: Some(elsewhere), ..refusal })).unwrap_err();
    assert_eq!(refused, OpenError::Elsewhere { message: "because".into(), attachment: elsewhere });
}

proptest! {
    #[test]
    fn whatever_a_server_says_the_client_ends(said: Vec<u8>, cut in 0..400_usize) {
        let said = [b"NBDMAGICIHAVEOPT\0\x03\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07", &said[..]].concat();
        for from in [0, 18, 30] {
            let mut client = ClientHandshake::new("vol1");
            let mut input = BytesMut::from(&said[from.min(cut.min(said.len()))..]);
            while let Ok(ClientStep::Send(_)) = client.advance(&mut input) {}
        }
    }

    #[test]
    fn whatever_a_kernel_and_a_gateway_say_a_relay_passes_on_only_whole_messages(
        requests in prop::collection::vec((0..5_u16, any::<bool>(), 0..64_u32), 0..20),
        garbage: Vec<u8>,
        cut in 1..64_usize,
    ) {
        let mut relay = Relay::default();
        let (mut all, mut answers) = (Vec::new(), Vec::new());
        for (cookie, (kind, fails, len_bytes)) in requests.into_iter().enumerate() {
            let kind = if kind == 2 { 3 } else { kind };
            all.extend([&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, kind as u8][..], &cookie.to_be_bytes(), &[0; 8]].concat());
            all.extend(len_bytes.to_be_bytes());
            all.extend(vec![7; if kind == 1 { len_bytes as usize } else { 0 }]);
            answers.extend([&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, u8::from(fails)][..], &cookie.to_be_bytes()].concat());
            answers.extend(vec![9; if kind == 0 && !fails { len_bytes as usize } else { 0 }]);
        }
        let (mut input, mut passed) = (BytesMut::new(), Vec::new());
        for piece in all.chunks(cut) {
            input.extend_from_slice(piece);
            passed.extend_from_slice(&relay.take_requests(&mut input, false, Duration::ZERO).unwrap().bytes);
        }
        prop_assert_eq!(&passed, &all);
        prop_assert_eq!(relay.again().concat(), all);
        let (mut input, mut passed) = (BytesMut::new(), Vec::new());
        for piece in answers.chunks(cut) {
            input.extend_from_slice(piece);
            passed.extend_from_slice(&relay.take_replies(&mut input).unwrap().bytes);
        }
        prop_assert_eq!(passed, answers);
        prop_assert!(relay.is_empty());
        // Anything at all: an error at worst.
        let _ = relay.take_requests(&mut BytesMut::from(&garbage[..]), false, Duration::ZERO);
        let _ = relay.take_replies(&mut BytesMut::from(&garbage[..]));
    }
}
