//! The target of the data plane's frames.

use crate::source::Source;
use bytes::{Bytes, BytesMut};
use quoin_wire::{
    Decoder, Frame, FrameError, HEADER_BYTES, Head, Message, encode, encode_lending, encode_returned,
};

/// More than any frame may need (`docs/wire-format.md`): 2 MiB of meta, 1 MiB of data.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + (3 << 20);

/// Any bytes as a stream of frames; or, so that the messages themselves are reached, as meta under a header that is right.
/// What is understood is said again in the same way, and the decoder never asks for more than a frame may have.
pub(crate) fn wire_frames(input: &[u8]) {
    let mut source = Source(input);
    let Some(mode) = source.u8() else { return };
    if mode & 1 == 0 {
        return stream(source.0, usize::from(mode) + 1);
    }
    let mut frames = Vec::new();
    while let (Some(kind), Some(meta), Some(data)) = (source.u8(), source.u16(), source.u8()) {
        let (body, rest) = source.0.split_at(source.0.len().min(usize::from(meta % 1024)));
        source.0 = rest;
        let lent = (data >= 128).then(|| u64::from(meta));
        frames.extend(frame(kind, body, usize::from(data % 8) * 2048, lent));
    }
    stream(&frames, 997);
    shared_stream(&frames, 997);
}

/// A frame with its header, by the tables of the document.
fn frame(kind: u8, meta: &[u8], data_bytes: usize, lent: Option<u64>) -> Vec<u8> {
    let mut head = vec![0; HEADER_BYTES];
    head[..4].copy_from_slice(b"QUO\x02");
    head[4] = kind;
    head[8..12].copy_from_slice(&(meta.len() as u32).to_le_bytes());
    head[12..16].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    if let Some(place) = lent {
        head[5] = 1;
        head[20..28].copy_from_slice(&place.to_le_bytes());
    }
    head.extend_from_slice(meta);
    let checksum = crc32fast::hash(&head);
    head[16..20].copy_from_slice(&checksum.to_le_bytes());
    if lent.is_none() {
        head.resize(head.len() + data_bytes, kind);
    }
    head
}

fn stream(bytes: &[u8], piece_bytes: usize) {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::new();
    for piece in bytes.chunks(piece_bytes) {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            let Ok(next) = decoder.next(&mut input) else { return };
            assert!(decoder.needed() <= FRAME_BYTES_MAX, "{} bytes asked for", decoder.needed());
            let Some(message) = next else { break };
            assert!(input.len() + HEADER_BYTES <= before, "a message out of nothing");
            let mut again = BytesMut::new();
            let data = encode(&message, &mut again);
            again.extend_from_slice(&data);
            assert!(again.len() <= FRAME_BYTES_MAX);
            let mut apart = again.clone();
            let repeated = Decoder::default().next(&mut again).expect("what was said is understood");
            assert_eq!(repeated.as_ref(), Some(&message));
            assert!(again.is_empty());
            assert_eq!(head_and_data(&mut apart), message);
            assert!(apart.is_empty());
        }
    }
}

/// The same where memory is shared: of what is lent there are zeros in it.
fn shared_stream(bytes: &[u8], piece_bytes: usize) {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::new();
    for piece in bytes.chunks(piece_bytes) {
        input.extend_from_slice(piece);
        loop {
            let Ok(next) = decoder.next_or_head(&mut input, usize::MAX) else { return };
            assert!(decoder.needed() <= FRAME_BYTES_MAX, "{} bytes asked for", decoder.needed());
            let mut again = BytesMut::new();
            match next {
                Some(Frame::Whole(_)) => {}
                Some(Frame::Head(head)) => {
                    let place = head.lent().expect("nothing else is that large");
                    let Ok(message) = head_with_zeros(head) else { return };
                    assert!(encode_lending(&message, &mut again, |_| Some(place)).is_empty());
                    match Decoder::default().next_or_head(&mut again, usize::MAX) {
                        Ok(Some(Frame::Head(head))) => {
                            assert_eq!((head.lent(), head_with_zeros(head)), (Some(place), Ok(message)));
                        }
                        // Nothing is lent of nothing.
                        Ok(Some(Frame::Whole(whole))) => assert_eq!(whole, message),
                        other => panic!("{other:?}"),
                    }
                }
                Some(Frame::Returned(places)) => {
                    encode_returned(&places, &mut again);
                    let repeated = Decoder::default().next_or_head(&mut again, usize::MAX);
                    assert!(matches!(repeated, Ok(Some(Frame::Returned(told))) if told == places));
                }
                None => break,
            }
        }
    }
}

fn head_with_zeros(head: Head) -> Result<Message, FrameError> {
    let data = Bytes::from(vec![0; head.data_bytes()]);
    head.with_data(data)
}

/// The frame at the front, its data taken apart from its head if it has any.
fn head_and_data(input: &mut BytesMut) -> Message {
    match Decoder::default().next_or_head(input, 0).expect("what was said is understood") {
        Some(Frame::Whole(message)) => message,
        Some(Frame::Head(head)) => {
            let data = input.split_to(head.data_bytes()).freeze();
            head.with_data(data).expect("what was said is understood")
        }
        other => panic!("a frame that is not whole: {other:?}"),
    }
}
