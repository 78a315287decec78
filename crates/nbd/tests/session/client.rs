//! A client, written from proto.md alone and sharing nothing with the crate: it writes requests, reads replies, and
//! knows what a server should answer. The dumb twin of the session.

use crate::shell;
use quoin_nbd::{Context, ContextKind, Negotiated, ReplyStyle};

/// `NBD_CMD_FLAG_PAYLOAD_LEN`.
const PAYLOAD_LEN: u16 = 32;

/// A request, valid or not.
#[derive(Clone, Debug)]
pub(crate) struct RawRequest {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    /// The length of the effect, or of a write's payload.
    pub(crate) len: u32,
    /// The metadata contexts that a payload of a block status names.
    pub(crate) ids: Vec<u32>,
}

impl RawRequest {
    /// The request's bytes; a write carries `len` bytes made from its cookie.
    pub(crate) fn bytes(&self, style: ReplyStyle) -> Vec<u8> {
        let extended = style == ReplyStyle::Extended;
        let payload = self.payload(style);
        let mut bytes = if extended { vec![0x21, 0xe4, 0x1c, 0x71] } else { vec![0x25, 0x60, 0x95, 0x13] };
        bytes.extend(self.flags(style).to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if extended {
            let len = if payload.is_empty() { u64::from(self.len) } else { payload.len() as u64 };
            bytes.extend(len.to_be_bytes());
        } else {
            bytes.extend(self.len.to_be_bytes());
        }
        bytes.extend(payload);
        bytes
    }

    /// With extended headers nearly every write says that it has a payload.
    fn flags(&self, style: ReplyStyle) -> u16 {
        let flips = style == ReplyStyle::Extended && self.command == 1;
        if flips { self.flags ^ PAYLOAD_LEN } else { self.flags }
    }

    fn payload(&self, style: ReplyStyle) -> Vec<u8> {
        let says_so = style == ReplyStyle::Extended && self.flags(style) & PAYLOAD_LEN != 0;
        let carries = self.command == 1 || says_so;
        if !carries {
            return Vec::new();
        }
        if self.command == 7 {
            let ids = self.ids.iter().flat_map(|id| id.to_be_bytes());
            return u64::from(self.len).to_be_bytes().into_iter().chain(ids).collect();
        }
        (0..self.len).map(|i| (u64::from(i) + self.cookie * 7) as u8).collect()
    }
}

/// What an export promises, in a client's words.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) disk: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) style: ReplyStyle,
    pub(crate) contexts: Vec<u32>,
}

/// Extents of a block status: length and flags.
type Extents = Vec<(u64, u64)>;

/// A reply, or what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done,
    Data(Vec<u8>),
    Status(Vec<(u32, Extents)>),
    Error(u32),
    /// None: the connection ends.
    End,
}

