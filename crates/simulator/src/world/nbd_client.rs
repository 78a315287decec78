//! The client's side of one NBD connection, written from proto.md alone: it shares nothing with the server under test.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED: u32 = 8;

/// A command, with its number in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// What the server has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// The export is open; its size.
    Open(u64),
    /// The export was refused.
    Refused,
    /// The answer to a request: what was read, or an error number.
    Answer(u64, Result<Bytes, u32>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Greeting,
    Options,
    Transmission,
}

/// A read under way: where, how much, and what has come of it so far.
#[derive(Debug)]
struct Read {
    offset: u64,
    length: u32,
    data: BytesMut,
}

/// One connection.
#[derive(Debug)]
pub(super) struct NbdClient {
    input: BytesMut,
    phase: Phase,
    export: &'static str,
    wants_structured: bool,
    structured: bool,
    size_bytes: u64,
    /// The reads under way.
    reads: BTreeMap<u64, Read>,
}

impl NbdClient {
    pub(super) fn new(export: &'static str, wants_structured: bool) -> Self {
        Self {
            input: BytesMut::new(),
            phase: Phase::Greeting,
            export,
            wants_structured,
            structured: false,
            size_bytes: 0,
            reads: BTreeMap::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Transmission
    }

    /// What the client says before it has heard anything: the server waits for its flags.
    pub(super) fn hello(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32(3);
        if self.wants_structured {
            option(OPTION_STRUCTURED, &[], &mut out);
        }
        let mut go = BytesMut::new();
        go.put_u32(self.export.len() as u32);
        go.put_slice(self.export.as_bytes());
        go.put_u16(0);
        option(OPTION_GO, &go, &mut out);
        out.freeze()
    }

    pub(super) fn request(
        &mut self,
        command: Command,
        cookie: u64,
        fua: bool,
        (offset, length): (u64, u32),
        data: &[u8],
    ) -> Bytes {
        if command == Command::Read {
            self.reads.insert(cookie, Read { offset, length, data: BytesMut::new() });
        }
        let mut out = BytesMut::with_capacity(28 + data.len());
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(u16::from(fua));
        out.put_u16(command as u16);
        out.put_u64(cookie);
        out.put_u64(offset);
        out.put_u32(length);
        out.put_slice(data);
        out.freeze()
    }

    /// What is complete with these bytes.
    ///
    /// # Errors
    /// The server broke the protocol.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, String> {
        self.input.extend_from_slice(bytes);
        let mut heard = Vec::new();
        loop {
            let step = match self.phase {
                Phase::Greeting => self.greeting(),
                Phase::Options => self.option_reply(&mut heard)?,
                Phase::Transmission => self.reply(&mut heard)?,
            };
            if !step {
                return Ok(heard);
            }
        }
    }

    fn greeting(&mut self) -> bool {
        if self.input.len() < 18 {
            return false;
        }
        self.input.advance(18);
        self.phase = Phase::Options;
        true
    }

    fn option_reply(&mut self, heard: &mut Vec<Heard>) -> Result<bool, String> {
        let Some((mut head, length)) = self.head(20, 16) else { return Ok(false) };
        if head.get_u64() != OPTION_REPLY_MAGIC {
            return Err("no option reply".into());
        }
        let (asked, kind) = (head.get_u32(), head.get_u32());
        if self.input.len() < 20 + length {
            return Ok(false);
        }
        self.input.advance(20);
        let payload = self.input.split_to(length);
        match (asked, kind) {
            (OPTION_STRUCTURED, 1) => self.structured = true,
            (OPTION_GO, 3) if payload.len() == 12 && payload[..2] == [0, 0] => {
                self.size_bytes = (&payload[2..10]).get_u64();
            }
            (OPTION_GO, 1) => {
                self.phase = Phase::Transmission;
                heard.push(Heard::Open(self.size_bytes));
            }
            (OPTION_GO, kind) if kind >> 31 == 1 => heard.push(Heard::Refused),
            _ => {}
        }
        Ok(true)
    }

    /// The first `bytes` of the input, and the length that stands at `at` in them.
    fn head(&self, bytes: usize, at: usize) -> Option<(Bytes, usize)> {
        let head = Bytes::copy_from_slice(self.input.get(..bytes)?);
        let length = (&head[at..at + 4]).get_u32() as usize;
        Some((head, length))
    }

    fn reply(&mut self, heard: &mut Vec<Heard>) -> Result<bool, String> {
        let Some(magic) = self.input.get(..4).map(|mut bytes| bytes.get_u32()) else { return Ok(false) };
        match magic {
            SIMPLE_MAGIC => self.simple_reply(heard),
            STRUCTURED_MAGIC if self.structured => self.chunk(heard),
            _ => Err(format!("{magic:#x} is no reply")),
        }
    }

    fn simple_reply(&mut self, heard: &mut Vec<Heard>) -> Result<bool, String> {
        let Some(head) = self.input.get(..16) else { return Ok(false) };
        let (errno, cookie) = ((&head[4..8]).get_u32(), (&head[8..16]).get_u64());
        let length =
            if errno == 0 { self.reads.get(&cookie).map_or(0, |read| read.length as usize) } else { 0 };
        if self.input.len() < 16 + length {
            return Ok(false);
        }
        self.input.advance(16);
        let data = self.input.split_to(length).freeze();
        self.reads.remove(&cookie);
        heard.push(Heard::Answer(cookie, if errno == 0 { Ok(data) } else { Err(errno) }));
        Ok(true)
    }

    /// A part of a structured reply; those of a read come in order.
    fn chunk(&mut self, heard: &mut Vec<Heard>) -> Result<bool, String> {
        let Some((mut head, length)) = self.head(20, 16) else { return Ok(false) };
        if self.input.len() < 20 + length {
            return Ok(false);
        }
        self.input.advance(20);
        let mut payload = self.input.split_to(length).freeze();
        head.advance(4);
        let (flags, kind, cookie) = (head.get_u16(), head.get_u16(), head.get_u64());
        let mut failed = None;
        match (kind, self.reads.get_mut(&cookie)) {
            (0, _) => {}
            (1 | 2, Some(read)) if payload.len() >= 8 => {
                let at = payload.get_u64();
                if at != read.offset + read.data.len() as u64 {
                    return Err(format!("a part of {read:?} is at {at}"));
                }
                match kind {
                    1 => read.data.extend_from_slice(&payload),
                    _ if payload.len() == 4 => read.data.put_bytes(0, payload.get_u32() as usize),
                    _ => return Err("a hole without a size".into()),
                }
            }
            _ if kind >> 15 == 1 && payload.len() >= 4 => failed = Some(payload.get_u32()),
            _ => return Err(format!("a chunk of kind {kind}")),
        }
        if flags & 1 == 0 {
            return Ok(true);
        }
        let answer = match (failed, self.reads.remove(&cookie)) {
            (Some(errno), _) => Err(errno),
            (None, Some(read)) if read.data.len() != read.length as usize => {
                return Err(format!("{} bytes answer {read:?}", read.data.len()));
            }
            (None, read) => Ok(read.map(|read| read.data.freeze()).unwrap_or_default()),
        };
        heard.push(Heard::Answer(cookie, answer));
        Ok(true)
    }
}

fn option(number: u32, data: &[u8], out: &mut BytesMut) {
    out.put_u64(OPTION_MAGIC);
    out.put_u32(number);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}
