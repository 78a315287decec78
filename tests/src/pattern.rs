//! Content that tells where it belongs and which write made it.

/// The unit of content, in bytes.
pub const BLOCK: usize = 4096;

/// The content of a block as its write number `version` made it. Version 0 is a block that was never written.
pub fn block(block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK];
    }
    let mut content = Vec::with_capacity(BLOCK);
    content.extend_from_slice(&block.to_le_bytes());
    content.extend_from_slice(&version.to_le_bytes());
    let mut state = mix(block ^ version.rotate_left(40));
    while content.len() < BLOCK {
        state = mix(state);
        content.extend_from_slice(&state.to_le_bytes());
    }
    content
}

/// Which write made this content.
///
/// # Errors
/// In words, if no write of this block did.
pub fn version(number: u64, content: &[u8]) -> Result<u64, String> {
    let word = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().expect("eight bytes"));
    let (found, version) = (word(0), word(8));
    if content == block(number, version) {
        return Ok(version);
    }
    if content.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    Err(format!(
        "block {number} holds what no write put there (it begins as block {found}, version {version})"
    ))
}

/// A random number from the one before it (splitmix64).
pub fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