impl Model {
    /// Does what the request asks for, if it should be done, and says what should be answered.
    pub(crate) fn apply(&mut self, request: &RawRequest) -> Outcome {
        let RawRequest { command, offset, len, .. } = *request;
        let (in_chunks, extended) = (self.style != ReplyStyle::Simple, self.style == ReplyStyle::Extended);
        let flags = request.flags(self.style);
        let payload = request.payload(self.style);
        if extended && payload.len() > self.max as usize {
            return Outcome::End;
        }
        let known_flags = match command {
            0 => 1 | if in_chunks { 4 } else { 0 },
            1 => 1 | if extended { PAYLOAD_LEN } else { 0 },
            3..=5 => 1,
            6 => 1 | 2 | 16,
            7 => 1 | 8 | if extended { PAYLOAD_LEN } else { 0 },
            _ => return Outcome::Error(22),
        };
        if flags & !known_flags != 0 || command == 3 && (offset, len) != (0, 0) {
            return Outcome::Error(22);
        }
        if command == 7 {
            return self.status(request, flags & PAYLOAD_LEN != 0, flags & 8 != 0);
        }
        if self.read_only && [1, 4, 6].contains(&command) {
            return Outcome::Error(1);
        }
        if [0, 1, 5].contains(&command) && len > self.max {
            return Outcome::Error(if command == 5 || command == 0 && in_chunks { 75 } else { 22 });
        }
        if let Some(error) = self.misplaced(offset, len, [1, 6].contains(&command)) {
            return error;
        }
        let is_slow = flags & 2 != 0 || !offset.is_multiple_of(4096) || !len.is_multiple_of(4096);
        if command == 6 && len > 0 && flags & 16 != 0 && is_slow {
            return Outcome::Error(95);
        }
        let range = offset as usize..offset as usize + len as usize;
        match command {
            0 => Outcome::Data(self.disk[range].to_vec()),
            1 => {
                self.disk[range].copy_from_slice(&payload);
                Outcome::Done
            }
            4 | 6 => {
                self.disk[range].fill(0);
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    }

    fn misplaced(&self, offset: u64, len: u32, writes: bool) -> Option<Outcome> {
        if !offset.is_multiple_of(u64::from(self.min)) || !len.is_multiple_of(self.min) {
            return Some(Outcome::Error(22));
        }
        let beyond = u128::from(offset) + u128::from(len) > self.disk.len() as u128;
        beyond.then_some(Outcome::Error(if writes { 28 } else { 22 }))
    }

    fn status(&self, request: &RawRequest, has_payload: bool, one: bool) -> Outcome {
        let RawRequest { offset, len, ref ids, .. } = *request;
        let ids = if has_payload { ids } else { &self.contexts };
        let twice = (1..ids.len()).any(|at| ids[..at].contains(&ids[at]));
        if ids.is_empty() || twice || ids.iter().any(|id| !self.contexts.contains(id)) || len == 0 {
            return Outcome::Error(22);
        }
        if let Some(error) = self.misplaced(offset, len, false) {
            return error;
        }
        let extents = |id: &u32| {
            let told = shell::status(kind(*id), offset, u64::from(len), one);
            (*id, told.into_iter().map(|extent| (extent.len, u64::from(extent.flags))).collect())
        };
        Outcome::Status(ids.iter().map(extents).collect())
    }
}

/// Two contexts, as if they had been negotiated.
pub(crate) fn negotiated(replies: ReplyStyle) -> Negotiated {
    let contexts = [1, 2].map(|id| Context { id, kind: kind(id) }).to_vec();
    let contexts = if replies == ReplyStyle::Simple { Vec::new() } else { contexts };
    Negotiated { replies, contexts, ..Negotiated::default() }
}

fn kind(id: u32) -> ContextKind {
    if id == 1 { ContextKind::Allocation } else { ContextKind::ChangedSince(7) }
}

/// Takes the reply to a request off the server's bytes.
pub(crate) fn take_reply(bytes: &mut &[u8], style: ReplyStyle, request: &RawRequest) -> (u64, Outcome) {
    let is_read = request.command == 0;
    if style == ReplyStyle::Simple {
        assert_eq!(number(bytes, 4), 0x6744_6698);
        let error = number(bytes, 4) as u32;
        let cookie = number(bytes, 8);
        return match error {
            0 if is_read => (cookie, Outcome::Data(take(bytes, request.len as usize).to_vec())),
            0 => (cookie, Outcome::Done),
            error => (cookie, Outcome::Error(error)),
        };
    }
    let mut outcome = None;
    loop {
        let magic = if style == ReplyStyle::Extended { 0x6e8a_278c } else { 0x668e_33ef };
        assert_eq!(number(bytes, 4), magic);
        let is_last = number(bytes, 2) == 1;
        let (chunk_type, cookie) = (number(bytes, 2), number(bytes, 8));
        if style == ReplyStyle::Extended {
            assert_eq!(number(bytes, 8), request.offset, "the offset is repeated");
        }
        let len = number(bytes, if style == ReplyStyle::Extended { 8 } else { 4 }) as usize;
        outcome = Some(take_chunk(outcome, chunk_type, take(bytes, len), request));
        if is_last {
            return (cookie, outcome.expect("just set"));
        }
    }
}

fn take_chunk(before: Option<Outcome>, chunk_type: u64, mut payload: &[u8], request: &RawRequest) -> Outcome {
    let payload = &mut payload;
    match (chunk_type, before) {
        (0, None) => {
            assert!(payload.is_empty());
            if request.command == 0 { Outcome::Data(Vec::new()) } else { Outcome::Done }
        }
        (1 | 2, before @ (None | Some(Outcome::Data(_)))) => {
            let Outcome::Data(mut data) = before.unwrap_or(Outcome::Data(Vec::new())) else { unreachable!() };
            assert_eq!(number(payload, 8), request.offset + data.len() as u64, "in order");
            if chunk_type == 1 {
                assert!(!payload.is_empty());
                data.extend_from_slice(payload);
            } else {
                assert_eq!(payload.len(), 4);
                data.resize(data.len() + number(payload, 4) as usize, 0);
            }
            Outcome::Data(data)
        }
        (5 | 6, before @ (None | Some(Outcome::Status(_)))) => {
            let Outcome::Status(mut contexts) = before.unwrap_or(Outcome::Status(Vec::new())) else {
                unreachable!()
            };
            let wide = if chunk_type == 6 { 8 } else { 4 };
            let id = number(payload, 4) as u32;
            if chunk_type == 6 {
                assert_eq!(number(payload, 4) as usize * 16, payload.len(), "the count");
            }
            let mut extents = Vec::new();
            while !payload.is_empty() {
                extents.push((number(payload, wide), number(payload, wide)));
            }
            contexts.push((id, extents));
            Outcome::Status(contexts)
        }
        (0x8001, None) => {
            let error = number(payload, 4) as u32;
            assert_eq!(number(payload, 2) as usize, payload.len());
            assert!(str::from_utf8(payload).is_ok());
            Outcome::Error(error)
        }
        (other, before) => panic!("a chunk of type {other} after {before:?}"),
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8], len: usize) -> u64 {
    take(bytes, len).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
