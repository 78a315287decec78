//! What names, sizes and counts are allowed.

use crate::refusal::Refusal;
use crate::volume::segment_count;
use quoin_types::limits::{REPLICAS_MAX, SEGMENT_BYTES_DEFAULT, VOLUME_BYTES_MAX, VOLUME_NAME_BYTES_MAX};
use quoin_types::{BLOCK_BYTES, EXTENT_BYTES};

/// The most segments of a volume: what the largest volume has at the default segment size. It bounds what one request can
/// put into the state.
pub const SEGMENTS_MAX: u64 = VOLUME_BYTES_MAX / SEGMENT_BYTES_DEFAULT;
/// The longest name of a node, gateway or snapshot, in bytes.
pub const MEMBER_NAME_BYTES_MAX: usize = 63;
/// The longest address, zone or version, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

const VOLUME_NAME_HINT: &str = "a volume's name has 1 to 128 letters, digits and . _ - : / of ASCII, and begins with a letter, a digit or _";
const SNAPSHOT_NAME_HINT: &str = "a snapshot's name has 1 to 63 letters, digits and . _ - of ASCII, and begins with a letter, a digit or _";
const MEMBER_NAME_HINT: &str = "a node's or gateway's name has 1 to 63 letters, digits and . _ - of ASCII, and begins with a letter, a digit or _";

/// Checks a volume's name: 1 to 128 bytes, ASCII letters, digits and `. _ - : /`, beginning with a letter, a digit or `_`
/// (a leading `-` would look like an option, a leading `/` or `.` like a path).
pub fn check_volume_name(name: &str) -> Result<(), Refusal> {
    check_name(name, VOLUME_NAME_BYTES_MAX, b"._-:/", "a volume", VOLUME_NAME_HINT)
}

/// Checks a snapshot's name: as a volume's, but 63 bytes and without `:` and `/`.
pub fn check_snapshot_name(name: &str) -> Result<(), Refusal> {
    check_name(name, MEMBER_NAME_BYTES_MAX, b"._-", "a snapshot", SNAPSHOT_NAME_HINT)
}

/// Checks the name of a storage node or gateway: as a volume's, but 63 bytes and without `:` and `/`.
pub fn check_member_name(name: &str, what: &str) -> Result<(), Refusal> {
    check_name(name, MEMBER_NAME_BYTES_MAX, b"._-", what, MEMBER_NAME_HINT)
}

fn check_name(name: &str, max: usize, others: &[u8], what: &str, hint: &'static str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    let first_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let good =
        name.len() <= max && name.as_bytes().first().is_some_and(first_allowed) && name.bytes().all(allowed);
    if good {
        Ok(())
    } else {
        Err(Refusal::Invalid(format!("`{}` is no name for {what}", name.escape_debug()), hint))
    }
}

/// Checks free text that a node says about itself.
pub fn check_text(text: &str, what: &str) -> Result<(), Refusal> {
    if text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Refusal::Invalid(
        format!("the {what} is too long or not plain text"),
        "at most 256 bytes, on one line",
    ))
}

/// Checks the size of a volume and of its segments.
pub fn check_size(size_bytes: u64, segment_bytes: u64) -> Result<(), Refusal> {
    let in_range = (BLOCK_BYTES..=VOLUME_BYTES_MAX).contains(&size_bytes);
    if !in_range || !size_bytes.is_multiple_of(BLOCK_BYTES) {
        return Err(Refusal::Invalid(
            format!("a volume cannot have {size_bytes} bytes"),
            "the size is a multiple of 4096 bytes, from 4096 bytes to 64 TiB",
        ));
    }
    let segment_fits = (EXTENT_BYTES..=SEGMENT_BYTES_DEFAULT).contains(&segment_bytes);
    if !segment_fits || !segment_bytes.is_multiple_of(EXTENT_BYTES) {
        return Err(Refusal::Invalid(
            format!("a segment cannot have {segment_bytes} bytes"),
            "the segment size is a multiple of 65536 bytes, from 65536 bytes to 16 GiB",
        ));
    }
    let segments = segment_count(size_bytes, segment_bytes);
    if segments > SEGMENTS_MAX {
        return Err(Refusal::Invalid(
            format!("the volume would have {segments} segments, and {SEGMENTS_MAX} is the most"),
            "choose larger segments (the default is 16 GiB)",
        ));
    }
    Ok(())
}

/// Checks the number of copies.
pub fn check_replicas(replicas: u32) -> Result<(), Refusal> {
    if (1..=REPLICAS_MAX).contains(&(replicas as usize)) {
        return Ok(());
    }
    Err(Refusal::Invalid(
        format!("a volume cannot have {replicas} replicas"),
        "from 1 to 7 replicas; 3 survive the loss of any one",
    ))
}

/// Checks the fewest copies to go on with (rule C3).
pub fn check_min_replicas(min: Option<u32>, replicas: u32) -> Result<(), Refusal> {
    if min.is_none_or(|min| (1..=replicas).contains(&min)) {
        return Ok(());
    }
    Err(Refusal::Invalid(
        format!("a volume of {replicas} replicas cannot go on with at least {}", min.unwrap_or_default()),
        "from 1 to the number of replicas",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_mistaken_for_something_else_are_refused() {
        for good in ["a", "vol1", "pvc-0a1b", "team/db:data.0", "_x", &"n".repeat(128)] {
            assert_eq!(check_volume_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-v", "/etc", "..", "a b", "a\n", "ü", &"n".repeat(129)] {
            assert!(check_volume_name(bad).is_err(), "{bad}");
        }
        assert!(check_member_name("a/b", "a node").is_err());
    }

    #[test]
    fn sizes_fit_blocks_and_extents() {
        assert_eq!(check_size(4096, 65536), Ok(()));
        assert_eq!(check_size(64 << 40, 16 << 30), Ok(()));
        for (size, segment) in [
            (0, 65536),
            (4097, 65536),
            ((64 << 40) + 4096, 16 << 30),
            (4096, 0),
            (4096, 4096),
            (1 << 40, 65536),
        ] {
            assert!(check_size(size, segment).is_err(), "{size} {segment}");
        }
        assert!(check_replicas(0).is_err() && check_replicas(8).is_err());
    }
}
