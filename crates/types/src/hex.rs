//! Lower-case hexadecimal for the 16-byte ids.

use std::fmt::Write as _;

/// Why a text is no 16-byte id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an id is 32 hexadecimal digits (dashes are ignored)")]
pub struct HexError;

/// Writes bytes as lower-case digits.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Reads 32 digits; dashes (as in a UUID) are ignored.
pub fn decode_16(text: &str) -> Result<[u8; 16], HexError> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| (byte as char).to_digit(16).map(|digit| digit as u8).ok_or(HexError))
        .collect::<Result<_, _>>()?;
    if digits.len() != 32 {
        return Err(HexError);
    }
    Ok(std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_and_its_digits_are_the_same_id() {
        let id = decode_16("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(encode(&id), "00112233445566778899aabbccddeeff");
        assert_eq!(decode_16(&encode(&id)), Ok(id));
        assert_eq!(decode_16("0011"), Err(HexError));
        assert_eq!(decode_16("zz112233445566778899aabbccddeeff"), Err(HexError));
    }
}
