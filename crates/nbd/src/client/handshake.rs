//! Opening an export (proto.md, "Fixed newstyle negotiation"): `NBD_OPT_GO`, and nothing else.
//!
//! Structured replies are not asked for: the kernel's client, for which this is done, speaks simple ones only.

use crate::connection::ConnectionName;
use crate::export::AttachmentInfo;
use crate::limits::{PAYLOAD_BYTES_MAX, STRING_BYTES_MAX};
use crate::spec::{handshake_flag, info, magic, option, option_reply, transmission_flag};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const GREETING_BYTES: usize = 18;
const REPLY_HEADER_BYTES: usize = 20;
/// The most data of one reply: two strings and a little. A server that announces more is not believed.
const REPLY_BYTES_MAX: usize = 2 * STRING_BYTES_MAX + 16;
/// The length of the information on the attachment, without its type.
const ATTACHMENT_BYTES: usize = 40;
/// The most information replies to one request. There are five kinds.
const INFOS_MAX: usize = 64;

/// What a server said about an export that it has opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedExport {
    /// The size, in bytes.
    pub size_bytes: u64,
    /// The transmission flags as they came.
    pub flags: u16,
    /// The unit of offsets and lengths, in bytes: 1 unless the server said something else.
    pub block_bytes_min: u32,
    /// The most data of one request, in bytes.
    pub payload_bytes_max: u32,
    /// The attachment that it is served under; `None` if the server did not say, as servers other than Quoin do not.
    pub attachment: Option<AttachmentInfo>,
}

impl OpenedExport {
    /// Whether several connections see each other's writes (`NBD_FLAG_CAN_MULTI_CONN`).
    pub const fn can_multi_conn(self) -> bool {
        self.flags & transmission_flag::CAN_MULTI_CONN != 0
    }

    /// Whether it takes no writes (`NBD_FLAG_READ_ONLY`).
    pub const fn is_read_only(self) -> bool {
        self.flags & transmission_flag::READ_ONLY != 0
    }

    /// The flags for the kernel's client, read-only if so wished: those that it knows.
    pub const fn kernel_flags(self, read_only: bool) -> u64 {
        let known = transmission_flag::HAS_FLAGS
            | transmission_flag::READ_ONLY
            | transmission_flag::SEND_FLUSH
            | transmission_flag::SEND_FUA
            | transmission_flag::SEND_TRIM
            | transmission_flag::SEND_WRITE_ZEROES
            | transmission_flag::CAN_MULTI_CONN;
        let flags = self.flags & known;
        (if read_only { flags | transmission_flag::READ_ONLY } else { flags }) as u64
    }
}

/// Why an export could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not have it.
    #[error("the export does not exist: {0}")]
    Unknown(String),
    /// It exists, and this client may not have it now.
    #[error("the export is refused: {0}")]
    Refused(String),
    /// It exists, and another server has it.
    #[error("the export is refused: {message}")]
    Elsewhere {
        /// Why, in the server's words.
        message: String,
        /// The attachment under which that one has it.
        attachment: AttachmentInfo,
    },
    /// The server goes away, or lacks what it needs. Another try may succeed.
    #[error("the server cannot open it now: {0}")]
    Unavailable(String),
    /// This is not a server that one can talk to.
    #[error("the server does not speak NBD as expected: {0}")]
    Protocol(&'static str),
}

/// What the shell must do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientStep {
    /// Receive more; at least so many bytes make progress possible.
    NeedMore {
        /// How many, never 0.
        missing: usize,
    },
    /// Send these bytes.
    Send(Bytes),
    /// The export is open, and what follows is transmission.
    Opened(OpenedExport),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Greeting,
    Replies(Told),
    Opened,
}

/// What the server has said so far about the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    size_and_flags: Option<(u64, u16)>,
    block_bytes_min: u32,
    payload_bytes_max: u32,
    attachment: Option<AttachmentInfo>,
    infos: usize,
}

