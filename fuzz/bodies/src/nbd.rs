//! The targets of the NBD session. The promises themselves stand in `quoin_nbd::fuzz`; this makes streams that get far.

use crate::source::Source;

const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const NAMES: [&[u8]; 8] =
    [b"", b"disk", b"abc", b"base:", b"base:allocation", b"quoin:", b"quoin:changed-since:s1", b"x:"];

/// A session from the greeting on: raw bytes, or options with right headers.
pub(crate) fn handshake(input: &[u8]) {
    let mut source = Source(input);
    let (Some(mode), Some(pieces)) = (source.u8(), source.u8()) else { return };
    let mut stream = vec![pieces];
    if mode & 1 == 0 {
        stream.extend_from_slice(source.0);
        return quoin_nbd::fuzz::session(&stream);
    }
    stream.extend_from_slice(&u32::from(mode >> 1 & 7).to_be_bytes());
    while let (Some(option), Some(length)) = (source.u8(), source.u8()) {
        let (data, rest) = source.0.split_at(source.0.len().min(usize::from(length)));
        source.0 = rest;
        if option == 255 {
            // From here on raw: after an option that begins transmission, requests.
            stream.extend_from_slice(data);
            continue;
        }
        stream.extend_from_slice(OPTION_MAGIC);
        stream.extend_from_slice(&u32::from(option % 16).to_be_bytes());
        let made;
        let data = match option % 16 {
            9 | 10 if option & 0x40 != 0 => {
                made = queries(data);
                &made
            }
            _ => data,
        };
        let exact = data.len() as u32;
        let stated = if option & 0x80 == 0 { exact } else { exact << (option >> 4 & 7) };
        stream.extend_from_slice(&stated.to_be_bytes());
        stream.extend_from_slice(data);
    }
    quoin_nbd::fuzz::session(&stream);
}

/// The data of an option about metadata contexts: an export and queries, by number.
fn queries(names: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, name) in names.iter().map(|number| NAMES[usize::from(number % 8)]).enumerate() {
        if index == 1 {
            data.extend_from_slice(&(names.len() as u32 - 1).to_be_bytes());
        }
        data.extend_from_slice(&(name.len() as u32).to_be_bytes());
        data.extend_from_slice(name);
    }
    if names.len() == 1 {
        data.extend_from_slice(&[0; 4]);
    }
    data
}

/// Transmission: raw bytes, or requests with right headers.
pub(crate) fn transmission(input: &[u8]) {
    let mut source = Source(input);
    let (Some(mode), Some(pieces)) = (source.u8(), source.u8()) else { return };
    let mut stream = vec![pieces];
    if mode & 1 == 0 {
        stream.extend_from_slice(source.0);
        return quoin_nbd::fuzz::transmission(&stream);
    }
    while let (Some(command), Some(flags)) = (source.u8(), source.u8()) {
        let (Some(offset), Some(length)) = (source.number(), source.number()) else { break };
        let command = u16::from(command % 10);
        let extended = pieces & 0x80 != 0;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        stream.extend_from_slice(&magic.to_be_bytes());
        stream.extend_from_slice(&u16::from(flags).to_be_bytes());
        stream.extend_from_slice(&command.to_be_bytes());
        stream.extend_from_slice(&length.to_be_bytes());
        stream.extend_from_slice(&offset.to_be_bytes());
        let carries = if extended { flags & 32 != 0 } else { command == 1 };
        if extended {
            stream.extend_from_slice(&length.to_be_bytes());
        } else {
            stream.extend_from_slice(&(length as u32).to_be_bytes());
        }
        if carries && length <= 1 << 13 {
            stream.resize(stream.len() + length as usize, flags);
        }
    }
    quoin_nbd::fuzz::transmission(&stream);
}
