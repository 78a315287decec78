//! The messages of the kernel's NBD client, as bytes. Names and numbers are those of
//! `include/uapi/linux/nbd-netlink.h`. Decides nothing, sends nothing.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

/// `NBD_GENL_VERSION`.
const VERSION: u8 = 1;

/// `NBD_CMD_…`.
mod command {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
    pub(super) const STATUS: u8 = 5;
}

/// `NBD_ATTR_…`.
mod attribute {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const DEVICE_LIST: u16 = 9;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
}

/// `NBD_SOCK_ITEM` and `NBD_DEVICE_ITEM`: an element of a list.
const ITEM: u16 = 1;
/// `NBD_SOCK_FD`.
const SOCK_FD: u16 = 1;
/// `NBD_DEVICE_INDEX` and `NBD_DEVICE_CONNECTED`.
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// What `NBD_CMD_CONNECT` tells the kernel about a device, but for its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect<'a> {
    /// Which `/dev/nbdN`, or any that is free.
    pub index: Option<u32>,
    /// The size.
    pub size_bytes: u64,
    /// The logical block size: a power of two from 512 to the page's size.
    pub block_bytes: u64,
    /// After how long an unanswered request is sent again on another connection.
    pub timeout_s: u64,
    /// How long requests wait without any connection before they fail.
    pub dead_conn_timeout_s: u64,
    /// The transmission flags of the export.
    pub server_flags: u64,
    /// What the device is, for those who look: `/sys/block/nbdN/backend`.
    pub backend: &'a str,
}

/// A message to or from the kernel's NBD client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    command: u8,
    attributes: Vec<DefaultNla>,
    /// The attributes as they came, of a received message.
    received: Vec<u8>,
}

impl Message {
    fn new(command: u8, attributes: Vec<DefaultNla>) -> Self {
        Self { command, attributes, received: Vec::new() }
    }

    /// `NBD_CMD_CONNECT`: makes a device of these sockets (descriptors of this process).
    pub fn connect(connect: &Connect<'_>, sockets: &[u32]) -> Self {
        let mut attributes: Vec<_> =
            connect.index.map(|index| number_32(attribute::INDEX, index)).into_iter().collect();
        attributes.extend([
            number_64(attribute::SIZE_BYTES, connect.size_bytes),
            number_64(attribute::BLOCK_SIZE_BYTES, connect.block_bytes),
            number_64(attribute::TIMEOUT, connect.timeout_s),
            number_64(attribute::DEAD_CONN_TIMEOUT, connect.dead_conn_timeout_s),
            number_64(attribute::SERVER_FLAGS, connect.server_flags),
            text(attribute::BACKEND_IDENTIFIER, connect.backend),
            socket_list(sockets),
        ]);
        Self::new(command::CONNECT, attributes)
    }

    /// `NBD_CMD_RECONFIGURE`: sockets in place of dead ones.
    pub fn reconfigure(index: u32, backend: &str, sockets: &[u32]) -> Self {
        let backend = text(attribute::BACKEND_IDENTIFIER, backend);
        let attributes = vec![number_32(attribute::INDEX, index), backend, socket_list(sockets)];
        Self::new(command::RECONFIGURE, attributes)
    }

    /// `NBD_CMD_DISCONNECT`.
    pub fn disconnect(index: u32) -> Self {
        Self::new(command::DISCONNECT, vec![number_32(attribute::INDEX, index)])
    }

    /// `NBD_CMD_STATUS` of one device.
    pub fn status(index: u32) -> Self {
        Self::new(command::STATUS, vec![number_32(attribute::INDEX, index)])
    }

    /// `NBD_ATTR_INDEX` of an answer.
    pub fn index(&self) -> Option<u32> {
        attributes(&self.received).find_map(|(kind, value)| match kind {
            attribute::INDEX => value.try_into().ok().map(u32::from_ne_bytes),
            _ => None,
        })
    }

    /// `NBD_ATTR_DEVICE_LIST` of an answer: which devices, and whether they are connected.
    pub fn devices(&self) -> Vec<(u32, bool)> {
        let lists = attributes(&self.received).filter(|(kind, _)| *kind == attribute::DEVICE_LIST);
        let items = lists.flat_map(|(_, list)| attributes(list)).filter(|(kind, _)| *kind == ITEM);
        items.filter_map(|(_, item)| device(item)).collect()
    }
}

fn device(item: &[u8]) -> Option<(u32, bool)> {
    let find = |wanted| attributes(item).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let index = u32::from_ne_bytes(find(DEVICE_INDEX)?.try_into().ok()?);
    Some((index, find(DEVICE_CONNECTED)? != [0]))
}

/// The attributes in these bytes, up to the first that is damaged.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| {
        let (kind, length) = (attribute.kind() & NLA_TYPE_MASK, usize::from(attribute.length()));
        (kind, &attribute.into_inner()[4..length])
    })
}

