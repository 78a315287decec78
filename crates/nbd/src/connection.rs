//! Which of a client's connections one is.

use bytes::{Buf, BufMut};

/// The name of a connection, by which a server knows what it takes the place of. Not in proto.md: Quoin's own
/// (`NBD_OPT` 0x51550001).
///
/// A client that connects again, because it believes the former connection broken, sends again what was unanswered there. A server
/// that has not read all of the former one yet would carry it out afterwards, and undo what was written since. So it ends what a
/// new connection takes the place of, before it takes requests of the new one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionName {
    /// The machine that has the device, since it was started. A device is one of it and a volume.
    pub client: [u8; 16],
    /// The process that attends to the device. Another one takes the place of all its connections.
    pub process: u64,
    /// Which of its connections.
    pub number: u32,
}

impl ConnectionName {
    /// The length of a name in bytes.
    pub(crate) const BYTES: usize = 28;

    /// Whether this one, if it is the newer, takes the other one's place. Both are of one export.
    pub fn replaces(&self, other: &Self) -> bool {
        self.client == other.client && (self.process != other.process || self.number == other.number)
    }

    pub(crate) fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.client);
        out.put_u64(self.process);
        out.put_u32(self.number);
    }

    /// Reads the option's data. The error is a message for the client.
    pub(crate) fn read(mut data: &[u8]) -> Result<Self, &'static str> {
        if data.len() != Self::BYTES {
            return Err("a connection's name has 28 bytes");
        }
        let mut client = [0; 16];
        data.copy_to_slice(&mut client);
        Ok(Self { client, process: data.get_u64(), number: data.get_u32() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: ConnectionName = ConnectionName { client: *b"0123456789abcdef", process: 7, number: 2 };

    #[test]
    fn a_connection_made_again_takes_the_place_of_its_former_self_and_a_process_of_all() {
        assert!(NAME.replaces(&NAME));
        assert!(!ConnectionName { number: 1, ..NAME }.replaces(&NAME));
        assert!(ConnectionName { number: 1, process: 8, ..NAME }.replaces(&NAME));
        assert!(!ConnectionName { client: [0; 16], ..NAME }.replaces(&NAME));
        assert!(!ConnectionName { client: [0; 16], process: 8, ..NAME }.replaces(&NAME));
    }

    #[test]
    fn a_name_is_read_as_it_was_put() {
        let mut bytes = Vec::new();
        NAME.put(&mut bytes);
        assert_eq!(ConnectionName::read(&bytes), Ok(NAME));
        assert!(ConnectionName::read(&bytes[1..]).is_err());
        bytes.push(0);
        assert!(ConnectionName::read(&bytes).is_err());
    }
}
