//! A client, written from proto.md alone and sharing nothing with the crate: it writes requests, reads replies, and
//! knows what a server should answer. The dumb twin of the session.

/// A request, valid or not.
#[derive(Clone, Debug)]
pub(crate) struct RawRequest {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl RawRequest {
    /// The request's bytes; a write carries `len` bytes made from its cookie.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13];
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        if self.command == 1 {
            bytes.extend(self.payload());
        }
        bytes
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        (0..self.len).map(|i| (i as u64 + self.cookie * 7) as u8).collect()
    }
}

/// What an export promises, in a client's words.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) disk: Vec<u8>,
    pub(crate) read_only: bool,
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) structured: bool,
}

/// A reply, or what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done,
    Data(Vec<u8>),
    Error(u32),
}

impl Model {
    /// Does what the request asks for, if it should be done, and says what should be answered.
    pub(crate) fn apply(&mut self, request: &RawRequest) -> Outcome {
        let RawRequest { flags, command, offset, len, .. } = *request;
        let known_flags: &[u16] = match (command, self.structured) {
            (0, true) => &[0, 1, 4, 5],
            (6, _) => &[0, 1, 2, 3],
            (0 | 1 | 3 | 4, _) => &[0, 1],
            _ => return Outcome::Error(22),
        };
        if !known_flags.contains(&flags) || command == 3 && (offset, len) != (0, 0) {
            return Outcome::Error(22);
        }
        if self.read_only && [1, 4, 6].contains(&command) {
            return Outcome::Error(1);
        }
        if command <= 1 && len > self.max {
            return Outcome::Error(if command == 0 && self.structured { 75 } else { 22 });
        }
        if offset % self.min as u64 != 0 || len % self.min != 0 {
            return Outcome::Error(22);
        }
        if offset as u128 + len as u128 > self.disk.len() as u128 {
            return Outcome::Error(if [1, 6].contains(&command) { 28 } else { 22 });
        }
        let range = offset as usize..offset as usize + len as usize;
        match command {
            0 => Outcome::Data(self.disk[range].to_vec()),
            1 => {
                self.disk[range].copy_from_slice(&request.payload());
                Outcome::Done
            }
            4 | 6 => {
                self.disk[range].fill(0);
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    }
}

/// Takes one reply off the server's bytes. `read` is the offset and length of the read that it answers, if it was one.
pub(crate) fn take_reply(bytes: &mut &[u8], structured: bool, read: Option<(u64, u32)>) -> (u64, Outcome) {
    if !structured {
        assert_eq!(number(bytes, 4), 0x6744_6698);
        let error = number(bytes, 4) as u32;
        let cookie = number(bytes, 8);
        return match read {
            _ if error != 0 => (cookie, Outcome::Error(error)),
            Some((_, len)) => (cookie, Outcome::Data(take(bytes, len as usize).to_vec())),
            None => (cookie, Outcome::Done),
        };
    }
    assert_eq!(number(bytes, 4), 0x668e_33ef);
    assert_eq!(number(bytes, 2), 1, "one chunk, the last one");
    let chunk_type = number(bytes, 2);
    let cookie = number(bytes, 8);
    let len = number(bytes, 4) as usize;
    let mut payload = take(bytes, len);
    let outcome = match chunk_type {
        0 => {
            assert!(payload.is_empty());
            if read.is_some() { Outcome::Data(Vec::new()) } else { Outcome::Done }
        }
        1 => {
            assert_eq!(Some(number(&mut payload, 8)), read.map(|(offset, _)| offset));
            assert!(!payload.is_empty());
            Outcome::Data(payload.to_vec())
        }
        0x8001 => {
            let error = number(&mut payload, 4) as u32;
            assert_eq!(number(&mut payload, 2) as usize, payload.len());
            assert!(str::from_utf8(payload).is_ok());
            Outcome::Error(error)
        }
        other => panic!("a chunk of type {other}"),
    };
    (cookie, outcome)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8], len: usize) -> u64 {
    take(bytes, len).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