fn number_32(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_ne_bytes().to_vec())
}

fn number_64(kind: u16, number: u64) -> DefaultNla {
    DefaultNla::new(kind, number.to_ne_bytes().to_vec())
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), b"\0"].concat())
}

fn list(kind: u16, elements: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; elements.buffer_len()];
    elements.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

fn socket_list(sockets: &[u32]) -> DefaultNla {
    let items: Vec<_> = sockets.iter().map(|socket| list(ITEM, &[number_32(SOCK_FD, *socket)])).collect();
    list(attribute::SOCKETS, &items)
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "nbd"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self { command: header.cmd, attributes: Vec::new(), received: bytes.to_vec() })
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_generic::GenlMessage;

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn received(command: u8, bytes: &[u8]) -> Message {
        Message::parse_with_param(bytes, GenlHeader { cmd: command, version: 1 }).unwrap()
    }

    #[rustfmt::skip]
    #[test]
    fn connect_is_as_the_header_says() {
        let connect = Connect {
            index: Some(3),
            size_bytes: 64 << 20,
            block_bytes: 512,
            timeout_s: 30,
            dead_conn_timeout_s: 600,
            server_flags: 0x12d,
            backend: "quoin:x/v",
        };
        let expected = [
            // length, type, value; padded to four bytes
            8, 0, 1, 0, 3, 0, 0, 0,                             // NBD_ATTR_INDEX
            12, 0, 2, 0, 0, 0, 0, 4, 0, 0, 0, 0,                // NBD_ATTR_SIZE_BYTES
            12, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0,                // NBD_ATTR_BLOCK_SIZE_BYTES
            12, 0, 4, 0, 30, 0, 0, 0, 0, 0, 0, 0,               // NBD_ATTR_TIMEOUT
            12, 0, 8, 0, 0x58, 2, 0, 0, 0, 0, 0, 0,             // NBD_ATTR_DEAD_CONN_TIMEOUT
            12, 0, 5, 0, 0x2d, 1, 0, 0, 0, 0, 0, 0,             // NBD_ATTR_SERVER_FLAGS
            14, 0, 10, 0, b'q', b'u', b'o', b'i', b'n', b':', b'x', b'/', b'v', 0, 0, 0, // NBD_ATTR_BACKEND_IDENTIFIER
            28, 0, 7, 0x80,                                     // NBD_ATTR_SOCKETS, nested
            12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0,             //   NBD_SOCK_ITEM: NBD_SOCK_FD
            12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 0,
        ];
        assert_eq!(bytes(&Message::connect(&connect, &[9, 10])), expected);
        let any = Connect { index: None, ..connect };
        assert_eq!(bytes(&Message::connect(&any, &[9, 10])), expected[8..]);
    }

    #[rustfmt::skip]
    #[test]
    fn the_other_requests_are_as_the_header_says() {
        assert_eq!(bytes(&Message::disconnect(7)), [8, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(bytes(&Message::status(7)), [8, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(bytes(&Message::reconfigure(2, "q", &[5])), [
            8, 0, 1, 0, 2, 0, 0, 0,
            6, 0, 10, 0, b'q', 0, 0, 0,
            16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 5, 0, 0, 0,
        ]);
        let mut whole = GenlMessage::from_payload(Message::disconnect(7));
        whole.set_resolved_family_id(0x1c);
        let mut whole = NetlinkMessage::from(whole);
        whole.finalize();
        let mut bytes = vec![0; whole.buffer_len()];
        whole.serialize(&mut bytes);
        // The netlink header, then NBD_CMD_DISCONNECT of version 1.
        assert_eq!(bytes[..8], [28, 0, 0, 0, 0x1c, 0, 0, 0]);
        assert_eq!(bytes[16..], [2, 1, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0]);
        let commands = [Message::reconfigure(0, "", &[]), Message::status(0)].map(|message| message.command());
        assert_eq!(commands, [3, 5]);
    }

    #[rustfmt::skip]
    #[test]
    fn answers_are_read() {
        assert_eq!(received(1, &[8, 0, 1, 0, 4, 0, 0, 0]).index(), Some(4));
        let status = [
            44, 0, 9, 0x80,                                     // NBD_ATTR_DEVICE_LIST
            20, 0, 1, 0x80, 8, 0, 1, 0, 0, 0, 0, 0, 5, 0, 2, 0, 1, 0, 0, 0,
            20, 0, 1, 0, 8, 0, 1, 0, 1, 0, 0, 0, 5, 0, 2, 0, 0, 0, 0, 0,
        ];
        assert_eq!(received(5, &status).devices(), [(0, true), (1, false)]);
        for cut in 0..status.len() {
            assert!(received(5, &status[..cut]).devices().len() < 2, "cut to {cut}");
        }
        assert_eq!(received(1, &[6, 0, 1, 0, 4, 0]).index(), None, "too short for an index");
        assert_eq!(received(1, &[0xff; 16]).index(), None);
    }
}