/// The client's side of one handshake. Call [`advance`](Self::advance) with the bytes received so far, in a loop, until
/// it says [`ClientStep::Opened`] or an error; after either, not again.
#[derive(Debug)]
pub struct ClientHandshake {
    export: String,
    /// What the server is told that this connection is.
    name: Option<ConnectionName>,
    /// It has not answered that yet.
    is_name_unanswered: bool,
    state: State,
}

impl ClientHandshake {
    /// Begins to open an export.
    ///
    /// # Panics
    ///
    /// If the name is longer than a protocol string can be: the caller checks what a user gave.
    pub fn new(export: &str) -> Self {
        assert!(export.len() <= STRING_BYTES_MAX, "the caller checks names");
        Self { export: export.to_owned(), name: None, is_name_unanswered: false, state: State::Greeting }
    }

    /// Says which connection it is, to servers that know what to do about it.
    #[must_use]
    pub fn named(self, name: ConnectionName) -> Self {
        Self { name: Some(name), ..self }
    }

    /// The next step. Takes what it has understood off the input.
    ///
    /// # Errors
    ///
    /// Why the export is not open. The connection is of no use any more.
    pub fn advance(&mut self, input: &mut BytesMut) -> Result<ClientStep, OpenError> {
        loop {
            match self.state {
                State::Greeting => {
                    if input.len() < GREETING_BYTES {
                        return Ok(ClientStep::NeedMore { missing: GREETING_BYTES - input.len() });
                    }
                    return self.greeted(input);
                }
                State::Replies(_) => match self.reply(input)? {
                    Some(step) => return Ok(step),
                    None => continue,
                },
                State::Opened => panic!("the handshake is over"),
            }
        }
    }

