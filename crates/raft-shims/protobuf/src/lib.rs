//! The few names of protobuf 2.28 that raft-rs uses, on top of prost. See the README for why this exists.

use std::fmt;

/// A message could not be decoded.
#[derive(Debug)]
pub enum ProtobufError {
    /// The bytes are no message of the expected kind.
    WireError(prost::DecodeError),
}

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtobufError::WireError(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProtobufError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProtobufError::WireError(error) => Some(error),
        }
    }
}

/// What came of decoding or encoding.
pub type ProtobufResult<T> = Result<T, ProtobufError>;

/// Size, encoding and decoding, under the names that protobuf 2 gave them.
pub trait Message: prost::Message + Default {
    /// The length of the encoding, in bytes; saturates at the type's end, which no message of raft reaches.
    fn compute_size(&self) -> u32 {
        u32::try_from(self.encoded_len()).unwrap_or(u32::MAX)
    }

    /// The encoding. Never fails; the result is what callers expect of protobuf 2.
    fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
        Ok(self.encode_to_vec())
    }

    /// Adds the fields found in `bytes` to this message. Fails on malformed bytes, and may then have added some.
    fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
        self.merge(bytes).map_err(ProtobufError::WireError)
    }
}

impl<T: prost::Message + Default> Message for T {}

#[cfg(test)]
mod tests {
    use super::Message as _;

    #[test]
    fn a_message_is_measured_written_and_read() {
        let text = String::from("abc");
        let bytes = text.write_to_bytes().unwrap();
        assert_eq!(text.compute_size() as usize, bytes.len());
        let mut back = String::new();
        back.merge_from_bytes(&bytes).unwrap();
        assert_eq!(back, text);
        assert!(back.merge_from_bytes(&[0xff]).is_err());
    }
}
