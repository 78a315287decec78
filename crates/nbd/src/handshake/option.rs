//! Reading options (proto.md, "Newstyle negotiation" and "Option types"): bytes in, values out. Decides nothing.

use crate::error::ProtocolError;
use crate::limits::STRING_BYTES_MAX;
use crate::spec::{info, magic, option};
use bytes::{Buf, BytesMut};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct OptionHeader {
    magic: U64,
    option: U32,
    len_bytes: U32,
}

/// Bytes of an option before its data.
pub(crate) const OPTION_HEADER_BYTES: usize = size_of::<OptionHeader>();
const _: () = assert!(OPTION_HEADER_BYTES == 16);

/// An option whose data comes next in the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    pub(crate) option: u32,
    pub(crate) len_bytes: u32,
}

/// Takes the header of an option off the input; `None` if it is not complete.
pub(crate) fn take_header(input: &mut BytesMut) -> Result<Option<Announced>, ProtocolError> {
    let Ok((header, _)) = OptionHeader::ref_from_prefix(input) else { return Ok(None) };
    if header.magic.get() != magic::IHAVEOPT {
        return Err(ProtocolError::OptionMagic(header.magic.get()));
    }
    let announced = Announced { option: header.option.get(), len_bytes: header.len_bytes.get() };
    input.advance(OPTION_HEADER_BYTES);
    Ok(Some(announced))
}

/// Whether the option's data is needed, and can be refused: the others have none, or a name that cannot.
pub(crate) fn is_kept(number: u32) -> bool {
    [option::INFO, option::GO, option::LIST_META_CONTEXT, option::SET_META_CONTEXT, option::CONNECTION]
        .contains(&number)
}

/// The information that a client asked for by name. `NBD_INFO_EXPORT` is always sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct InfoRequests {
    pub(crate) name: bool,
    pub(crate) description: bool,
    pub(crate) block_size: bool,
    pub(crate) attachment: bool,
}

/// The data of `NBD_OPT_INFO` or `NBD_OPT_GO`.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct OpenData {
    pub(crate) name: String,
    pub(crate) requests: InfoRequests,
}

/// Reads the data of `NBD_OPT_INFO` or `NBD_OPT_GO`. The error is a message for the client.
///
/// Unknown information requests are ignored, as the specification demands; repeated ones are tolerated.
pub(crate) fn read_open(data: &[u8]) -> Result<OpenData, &'static str> {
    const SHORT: &str = "the option's data is shorter than its own lengths say";
    let (name_bytes, rest) = U32::read_from_prefix(data).map_err(|_| SHORT)?;
    let name_bytes = usize::try_from(name_bytes.get()).map_err(|_| SHORT)?;
    let (name, rest) = rest.split_at_checked(name_bytes).ok_or(SHORT)?;
    let (count, rest) = U16::read_from_prefix(rest).map_err(|_| SHORT)?;
    let wanted = <[U16]>::ref_from_bytes(rest).map_err(|_| "the information requests are cut off")?;
    if wanted.len() != usize::from(count.get()) {
        return Err("the number of information requests does not fit the option's length");
    }
    let mut requests = InfoRequests::default();
    for wanted in wanted {
        match wanted.get() {
            info::NAME => requests.name = true,
            info::DESCRIPTION => requests.description = true,
            info::BLOCK_SIZE => requests.block_size = true,
            info::ATTACHMENT => requests.attachment = true,
            _ => {}
        }
    }
    Ok(OpenData { name: read_name(name)?, requests })
}

/// Reads an export's name ("Conventions": UTF-8 without NUL, at most 4,096 bytes). The error is a message for the client.
pub(crate) fn read_name(name: &[u8]) -> Result<String, &'static str> {
    if name.len() > STRING_BYTES_MAX {
        return Err("the export's name is longer than 4096 bytes");
    }
    if name.contains(&0) {
        return Err("the export's name holds NUL");
    }
    str::from_utf8(name).map(str::to_owned).map_err(|_| "the export's name is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_disagree_are_refused() {
        let good = b"\0\0\0\x02ab\0\x02\0\x03\0\x09";
        let read = read_open(good).unwrap();
        assert_eq!(read.name, "ab");
        assert_eq!(read.requests, InfoRequests { block_size: true, ..InfoRequests::default() });
        for cut in 0..good.len() {
            assert!(read_open(&good[..cut]).is_err(), "cut to {cut}");
        }
        assert!(read_open(b"\0\0\0\x02ab\0\x01\0\x03\0\x09").is_err(), "more requests than counted");
        assert!(read_open(b"\xff\xff\xff\xffab\0\0").is_err(), "a name longer than the option");
    }

    #[test]
    fn names_are_strings() {
        assert_eq!(read_name(b"").as_deref(), Ok(""));
        assert_eq!(read_name("größe".as_bytes()).as_deref(), Ok("größe"));
        assert!(read_name(b"a\0b").is_err());
        assert!(read_name(b"\xff").is_err());
        assert!(read_name(&[b'a'; STRING_BYTES_MAX]).is_ok());
        assert!(read_name(&[b'a'; STRING_BYTES_MAX + 1]).is_err());
    }
}