    fn greeted(&mut self, input: &mut BytesMut) -> Result<ClientStep, OpenError> {
        if input.get_u64() != magic::INIT_PASSWD || input.get_u64() != magic::IHAVEOPT {
            return Err(OpenError::Protocol("its first words are not those of the fixed newstyle"));
        }
        let offered = input.get_u16();
        if offered & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(OpenError::Protocol("it does not speak the fixed newstyle"));
        }
        let flags = handshake_flag::FIXED_NEWSTYLE | (offered & handshake_flag::NO_ZEROES);
        let name = self.export.as_bytes();
        let mut out = BytesMut::with_capacity(80 + name.len());
        out.put_u32(u32::from(flags));
        if let Some(connection) = self.name {
            out.put_u64(magic::IHAVEOPT);
            out.put_u32(option::CONNECTION);
            out.put_u32(ConnectionName::BYTES as u32);
            connection.put(&mut out);
            self.is_name_unanswered = true;
        }
        out.put_u64(magic::IHAVEOPT);
        out.put_u32(option::GO);
        out.put_u32(name.len() as u32 + 10);
        out.put_u32(name.len() as u32);
        out.put_slice(name);
        out.put_u16(2);
        out.put_u16(info::BLOCK_SIZE);
        // "The server MUST ignore any information requests it does not understand."
        out.put_u16(info::ATTACHMENT);
        self.state = State::Replies(Told {
            size_and_flags: None,
            block_bytes_min: 1,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            attachment: None,
            infos: 0,
        });
        Ok(ClientStep::Send(out.freeze()))
    }

    /// One reply to `NBD_OPT_GO`; `None` if another one follows.
    fn reply(&mut self, input: &mut BytesMut) -> Result<Option<ClientStep>, OpenError> {
        let Some(header) = input.first_chunk::<REPLY_HEADER_BYTES>() else {
            return Ok(Some(ClientStep::NeedMore { missing: REPLY_HEADER_BYTES - input.len() }));
        };
        let mut header = &header[..];
        let asked = if self.is_name_unanswered { option::CONNECTION } else { option::GO };
        let is_reply = header.get_u64() == magic::OPTION_REPLY && header.get_u32() == asked;
        let (kind, len_bytes) = (header.get_u32(), header.get_u32() as usize);
        if !is_reply || len_bytes > REPLY_BYTES_MAX {
            return Err(OpenError::Protocol("its answer is none to the question"));
        }
        let all = REPLY_HEADER_BYTES + len_bytes;
        if input.len() < all {
            return Ok(Some(ClientStep::NeedMore { missing: all - input.len() }));
        }
        let mut data = input.split_to(all).freeze();
        data.advance(REPLY_HEADER_BYTES);
        if std::mem::take(&mut self.is_name_unanswered) {
            // Another server refuses what it does not know.
            return Ok(None);
        }
        match kind {
            option_reply::INFO => self.information(data).map(|()| None),
            option_reply::ACK => self.opened().map(Some),
            _ => Err(self.refused(kind, &data)),
        }
    }

    fn information(&mut self, mut data: Bytes) -> Result<(), OpenError> {
        const CUT: OpenError = OpenError::Protocol("what it says about the export is cut off");
        let State::Replies(told) = &mut self.state else {
            unreachable!("called for this state only");
        };
        told.infos += 1;
        if told.infos > INFOS_MAX {
            return Err(OpenError::Protocol("it says more about the export than there is to say"));
        }
        match data.try_get_u16().map_err(|_| CUT)? {
            info::EXPORT => {
                let size_bytes = data.try_get_u64().map_err(|_| CUT)?;
                told.size_and_flags = Some((size_bytes, data.try_get_u16().map_err(|_| CUT)?));
            }
            info::BLOCK_SIZE => {
                told.block_bytes_min = data.try_get_u32().map_err(|_| CUT)?;
                let _preferred = data.try_get_u32().map_err(|_| CUT)?;
                told.payload_bytes_max = data.try_get_u32().map_err(|_| CUT)?;
            }
            // Of another length it is not what Quoin sends under this number.
            info::ATTACHMENT if data.len() == ATTACHMENT_BYTES => {
                let mut cluster = [0; 16];
                data.copy_to_slice(&mut cluster);
                let (volume, epoch, unbroken_since) = (data.get_u64(), data.get_u64(), data.get_u64());
                told.attachment = Some(AttachmentInfo { cluster, volume, epoch, unbroken_since });
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&self, kind: u32, message: &[u8]) -> OpenError {
        let message = String::from_utf8_lossy(message).into_owned();
        let elsewhere = match self.state {
            State::Replies(told) => told.attachment,
            State::Greeting | State::Opened => None,
        };
        match (kind, elsewhere) {
            (option_reply::ERR_UNKNOWN, _) => OpenError::Unknown(message),
            (option_reply::ERR_SHUTDOWN, _) => OpenError::Unavailable(message),
            (option_reply::ERR_UNSUP, _) => OpenError::Protocol("it does not know NBD_OPT_GO"),
            (_, Some(attachment)) => OpenError::Elsewhere { message, attachment },
            (_, None) => OpenError::Refused(message),
        }
    }

    fn opened(&mut self) -> Result<ClientStep, OpenError> {
        let State::Replies(told) = self.state else {
            unreachable!("called for this state only");
        };
        let (size_bytes, flags) = told
            .size_and_flags
            .ok_or(OpenError::Protocol("it opened the export without telling its size"))?;
        self.state = State::Opened;
        let Told { block_bytes_min, payload_bytes_max, attachment, .. } = told;
        Ok(ClientStep::Opened(OpenedExport {
            size_bytes,
            flags,
            block_bytes_min,
            payload_bytes_max,
            attachment,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";
    const REPLY: &[u8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x07";

    /// Greets, takes the request, then advances with these replies.
    fn answered(replies: &[&[u8]]) -> Result<ClientStep, OpenError> {
        let mut handshake = ClientHandshake::new("vol1");
        let mut input = BytesMut::from(GREETING);
        let ClientStep::Send(sent) = handshake.advance(&mut input)? else { panic!("no request") };
        assert_eq!(
            sent[..],
            *b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0e\0\0\0\x04vol1\0\x02\0\x03QU",
            "client flags, then NBD_OPT_GO that asks for the block sizes and the attachment"
        );
        input.extend_from_slice(&replies.concat());
        handshake.advance(&mut input)
    }

    #[test]
    fn an_export_is_opened() {
        let export = [REPLY, b"\0\0\0\x03\0\0\0\x0c\0\0", b"\0\0\0\0\x04\0\0\0", b"\x0d\xed"].concat();
        let sizes =
            [REPLY, b"\0\0\0\x03\0\0\0\x0e\0\x03", b"\0\0\x02\0", b"\0\0\x10\0", b"\x02\0\0\0"].concat();
        let ack = [REPLY, b"\0\0\0\x01\0\0\0\0"].concat();
        let expected = OpenedExport {
            size_bytes: 64 << 20,
            flags: 0xded,
            block_bytes_min: 512,
            payload_bytes_max: 32 << 20,
            attachment: None,
        };
        assert_eq!(answered(&[&export, &sizes, &ack]), Ok(ClientStep::Opened(expected)));
        assert!(expected.can_multi_conn() && !expected.is_read_only());
        assert_eq!((expected.kernel_flags(false), expected.kernel_flags(true)), (0x16d, 0x16f));
        let silent = [&ack[..]];
        assert_eq!(
            answered(&silent),
            Err(OpenError::Protocol("it opened the export without telling its size"))
        );
        let whole = [&export[..], &sizes, &ack].concat();
        for cut in 0..whole.len() {
            assert!(
                matches!(answered(&[&whole[..cut]]), Ok(ClientStep::NeedMore { missing: 1.. })),
                "cut to {cut}"
            );
        }
    }

    #[test]
    fn the_attachment_is_heard_where_it_is_told_as_quoin_tells_it() {
        let export = [REPLY, b"\0\0\0\x03\0\0\0\x0c\0\0", b"\0\0\0\0\x04\0\0\0", b"\x0d\xed"].concat();
        let numbers = b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x04";
        let told = [REPLY, b"\0\0\0\x03\0\0\0\x2aQU", b"0123456789abcdef", &numbers[..]].concat();
        let ack = [REPLY, b"\0\0\0\x01\0\0\0\0"].concat();
        let opened = |replies: &[&[u8]]| match answered(replies) {
            Ok(ClientStep::Opened(export)) => export.attachment,
            other => panic!("{other:?}"),
        };
        let expected =
            AttachmentInfo { cluster: *b"0123456789abcdef", volume: 9, epoch: 5, unbroken_since: 4 };
        assert_eq!(opened(&[&export, &told, &ack]), Some(expected));
        // Whoever else has chosen that number means something else by it.
        let other = [REPLY, b"\0\0\0\x03\0\0\0\x2bQU", &[0; 41]].concat();
        assert_eq!(opened(&[&export, &other, &ack]), None);
        let shorter = [REPLY, b"\0\0\0\x03\0\0\0\x29QU", &[0; 39]].concat();
        assert_eq!(opened(&[&export, &shorter, &ack]), None);
    }

    #[test]
    fn refusals_are_told_apart() {
        let refused = |kind: u8| {
            let reply = [REPLY, &[0x80, 0, 0, kind], b"\0\0\0\x02no"].concat();
            answered(&[&reply]).unwrap_err()
        };
        assert_eq!(refused(6), OpenError::Unknown("no".into()));
        assert_eq!(refused(2), OpenError::Refused("no".into()));
        assert_eq!(refused(7), OpenError::Unavailable("no".into()));
        assert!(matches!(refused(1), OpenError::Protocol(_)));
    }

    #[test]
    fn a_server_that_says_nonsense_is_left() {
        let long = [REPLY, b"\0\0\0\x03\x7f\0\0\0"].concat();
        assert!(matches!(answered(&[&long]), Err(OpenError::Protocol(_))));
        let chatter = [REPLY, b"\0\0\0\x03\0\0\0\x02\0\x09"].concat().repeat(INFOS_MAX + 1);
        assert!(matches!(answered(&[&chatter]), Err(OpenError::Protocol(_))));
        let mut handshake = ClientHandshake::new("");
        let mut http = BytesMut::from(&b"HTTP/1.1 400 Bad Request"[..]);
        assert!(matches!(handshake.advance(&mut http), Err(OpenError::Protocol(_))));
    }
}
