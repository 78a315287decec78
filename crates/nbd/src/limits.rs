//! How much a client can make the server hold, and the strings that may be sent.

/// The longest string of the protocol, in bytes (proto.md, "Conventions"): names, descriptions, messages.
pub const STRING_BYTES_MAX: usize = 4096;

/// The maximum payload that every client may count on without being told, in bytes (proto.md, "Size constraints").
pub const PAYLOAD_BYTES_DEFAULT: u32 = 32 << 20;

/// The greatest maximum payload an export can advertise, in bytes. No session ever waits with more than this, and a
/// header, in its input.
pub const PAYLOAD_BYTES_MAX: u32 = 64 << 20;

/// The bounds of one session. Within them a breach is answered; beyond them the session ends, because the client is
/// taken to be hostile or to speak another protocol (proto.md, "Termination of the session during option haggling").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most option data that is kept until it is complete, in bytes. A longer `NBD_OPT_INFO` or `NBD_OPT_GO` is
    /// thrown away as it comes, then answered with `NBD_REP_ERR_TOO_BIG`; a longer `NBD_OPT_EXPORT_NAME`, which cannot be
    /// answered with an error, ends the session.
    pub option_bytes_max: u32,
    /// The most option data that is thrown away for the sake of an answer, in bytes. A longer option ends the session.
    pub option_discard_bytes_max: u32,
    /// The most options in one handshake. One more ends the session: it will not come to an end.
    pub options_max: u32,
    /// The most payload of a refused write that is thrown away for the sake of an answer, in bytes. A longer payload
    /// ends the session, unless the export's maximum payload allows it. Below 32 MiB this turns clients away that the
    /// specification asks to bear with.
    pub payload_discard_bytes_max: u32,
}

impl Default for Limits {
    /// 8 KiB of an option kept (the longest name and 2,045 information requests), 64 KiB thrown away; 16,384 options, for
    /// clients that list thousands of exports and ask about each; 64 MiB of payload thrown away, which is twice what the
    /// specification says is no attack.
    fn default() -> Self {
        Self {
            option_bytes_max: 8 << 10,
            option_discard_bytes_max: 64 << 10,
            options_max: 16 << 10,
            payload_discard_bytes_max: 64 << 20,
        }
    }
}

/// The longest start of `text` that the protocol lets us send: no NUL, at most [`STRING_BYTES_MAX`] bytes, cut
/// between characters.
pub(crate) fn sendable(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..text.floor_char_boundary(STRING_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_before_a_nul() {
        assert_eq!(sendable("plain"), "plain");
        assert_eq!(sendable("before\0after"), "before");
        let long = format!("x{}", "ü".repeat(STRING_BYTES_MAX));
        assert_eq!(sendable(&long).len(), STRING_BYTES_MAX - 1);
    }
}
